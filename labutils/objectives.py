"""What training minimises. An objective maps (model, x, y) to a dict: "loss" is minimised, the rest is logged.

Reconstruction terms are summed over pixels and averaged over images, so that later a KL term, summed over latent units
and averaged over images, can be added at weight one. Mean-reduced terms would hide a factor of 784.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from labutils.config import Config

Objective = Callable[[nn.Module, torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]


def build_objective(config: Config) -> Objective:
    """The config's objective."""
    return {"mse": squared_error, "bce": cross_entropy}[config.loss]


def squared_error(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """x (B,1,28,28) in [0,1] → loss, the squared error of an image, and mse, the same per pixel."""
    loss = F.mse_loss(model(x), x, reduction="sum") / len(x)
    return {"loss": loss, "mse": loss.detach() / x[0].numel()}


def cross_entropy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """x (B,1,28,28) in [0,1] → loss, the cross-entropy of an image in nats (from logits), and mse per pixel."""
    logits = model.decode_logits(model.encode(x))  # type: ignore[operator]
    loss = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
    return {"loss": loss, "mse": F.mse_loss(logits.detach().sigmoid(), x)}
