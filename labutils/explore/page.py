"""A latent space as one HTML page: sliders, the map and a decoder in plain JavaScript. No Python, no network."""

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from labutils.codes import covariance_root
from labutils.config import IMAGE_SIZE
from labutils.data import to_float
from labutils.explore.latent_map import NEIGHBOURS, projected
from labutils.explore.space import latent_space
from labutils.models import CLASSES, Residual, ToMaps
from labutils.pictures import png
from labutils.plots import DIGIT_COLOURS, class_names

HERE = Path(__file__).parent
SIMPLE = {nn.ReLU: "relu", nn.SiLU: "silu", nn.GELU: "gelu", nn.ELU: "elu", nn.Tanh: "tanh"}


class Weights:
    """One long float32 vector; `add` appends to it and says where."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []
        self.length = 0

    def add(self, values: torch.Tensor) -> list[int]:
        flat = values.detach().cpu().float().contiguous().numpy().ravel()
        self.parts.append(flat)
        self.length += len(flat)
        return [self.length - len(flat), len(flat)]

    def bytes(self) -> bytes:
        return np.concatenate(self.parts).astype("<f4").tobytes()


def decoder_spec(model: nn.Module, latent_dim: int) -> tuple[dict[str, Any], bytes]:
    """A model's decoder as decoder.js reads it: the layers, batch normalisation folded into the layer before it, and
    their weights as bytes.

    Raises:
        ValueError: a layer that decoder.js does not know.
    """
    weights = Weights()
    layers, _ = _layers(model.decoder, weights, ())  # type: ignore[arg-type]
    labels = CLASSES if getattr(model, "conditional", False) else 0
    spec = {"layers": [*layers, {"kind": "sigmoid"}], "latent_dim": latent_dim, "labels": labels}
    return spec, weights.bytes()


def _layers(
    modules: Iterable[nn.Module], weights: Weights, size: tuple[int, ...]
) -> tuple[list[dict[str, Any]], tuple[int, ...]]:
    """The layers, and the height and width of what they give (none for a vector)."""
    written: list[dict[str, Any]] = []
    for module, norm in _with_norms(modules):
        if isinstance(module, nn.Linear):
            weight, bias = _folded(module.weight, module.bias, norm, 0)
            written.append({"kind": "linear", "inputs": module.in_features, "outputs": module.out_features,
                            "weight": weights.add(weight.T), "bias": weights.add(bias)})  # fmt: skip
        elif isinstance(module, ToMaps):  # decoder.js keeps channels last, as the vector has them: nothing to do
            size = module.shape[:2]
        elif isinstance(module, nn.Unflatten):
            size = (IMAGE_SIZE, IMAGE_SIZE)
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            written.append(_convolution(module, norm, weights, size))
            size = tuple(written[-1]["to"])
        elif isinstance(module, Residual):
            block, size = _layers(module.block, weights, size)
            written.append({"kind": "residual", "layers": block})
        elif isinstance(module, nn.LeakyReLU):
            written.append({"kind": "leaky_relu", "slope": module.negative_slope})
        elif type(module) in SIMPLE and getattr(module, "approximate", "none") == "none":
            written.append({"kind": SIMPLE[type(module)]})
        else:
            raise ValueError(f"a page cannot decode with {module}: decoder.js does not know this layer")
    return written, size


def _with_norms(modules: Iterable[nn.Module]) -> Iterator[tuple[nn.Module, nn.Module | None]]:
    """Each module with the batch normalisation that follows it."""
    waiting: nn.Module | None = None
    for module in modules:
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and waiting is not None:
            yield waiting, module
            waiting = None
            continue
        if waiting is not None:
            yield waiting, None
        waiting = module
    if waiting is not None:
        yield waiting, None


def _folded(
    weight: torch.Tensor, bias: torch.Tensor | None, norm: Any, outputs_at: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias that do what they did followed by batch normalisation in evaluation mode."""
    bias = weight.new_zeros(weight.shape[outputs_at]) if bias is None else bias
    if norm is None:
        return weight, bias
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shape = [1] * weight.ndim
    shape[outputs_at] = -1
    return weight * scale.view(shape), (bias - norm.running_mean) * scale + norm.bias


