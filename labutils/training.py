"""fit: the one training loop of the whole series. evaluate: the same losses without training."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from labutils.config import Config, stream_seed
from labutils.data import Split, batch_sizes, batches, check_images
from labutils.device import cpu_threads, eval_mode, keep_freed_memory, private_noise, resolve_device, resolve_precision
from labutils.graphs import CapturedStep, Step, recordable
from labutils.objectives import Objective
from labutils.optim import build_optimizers, lr_factor

CAPTURE_ABOVE = 100  # steps: to record one costs about as much as to compute a hundred


class TrainingDiverged(ArithmeticError):
    """The loss became NaN or infinite."""


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C during `fit`. `.history` holds the finished epochs; the model keeps the weights it had."""

    def __init__(self, history: pd.DataFrame, epochs: int) -> None:
        super().__init__(f"training was interrupted after {len(history)} of {epochs} epochs")
        self.history = history if len(history) else pd.DataFrame(columns=["epoch", "train_loss", "val_loss"])


@dataclass
class Training:
    """The state of a training: all that its next epoch depends on, besides the images and the config."""

    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    schedulers: list[LambdaLR]
    shuffling: torch.Generator  # orders the images of each epoch
    device: torch.device
    rows: list[dict[str, float]] = field(default_factory=list)  # the history so far, an epoch each


# (training, moment): called at the "start", where a checkpoint restores its state; after each "step"; after each
# "epoch", when its row is the last of training.rows; and at the "end", whatever ended the training
Callback = Callable[[Training, str], None]


def fit(
    model: nn.Module, objective: Objective, train: Split, val: Split, config: Config,
    callbacks: Sequence[Callback] = (), *, capture: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Train `model` in place, by the optimisation fields of the config.

    Args:
        objective: (model, x, y, progress) → dict of batch means; "loss" is minimised, all are logged.
        train, val: images as uint8, or as floats in [0,1]; of a model that takes codes, those (N,d).
        callbacks: see `Callback`; callbacks.py has some.
        capture: on CUDA, record a step and replay it (see graphs.py), which is several times as quick for small
            networks. Of a model and an objective that decide nothing in Python from one step to the next.

    Returns:
        The history, a row an epoch: epoch, lr (the last step's), train_* (averages by example while training), val_*
        (after the epoch) and seconds (both included).

    Raises:
        TrainingDiverged: a loss was NaN or infinite; the message names epoch, step and learning rate.
        TrainingInterrupted: Ctrl-C; `.history` has the finished epochs.
        ValueError: images are not squares (N,C,H,H) that a model can have, within [0,1], N > 0; batches of one image
            cannot train the model; or the device or precision is not available.
    """
    sizes = _checked_sizes(model, train, val, config)
    device = resolve_device(config.device)
    bfloat16 = resolve_precision(config.precision, device) == "bfloat16"
    model.to(device)
    train, val = train.to(device), val.to(device)
    keep_freed_memory()
    steps = config.epochs * len(sizes)
    optimizers = build_optimizers(model, config)
    schedulers = [LambdaLR(optimizer, lambda step: lr_factor(config.schedule, step, steps)) for optimizer in optimizers]
    shuffling = torch.Generator().manual_seed(stream_seed(config.seed, "shuffling"))
    training = Training(model, optimizers, schedulers, shuffling, device)
    rows = training.rows

    def call_back(moment: str) -> None:
        for callback in callbacks:
            callback(training, moment)

    names: list[str] = []

    def compute(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            terms = objective(model, x, y, schedulers[0].last_epoch / steps)
        for optimizer in optimizers:
            optimizer.zero_grad()
        terms["loss"].backward()
        for optimizer in optimizers:
            optimizer.step()
        names[:] = terms
        return torch.stack([term.detach() for term in terms.values()])

    step: Step = compute
    if capture and device.type == "cuda" and steps > CAPTURE_ABOVE and recordable(optimizers):
        step = CapturedStep(compute, optimizers)  # unproved: CUDA
    with cpu_threads(config.threads), private_noise(config.seed, "training", device):
        try:
            call_back("start")
            while len(rows) < config.epochs:
                start, epoch = time.perf_counter(), len(rows) + 1
                model.train()
                values = []  # stay on the device: reading one here would make every step wait for the accelerator
                for x, y in batches(train, config.batch_size, training.shuffling):
                    values.append(step(x, y))
                    for scheduler in schedulers:
                        scheduler.step()
                    call_back("step")
                table = dict(zip(names, torch.stack(values).cpu().double().unbind(1), strict=True))
                row = _averages(table, sizes, config, epoch, steps)
                row |= {f"val_{name}": value for name, value in evaluate(model, objective, val).items()}
                if not math.isfinite(row["val_loss"]):
                    raise TrainingDiverged(f"validation loss {row['val_loss']} after epoch {epoch}{_calmer(config.lr)}")
                rows.append(row | {"seconds": time.perf_counter() - start})
                call_back("epoch")
        except KeyboardInterrupt:
            raise TrainingInterrupted(pd.DataFrame(rows), config.epochs) from None
        finally:
            call_back("end")
    return pd.DataFrame(rows)


def _checked_sizes(model: nn.Module, train: Split, val: Split, config: Config) -> list[int]:
    """The sizes of an epoch's batches, once it is clear that the model can be trained with them."""
    for split in (train, val):
        if split.images.ndim != 2 or not len(split):  # of (N,d) codes of a frozen encoder any N > 0 will do
            check_images(split.images)
    sizes = batch_sizes(len(train), config.batch_size)
    if min(sizes) == 1 and any(isinstance(layer, nn.BatchNorm1d) for layer in model.modules()):
        given = f"batch_size={config.batch_size} on {len(train)} images"
        raise ValueError(f"{given} makes batches of one image: batch normalisation needs 2 or more")
    return sizes


def _averages(
    table: dict[str, torch.Tensor], sizes: list[int], config: Config, epoch: int, steps: int
) -> dict[str, float]:
    """The row of an epoch: its number, the last step's lr, and each term (steps,) averaged by example as train_*."""

    def lr(step: int) -> float:
        return config.lr * lr_factor(config.schedule, (epoch - 1) * len(sizes) + step, steps)

    if not table["loss"].isfinite().all():
        step = int((~table["loss"].isfinite()).nonzero()[0])
        loss = float(table["loss"][step])
        raise TrainingDiverged(f"loss {loss:g} in epoch {epoch}, step {step + 1}{_calmer(lr(step))}")
    weights = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
    means = (weights @ torch.stack(list(table.values()), dim=1)).tolist()
    train = {f"train_{name}": mean for name, mean in zip(table, means, strict=True)}
    return {"epoch": epoch, "lr": lr(len(sizes) - 1), **train}


def _calmer(lr: float) -> str:  # unproved: words of an error
    return f"; the learning rate was {lr:.3g}: try a smaller lr, or batch_norm=True"


def evaluate(model: nn.Module, objective: Objective, split: Split, batch_size: int = 1000) -> dict[str, float]:
    """The objective's terms on a split, averaged by example, in evaluation mode and without gradients.

    The model's mode and every random stream are afterwards as they were before. An empty split is a ValueError.
    """
    if not len(split):
        raise ValueError("an empty split has no averages")
    sums: dict[str, torch.Tensor | float] = {}
    with eval_mode(model) as device, private_noise(0, "evaluation", device):
        for x, y in batches(split.to(device), batch_size):
            for name, value in objective(model, x, y, 1.0).items():
                sums[name] = sums.get(name, 0.0) + value * len(x)
    return {name: float(total) / len(split) for name, total in sums.items()}
