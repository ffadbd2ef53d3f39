"""Transfer: a classifier that starts from another model's encoder, fine-tuned or frozen."""

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
from labutils.kinds import KINDS, has_field
from labutils.models import Classifier
from labutils.objectives import Objective
from labutils.training import Callback, Training, fit

# fields of a Config from which an encoder's layers follow
LAYERS = ("image_size", "channels", "filters", "depth", "residual", "batch_norm", "activation", "negative_slope",
          "latent_dim")  # fmt: skip


def encoder_layers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return LAYERS of a model's config; a ValueError where its encoder has no convolutions."""
    values = Config().to_dict() | dict(values)  # published weights name only what differs from the defaults
    model = values["model"]  # a kind of your own need not be defined here: then its layers tell
    if model in KINDS and not has_field(model, "filters"):
        raise ValueError(f"the encoder does not fit: it is that of model={model!r}, which has no convolutions")
    return {field: values[field] for field in LAYERS} | {"filters": tuple(values["filters"])}


def start_from(
    model: Classifier, config: Config, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]
) -> None:
    """Load a model's encoder, of a VAE the part that gives mu, into a classifier made from `config`. A ValueError names
    the fields in which `values`, those of the model's config, do not fit."""
    pairs = [(field, value, getattr(config, field)) for field, value in encoder_layers(values).items()]
    if differ := [f"{field} is {value} there, {wanted} here" for field, value, wanted in pairs if value != wanted]:
        raise ValueError(f"the encoder does not fit: {'; '.join(differ)}")
    own = model.encoder.state_dict()
    theirs = {name.removeprefix("encoder."): t for name, t in tensors.items() if name.startswith("encoder.")}
    if own.keys() != theirs.keys():  # a kind of your own, whose fields need not tell its layers
        raise ValueError("the encoder does not fit: it has other layers than a classifier's")
    # the last layer of a VAE's encoder gives mu, then logvar
    first = {name: t[: len(own[name])] if t.ndim else t for name, t in theirs.items()}
    if differ := [name for name, t in first.items() if t.shape != own[name].shape]:
        raise ValueError(f"the encoder does not fit: its layers have other sizes than a classifier's ({differ[0]})")
    model.encoder.load_state_dict(first)


def fit_head(
    model: Classifier,
    objective: Objective,
    train: Split,
    val: Split,
    config: Config,
    callbacks: Sequence[Callback] = (),
) -> pd.DataFrame:
    """Fit the head of a classifier whose encoder is frozen, as `fit` does; images are encoded once, in the seconds of
    the first epoch. Callbacks see the whole classifier."""
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
