"""The run store: a folder `outputs/runs/<key>/` for each finished run, written once and verified whenever it is read.

A run is written under another name and renamed when it is complete, so a folder under a key is a whole run, whatever
happened to the process. That one rename is all that processes, machines and file systems have to agree on.
"""

import hashlib
import io
import json
import math
import os
import platform
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from labutils.config import Config
from labutils.data import Dataset
from labutils.paths import runs_dir, scale
from labutils.store.checkpoint import Checkpoint
from labutils.store.files import UNREADABLE, WEIGHTS_LIMIT, json_sum, read, read_model, unpack, weights_file, write
from labutils.store.key import hash_of, of_today, recipe, torch_version
from labutils.transfer import encoder_layers

FILES = ("config.json", "history.csv", "metrics.json", "model.safetensors")
LIMITS = {"MANIFEST.json": 2**20, "config.json": 2**20, "metrics.json": 2**20, "history.csv": 2**28,
          "model.safetensors": WEIGHTS_LIMIT}  # bytes  # fmt: skip
MADE_FROM, VERSIONS = ("data", "code", "torch"), ("python", "torch", "numpy")
GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
MANIFEST = {"key": str, "made_from": dict, "files": dict, "versions": dict, "scale": str, "platform": str}


class RunError(RuntimeError):
    """A stored run is missing, damaged or made by something else; the message names it."""


class Stored(NamedTuple):
    """What a folder or a weights file holds: the model in evaluation mode on the CPU, metrics, a row an epoch."""

    config: Config
    model: nn.Module
    metrics: dict[str, float]
    history: pd.DataFrame
    path: Path


def read_run(path: Path, key: str | None = None) -> Stored:
    """`load_run`, where `key` says which run it has to be."""
    manifest = read_manifest(path)
    content = _values(path, manifest, ("history.csv", "metrics.json"), key or manifest["key"])
    file = path / "model.safetensors"
    try:
        stored = manifest["files"][file.name]
        config, model = read_model(file, (isinstance(stored, dict) and stored.get("sha256")) or "none")
        if config != content["config.json"]:
            raise ValueError("the weights are those of another config")
    except (OSError, ValueError) as error:
        raise RunError(f"{file} is not the file that was stored ({error})") from error
    return Stored(config, model, content["metrics.json"], content["history.csv"], path)


def find_run(key: str) -> Stored | None:
    """The stored run of a key; None where there is none. A damaged one is set aside, with a warning.

    Raises:
        RunError: it cannot be read (the disk, the permissions, too many open files), which says nothing about it; or it
            is damaged and cannot be set aside.
    """
    path = runs_dir() / key
    if not os.path.lexists(path):
        return None
    try:
        return read_run(path, key)
    except RunError as error:
        if out_of_reach(error):
            raise
        aside = path.with_name(f"damaged-{key}-{os.urandom(4).hex()}")
        try:
            path.rename(aside)
        except FileNotFoundError:  # another process was faster
            return None
        except OSError as reason:
            raise RunError(f"{error}, and it cannot be set aside ({reason})") from error
        try:  # or was it faster still, and this is the run that it trained again?
            read_run(aside, key)
            aside.rename(path)
        except (RunError, OSError):
            warnings.warn(f"{error}. It was set aside as {aside.name} and is trained again.", stacklevel=3)
            return None
        return read_run(path, key)


def out_of_reach(error: Exception) -> bool:
    """Whether something could not be read for a reason that says nothing about it: the disk, the permissions, too many
    open files."""
    reason = error if isinstance(error, OSError) else error.__cause__
    return isinstance(reason, OSError) and not isinstance(reason, GONE)


def read_manifest(path: Path) -> dict[str, Any]:
    """What a stored run says of itself: key, made_from (data, code, torch), files, versions, scale, platform.

    Raises:
        RunError: it says nothing, or not what was stored.
    """
    try:
        if links := [name for name in (*FILES, "MANIFEST.json") if (path / name).is_symlink()]:
            raise ValueError(f"{links[0]} is a link, which may lead anywhere")
        manifest = json.loads(read(path / "MANIFEST.json", LIMITS["MANIFEST.json"]))
        if manifest.pop("sha256") != json_sum(manifest) or manifest.keys() != MANIFEST.keys():
            raise ValueError("MANIFEST.json is not the one that was stored")
        if not all(isinstance(manifest[name], kind) for name, kind in MANIFEST.items()):
            raise ValueError("MANIFEST.json holds values of other types than a run's")
        if manifest["files"].keys() != set(FILES):
            raise ValueError(f"MANIFEST.json names other files than a run has: {str(list(manifest['files']))[:200]}")
        for group, names in (("made_from", MADE_FROM), ("versions", VERSIONS)):
            if manifest[group].keys() != set(names) or not all(isinstance(manifest[group][n], str) for n in names):
                raise ValueError(f"MANIFEST.json says something else under {group} than {', '.join(names)}")
    except UNREADABLE as error:
        raise _no_run(path, error) from error
    return manifest