def _convolution(
    module: nn.Conv2d | nn.ConvTranspose2d, norm: nn.Module | None, weights: Weights, size: tuple[int, ...]
) -> dict[str, Any]:
    transposed = isinstance(module, nn.ConvTranspose2d)
    weight, bias = _folded(module.weight, module.bias, norm, 1 if transposed else 0)
    k, stride, padding = module.kernel_size[0], module.stride[0], int(module.padding[0])
    if transposed:
        to = [(n - 1) * stride - 2 * padding + k + module.output_padding[0] for n in size]
    else:
        to = [(n + 2 * padding - k) // stride + 1 for n in size]
    # torch: transposed (inputs, outputs, k, k), else (outputs, inputs, k, k); decoder.js: (k, k, inputs, outputs)
    order = (2, 3, 0, 1) if transposed else (2, 3, 1, 0)
    return {
        "kind": "conv_transposed" if transposed else "conv", "kernel": k, "stride": stride, "padding": padding,
        "inputs": module.in_channels, "outputs": module.out_channels, "size": list(size), "to": to,
        "weight": weights.add(weight.permute(*order)), "bias": weights.add(bias),
    }  # fmt: skip


def export_html(
    model: Any, path: str | Path, data: Any = None, *, method: str | None = None, n: int = 2000, title: str = ""
) -> Path:
    """Write one self-contained page: a slider for each unit, the picture, the map (hover decodes, a click loads), the
    ways to start (a test image, random codes, zeros, a pasted code), copy and save.

    Args:
        model: what `latent_space` takes.
        method: the map's projection; None takes the two units of a 2-D model, else "pca".
        n: test images on the map.

    Raises:
        ValueError: a decoder with a layer that the page cannot compute.
    """
    space = latent_space(model, data)
    index, projection = projected(space, method, n)
    labels = space.data.test.labels[index].byte()
    spec, weights = decoder_spec(space.model, space.latent_dim)
    page = {
        "name": space.name, "decoder": spec, "names": list(class_names(space.data.name)),
        "colours": list(DIGIT_COLOURS), "measure": space.measure, "order": list(space.order),
        "importance": [float(v) for v in space.importance], "low": space.low.tolist(), "high": space.high.tolist(),
        "mean": space.z.mean(0).tolist(), "extent": projection.extent, "linear": projection.linear,
        "neighbours": NEIGHBOURS, "test_index": index.tolist(),
    }  # fmt: skip
    binary = {
        "weights": weights, "z": _float32(projection.z), "xy": projection.xy.tobytes(),
        "labels": labels.numpy().tobytes(),
        "matrix": _float32(projection.matrix), "cholesky": _float32(covariance_root(space.z)),
        "images": png(to_float(space.data.test.images[index]), 50),
    }  # fmt: skip
    page["binary"] = {name: base64.b64encode(value).decode() for name, value in binary.items()}
    text = (HERE / "page.html").read_text(encoding="utf-8")
    parts = {
        "TITLE": html.escape(title or f"{space.name}: a latent space to touch"),
        "DATA": json.dumps(page, ensure_ascii=True).replace("<", "\\u003c"),
        "SCRIPTS": "\n".join(_inlined(HERE / name) for name in ("decoder.js", "latent_map.js")),
    }
    for name, value in parts.items():
        text = text.replace(f"@@{name}@@", value)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")
    return Path(path)


def _float32(values: torch.Tensor) -> bytes:
    return values.detach().cpu().numpy().astype("<f4").tobytes()


def _inlined(path: Path) -> str:
    """A module's source for inside a page's own module: what it exports becomes names there, the rest stays its own."""
    lines = path.read_text(encoding="utf-8").splitlines()
    body = "\n".join(line.removeprefix("export ") for line in lines if not line.startswith("export default"))
    names = ", ".join(re.findall(r"^export function (\w+)", "\n".join(lines), re.MULTILINE))
    return f"const {{ {names} }} = (() => {{\n{body}\nreturn {{ {names} }};\n}})();\n"
