"""`run` trains a Config once and afterwards returns the stored run; interrupted, it goes on where it stopped."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from labutils import codes
from labutils.callbacks import after_each_epoch, progress_bar
from labutils.config import Config
from labutils.data import Dataset, data_of, is_pinned, training_images
from labutils.device import RANDOM_LOCK, cpu_threads
from labutils.kinds import BUILT_IN
from labutils.metrics import run_metrics
from labutils.models import build_model
from labutils.objectives import build_objective
from labutils.paths import runs_dir
from labutils.pictures import as_images
from labutils.store.folder import checkpoint_of, find_run, read_encoder, read_run, stored_row, write_run
from labutils.store.key import recipe, resolved, run_key
from labutils.store.weights import RunError, load_pretrained, load_weights, pretrained_index
from labutils.training import Callback, TrainingDiverged, fit
from labutils.transfer import fit_head, start_from
from labutils.trial import try_batch


@dataclass(frozen=True)
class Run:
    """A finished run: the model in evaluation mode on the CPU, its metrics, and its history, a row an epoch."""

    config: Config
    model: nn.Module
    metrics: dict[str, float]
    history: pd.DataFrame
    path: Path
    cached: bool = True  # read, and not trained just now

    @property
    def name(self) -> str:
        """The name of published weights, such as "vae16"; else the kind of model, its units and the first six digits of
        the run's key."""
        if self.path.suffix == ".safetensors":
            return self.path.stem
        return f"{self.config.model}-{self.config.latent_dim}-{self.path.name[:6]}"

    def encode(self, images: object, y: object = None) -> torch.Tensor:
        """Images as tensor, array or paths of pictures (see `as_images`) → codes (N,latent_dim)."""
        return codes.encode_images(self.model, self.images(images), y)

    def images(self, source: object) -> torch.Tensor:
        """Images as in `encode` → (N,C,H,H) floats in [0,1] as this model knows them: of a model of the lab's digits or
        clothes framed as MNIST's digits, of others as the pictures of a folder are."""
        config = self.config
        return as_images(source, config.image_size, config.channels, whole=not is_pinned(config.dataset))

    def decode(self, z: object, y: object = None) -> torch.Tensor:
        """Codes (N,latent_dim) → images (N,C,H,H) in [0,1]."""
        return codes.decode_codes(self.model, codes.as_codes(z, self.model), y)

    def reconstruct(self, images: object, y: object = None) -> torch.Tensor:
        """Images as in `encode` → their reconstructions (N,C,H,H)."""
        return self.decode(self.encode(images, y), y)

    def interpolate(self, start: object, end: object, steps: int = 11, *, spherical: bool = False) -> torch.Tensor:
        """Two images as in `encode` → (steps,C,H,H) from one to the other by way of their codes."""
        a, b = (self.encode(image)[0] for image in (start, end))
        return self.decode(codes.interpolate(a, b, steps, spherical=spherical))

    def sample(self, n: int, method: str = "prior", *, y: object = None, seed: int = 0) -> torch.Tensor:
        """n invented images (n,C,H,H).

        Args:
            method: one of codes.SAMPLERS; all but "prior" are fitted to the codes of up to 5,000 training images.
            y: a conditional_vae's labels; None means each class in turn. Labels for another model are a ValueError.
        """
        if y is not None and not getattr(self.model, "conditional", False):
            raise ValueError(f"y={y!r} means nothing to this model: only a conditional_vae is told labels")
        z = codes.invent(self.model, lambda: data_of(self.config).train, n, method, seed)
        return self.decode(z, torch.arange(n) % self.config.classes if y is None else y)


def load_run(path: str | Path) -> Run:
    """Read a run, every byte verified.

    Args:
        path: the run's folder, or its name in the run store; the name of published weights, such as "vae16"; or a
            weights file (.safetensors).

    A RunError says that there is no run, or that a file is not the one that was stored.
    """
    if Path(path).suffix == ".safetensors":
        return Run(*load_weights(Path(path)))
    if Path(path).is_dir():
        return Run(*read_run(Path(path)))
    if str(path) in (names := pretrained_index()):
        return Run(*load_pretrained(str(path)))
    if not (runs_dir() / path).exists():
        raise RunError(f"no run {str(path)!r}, neither in the store nor as a folder; weights: {', '.join(names)}")
    return Run(*read_run(runs_dir() / path))


