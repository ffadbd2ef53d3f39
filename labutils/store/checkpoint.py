"""What a training keeps after each epoch, so that it goes on after an interruption as if there had been none."""

import json
import os
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from labutils.store.files import pack, read, unpack
from labutils.training import Training


@dataclass(frozen=True)
class Checkpoint:
    """A file for the state of one training, replaced after each epoch. It is believed only as a whole and of its key.

    It is not forced to the disk: after a power cut a torn one is noticed by its checksum, and the run begins again.
    """

    file: Path
    key: str

    def save(self, training: Training) -> None:
        """Keep the state. A disk that is full costs the checkpoint, not the training: a warning says so."""
        optimizers = [optimizer.state_dict() for optimizer in training.optimizers]
        tensors = {f"model.{name}": t for name, t in training.model.state_dict().items()}
        for i, state in enumerate(optimizers):
            tensors |= {f"optimizer.{i}.{p}.{k}": t for p, kept in state["state"].items() for k, t in kept.items()}
        tensors |= {f"random.{name}": state for name, state in _random_states(training).items()}
        about = {
            "key": self.key,
            "rows": training.rows,
            "threads": torch.get_num_threads(),
            "groups": [state["param_groups"] for state in optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in training.schedulers],
        }
        tensors["about"] = torch.frombuffer(bytearray(json.dumps(about).encode()), dtype=torch.uint8)
        scratch = self.file.with_name(f"{self.file.stem}-{os.urandom(4).hex()}.new")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_bytes(pack(tensors, {}))
            scratch.replace(self.file)
        except OSError as error:
            epoch = len(training.rows)
            warnings.warn(f"epoch {epoch} left no checkpoint ({error}): an interruption would cost it", stacklevel=3)
        finally:
            with suppress(OSError):
                scratch.unlink()

    def restore(self, training: Training) -> int | None:
        """Put the kept state into a training that has not begun; the number of threads that its next epoch had. None,
        and nothing touched, where there is no whole checkpoint of this training."""
        model = training.model.state_dict()
        try:
            # Adam keeps two numbers for each weight; the rest is small
            tensors, _ = unpack(read(self.file, 4 * sum(t.nbytes for t in model.values()) + 2**26))
            about = json.loads(tensors["about"].numpy().tobytes())
            if about["key"] != self.key or any(tensors[f"model.{name}"].shape != t.shape for name, t in model.items()):
                raise ValueError("it is that of another training")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{self.file} is no checkpoint of this run ({error}): it begins again", stacklevel=3)
            return None
        with torch.no_grad():
            for name, t in model.items():
                t.copy_(tensors[f"model.{name}"])
        for i, (optimizer, groups) in enumerate(zip(training.optimizers, about["groups"], strict=True)):
            optimizer.load_state_dict({"state": _optimizer_state(optimizer, i, tensors), "param_groups": groups})
        for scheduler, state in zip(training.schedulers, about["schedulers"], strict=True):
            scheduler.load_state_dict(state)
        _set_random_states(training, {name: tensors[f"random.{name}"] for name in _random_states(training)})
        training.rows.extend(about["rows"])
        return about["threads"]

    def remove(self) -> None:
        """The training is over; where this fails `upkeep.tidy` comes later."""
        with suppress(OSError):
            self.file.unlink()


def _optimizer_state(
    optimizer: torch.optim.Optimizer, i: int, tensors: dict[str, torch.Tensor]
) -> dict[int, dict[str, Any]]:
    """What the optimiser number i had kept for each parameter, laid out in memory as the parameter is."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, t in tensors.items():
        if name.startswith(f"optimizer.{i}."):
            number, what = name.split(".")[2:]
            p = parameters[int(number)]
            kept = torch.empty_like(p).copy_(t) if t.shape == p.shape else t
            state.setdefault(int(number), {})[what] = kept.detach()
    return state


def _random_states(training: Training) -> dict[str, torch.Tensor]:
    states = {"shuffling": training.shuffling.get_state(), "cpu": torch.default_generator.get_state()}
    if training.device.type != "cpu":
        states["device"] = torch.get_device_module(training.device).get_rng_state()
    return states


def _set_random_states(training: Training, states: dict[str, torch.Tensor]) -> None:
    training.shuffling.set_state(states["shuffling"])
    torch.default_generator.set_state(states["cpu"])
    if training.device.type != "cpu":
        torch.get_device_module(training.device).set_rng_state(states["device"])
