"""Codes that somebody kept: a JSON file for each set of weights. In other weights the same code is another picture."""

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

from torch import nn

from labutils.config import outputs_dir
from labutils.files import read, replace
from labutils.store import UNREADABLE

LIMIT = 2**24  # bytes

Favourites = dict[str, dict[str, Any]]  # by name: z, a list of numbers, and y, the label that goes with it, or None


def favourites_file(name: str, model: nn.Module) -> Path:
    """Where the favourites of a model lie; `name` is for people."""
    weights = hashlib.sha256(b"".join(t.cpu().numpy().tobytes() for t in model.state_dict().values()))
    return outputs_dir() / "local" / "favourites" / f"{name}-{weights.hexdigest()[:8]}.json"


def read_favourites(file: Path) -> Favourites:
    """What was kept; nothing where there is no file. One that holds something else is set aside, with a warning."""
    try:
        kept = json.loads(read(file, LIMIT))
        return {name: {"z": [float(v) for v in one["z"]], "y": one["y"]} for name, one in kept.items()}
    except FileNotFoundError:
        return {}
    except UNREADABLE as error:
        aside = file.with_suffix(".damaged")
        file.replace(aside)
        warnings.warn(f"{file} holds no favourites ({error}): it was set aside as {aside.name}", stacklevel=3)
        return {}


def write_favourites(file: Path, kept: Favourites) -> None:
    """Replace the file."""
    replace(file, json.dumps(kept, indent=1, ensure_ascii=False).encode())
