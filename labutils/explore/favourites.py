"""Codes that somebody kept: a JSON file for each set of weights. In other weights the same code is another picture."""

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import nn

from labutils.paths import outputs_dir
from labutils.store.files import write_atomically

Favourites = dict[str, dict[str, Any]]  # by name: z, a list of numbers, and y, the label that goes with it, or None


def favourites_file(name: str, model: nn.Module) -> Path:
    """Where the favourites of a model lie; `name` is for people."""
    weights = hashlib.sha256(b"".join(t.cpu().numpy().tobytes() for t in model.state_dict().values()))
    return outputs_dir() / "local" / "favourites" / f"{name}-{weights.hexdigest()[:8]}.json"


def read_favourites(file: Path) -> Favourites:
    """The favourites in a file; none where there is no file. A damaged one is a ValueError."""
    try:
        return json.loads(file.read_bytes()) if file.exists() else {}
    except ValueError as error:
        raise ValueError(f"{file} holds no favourites ({error}): mend it, or delete it") from None


def add_favourite(file: Path, name: str, z: list[float], y: int | None) -> Favourites:
    """Add a favourite to those that other notebooks have kept in the meantime; returns all there are now."""
    favourites = {**read_favourites(file), name: {"z": z, "y": y}}
    write_atomically(file, json.dumps(favourites, indent=1, ensure_ascii=False).encode())
    return favourites
