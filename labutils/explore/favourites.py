"""Favourite codes: a JSON file for each set of weights, since a code means nothing to others."""

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import nn

from labutils.paths import outputs_dir
from labutils.store.files import write_atomically

Favourites = dict[str, dict[str, Any]]  # by name: z, a list of numbers, and y, the label, −1 for none


def favourites_file(name: str, model: nn.Module) -> Path:
    """Return the path of a model's favourites, named after `name` and its weights."""
    weights = hashlib.sha256(b"".join(t.cpu().numpy().tobytes() for t in model.state_dict().values()))
    return outputs_dir() / "local" / "favourites" / f"{name}-{weights.hexdigest()[:8]}.json"


def read_favourites(file: Path) -> Favourites:
    """Return the favourites in a file, none where it does not exist; a damaged one is a ValueError."""
    try:
        return json.loads(file.read_bytes()) if file.exists() else {}
    except ValueError as error:
        raise ValueError(f"{file} holds no favourites ({error}): mend it, or delete it") from None


def add_favourite(file: Path, name: str, z: list[float], y: int) -> Favourites:
    """Add a favourite to those in the file and return all."""
    favourites = {**read_favourites(file), name: {"z": z, "y": y}}
    write_atomically(file, json.dumps(favourites, indent=1, ensure_ascii=False).encode())
    return favourites