def read_content(path: Path, manifest: Mapping[str, Any], name: str) -> bytes:
    """A file of a stored run, the one that the manifest was written for.

    Raises:
        OSError, ValueError: it is not.
    """
    content = read(path / name, LIMITS[name])
    if manifest["files"].get(name) != _fingerprint(content):
        raise ValueError(f"{name} is not the file that was stored")
    return content


def _values(path: Path, manifest: Mapping[str, Any], names: Sequence[str], key: str) -> dict[str, Any]:
    """What a run's config and the named files say, once it is clear that it is the run of that key."""
    try:
        values = {name: _parsed(name, read_content(path, manifest, name)) for name in ("config.json", *names)}
        if hash_of(values["config.json"], **manifest["made_from"]) != key:
            raise ValueError("it holds another run than its name or its manifest says")
    except UNREADABLE as error:
        raise _no_run(path, error) from error
    return values


def _no_run(path: Path, error: Exception) -> RunError:
    return RunError(f"{path} holds no whole run ({type(error).__name__}: {error})")


def _parsed(name: str, content: bytes) -> Any:
    if name == "history.csv":
        return pd.read_csv(io.BytesIO(content))
    values = json.loads(content)
    if name == "config.json":
        return Config.from_dict(values)
    if not all(type(value) in (int, float) and math.isfinite(value) for value in values.values()):
        raise ValueError("a metric is no finite number")
    return values


