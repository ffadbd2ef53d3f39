"""fit: the one training loop of the whole series. evaluate: the same losses without training."""

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm

from labutils.config import Config, stream_seed
from labutils.data import Split, batch_sizes, batches, check_images
from labutils.device import keep_freed_memory, private_noise, resolve_device, resolve_precision
from labutils.models import eval_mode
from labutils.objectives import Objective
from labutils.optim import build_optimizers, lr_factor


@dataclass
class Training:
    """Everything that the next epoch depends on, besides the images and the config. `rows` is the history so far."""

    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    schedulers: list[LambdaLR]
    shuffling: torch.Generator
    device: torch.device
    rows: list[dict[str, float]] = field(default_factory=list)


class Checkpoint(Protocol):
    """Where `fit` keeps its state after each epoch; `store.checkpoint.Checkpoint` is one."""

    def save(self, training: Training) -> None: ...

    def restore(self, training: Training) -> int | None: ...


class TrainingDiverged(ArithmeticError):
    """The loss became NaN or infinite."""


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C during `fit`. `.history` holds the finished epochs; the model keeps the weights it had. (`run` goes on
    after the last finished epoch when it is called again.)"""

    def __init__(self, history: pd.DataFrame, epochs: int) -> None:
        super().__init__(f"training was interrupted after {len(history)} of {epochs} epochs")
        self.history = history if len(history) else pd.DataFrame(columns=["epoch", "train_loss", "val_loss"])


def fit(
    model: nn.Module,
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
    """Train `model` in place by the config's epochs, batch_size, lr, schedule, optimizer, seed, device and precision.

    Args:
        objective: (model, x, y, progress) → dict of batch means; "loss" is minimised, all are logged.
        train, val: images as uint8, or as floats in [0,1]; of a model that takes codes, those (N,d).
        progress: show a bar with losses and remaining time.
        tensorboard: a folder for TensorBoard event files.
        each_epoch: called with the model and the number of the epoch after each.
        checkpoint: where to keep the state after each epoch; what it holds of this training is gone on with.

    Returns:
        The history, a row an epoch: epoch, lr (the last step's), train_* (averages by example while training), val_*
        (after the epoch), seconds (both included) and threads.

    Raises:
        TrainingDiverged: a loss was NaN or infinite; the message names epoch, step and learning rate.
        TrainingInterrupted: Ctrl-C; `.history` has the finished epochs.
        ValueError: images are not (N,1,28,28) within [0,1], N > 0; batches of one image cannot train the model; or the
            device or precision is not to be had.
    """
    sizes = _checked_sizes(model, train, val, config)
    device = resolve_device(config.device)
    bfloat16 = resolve_precision(config.precision, device) == "bfloat16"
    model.to(device)
    train, val = train.to(device), val.to(device)
    keep_freed_memory()
    steps = config.epochs * len(sizes)
    training = _beginning(model, config, steps, device)
    bar = tqdm(total=steps, unit="step", disable=not progress, leave=False)
    try:
        with private_noise(config.seed, "training", device), bar, _tensorboard(tensorboard) as log:
            threads = checkpoint.restore(training) if checkpoint else None
            bar.update(training.schedulers[0].last_epoch)
            with _fastest_threads(model, objective, train, config, bfloat16, threads):
                for epoch in range(len(training.rows) + 1, config.epochs + 1):
                    row = _train_epoch(training, objective, train, val, config, bfloat16, steps, bar)
                    bar.set_postfix(train=f"{row['train_loss']:.4g}", val=f"{row['val_loss']:.4g}")
                    if log:
                        for name in row.keys() - {"epoch", "seconds", "threads"}:
                            log.add_scalar(name, row[name], epoch)
                    if each_epoch:
                        with private_noise(config.seed, "each epoch", device):
                            each_epoch(model, epoch)
                    if checkpoint:
                        checkpoint.save(training)
    except KeyboardInterrupt:
        raise TrainingInterrupted(pd.DataFrame(training.rows), config.epochs) from None
    return pd.DataFrame(training.rows)


def _checked_sizes(model: nn.Module, train: Split, val: Split, config: Config) -> list[int]:
    """The sizes of an epoch's batches, once it is clear that the model can be trained with them."""
    for split in (train, val):
        if split.images.ndim != 2 or not len(split):  # of (N,d) codes of a frozen encoder any N > 0 will do
            check_images(split.images)
    sizes = batch_sizes(len(train), config.batch_size)
    if min(sizes) == 1 and any(isinstance(layer, nn.BatchNorm1d) for layer in model.modules()):
        raise ValueError(
            f"batch_size={config.batch_size} on {len(train)} images makes batches of one image, which this model's "
            "batch normalisation cannot learn from: take 2 or more of each"
        )
    return sizes


def _beginning(model: nn.Module, config: Config, steps: int, device: torch.device) -> Training:
    optimizers = build_optimizers(model, config)
    schedulers = [LambdaLR(optimizer, lambda step: lr_factor(config.schedule, step, steps)) for optimizer in optimizers]
    shuffling = torch.Generator().manual_seed(stream_seed(config.seed, "shuffling"))
    return Training(model, optimizers, schedulers, shuffling, device)


def _train_epoch(
    training: Training,
    objective: Objective,
    train: Split,
    val: Split,
    config: Config,
    bfloat16: bool,
    steps: int,
    bar: tqdm,
) -> dict[str, float]:
    """One epoch and its validation; the row that it adds to the history."""
    start, epoch = time.perf_counter(), len(training.rows) + 1
    shuffled = batches(train, config.batch_size, training.shuffling)
    row: dict[str, float] = {"epoch": epoch}
    row |= _train_pass(training, objective, shuffled, bfloat16, epoch, steps, bar)
    row |= {f"val_{name}": value for name, value in evaluate(training.model, objective, val).items()}
    if not math.isfinite(row["val_loss"]):
        raise TrainingDiverged(f"validation loss {row['val_loss']} after epoch {epoch}; {_calmer(row['lr'])}")
    row |= {"seconds": time.perf_counter() - start, "threads": torch.get_num_threads()}
    training.rows.append(row)
    if training.device.type == "cpu" and row["seconds"] > max(1, 2 * min(row["seconds"] for row in training.rows)):
        torch.set_num_threads(1)  # a busy neighbour has come: see _fastest_threads
    return row


def _train_pass(
    training: Training,
    objective: Objective,
    shuffled: Iterable[tuple[torch.Tensor, torch.Tensor]],
    bfloat16: bool,
    epoch: int,
    steps: int,
    bar: tqdm,
) -> dict[str, float]:
    """One pass over the batches; the part of the row that it fills: lr and train_* averaged by example."""
    model, optimizers, schedulers = training.model.train(), training.optimizers, training.schedulers
    sizes: list[int] = []
    rows: list[torch.Tensor] = []
    lrs: list[float] = []
    for x, y in shuffled:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
            terms = objective(model, x, y, schedulers[0].last_epoch / steps)
        for optimizer in optimizers:
            optimizer.zero_grad()
        terms["loss"].backward()
        lrs.append(float(schedulers[0].get_last_lr()[0]))
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
        # kept on the device: reading a value here would make every step wait for the accelerator
        rows.append(torch.stack([term.detach() for term in terms.values()]))
        sizes.append(len(x))
        bar.update()
    table = torch.stack(rows).cpu().double()
    losses = table[:, list(terms).index("loss")]
    if not losses.isfinite().all():
        step = int((~losses.isfinite()).nonzero()[0])
        raise TrainingDiverged(f"loss {losses[step]:g} in epoch {epoch}, step {step + 1}; {_calmer(lrs[step])}")
    weights = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
    means = (weights @ table).tolist()
    return {"lr": lrs[-1]} | {f"train_{name}": mean for name, mean in zip(terms, means, strict=True)}


def evaluate(model: nn.Module, objective: Objective, split: Split, batch_size: int = 1000) -> dict[str, float]:
    """The objective's terms on a split, averaged by example, in evaluation mode and without gradients.

    The model's mode and every random stream are afterwards as they were before.

    Raises:
        ValueError: the split is empty.
    """
    if not len(split):
        raise ValueError("an empty split has no averages")
    sums: dict[str, torch.Tensor | float] = {}
    with eval_mode(model) as device, private_noise(0, "evaluation", device):
        for x, y in batches(split.to(device), batch_size):
            for name, value in objective(model, x, y, 1.0).items():
                sums[name] = sums.get(name, 0.0) + value * len(x)
    return {name: float(total) / len(split) for name, total in sums.items()}


@contextmanager
def _fastest_threads(
    model: nn.Module, objective: Objective, train: Split, config: Config, bfloat16: bool, known: int | None
) -> Iterator[None]:
    """Train on the CPU with `known` threads, which a checkpoint remembers, as other numbers round otherwise; without,
    with as many as are fastest now, at most those that torch was given.

    Threads wait for each other after every operation, so beside a busy process all of them run at the pace of the one
    that has to share its core: an epoch has taken 15 times as long. One trial tells; its noise and its gradients are
    its own. A training of less than 300 steps is over before that pays.
    """
    given = torch.get_num_threads()
    try:
        if known:
            torch.set_num_threads(known)
        elif train.images.device.type == "cpu" and given > 1 and config.epochs * len(train) >= 300 * config.batch_size:
            with private_noise(config.seed, "trial", train.images.device):
                took = _step_seconds(model, objective, train, config, bfloat16, given)
            torch.set_num_threads(min(took, key=lambda threads: statistics.median(took[threads])))
        yield
    finally:
        torch.set_num_threads(given)


def _step_seconds(
    model: nn.Module, objective: Objective, train: Split, config: Config, bfloat16: bool, given: int
) -> dict[int, list[float]]:
    """Number of threads (1, 2, 4 … `given`) → seconds of twelve trial steps."""
    twin = copy.deepcopy(model).train()
    batch = Split(train.images[: config.batch_size], train.labels[: config.batch_size])
    took: dict[int, list[float]] = {n: [] for n in (*(2**i for i in range(10) if 2**i < given), given)}
    for threads in [*took, *took, *took]:  # in turns: a slow moment of the machine is nobody's fault
        torch.set_num_threads(threads)
        for _ in range(4):
            start = time.perf_counter()
            x, y = next(batches(batch, config.batch_size))
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = objective(twin, x, y, 1.0)["loss"]
            loss.backward()
            took[threads].append(time.perf_counter() - start)
    return took


def _calmer(lr: float) -> str:
    return f"the learning rate was {lr:.3g}: try a smaller lr, or batch_norm=True"


@contextmanager
def _tensorboard(folder: str | Path | None) -> Iterator[Any]:
    """A SummaryWriter, or None without a folder."""
    if folder is None:
        yield None
        return
    from torch.utils.tensorboard import SummaryWriter  # only here: it costs seconds and few ask for it

    with SummaryWriter(str(folder)) as writer:
        yield writer
