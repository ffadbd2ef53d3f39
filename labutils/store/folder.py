"""The run store: a folder `outputs/runs/<key>/` for each finished run, written once and verified whenever it is read.

A run is written under another name and renamed when it is complete, so a folder under a key is a whole run, whatever
happened to the process. That one rename is all that processes, machines and file systems have to agree on.
"""

import io
import json
import math
import os
import platform
import shutil
import sys
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from labutils.config import Config
from labutils.data import Dataset
from labutils.paths import runs_dir, scale
from labutils.store.checkpoint import Checkpoint
from labutils.store.files import PARSE_ERRORS, json_sum, sha256, write, write_atomically
from labutils.store.key import hash_of, of_today, recipe, revision, torch_version
from labutils.store.weights import RunError, Stored, read_model, read_weights, unpack, weights_file

FILES = ("config.json", "history.csv", "metrics.json", "model.safetensors")
MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


def read_run(path: Path, key: str | None = None) -> Stored:
    """A stored run; `key` says which run it has to be.

    Raises:
        RunError: a file differs from the manifest, or the folder holds another run.
    """
    manifest = read_manifest(path)
    try:
        content = {name: read_content(path, manifest, name) for name in FILES}
        config, metrics = _parsed(content, manifest, key or manifest["key"])
        history = pd.read_csv(io.BytesIO(content["history.csv"]))
        weights_config, model = read_model(path / "model.safetensors")
        if weights_config != config:
            raise ValueError("the weights are those of another config")
    except (OSError, *PARSE_ERRORS) as error:
        raise _no_run(path, error) from error
    return Stored(config, model, metrics, history, path)


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
        warnings.warn(f"{error}. It was set aside as {aside.name} and is trained again.", stacklevel=3)
        return None


def out_of_reach(error: Exception) -> bool:
    """Whether something could not be read for a reason that says nothing about it: the disk, the permissions, too many
    open files."""
    reason = error if isinstance(error, OSError) else error.__cause__
    return isinstance(reason, OSError) and not isinstance(reason, MISSING)


def read_manifest(path: Path) -> dict[str, Any]:
    """What a stored run says of itself: key, made_from (data, code, torch), files, versions, scale, platform, revision.

    Raises:
        RunError: it says nothing, or not what was stored.
    """
    try:
        manifest = json.loads((path / "MANIFEST.json").read_bytes())
        if manifest.pop("sha256") != json_sum(manifest):
            raise ValueError("MANIFEST.json is not the one that was stored")
    except (OSError, *PARSE_ERRORS) as error:
        raise _no_run(path, error) from error
    return manifest


def read_content(path: Path, manifest: Mapping[str, Any], name: str) -> bytes:
    """A file of a stored run, the one that the manifest was written for.

    Raises:
        OSError, ValueError: it is not.
    """
    content = (path / name).read_bytes()
    if manifest["files"][name] != _fingerprint(content):
        raise ValueError(f"{name} is not the file that was stored")
    return content


def _parsed(content: Mapping[str, bytes], manifest: Mapping[str, Any], key: str) -> tuple[Config, dict[str, float]]:
    """A run's config and metrics, once it is clear that it is the run of that key."""
    values, metrics = json.loads(content["config.json"]), json.loads(content["metrics.json"])
    if hash_of(values, **manifest["made_from"]) != key:
        raise ValueError("it holds another run than its name or its manifest says")
    if not all(math.isfinite(value) for value in metrics.values()):
        raise ValueError("a metric is no finite number")
    config = Config.from_dict(values)
    if (threads := metrics.pop("threads", config.threads)) != config.threads:  # the first edition chose their number
        raise ValueError(f"it was trained with {threads} threads, which may give other numbers")
    return config, metrics


def _no_run(path: Path, error: Exception) -> RunError:
    return RunError(f"{path} holds no whole run ({type(error).__name__}: {error})")


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
        "revision": revision(),
    }
    manifest["sha256"] = json_sum(manifest)
    path = runs_dir() / key
    scratch = unfinished_dir() / f"writing-{os.urandom(4).hex()}"
    scratch.mkdir()  # not by tempfile, whose folders nobody else may read
    try:
        for name, value in (*content.items(), ("MANIFEST.json", json.dumps(manifest, indent=1).encode())):
            write(scratch / name, value)
        try:
            scratch.rename(path)
        except OSError:
            if not (path / "MANIFEST.json").exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _fingerprint(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "sha256": sha256(content)}


def unfinished_dir() -> Path:
    """The store's place for what is not finished: checkpoints, and runs that are being written. Made where missing.

    Raises:
        OSError: the store cannot be written, better known before a training than after it.
    """
    folder = runs_dir() / "unfinished"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        return folder


def checkpoint_of(key: str) -> Checkpoint:
    """Where a run that is not finished keeps its state."""
    return Checkpoint(unfinished_dir() / f"{key}.safetensors", key)


def keep_encoder(file: Path) -> str:
    """Copy a weights file into the run store, for `Config.encoder`; the name it has there, a hash of its content.

    Raises:
        ValueError: it cannot be read, or is no weights file.
    """
    try:
        unpack(content := file.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{file} is no weights file of labutils ({error}): `train --checkpoint-path` writes one"
        ) from error
    name = sha256(content)[:16]
    write_atomically(_kept(name), content)
    return name


def read_encoder(name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The weights that `Config.encoder` names, a stored run's or a kept file's, and the fields of their config.

    Raises:
        RunError: there is no such run or file, or not as it was stored.
    """
    run, kept = runs_dir() / name, _kept(name)
    if os.path.lexists(run):
        manifest = read_manifest(run)
        try:
            if manifest["key"] != name:
                raise ValueError("its manifest is another run's")
            read_content(run, manifest, "model.safetensors")
            return read_weights(run / "model.safetensors")
        except (OSError, *PARSE_ERRORS) as error:
            raise _no_run(run, error) from error
    if not kept.exists():
        raise RunError(f"encoder={name!r} is no stored run: train it first, its name is `run(config).path.name`")
    if not is_as_kept(kept):
        raise RunError(f"{kept} is not the file that was stored: name the checkpoint again, or delete it")
    return read_weights(kept)


def _kept(name: str) -> Path:
    return runs_dir() / "encoders" / f"{name}.safetensors"


def is_as_kept(file: Path) -> bool:
    """Whether a file of `keep_encoder` still has the content that its name says.

    Raises:
        OSError: it cannot be read.
    """
    return sha256(file.read_bytes())[:16] == file.stem


def stored_row(path: Path) -> dict[str, Any]:
    """A stored run as a row of a table: fields of the config, metrics, versions, key. Reads the small files alone.

    Raises:
        RunError: one of them is not as it was stored.
    """
    manifest = read_manifest(path)
    try:
        content = {name: read_content(path, manifest, name) for name in ("config.json", "metrics.json")}
        config, metrics = _parsed(content, manifest, path.name)
    except (OSError, *PARSE_ERRORS) as error:
        raise _no_run(path, error) from error
    about = {name: manifest[name] for name in ("scale", "platform")}
    return {**_plain(config), **metrics, **about, **manifest["versions"], "run": path.name, "error": ""}


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
            row = stored_row(path)
            if of_today(read_manifest(path)["made_from"], row["model"]):
                rows.append(row)
    return pd.DataFrame(rows)


def run_folders() -> list[Path]:
    """What has the name of a run, in order."""
    return sorted(runs_dir().glob("[0-9a-f]" * 16))