def run(
    config: Config,
    *,
    progress: bool = True,
    each_epoch: Callable[[nn.Module, int], None] | None = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train a config and store the run, or return the stored run of exactly this config, data and code.

    A run of several epochs that was interrupted goes on after the last finished one, bit by bit as if nothing had
    happened, on the same machine. With callbacks it is trained from the first epoch, also when it is stored.
    `Run.config` says what really ran: the data set that was loaded, the device, and fewer epochs at smoke scale.

    Args:
        progress: show a bar.
        each_epoch: called with the model and the number of the epoch after each.
        callbacks: see `training.Callback`.

    Raises:
        DataError, TrainingDiverged, TrainingInterrupted, ValueError: see `load_dataset`, `fit` and, for a kind of model
            of your own, `trial.try_batch`.
        RunError: the encoder to start from is not in the store.
        OSError: the store cannot be read or written, or the disk is full.
    """
    data = data_of(config)
    config = resolved(config, data)
    code = recipe(config.model)
    key = run_key(config, data.checksum, code)
    watchers = [*callbacks, *([after_each_epoch(each_epoch, config.seed)] if each_epoch else [])]
    stored = find_run(key)
    if stored and not watchers:
        return Run(config, *stored[1:])  # not the stored config: images of your own may have moved
    return _train(config, data, key, code, progress=progress, watchers=watchers)


def run_row(config: Config, key: str) -> dict[str, Any]:
    """`run` for a worker: return the row of the table; a RunError if another run than the key's would be made."""
    if stored := find_run(key):  # whose name says what made it: no need to look at the images
        return stored_row(stored.path)
    data = data_of(config)
    config = resolved(config, data)
    code = recipe(config.model)
    if run_key(config, data.checksum, code) != key:
        raise RunError(f"this worker would make another run than {key}: its images ({data.name}), labutils or torch "
                       "are not the driver's")  # fmt: skip
    return stored_row(_train(config, data, key, code).path)


def _train(
    config: Config, data: Dataset, key: str, code: str, *, progress: bool = False, watchers: Sequence[Callback] = ()
) -> Run:
    """Train, measure and store what a key, made with the recipe `code`, names."""
    checkpoint, train = checkpoint_of(key), training_images(config, data)
    callbacks = [*watchers]
    if config.epochs > 1 and not watchers:
        callbacks.append(checkpoint)
    if progress:
        callbacks.append(progress_bar(config, len(train)))
    try:
        with RANDOM_LOCK, cpu_threads(config.threads):
            if config.model not in BUILT_IN:
                try_batch(config, train)
            model = build_model(config)
            if config.encoder:
                start_from(model, config, *read_encoder(config.encoder))  # type: ignore[arg-type]
            # a kind of your own may decide anything in Python, and the rise of beta does
            capture = config.model in BUILT_IN and not config.beta_warmup
            train_it: Callable[..., pd.DataFrame] = partial(fit, capture=capture)
            if config.encoder_lr == 0:
                train_it = fit_head
            history = train_it(model, build_objective(config), train, data.val, config, callbacks)
            metrics = {name: _number(name, x) for name, x in run_metrics(model, config, data, history).items()}
        if infinite := [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]:
            raise TrainingDiverged(f"{infinite[0]} after {config.epochs} epochs: try a smaller lr")
    except TrainingDiverged:
        checkpoint.remove()  # it would lead there again
        raise
    write_run(key, config, data, code, model, metrics, history)
    checkpoint.remove()
    return Run(*read_run(runs_dir() / key, key), cached=False)


def _number(name: str, value: Any) -> float:
    """Return a metric as JSON holds it: a kind of your own may measure in numpy or torch."""
    if isinstance(value, (int, float)):
        return value
    try:
        return float(value)  # unproved: a measure of a kind of your own
    except (TypeError, ValueError) as error:
        raise ValueError(f"measures: {name!r} has to be a number, not {type(value).__name__}") from error
