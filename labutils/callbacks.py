"""Callbacks for `fit` and `run` (see training.Callback)."""

from collections.abc import Callable
from pathlib import Path

from torch import nn
from tqdm.auto import tqdm

from labutils.config import Config
from labutils.data import batch_sizes
from labutils.device import private_noise
from labutils.training import Callback, Training


def progress_bar(config: Config, n_train: int) -> Callback:
    """Return a callback that shows a bar with losses and remaining time."""
    steps = config.epochs * len(batch_sizes(n_train, config.batch_size))
    bar = tqdm(total=steps, unit="step", leave=False, delay=1e-6)  # not shown before the training begins

    def show(training: Training, moment: str) -> None:
        bar.update(training.schedulers[0].last_epoch - bar.n)
        if moment == "epoch":
            row = training.rows[-1]
            bar.set_postfix(train=f"{row['train_loss']:.4g}", val=f"{row['val_loss']:.4g}")
        elif moment == "end":
            bar.close()

    return show


def tensorboard_log(folder: str | Path) -> Callback:
    """Return a callback that logs each epoch's row for TensorBoard."""
    from torch.utils.tensorboard import SummaryWriter  # only here: it costs seconds and few ask for it

    writer = SummaryWriter(str(folder))

    def log(training: Training, moment: str) -> None:
        if moment == "epoch":
            row = training.rows[-1]
            for name in row.keys() - {"epoch", "seconds"}:
                writer.add_scalar(name, row[name], int(row["epoch"]))
        elif moment == "end":
            writer.close()

    return log


def after_each_epoch(function: Callable[[nn.Module, int], None], seed: int = 0) -> Callback:
    """Return a callback that calls function(model, epoch) after each epoch, with random numbers of its own."""

    def call(training: Training, moment: str) -> None:
        if moment == "epoch":
            with private_noise(seed, "each epoch", training.device):
                function(training.model, len(training.rows))

    return call
