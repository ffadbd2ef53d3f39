"""Codes that somebody kept: a JSON file for each set of weights. In other weights the same code is another picture."""

import hashlib
import json
import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from labutils.paths import outputs_dir
from labutils.store.files import PARSE_ERRORS, write_atomically

Favourites = dict[str, dict[str, Any]]  # by name: z, a list of numbers, and y, the label that goes with it, or None


def favourites_file(name: str, model: nn.Module) -> Path:
    """Where the favourites of a model lie; `name` is for people."""
    weights = hashlib.sha256(b"".join(t.cpu().numpy().tobytes() for t in model.state_dict().values()))
    return outputs_dir() / "local" / "favourites" / f"{name}-{weights.hexdigest()[:8]}.json"


def read_favourites(file: Path) -> Favourites:
    """What was kept; nothing where there is no file. One that holds something else is set aside, with a warning."""
    try:
        kept = json.loads(file.read_bytes())
        return {name: _favourite(**one) for name, one in kept.items()}
    except FileNotFoundError:
        return {}
    except OSError as error:  # says nothing about the file
        warnings.warn(f"{file} cannot be read ({error}): its favourites are missing here", stacklevel=3)
    except PARSE_ERRORS as error:
        aside = file.with_suffix(f".damaged-{os.urandom(4).hex()}")
        with suppress(OSError):
            file.rename(aside)
        warnings.warn(f"{file} holds no favourites ({error}): it was set aside as {aside.name}", stacklevel=3)
    return {}


def _favourite(z: list[float], y: int | None) -> dict[str, Any]:
    if y is not None and type(y) is not int:
        raise ValueError(f"{str(y)[:20]!r} is no label")
    return {"z": [float(v) for v in z], "y": y}


def add_favourite(file: Path, name: str, z: list[float], y: int | None) -> Favourites:
    """Keep one more, beside what other notebooks have kept in the meantime; all there are now."""
    kept = {**read_favourites(file), name: {"z": z, "y": y}}
    write_atomically(file, json.dumps(kept, indent=1, ensure_ascii=False).encode())
    return kept