def write_run(
    key: str, config: Config, data: Dataset, model: nn.Module, metrics: dict[str, float], history: pd.DataFrame
) -> None:
    """Write a run under a temporary name, then rename the folder. Where another process was first, its run stays."""
    content = {
        "config.json": json.dumps(config.to_dict(), indent=1).encode(),
        "history.csv": history.to_csv(index=False).encode(),
        "metrics.json": json.dumps(metrics, indent=1, allow_nan=False).encode(),
        "model.safetensors": weights_file(model, config),
    }
    manifest: dict[str, Any] = {
        "key": key,
        "made_from": {"data": data.checksum, "code": recipe(config.model), "torch": torch_version()},
        "files": {name: _fingerprint(value) for name, value in content.items()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "scale": scale().name,
        "platform": f"{sys.platform} {platform.machine()}",
    }
    manifest["sha256"] = json_sum(manifest)
    path = runs_dir() / key
    scratch = unfinished_dir() / f"writing-{os.urandom(4).hex()}"
    scratch.mkdir()  # not by tempfile, whose folders nobody else may read
    try:
        for name, value in (*content.items(), ("MANIFEST.json", json.dumps(manifest, indent=1).encode())):
            write(scratch / name, value)
        _sync_folder(scratch)
        try:
            scratch.rename(path)
        except OSError:
            if not (path / "MANIFEST.json").exists():
                raise
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def unfinished_dir() -> Path:
    """The store's place for what is not finished: checkpoints, and runs that are being written. Made where missing.

    Raises:
        OSError: the store cannot be written, better known before a training than after it; or the place is a link,
            which may lead anywhere.
    """
    folder = _own_folder("unfinished")
    with tempfile.TemporaryFile(dir=folder):
        return folder


def _own_folder(name: str) -> Path:
    """A folder in the store, made where missing.

    Raises:
        OSError: it cannot be made, or is a link, which may lead anywhere.
    """
    folder = runs_dir() / name
    folder.mkdir(parents=True, exist_ok=True)
    if folder.is_symlink():
        raise OSError(f"{folder} is a link: runs are written, and deleted, in the store alone")
    return folder


def checkpoint_of(key: str) -> Checkpoint:
    """Where a run that is not finished keeps its state. A whole file that no training has written is removed, with a
    warning (a torn one is noticed when it is restored)."""
    checkpoint = Checkpoint(unfinished_dir() / f"{key}.safetensors", key)
    try:
        tensors, _ = unpack(read(checkpoint.file, WEIGHTS_LIMIT))
    except (OSError, ValueError):
        return checkpoint
    try:
        _check_state(tensors)
    except (RuntimeError, *UNREADABLE) as error:
        warnings.warn(
            f"{checkpoint.file} is no state of a training ({error}): removed, the run begins again", stacklevel=3
        )
        checkpoint.file.unlink(missing_ok=True)
    return checkpoint


def _check_state(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise some error unless these are what `Checkpoint.save` writes, as far as reading them could do harm."""
    about = json.loads(tensors["about"].numpy().tobytes())
    if type(about["threads"]) is not int or not 1 <= about["threads"] <= 4096:
        raise ValueError(f"threads: {str(about['threads'])[:20]}")
    if any(type(value) not in (int, float) for row in about["rows"] for value in row.values()):
        raise ValueError("a row of the history holds what is no number")
    if not 1 <= len(about["groups"]) == len(about["schedulers"]) <= 2:
        raise ValueError("as many optimisers as schedules, one or two")
    for name in ("shuffling", "cpu"):
        torch.Generator().set_state(tensors[f"random.{name}"])


def keep_encoder(file: str | Path) -> str:
    """Copy a weights file into the run store, for `Config.encoder`; the name it has there, a hash of its content.

    Raises:
        OSError, ValueError: this is no weights file with an encoder that a classifier can have.
    """
    encoder_layers(Path(file))
    content = read(Path(file), WEIGHTS_LIMIT)
    name = _kept_name(content)
    kept = _kept(name)
    if not kept.exists() or not is_as_kept(kept):
        _own_folder("encoders")
        scratch = unfinished_dir() / f"writing-{os.urandom(4).hex()}"
        write(scratch, content)
        scratch.replace(kept)
    return name


def encoder_file(name: str) -> Path:
    """The weights that `Config.encoder` names, a stored run's or a kept file's, verified.

    Raises:
        RunError: there is no such run or file, or not as it was stored.
    """
    if not re.fullmatch("[0-9a-f]{16}", name):
        raise RunError(f"encoder={name!r} is no stored run: the name of one has 16 hex digits, see `run(config).path`")
    path = runs_dir() / name
    if os.path.lexists(path):
        try:
            manifest = read_manifest(path)
            if manifest["key"] != name:
                raise ValueError("its manifest is another run's")
            read_content(path, manifest, "model.safetensors")
        except UNREADABLE as error:
            raise _no_run(path, error) from error
        return path / "model.safetensors"
    if not _kept(name).exists():
        raise RunError(f"encoder={name!r} is no stored run: train it first, its name is `run(config).path.name`")
    if not is_as_kept(_kept(name)):
        raise RunError(f"{_kept(name)} is not the file that was stored: name the checkpoint again, or delete it")
    return _kept(name)


def _kept(name: str) -> Path:
    return runs_dir() / "encoders" / f"{name}.safetensors"


def _kept_name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def is_as_kept(file: Path) -> bool:
    """Whether a file of `keep_encoder` still has the content that its name says.

    Raises:
        OSError: it cannot be read.
    """
    try:
        return _kept_name(read(file, WEIGHTS_LIMIT)) == file.stem
    except ValueError:
        return False


def stored_row(path: Path) -> dict[str, Any]:
    """A stored run as a row of a table: fields of the config, metrics, versions, key. Reads the small files alone.

    Raises:
        RunError: one of them is not as it was stored.
    """
    return _row(path, read_manifest(path))


def _row(path: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    values = _values(path, manifest, ("metrics.json",), path.name)
    return {
        **_plain(values["config.json"]),
        **values["metrics.json"],
        **{name: manifest[name] for name in ("scale", "platform")},
        **manifest["versions"],
        "run": path.name,
        "error": "",
    }


def failed_row(config: Config, key: str, error: BaseException) -> dict[str, Any]:
    """The row of a run that came to nothing."""
    return {**_plain(config), "run": key, "error": f"{type(error).__name__}: {error}"}


def _plain(config: Config) -> dict[str, Any]:
    return {**config.to_dict(), "filters": str(config.filters)}


def stored_runs() -> pd.DataFrame:
    """Every run of the store that today's code would return, as `sweep` returns them; damaged ones are left out.

    `summarize(stored_runs())` is a leaderboard. Only the small files are read and verified, no weights.
    """
    rows = []
    for path in run_folders():
        with suppress(RunError):
            manifest = read_manifest(path)
            row = _row(path, manifest)
            if of_today(manifest["made_from"], row["model"]):
                rows.append(row)
    return pd.DataFrame(rows)


def run_folders() -> list[Path]:
    """What has the name of a run, in order."""
    return sorted(runs_dir().glob("[0-9a-f]" * 16))


def _sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power cut, where the system can (Windows cannot)."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            with suppress(OSError):  # some network file systems refuse it of a folder
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _fingerprint(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
