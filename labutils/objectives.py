"""What training minimises. An objective maps (model, x, y) to a dict: "loss" is minimised, the rest is logged.

Reconstruction terms are summed over pixels and averaged over images, so that later a KL term, summed over latent units
and averaged over images, can be added at weight one. Mean-reduced terms would hide a factor of 784.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labutils.config import Config
from labutils.kinds import KINDS

Terms = dict[str, Tensor]
# (model, x, y, progress): progress is the share of the training steps that are done, 1 outside training
Objective = Callable[[nn.Module, Tensor, Tensor, float], Terms]


def build_objective(config: Config) -> Objective:
    """The config's objective, that of its kind of model."""
    return KINDS[config.model].part("objective")(config)


def reconstruction_objective(config: Config) -> Objective:
    """An autoencoder's objective, by `loss`."""
    return {"mse": squared_error, "bce": cross_entropy}[config.loss]


def elbo_objective(config: Config) -> Objective:
    """A VAE's objective."""
    return partial(negative_elbo, beta=config.beta, beta_warmup=config.beta_warmup, free_bits=config.free_bits,
                   binarise=config.binarise)  # fmt: skip


def label_objective(config: Config) -> Objective:
    """A classifier's objective."""
    return partial(label_error, shift=config.shift, flip=config.flip, label_smoothing=config.label_smoothing)


def squared_error(model: nn.Module, x: Tensor, y: Tensor | None = None, progress: float = 1.0) -> Terms:
    """x (B,1,28,28) in [0,1] → loss, the squared error of an image, and mse, the same per pixel."""
    loss = F.mse_loss(model(x, y), x, reduction="sum") / len(x)
    return {"loss": loss, "mse": loss.detach() / x[0].numel()}


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor | None = None, progress: float = 1.0) -> Terms:
    """x (B,1,28,28) in [0,1] → loss, the cross-entropy of an image in nats (from logits), and mse per pixel."""
    logits = model.decode_logits(model.encode(x), y)  # type: ignore[operator]
    loss = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
    return {"loss": loss, "mse": F.mse_loss(logits.detach().sigmoid(), x)}


def negative_elbo(
    model: nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    progress: float = 1.0,
    *,
    beta: float = 1.0,
    beta_warmup: float = 0.0,
    free_bits: float = 0.0,
    binarise: bool = False,
) -> Terms:
    """x (B,1,28,28) in [0,1] → loss, and its two terms in nats an image: bce, of a code drawn from q(z|x), and kl.

    loss = bce + beta · kl; with beta = 1 it is the negative ELBO (Kingma and Welling 2014, eq. 10).

    Args:
        beta_warmup: during this share of the training steps beta rises linearly from 0.
        free_bits: below so many nats, averaged over the batch, a unit's KL costs as if it were so many (Kingma et al.
            2016, section C.8).
        binarise: draw each pixel as 0 or 1 first.
    """
    if binarise:
        x = x.bernoulli()
    if y is not None and model.training and getattr(model, "conditional", False):  # learns to do without a label too
        y = torch.where(torch.rand(len(y), device=y.device) < 0.1, -1, y)
    mu, logvar = model.posterior(x, y)  # type: ignore[operator]
    logits = model.decode_logits(draw_code(mu, logvar), y)  # type: ignore[operator]
    bce = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
    unit_kl = kl_to_standard_normal(mu, logvar).mean(0)
    beta *= min(1.0, progress / beta_warmup) if beta_warmup else 1.0
    loss = bce + beta * unit_kl.clamp_min(free_bits).sum()
    return {"loss": loss, "bce": bce.detach(), "kl": unit_kl.detach().sum()}


def draw_code(mu: Tensor, logvar: Tensor) -> Tensor:
    """A code from N(mu, exp logvar), through which gradients reach both (Kingma and Welling 2014, section 2.4)."""
    return mu + (0.5 * logvar).exp() * torch.randn_like(mu)


def kl_to_standard_normal(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, exp logvar) ‖ N(0, 1)) in nats, for each element (Kingma and Welling 2014, appendix B)."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)


def label_error(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    progress: float = 1.0,
    *,
    shift: int = 0,
    flip: bool = False,
    label_smoothing: float = 0.0,
) -> Terms:
    """x (B,1,28,28) in [0,1], labels y (B,) → loss, the cross-entropy of a label in nats, and accuracy in [0,1].

    Args:
        shift, flip: while training, each image is moved by up to so many pixels each way, and mirrored, at random.
        label_smoothing: while training, the share of each label that is spread evenly over all classes (Szegedy et al.
            2016, section 7).
    """
    if model.training and (shift or flip):
        x = moved(x, shift, flip)
    logits = model(x)
    loss = F.cross_entropy(logits, y, label_smoothing=label_smoothing if model.training else 0.0)
    return {"loss": loss, "accuracy": (logits.detach().argmax(1) == y).float().mean()}


def moved(x: Tensor, shift: int, flip: bool = False) -> Tensor:
    """x (B,C,H,W) → the same images, each moved by up to `shift` pixels down and across at random, over zeros; with
    `flip` every other one, on average, is mirrored first."""
    n, _, height, width = x.shape
    down, across = torch.randint(0, 2 * shift + 1, (2, n, 1), device=x.device)
    rows = down + torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device).expand(n, width)
    if flip:
        columns = torch.where(torch.rand(n, 1, device=x.device) < 0.5, columns.flip(1), columns)
    index = torch.arange(n, device=x.device)[:, None, None], rows[:, :, None], (across + columns)[:, None, :]
    return F.pad(x, [shift] * 4).permute(0, 2, 3, 1)[index].permute(0, 3, 1, 2)
