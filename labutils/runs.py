"""`run` trains a Config once and afterwards returns the stored run; interrupted, it goes on where it stopped."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from labutils.config import Config
from labutils.data import Dataset, load_dataset, training_images
from labutils.files import ONE_AT_A_TIME
from labutils.keys import resolved, run_key
from labutils.metrics import run_metrics
from labutils.models import build_model
from labutils.objectives import build_objective
from labutils.store import (
    Run,
    RunError,
    checkpoint_of,
    encoder_file,
    find_run,
    read_run,
    stored_row,
    unfinished_dir,
    write_run,
)
from labutils.training import TrainingDiverged, fit
from labutils.transfer import fit_head, start_from
from labutils.upkeep import tidy


def run(
    config: Config,
    *,
    progress: bool = True,
    tensorboard: str | Path | None = None,
    each_epoch: Callable[[nn.Module, int], None] | None = None,
) -> Run:
    """Train a config and store the run, or return the stored run of exactly this config, data and code.

    A run of several epochs that was interrupted, in whatever way, goes on after the last finished one: bit by bit as
    if nothing had happened, on the same machine. Whoever asks for the epochs (`tensorboard`, `each_epoch`: see `fit`)
    gets them all: the config is then trained from the first, though it be stored, which gives the same numbers.

    `Run.config` says what really ran: the data set that was found, the device, and fewer epochs at smoke scale.

    Raises:
        DataError, TrainingDiverged, TrainingInterrupted, ValueError: see `load_dataset` and `fit`.
        RunError: the encoder to start from is not in the store.
        OSError: the store cannot be read or written, or the disk is full. What was finished before stays as it was.
    """
    data = load_dataset(config.dataset)
    config = resolved(config, data)
    key = run_key(config, data.checksum)
    found = _run(config, data, key, progress=progress, tensorboard=tensorboard, each_epoch=each_epoch)
    tidy()
    return found


def run_row(config: Config, key: str) -> dict[str, Any]:
    """`run` for a worker: returns the row of the table, no tensors.

    Raises:
        RunError: what runs here would not be the run of this key.
    """
    if stored := find_run(key):  # whose name says what made it: no need to look at the images
        return stored_row(stored.path)
    data = load_dataset(config.dataset)
    config = resolved(config, data)
    if run_key(config, data.checksum) != key:
        raise RunError(f"this worker would make another run than {key}: its images ({data.name}), labutils or torch "
                       "are not the driver's")  # fmt: skip
    return stored_row(_run(config, data, key, progress=False).path)


def _run(
    config: Config,
    data: Dataset,
    key: str,
    *,
    progress: bool,
    tensorboard: str | Path | None = None,
    each_epoch: Callable[[nn.Module, int], None] | None = None,
) -> Run:
    shown = tensorboard is not None or each_epoch is not None
    if (stored := find_run(key)) and not shown:
        return stored
    path = unfinished_dir().parent / key
    checkpoint = checkpoint_of(key) if config.epochs > 1 and not shown else None
    try:
        with ONE_AT_A_TIME:
            model = build_model(config)
            if config.encoder:
                start_from(model, config, encoder_file(config.encoder))  # type: ignore[arg-type]
            fit_it: Callable[..., pd.DataFrame] = fit_head if config.encoder_lr == 0 else fit
            objective, train = build_objective(config), training_images(config, data)
            history = fit_it(
                model, objective, train, data.val, config,
                progress=progress, tensorboard=tensorboard, each_epoch=each_epoch, checkpoint=checkpoint,
            )  # fmt: skip
            metrics = run_metrics(model, config, data, history, objective)
        if wrong := [name for name, value in metrics.items() if not math.isfinite(value)]:
            raise TrainingDiverged(f"{wrong[0]} is {metrics[wrong[0]]} after {config.epochs} epochs: try a smaller lr")
    except TrainingDiverged:
        if checkpoint:  # it would lead there again
            checkpoint.remove()
        raise
    write_run(key, config, data, model, metrics, history)
    if checkpoint:
        checkpoint.remove()
    return read_run(path, key)
