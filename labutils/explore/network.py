"""A model's layers as JSON for network.js."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from labutils.models import VAE, Autoencoder, Classifier, Residual, ToMaps, ToVector

HERE = Path(__file__).parent
# page, map and pad share one JavaScript module: top-level names must differ
SCRIPTS = "\n".join((HERE / name).read_text(encoding="utf-8") for name in ("network.js", "pad.js", "latent_map.js"))
RESHAPES = (ToMaps, ToVector, nn.Flatten, nn.Unflatten, nn.Dropout)
SIMPLE = {nn.ReLU: "relu", nn.SiLU: "silu", nn.GELU: "gelu", nn.ELU: "elu", nn.Tanh: "tanh"}


def packed(values: torch.Tensor | np.ndarray, dtype: str = "<f4") -> str:
    """Return numbers of any shape as base64: little-endian float32 for `floats` in network.js, "<u2" for `shorts`."""
    array = torch.as_tensor(values).detach().cpu().numpy().astype(dtype)
    return base64.b64encode(array.tobytes()).decode()


def decoder_spec(model: nn.Module) -> dict[str, Any]:
    """Return a decoder's layers with their weights, latent_dim, and the number of labels it reads. A network that is
    not the lab's, or a layer that network.js does not know, is a ValueError."""
    _refuse_other_than_the_labs(model, "decode", "decode_logits")
    labels = model.classes if getattr(model, "conditional", False) else 0
    layers = [*_layers(model.decoder), {"kind": "sigmoid"}]
    return {"layers": layers, "latent_dim": model.latent_dim, "labels": labels}


def encoder_spec(model: nn.Module) -> dict[str, Any]:
    """Return the layers from an image to a code, latent_dim, and of a conditional_vae label_shift (labels,latent_dim),
    what each label adds to mu. Errors as in `decoder_spec`."""
    _refuse_other_than_the_labs(model, "encode", "posterior")
    layers = _layers(model.encoder, channels_of(model))
    spec: dict[str, Any] = {"layers": layers, "latent_dim": model.latent_dim}
    if getattr(model, "conditional", False):
        spec["label_shift"] = packed(model.label_shift.weight[: model.latent_dim].T)  # type: ignore[index, union-attr]
    return spec


def _refuse_other_than_the_labs(model: nn.Module, verb: str, inner: str) -> None:
    """A ValueError unless a model encodes or decodes as the lab's do: by that method, and the one that it calls."""
    lab = next((cls for cls in (Autoencoder, VAE) if isinstance(model, cls)), None)
    if lab is None or any(getattr(type(model), name, None) != getattr(lab, name, None) for name in (verb, inner)):
        remedy = "models.Autoencoder(config, …) of two nn.Sequential can be exported, LatentExplorer takes any"
        raise ValueError(f"a page cannot {verb} with a {type(model).__name__}: only Python knows how it does; {remedy}")


def classifier_spec(model: nn.Module) -> dict[str, Any]:
    """Return the layers from an image to a classifier's logits. Errors as in `decoder_spec`."""
    if not isinstance(model, Classifier):
        raise ValueError(f"a page cannot classify with a {type(model).__name__}: name a run of model='classifier'")
    return {"layers": [*_layers(model.encoder), *_layers(model.head)]}


def channels_of(model: nn.Module) -> int:
    """Return the channels of the images that an autoencoder or VAE decodes. Errors as in `decoder_spec`."""
    for layer in reversed(_sequence(model.decoder)):
        if isinstance(layer, nn.Unflatten):
            return layer.unflattened_size[0]
        if isinstance(layer, nn.ConvTranspose2d):
            return layer.out_channels
    return 1


def _sequence(module: object) -> list[nn.Module]:
    if not isinstance(module, nn.Sequential):
        remedy = "give it to models.Autoencoder as one; LatentExplorer takes any"
        raise ValueError(f"a page computes the layers of an nn.Sequential, not a {type(module).__name__}: {remedy}")
    return list(module)


def _layers(network: object, channels: int = 1) -> list[dict[str, Any]]:
    """Return the layers for network.js, which keeps channels last, as ToVector and ToMaps have them; nn.Flatten and
    nn.Unflatten have them first. `channels` are those of what comes in."""
    layers: list[dict[str, Any]] = []
    for module in _sequence(network):
        if isinstance(module, nn.Unflatten):
            channels = module.unflattened_size[0]
        if isinstance(module, (nn.Flatten, nn.Unflatten)) and channels > 1:
            layers.append({"kind": "transpose", "rows": -1 if isinstance(module, nn.Flatten) else channels,
                           "columns": channels if isinstance(module, nn.Flatten) else -1})  # fmt: skip
        elif isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)) and _is_plain(module):
            layers.append(_convolution(module))
            channels = getattr(module, "out_channels", channels)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            scale = 1 / (module.get_buffer("running_var") + module.eps).sqrt()
            scale = scale * module.weight if module.affine else scale
            shift = (module.bias if module.affine else 0) - scale * module.get_buffer("running_mean")
            layers.append({"kind": "norm", "weight": packed(scale), "bias": packed(shift)})
        elif isinstance(module, Residual):
            layers.append({"kind": "residual", "layers": _layers(module.block)})
        elif isinstance(module, nn.LeakyReLU):
            layers.append({"kind": "leaky_relu", "slope": module.negative_slope})
        elif type(module) in SIMPLE and _is_plain(module):
            layers.append({"kind": SIMPLE[type(module)]})
        elif not isinstance(module, RESHAPES):
            known = ", ".join(["square convolutions", "dense layers", "batch norm", *SIMPLE.values(), "leaky_relu"])
            raise ValueError(f"a page cannot compute {module}: network.js knows {known}; LatentExplorer takes any")
    return layers


def _is_plain(module: nn.Module) -> bool:
    """Return whether a layer's other arguments are their defaults: network.js computes no others."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        sizes = (module.kernel_size, module.stride, module.padding, module.output_padding)
        square = all(not isinstance(size, str) and len({*size}) == 1 for size in sizes)
        return square and module.groups == 1 and {*module.dilation} == {1} and module.padding_mode == "zeros"
    return getattr(module, "approximate", "none") == "none" and getattr(module, "alpha", 1.0) == 1.0


def _convolution(module: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> dict[str, Any]:
    """Return a layer, its weight (kernel, kernel, inputs, outputs); a dense layer is a convolution of one pixel."""
    transposed = isinstance(module, nn.ConvTranspose2d)
    if isinstance(module, nn.Linear):
        weight, shape = module.weight.T[None, None], {"kernel": 1, "stride": 1, "padding": 0, "more": 0}
    else:
        # torch: transposed (inputs, outputs, k, k), else (outputs, inputs, k, k)
        weight = module.weight.permute(2, 3, 0, 1) if transposed else module.weight.permute(2, 3, 1, 0)
        shape = {"kernel": module.kernel_size[0], "stride": module.stride[0], "padding": int(module.padding[0]),
                 "more": module.output_padding[0]}  # fmt: skip
    inputs, outputs = weight.shape[2:]
    bias = torch.zeros(outputs) if module.bias is None else module.bias
    return {"kind": "convolution", "transposed": transposed, **shape, "inputs": inputs, "outputs": outputs,
            "weight": packed(weight), "bias": packed(bias)}  # fmt: skip
