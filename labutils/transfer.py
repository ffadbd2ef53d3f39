"""Transfer: a classifier that starts from the encoder of another model, to be fine-tuned or kept as it is."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from labutils.config import Config
from labutils.data import Split, batches
from labutils.device import resolve_device
from labutils.models import Classifier, eval_mode
from labutils.objectives import Objective
from labutils.store.files import read_weights
from labutils.training import Checkpoint, fit

# What an encoder's layers follow from
LAYERS = ("filters", "depth", "residual", "batch_norm", "activation", "negative_slope", "latent_dim")


def encoder_layers(file: Path) -> dict[str, Any]:
    """The config's fields that the encoder in a weights file (`train --checkpoint-path`) was built from.

    Raises:
        ValueError: this is no weights file of labutils, or its encoder has no convolutions.
    """
    return _encoder(file)[0]


def _encoder(file: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """`encoder_layers`, and the tensors of the encoder."""
    try:
        tensors, values = read_weights(file)
        layers = {field: values[field] for field in LAYERS} | {"filters": tuple(values["filters"])}
        convolutional = values["model"] != "mlp_vae"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is no weights file of labutils ({type(error).__name__}: {error}): `train --checkpoint-path` "
            "writes one"
        ) from error
    if not convolutional:
        raise ValueError(f"the encoder of {file} does not fit: model is mlp_vae there, which has no convolutions")
    return layers, {name.removeprefix("encoder."): t for name, t in tensors.items() if name.startswith("encoder.")}


def start_from(model: Classifier, config: Config, file: Path) -> None:
    """Give a classifier the encoder of a weights file; of a VAE's, the part that gives mu.

    Raises:
        ValueError: the file's encoder is not the config's; the message names each field that differs.
    """
    layers, found = _encoder(file)
    differ = [
        f"{field} is {there} there, {getattr(config, field)} here"
        for field, there in layers.items()
        if there != getattr(config, field)
    ]
    if differ:
        raise ValueError(f"the encoder of {file} does not fit: {'; '.join(differ)}")
    own = model.encoder.state_dict()
    # the last layer of a VAE's encoder gives mu, then logvar
    model.encoder.load_state_dict({name: t[: len(own[name])] if t.ndim else t for name, t in found.items()})


def fit_head(
    model: Classifier,
    objective: Objective,
    train: Split,
    val: Split,
    config: Config,
    *,
    progress: bool = True,
    tensorboard: str | Path | None = None,
    each_epoch: Callable[[nn.Module, int], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> pd.DataFrame:
    """`fit` for a classifier with a frozen encoder: every image is encoded once, and the head is fitted to the codes.
    The first epoch's seconds include the encoding."""
    model.to(resolve_device(config.device))
    start = time.perf_counter()
    train, val = _encoded(model, train), _encoded(model, val)
    encoding = time.perf_counter() - start
    whole = each_epoch and (lambda head, epoch: each_epoch(model, epoch))
    history = fit(
        model.head, objective, train, val, config,
        progress=progress, tensorboard=tensorboard, each_epoch=whole, checkpoint=checkpoint,
    )  # fmt: skip
    history["seconds"] += encoding * (history["epoch"] == 1)
    return history


def _encoded(model: Classifier, split: Split) -> Split:
    with eval_mode(model) as device:
        codes = torch.cat([model.encode(x).float() for x, _ in batches(split.to(device), 1000)])
    return Split(codes, split.labels.to(device))
