"""Files that say what they are and are believed only then: whole or not there, with a checksum, nothing unpickled."""

import hashlib
import json
import os
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from labutils.config import Config
from labutils.models import build_model

# What JSON, CSV and safetensors that are not ours can raise
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)
WEIGHTS_LIMIT = 2**31
HEADER_LIMIT = 2**20  # bytes: a hundred times what our largest model's names need

# torch's random generators belong to the process: of two threads that make or train a model at once, neither would get
# its seed's
ONE_AT_A_TIME = threading.RLock()  # again and again in one thread: a callback of a training may load a run


def read(path: Path, limit: int) -> bytes:
    """The content of a file of at most `limit` bytes: a sparse terabyte would fill the memory.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no regular file, or longer.
    """
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ValueError(f"{path.name} is longer than {limit:,} bytes")
        return file.read(size)  # read(limit) would take memory for the limit


def _open(path: Path) -> BinaryIO:
    """A regular file, open for reading. A pipe in its place would block for ever."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise ValueError(f"{path.name} is no regular file")
    return file


def write(path: Path, content: bytes) -> None:
    """Write a file and have it survive a power cut."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file, or give it other content, at once: who reads it meanwhile finds the one or the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}-{os.urandom(4).hex()}.new")
    try:
        write(scratch, content)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def json_sum(values: Mapping[str, Any]) -> str:
    """The SHA-256 sum of what can be written as JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def pack(tensors: Mapping[str, torch.Tensor], about: Mapping[str, str]) -> bytes:
    """A safetensors file whose metadata are `about` and the SHA-256 sum of all else; the same bytes for the same
    content (safetensors itself writes metadata in any order)."""
    content = save_safetensors({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    start = 8 + int.from_bytes(content[:8], "little")
    header, body = {**json.loads(content[8:start]), "__metadata__": dict(about)}, content[start:]
    header["__metadata__"]["sha256"] = _sum(header, body)
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text + body


def unpack(content: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The inverse of `pack`.

    Raises:
        ValueError: this is no such file, or not as it was written.
    """
    header, start = _header(content)
    about = header["__metadata__"]
    if about.pop("sha256", None) != _sum(header, content[start:]):
        raise ValueError("the content has another SHA-256 sum than it was written with")
    try:
        return load_safetensors(content), about
    except SafetensorError as error:
        raise ValueError(f"no safetensors file: {error}") from error


def weights_file(model: nn.Module, config: Config) -> bytes:
    """A safetensors file with the weights and, so that a copied file says what it is, the config and a checksum."""
    return pack(model.state_dict(), {"config": json.dumps(config.to_dict())})


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of a weights file and its config's fields, be they today's or not.

    Raises:
        OSError, ValueError: the file cannot be read, or is not what `weights_file` wrote.
    """
    tensors, about = unpack(read(path, WEIGHTS_LIMIT))
    try:
        fields = json.loads(about.get("config", "null"))
    except RecursionError as error:
        raise ValueError("its config is nested too deeply") from error
    if not isinstance(fields, dict):
        raise ValueError("it names no config")
    return tensors, fields


def read_model(path: Path, sha256: str | None = None) -> tuple[Config, nn.Module]:
    """The config and the model, in evaluation mode on the CPU, of a weights file of today's labutils. The file has to
    be as long as its config makes it before memory is taken for it.

    Args:
        sha256: the sum that the whole file must have; None asks only for the one inside.

    Raises:
        OSError, ValueError: the file cannot be read, or is not what `weights_file` wrote.
    """
    try:
        with _open(path) as file:
            header, start = _header(file.read(8 + HEADER_LIMIT))
        config = Config(**json.loads(header["__metadata__"]["config"]))  # what a later Config added has its default
        with ONE_AT_A_TIME, torch.device("meta"):  # shapes without memory
            model = build_model(config)
        expected = model.state_dict()
        content = read(path, start + sum(t.nbytes for t in expected.values()))
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError("it is not the file that was stored")
        weights, _ = unpack(content)
        if {n: (t.shape, t.dtype) for n, t in weights.items()} != {n: (t.shape, t.dtype) for n, t in expected.items()}:
            raise ValueError("its tensors are not those of its config")
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:  # JSON that is not what we wrote
        raise ValueError(f"{type(error).__name__}: {error}") from error
    model.load_state_dict({name: t.clone() for name, t in weights.items()}, assign=True)  # memory of torch's own
    model.to(memory_format=torch.channels_last)  # as `build_model` lays weights out
    return config, model.eval()


def _header(content: bytes) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where the tensors start."""
    start = 8 + int.from_bytes(content[:8], "little")
    if not 8 < start <= min(len(content), 8 + HEADER_LIMIT):
        raise ValueError("it declares a header that it does not have")
    try:
        header = json.loads(content[8:start])
    except RecursionError as error:
        raise ValueError("its header is nested too deeply") from error
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__"), dict):
        raise ValueError("it says nothing about itself")
    return header, start


def _sum(header: Mapping[str, Any], body: bytes) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode() + body).hexdigest()
