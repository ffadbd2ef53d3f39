"""A model's decoder as decoder.js reads it: layers and weights that a browser computes with."""

import base64
import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from labutils.config import IMAGE_SIZE
from labutils.models import CLASSES, Residual, ToMaps

HERE = Path(__file__).parent
# what page and map share, one module: none of their top-level names may be the same
SCRIPTS = "\n".join((HERE / name).read_text(encoding="utf-8") for name in ("decoder.js", "latent_map.js"))
SIMPLE = {nn.ReLU: "relu", nn.SiLU: "silu", nn.GELU: "gelu", nn.ELU: "elu", nn.Tanh: "tanh"}


def packed(values: torch.Tensor | np.ndarray, dtype: str = "<f4") -> str:
    """Numbers of any shape as base64: little-endian float32 for `floats` in decoder.js, or "u1" for `bytes`."""
    return base64.b64encode(np.asarray(values, dtype=dtype).tobytes()).decode()


def decoder_spec(model: nn.Module, latent_dim: int) -> dict[str, Any]:
    """A model's decoder for decoder.js: its layers with their weights, and how many labels it reads beside the code.

    Raises:
        ValueError: a layer that decoder.js does not know.
    """
    layers, _ = _layers(copy.deepcopy(model.decoder).eval().cpu(), ())  # type: ignore[arg-type,union-attr]
    labels = CLASSES if getattr(model, "conditional", False) else 0
    return {"layers": [*layers, {"kind": "sigmoid"}], "latent_dim": latent_dim, "labels": labels}


def _layers(modules: Iterable[nn.Module], size: tuple[int, ...]) -> tuple[list[dict[str, Any]], tuple[int, ...]]:
    """The layers, and the height and width of what they give (none for a vector)."""
    layers: list[dict[str, Any]] = []
    for module in _without_norms(modules):
        if isinstance(module, nn.Linear):
            one_pixel = {"kind": "conv", "kernel": 1, "stride": 1, "padding": 0, "size": [1, 1], "to": [1, 1]}
            layers.append({**one_pixel, "inputs": module.in_features, **_weights(module, module.weight.T)})
        elif isinstance(module, ToMaps):  # decoder.js keeps channels last, as the vector has them: nothing to do
            size = module.shape[:2]
        elif isinstance(module, nn.Unflatten):
            size = (IMAGE_SIZE, IMAGE_SIZE)
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            layers.append(_convolution(module, size))
            size = tuple(layers[-1]["to"])
        elif isinstance(module, Residual):
            block, size = _layers(module.block, size)
            layers.append({"kind": "residual", "layers": block})
        elif isinstance(module, nn.LeakyReLU):
            layers.append({"kind": "leaky_relu", "slope": module.negative_slope})
        elif type(module) in SIMPLE and getattr(module, "approximate", "none") == "none":
            layers.append({"kind": SIMPLE[type(module)]})
        else:
            raise ValueError(f"a page cannot decode with {module}: decoder.js does not know this layer")
    return layers, size


def _without_norms(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """The modules, each batch normalisation folded into the layer before it."""
    folded: list[nn.Module] = []
    for module in modules:
        before = folded[-1] if folded else None
        if isinstance(module, nn.BatchNorm1d) and isinstance(before, nn.Linear):
            folded[-1] = fuse_linear_bn_eval(before, module)
        elif isinstance(module, nn.BatchNorm2d) and isinstance(before, (nn.Conv2d, nn.ConvTranspose2d)):
            folded[-1] = fuse_conv_bn_eval(before, module, transpose=isinstance(before, nn.ConvTranspose2d))
        else:
            folded.append(module)
    return folded


def _convolution(module: nn.Conv2d | nn.ConvTranspose2d, size: tuple[int, ...]) -> dict[str, Any]:
    k, stride, padding = module.kernel_size[0], module.stride[0], int(module.padding[0])
    # torch: transposed (inputs, outputs, k, k), else (outputs, inputs, k, k); decoder.js: (k, k, inputs, outputs)
    if isinstance(module, nn.ConvTranspose2d):
        kind, weight = "conv_transposed", module.weight.permute(2, 3, 0, 1)
        to = [(n - 1) * stride - 2 * padding + k + module.output_padding[0] for n in size]
    else:
        kind, weight = "conv", module.weight.permute(2, 3, 1, 0)
        to = [(n + 2 * padding - k) // stride + 1 for n in size]
    return {"kind": kind, "kernel": k, "stride": stride, "padding": padding, "inputs": module.in_channels,
            "size": list(size), "to": to, **_weights(module, weight)}  # fmt: skip


def _weights(module: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, weight: torch.Tensor) -> dict[str, Any]:
    """A layer's weight, its outputs last, and its bias."""
    outputs = weight.shape[-1]
    bias = torch.zeros(outputs) if module.bias is None else module.bias.detach()
    return {"outputs": outputs, "weight": packed(weight.detach()), "bias": packed(bias)}
