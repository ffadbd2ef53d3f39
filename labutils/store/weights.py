"""Weights that need no training: those that come with the repository, and files that `--checkpoint-path` wrote."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from labutils.paths import ROOT
from labutils.store.files import UNREADABLE, json_sum, read, read_model
from labutils.store.folder import RunError, Stored

REMEDY = "`git checkout -- outputs/pretrained` brings it back"


def pretrained_dir() -> Path:
    """Where the committed weights lie: in the repository, whatever the scale and wherever results go."""
    return ROOT / "outputs" / "pretrained"


def load_pretrained(name: str) -> Stored:
    """The committed weights of that name, verified; `.history` is empty, `.metrics` those that were published.

    Raises:
        RunError: there is no such name, or the file is missing, damaged, or does not fit today's models.
    """
    index = read_index()
    if name not in index:
        raise RunError(f"there are no weights {name!r}; there are {', '.join(index) or 'none'}")
    path = pretrained_dir() / f"{name}.safetensors"
    if not path.is_file():
        raise RunError(f"{path} is missing: {REMEDY}")
    try:
        config, model = read_model(path, index[name]["sha256"])
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is not the published file ({error}): {REMEDY}") from error
    return Stored(config, model, index[name]["metrics"], pd.DataFrame(), path)


def load_weights(path: Path) -> Stored:
    """A weights file that says what it is, as `--checkpoint-path` writes it; `.history` and `.metrics` are empty.

    Raises:
        RunError: there is no such file, it is damaged, or no weights of ours.
    """
    try:
        config, model = read_model(path)
    except FileNotFoundError as error:
        raise RunError(f"there is no weights file {path}: `train --checkpoint-path` writes one") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{path} holds no weights of today's labutils ({error})") from error
    return Stored(config, model, {}, pd.DataFrame(), path)


def read_index() -> dict[str, Any]:
    """What pretrained.json says of each name: sha256, config, metrics; nothing where there is no such file."""
    path = pretrained_dir() / "pretrained.json"
    try:
        index = json.loads(read(path, 2**20))
        if index.pop("sha256") != json_sum(index):
            raise ValueError("it was altered")
    except FileNotFoundError:
        return {}
    except UNREADABLE as error:
        raise RunError(f"{path} is not the published file ({error}): {REMEDY}") from error
    return index


def pretrained_names() -> list[str]:
    """The names of the weights that come along."""
    return list(read_index())
