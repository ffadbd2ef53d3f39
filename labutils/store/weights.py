"""Weights as safetensors files that say what they are and carry a checksum; the weights that come with the repository.

Nothing is unpickled. By safetensors' own checks alone 96 % of random damages load silently wrong: hence the sum.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from labutils.config import Config, config_class
from labutils.kinds import KINDS
from labutils.models import build_model
from labutils.paths import ROOT
from labutils.store.files import PARSE_ERRORS, json_sum, sha256

REMEDY = ": `git checkout -- outputs/pretrained` brings it back"
WRITER = ": `train --checkpoint-path` writes a weights file"


class RunError(RuntimeError):
    """A stored run is missing, damaged or made by something else; the message names it."""


@contextmanager
def reading(path: Path, remedy: str = "") -> Iterator[None]:
    """Make a RunError of whatever reading a damaged file or folder can raise. That it cannot be read (permissions, too
    many open files) says nothing about it, and stays an OSError."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, *PARSE_ERRORS) as error:
        raise RunError(f"{path} is missing, damaged or another's ({type(error).__name__}: {error}){remedy}") from error


class Stored(NamedTuple):
    """What a run's folder or a weights file holds: the model in evaluation mode on the CPU, metrics, a row an epoch."""

    config: Config
    model: nn.Module
    metrics: dict[str, float]
    history: pd.DataFrame
    path: Path


def pack(tensors: Mapping[str, torch.Tensor], about: Mapping[str, str]) -> bytes:
    """Return a safetensors file whose metadata are `about` and the SHA-256 sum of all else. The same content gives the
    same bytes (safetensors itself writes metadata in any order), so that a file can be named by its content."""
    header, body = _parts(save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}))
    header["__metadata__"] = dict(about)
    header["__metadata__"] = {**about, "sha256": _sum(header, body)}
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text + body


def unpack(content: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors and metadata of a file of `pack`; a ValueError if it is none, or not as it was written."""
    try:
        header, body = _parts(content)
        about = header["__metadata__"]
        if about.pop("sha256") != _sum(header, body):
            raise ValueError("the content has another SHA-256 sum than it was written with")
        return load(content), about
    except (*PARSE_ERRORS, SafetensorError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start]), content[start:]


def _sum(header: Mapping[str, Any], body: bytes) -> str:
    return sha256(json.dumps(header, sort_keys=True).encode() + body)


def weights_file(model: nn.Module, config: Config) -> bytes:
    """Return a file with the weights and the config, so that a copy of it says what it is."""
    return pack(model.state_dict(), {"config": json.dumps(config.to_dict())})


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors of a weights file and the fields of its config, today's or not; a ValueError if it is none."""
    tensors, about = unpack(path.read_bytes())
    return tensors, json.loads(about.get("config", "{}"))


def read_model(path: Path) -> tuple[Config, nn.Module]:
    """Return the config and the model, in evaluation mode on the CPU, of a weights file; a ValueError where it is not
    what `weights_file` of today's labutils writes."""
    tensors, values = read_weights(path)
    known_kind(values, path)
    try:
        # published weights name only what differs from the defaults
        config = config_class(values.get("model", ""))(**values)
        model = build_model(config)
        model.load_state_dict(tensors)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"the weights are those of another model ({error})") from error
    return config, model.eval()


def known_kind(values: Mapping[str, Any], path: Path) -> None:
    """Raise a RunError where the config's fields in a path name a kind of model that is not defined here."""
    if (model := values.get("model", "cae")) not in KINDS:
        raise RunError(f"the model of {path}, {model!r}, is not defined here: run the cell, or import the module, that "
                       f"calls add_kind({model!r}, …)")  # fmt: skip


def load_weights(path: Path) -> Stored:
    """Return what a weights file holds, or raise a RunError; `.history` and `.metrics` are empty."""
    with reading(path, WRITER):
        return Stored(*read_model(path), {}, pd.DataFrame(), path)


def pretrained_dir() -> Path:
    """Return where the committed weights lie: in the repository, whatever the scale and wherever results go."""
    return ROOT / "outputs" / "pretrained"


def pretrained_index() -> dict[str, Any]:
    """Return what pretrained.json says of each name: sha256, config, metrics; nothing where there is no such file."""
    path = pretrained_dir() / "pretrained.json"
    if not path.exists():
        return {}  # unproved: needs a repository without outputs/pretrained
    with reading(path, REMEDY):
        index = json.loads(path.read_bytes())
        if index.pop("sha256") != json_sum(index):
            raise ValueError("it is not the published file")
        return index


def load_pretrained(name: str) -> Stored:
    """Return committed weights that pretrained.json names, or raise a RunError; `.history` is empty, `.metrics` those
    that were published."""
    entry, path = pretrained_index()[name], pretrained_dir() / f"{name}.safetensors"
    with reading(path, REMEDY):
        if sha256(path.read_bytes()) != entry["sha256"]:
            raise ValueError("it is not the published file")
        return Stored(*read_model(path), entry["metrics"], pd.DataFrame(), path)
