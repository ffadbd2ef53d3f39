"""What a training keeps after each epoch, so that it goes on after an interruption as if there had been none."""

import json
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from labutils.store.files import PARSE_ERRORS, write_atomically
from labutils.store.weights import pack, unpack
from labutils.training import Training


@dataclass(frozen=True)
class Checkpoint:
    """A callback for `fit` that keeps the state of one training in a file, replaced after each epoch. It is not forced
    to the disk: after a power cut a torn one is noticed by its checksum, and the run begins again."""

    file: Path
    key: str

    def __call__(self, training: Training, moment: str) -> None:
        """Restore the state at the start, save it after each epoch."""
        if moment == "start":
            self.restore(training)
        elif moment == "epoch":
            self.save(training)

    def save(self, training: Training) -> None:
        """Keep the state. A disk that is full costs the checkpoint, not the training: a warning says so."""
        optimizers = [optimizer.state_dict() for optimizer in training.optimizers]
        tensors = {f"model.{name}": t for name, t in training.model.state_dict().items()}
        for i, state in enumerate(optimizers):
            tensors |= {f"optimizer.{i}.{p}.{k}": t for p, values in state["state"].items() for k, t in values.items()}
        tensors |= {f"random.{name}": state for name, state in _random_states(training).items()}
        about = {
            "key": self.key,
            "rows": training.rows,
            "groups": [state["param_groups"] for state in optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in training.schedulers],
        }
        try:
            write_atomically(self.file, pack(tensors, {"about": json.dumps(about)}), durable=False)
        except OSError as error:
            epoch = len(training.rows)
            warnings.warn(f"epoch {epoch} left no checkpoint ({error}): an interruption would cost it", stacklevel=3)

    def restore(self, training: Training) -> None:
        """Put the kept state into a training that has not begun; change nothing where there is no whole checkpoint."""
        if not self.file.exists():
            return
        try:
            tensors, metadata = unpack(self.file.read_bytes())
            about = json.loads(metadata["about"])
            if about["key"] != self.key:
                raise ValueError("it is that of another training")
        except (OSError, *PARSE_ERRORS) as error:
            warnings.warn(f"{self.file} is no checkpoint of this run ({error}): it begins again", stacklevel=3)
            return
        with torch.no_grad():
            for name, t in training.model.state_dict().items():
                t.copy_(tensors[f"model.{name}"])
        for i, (optimizer, groups) in enumerate(zip(training.optimizers, about["groups"], strict=True)):
            optimizer.load_state_dict({"state": _optimizer_state(optimizer, i, tensors), "param_groups": groups})
        for scheduler, state in zip(training.schedulers, about["schedulers"], strict=True):
            scheduler.load_state_dict(state)
        training.shuffling.set_state(tensors["random.shuffling"])
        torch.default_generator.set_state(tensors["random.cpu"])
        if training.device.type != "cpu":
            torch.get_device_module(training.device).set_rng_state(tensors["random.device"])  # unproved: an accelerator
        training.rows.extend(about["rows"])

    def remove(self) -> None:
        """Delete the file: the training is over. Where this fails `listing.tidy` comes later."""
        with suppress(OSError):
            self.file.unlink()


def _optimizer_state(optimizer: Optimizer, i: int, tensors: dict[str, torch.Tensor]) -> dict[int, dict[str, Any]]:
    """Return what optimizer number i keeps for each parameter, laid out in memory as the parameter is."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, t in tensors.items():
        if name.startswith(f"optimizer.{i}."):
            number, what = name.split(".")[2:]
            p = parameters[int(number)]
            laid_out = torch.empty_like(p).copy_(t) if t.shape == p.shape else t
            state.setdefault(int(number), {})[what] = laid_out.detach()
    return state


def _random_states(training: Training) -> dict[str, torch.Tensor]:
    states = {"shuffling": training.shuffling.get_state(), "cpu": torch.default_generator.get_state()}
    if training.device.type != "cpu":
        states["device"] = torch.get_device_module(training.device).get_rng_state()
    return states
