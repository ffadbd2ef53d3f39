"""fit: the one training loop of the whole series. evaluate: the same losses without training."""

import copy
import ctypes
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm

from labutils.checkpoint import Checkpoint, Training
from labutils.config import Config, stream_seed
from labutils.data import Split, batch_sizes, batches, check_images
from labutils.models import inference
from labutils.objectives import Objective


class TrainingDiverged(ArithmeticError):
    """The loss became NaN or infinite."""


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C during `fit`. `.history` holds the finished epochs; the model keeps the weights it had. (`run` goes on
    after the last finished epoch when it is called again.)"""

    def __init__(self, history: pd.DataFrame, epochs: int) -> None:
        super().__init__(f"training was interrupted after {len(history)} of {epochs} epochs")
        self.history = history if len(history) else pd.DataFrame(columns=["epoch", "train_loss", "val_loss"])


def resolve_device(name: str) -> torch.device:
    """ "auto" as the best device there is: cuda, then mps, then cpu.

    Raises:
        ValueError: this machine (or this build of torch) does not have the device.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, ok in there.items() if ok)
    if not there[name]:
        raise ValueError(f"device={name!r} is not available here; available: {[d for d, ok in there.items() if ok]}")
    return torch.device(name)


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "auto" as bfloat16 on CUDA cards that have it and float32 elsewhere.

    Raises:
        ValueError: bfloat16 was asked for and the processor would only emulate it.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        onednn = device.type == "cpu" and torch.backends.mkldnn.is_available()
        native = onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if precision == "auto":
        return "bfloat16" if native and device.type == "cuda" else "float32"
    if precision == "bfloat16" and not native:
        raise ValueError(f"precision='bfloat16' is not supported by this machine's {device.type}: use float32")
    return precision


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
    _keep_freed_memory()
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
    optimizers = _optimizers(model, config)
    schedulers = [
        LambdaLR(optimizer, lambda step: _lr_factor(config.schedule, step, steps)) for optimizer in optimizers
    ]
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
    with inference(model) as device, private_noise(0, "evaluation", device):
        for x, y in batches(split.to(device), batch_size):
            for name, value in objective(model, x, y, 1.0).items():
                sums[name] = sums.get(name, 0.0) + value * len(x)
    return {name: float(total) / len(split) for name, total in sums.items()}


@contextmanager
def private_noise(seed: int, purpose: str, device: torch.device) -> Iterator[None]:
    """Inside, torch's global generators (the CPU's, and that of the model's accelerator) run a stream of their own;
    outside, they are as if nothing had happened."""
    mps_state = torch.mps.get_rng_state() if device.type == "mps" else None  # fork_rng knows CUDA only
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.default_generator.manual_seed(stream_seed(seed, purpose))
            if device.type != "cpu":
                torch.get_device_module(device).manual_seed(stream_seed(seed, purpose))
            yield
    finally:
        if mps_state is not None:
            torch.mps.set_rng_state(mps_state)


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


@cache
def _keep_freed_memory() -> None:
    """Have glibc's malloc keep what is freed. By default the activations of every step go back to the kernel, which
    hands them out again as zeroed pages, one fault each: a sixth of a step's time on Linux."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
    # blocks below 32 MiB (more an older glibc refuses) come from the heap, which keeps up to 256 MiB of free space
    if mallopt and mallopt(m_mmap_threshold, 2**25):
        mallopt(m_trim_threshold, 2**28)


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal before each step (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

    A kernel (O,I,h,w) counts as the matrix (O, h·w·I). Steps are as long as Adam's for the same learning rate. torch's
    own Muon takes matrices only and one at a time, which here costs three times as much: a seventh of a training step.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], weight_decay: float = 0.0) -> None:
        super().__init__(groups, {"weight_decay": weight_decay, "momentum": 0.9})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(p.shape, []).append(p)
            for parameters in by_shape.values():
                self._step_of_a_shape(parameters, group["lr"], group["weight_decay"], group["momentum"])

    def _step_of_a_shape(self, parameters: list[nn.Parameter], lr: float, weight_decay: float, momentum: float) -> None:
        matrices = []
        for p in parameters:
            mean = self.state[p].setdefault("mean", torch.zeros_like(p))
            mean.lerp_(p.grad, 1 - momentum)
            ahead = p.grad.lerp(mean, momentum)  # type: ignore[union-attr]
            matrices.append((ahead.permute(0, 2, 3, 1) if p.ndim == 4 else ahead).reshape(len(p), -1))
        steps = _orthogonal(torch.stack(matrices))
        length = 0.2 * lr * max(steps.shape[1:]) ** 0.5
        for p, step in zip(parameters, steps, strict=True):
            if p.ndim == 4:
                step = step.view(len(p), *p.shape[2:], p.shape[1]).permute(0, 3, 1, 2)
            p.mul_(1 - lr * weight_decay).add_(step, alpha=-length)


def _orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """(N,r,c) → (N,r,c): all singular values pushed towards 1 by two Newton–Schulz iterations with Jordan's quintic.

    He takes five. On matrices as small as ours two teach as much: after one epoch COMPACT's validation error is the
    same to half a percent.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    m = matrices.mT if tall else matrices
    m = m / m.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(2):
        square = m @ m.mT
        m = 3.4445 * m + (-4.7750 * square + 2.0315 * square @ square) @ m
    return m.mT if tall else m


def _optimizers(model: nn.Module, config: Config) -> list[torch.optim.Optimizer]:
    """Usually one. Muon leaves vectors and the layers at both ends to AdamW, as its authors advise."""
    parameters, decay = list(model.parameters()), config.weight_decay
    if config.optimizer == "sgd":
        return [torch.optim.SGD(_groups(model, parameters, config), momentum=0.9, nesterov=True, weight_decay=decay)]
    inner = [p for p in parameters if p.ndim > 1][1:-1] if config.optimizer == "muon" else []
    outer = [p for p in parameters if all(p is not q for q in inner)]
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    adam = kind(_groups(model, outer, config), betas=(0.9, config.beta2), weight_decay=decay, fused=True)
    return [adam, Muon(_groups(model, inner, config), decay)] if inner else [adam]


def _groups(model: nn.Module, parameters: list[nn.Parameter], config: Config) -> list[dict[str, Any]]:
    """The parameters with their learning rates: a classifier's encoder has one of its own."""
    encoder = [q for name, q in model.named_parameters() if name.startswith("encoder.") and config.encoder_lr != 1]
    own = [p for p in parameters if any(p is q for q in encoder)]
    others = [p for p in parameters if all(p is not q for q in own)]
    rates = ((others, config.lr), (own, config.lr * config.encoder_lr))
    return [{"params": group, "lr": lr} for group, lr in rates if group]


def _lr_factor(schedule: str, step: int, steps: int) -> float:
    """The learning rate of a step, counted from 0, as a share of the peak."""
    if schedule == "constant":
        return 1.0
    warm_up = max(1, steps // 10)
    return min((step + 1) / warm_up, (steps - step) / max(1, steps - warm_up))


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
