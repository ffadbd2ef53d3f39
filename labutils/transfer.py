"""Transfer: a classifier that starts from the encoder of another model, to be fine-tuned or kept as it is."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import nn

from labutils.config import Config
from labutils.data import Split, batches
from labutils.device import cpu_threads, eval_mode, resolve_device
from labutils.models import Classifier
from labutils.objectives import Objective
from labutils.training import Callback, Training, fit

# fields of a Config from which an encoder's layers follow
LAYERS = ("filters", "depth", "residual", "batch_norm", "activation", "negative_slope", "latent_dim")


def encoder_layers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields from which an encoder's layers follow, out of those of its model's config; a ValueError where
    it has no convolutions."""
    if values["model"] == "mlp_vae":
        raise ValueError("the encoder does not fit: it is an mlp_vae's, which has no convolutions")
    return {field: values[field] for field in LAYERS} | {"filters": tuple(values["filters"])}


def start_from(
    model: Classifier, config: Config, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]
) -> None:
    """Give a classifier, made from `config`, another model's encoder; of a VAE's, the part that gives mu.

    Args:
        tensors, values: the other model's weights and the fields of its config.

    Raises:
        ValueError: the encoder is not the config's; the message names each field that differs.
    """
    layers = encoder_layers(values)
    differ = [field for field in LAYERS if layers[field] != getattr(config, field)]
    if differ:
        pairs = [f"{field} is {layers[field]} there, {getattr(config, field)} here" for field in differ]
        raise ValueError(f"the encoder does not fit: {'; '.join(pairs)}")
    own = model.encoder.state_dict()
    theirs = {name.removeprefix("encoder."): t for name, t in tensors.items() if name.startswith("encoder.")}
    # the last layer of a VAE's encoder gives mu, then logvar
    model.encoder.load_state_dict({name: t[: len(own[name])] if t.ndim else t for name, t in theirs.items()})


def fit_head(
    model: Classifier,
    objective: Objective,
    train: Split,
    val: Split,
    config: Config,
    callbacks: Sequence[Callback] = (),
) -> pd.DataFrame:
    """Fit the head of a classifier whose encoder is frozen: every image is encoded once. See `fit`.

    The first epoch's seconds include the encoding. Callbacks see the whole classifier.
    """
    model.to(resolve_device(config.device))
    start = time.perf_counter()
    with cpu_threads(config.threads):
        train, val = _encoded(model, train), _encoded(model, val)
    encoding = time.perf_counter() - start

    def call_back(training: Training, moment: str) -> None:
        for callback in callbacks:
            callback(replace(training, model=model), moment)

    history = fit(model.head, objective, train, val, config, [call_back])
    history["seconds"] += encoding * (history["epoch"] == 1)
    return history


def _encoded(model: nn.Module, split: Split) -> Split:
    with eval_mode(model) as device:
        codes = torch.cat([model.encode(x).float() for x, _ in batches(split.to(device), 1000)])  # type: ignore[operator]
    return Split(codes, split.labels.to(device))
