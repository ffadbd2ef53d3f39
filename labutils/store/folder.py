"""The run store: a folder `outputs/runs/<key>/` for each finished run, written once and verified whenever it is read.

A run is written under another name and renamed when it is complete, so a folder under a key is a whole run, whatever
happened to the process. That one rename is all that processes, machines and file systems have to agree on.
"""

import io
import json
import os
import platform
import shutil
import sys
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
from labutils.kinds import BUILT_IN
from labutils.paths import runs_dir, scale
from labutils.store.checkpoint import Checkpoint
from labutils.store.files import json_sum, sha256, writable, write, write_atomically
from labutils.store.key import hash_of, of_today, recipe, revision, torch_version
from labutils.store.weights import (
    WRITER,
    RunError,
    Stored,
    known_kind,
    read_model,
    read_weights,
    reading,
    unpack,
    weights_file,
)

Record = tuple[dict[str, Any], dict[str, Any], dict[str, float]]  # manifest, fields of the config, metrics
FILES = ("config.json", "history.csv", "metrics.json", "model.safetensors")


def read_record(path: Path, key: str | None = None) -> Record:
    """Return the small files of a stored run, verified, or raise a RunError; `key` says which run it has to be."""
    with reading(path):
        manifest = json.loads((path / "MANIFEST.json").read_bytes())
        if manifest.pop("sha256") != json_sum(manifest):
            raise ValueError("MANIFEST.json is not the one that was stored")
        config, metrics = (json.loads(read_content(path, manifest, f"{name}.json")) for name in ("config", "metrics"))
        if hash_of(config, **manifest["made_from"]) != (key or manifest["key"]):
            raise ValueError("it holds another run than its name or its manifest says")
        if (threads := metrics.pop("threads", 1)) != 1:  # the first edition chose their number, and kept it here
            raise ValueError(f"it was trained with {threads} threads, which may give other numbers")
        return manifest, config, metrics


def read_content(path: Path, manifest: Mapping[str, Any], name: str) -> bytes:
    """Return a file of a stored run, or raise a RunError: it has to be the one that the manifest was written for."""
    with reading(path):
        content = (path / name).read_bytes()
        if manifest["files"][name]["sha256"] != sha256(content):
            raise ValueError(f"{name} is not the file that was stored")
        return content


def read_run(path: Path, key: str | None = None) -> Stored:
    """Return a stored run, every byte verified, or raise a RunError; `key` says which run it has to be. Without one, a
    run of a kind of your own that has been edited since is returned with a warning."""
    manifest, config, metrics = read_record(path, key)
    kind = config["model"]
    if key is None and kind not in BUILT_IN and recipe(kind) not in ("", manifest["made_from"]["code"]):
        warnings.warn(  # unproved: no run is asked for by its name
            f"{path.name} was trained by another definition of model={kind!r}, or another labutils: its weights stand "
            "in today's network now, which may compute something else. run(config) trains it anew",
            stacklevel=3,
        )
    history = read_content(path, manifest, "history.csv")
    read_content(path, manifest, "model.safetensors")
    with reading(path):
        _, model = read_model(path / "model.safetensors")
        return Stored(Config.from_dict(config), model, metrics, pd.read_csv(io.BytesIO(history)), path)


def find_run(key: str) -> Stored | None:
    """Return the stored run of a key; None where there is none. A damaged one is set aside, with a warning. An OSError
    says that it cannot be read now, which says nothing about it, or that it cannot be set aside."""
    path = runs_dir() / key
    if not path.exists():
        return None
    try:
        return read_run(path, key)
    except RunError as error:
        aside = path.with_name(f"damaged-{key}-{os.urandom(4).hex()}")
        try:
            path.rename(aside)
        except FileNotFoundError:  # another process was faster
            return None  # unproved: needs a race
        except OSError as reason:
            raise type(reason)(f"{error}, and it cannot be set aside ({reason})") from error
        warnings.warn(f"{error}. It was set aside as {aside.name} and is trained again.", stacklevel=3)
        return None


def write_run(
    key: str,
    config: Config,
    data: Dataset,
    code: str,
    model: nn.Module,
    metrics: dict[str, float],
    history: pd.DataFrame,
) -> None:
    """Write a run under a temporary name, then rename the folder. Where another process was first, its run stays.
    `code` is the recipe that the key was made with: a training may change what a kind of your own uses."""
    content = {
        "config.json": json.dumps(config.to_dict(), indent=1).encode(),
        "history.csv": history.to_csv(index=False).encode(),
        "metrics.json": json.dumps(metrics, indent=1, allow_nan=False).encode(),
        "model.safetensors": weights_file(model, config),
    }
    manifest: dict[str, Any] = {
        "key": key,
        "made_from": {"data": data.checksum, "code": code, "torch": torch_version()},
        "files": {name: {"size": len(value), "sha256": sha256(value)} for name, value in content.items()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "scale": scale().name,
        "platform": f"{sys.platform} {platform.machine()}",
        "revision": revision(),
    }
    manifest["sha256"] = json_sum(manifest)
    path = runs_dir() / key
    scratch = runs_dir() / "unfinished" / f"writing-{os.urandom(4).hex()}"
    scratch.mkdir(parents=True)  # not by tempfile, whose folders nobody else may read
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


def checkpoint_of(key: str) -> Checkpoint:
    """Return where a run that is not finished keeps its state. A store that cannot be written is an OSError here,
    before a training and not after it."""
    return Checkpoint(writable(runs_dir() / "unfinished") / f"{key}.safetensors", key)


def keep_encoder(file: Path) -> str:
    """Copy a weights file into the run store, for `Config.encoder`; return its name there, a hash of its content."""
    with reading(file, WRITER):
        content = file.read_bytes()
        unpack(content)
    name = sha256(content)[:16]
    write_atomically(runs_dir() / "encoders" / f"{name}.safetensors", content)
    return name


def read_encoder(name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the weights that `Config.encoder` names, a stored run's or a kept file's, and the fields of their config;
    a RunError where there is no such run or file, or not as it was stored."""
    run, file = runs_dir() / name, runs_dir() / "encoders" / f"{name}.safetensors"
    if run.exists():
        read_content(run, read_record(run, name)[0], "model.safetensors")
        return read_weights(run / "model.safetensors")
    if not file.exists():
        raise RunError(f"encoder={name!r} is no stored run: train it first, its name is `run(config).path.name`")
    with reading(file, ": name the checkpoint again, or delete it"):
        if sha256(file.read_bytes())[:16] != name:
            raise ValueError("it is not the file that was stored")
        return read_weights(file)


def stored_row(path: Path, record: Record | None = None) -> dict[str, Any]:
    """Return a stored run as a row of a table: fields of the config, metrics, versions, key. Only the small files are
    read, unless they are given; a RunError where one is not as it was stored."""
    manifest, config, metrics = record or read_record(path, path.name)
    with reading(path):
        known_kind(config, path)
        fields = _plain(Config.from_dict(config))
    about = {name: manifest[name] for name in ("scale", "platform")}
    return {**fields, **metrics, **about, **manifest["versions"], "run": path.name, "error": ""}


def failed_row(config: Config, key: str, error: BaseException) -> dict[str, Any]:
    """Return the row of a run that came to nothing."""
    return {**_plain(config), "run": key, "error": f"{type(error).__name__}: {error}"}


def _plain(config: Config) -> dict[str, Any]:
    return {**config.to_dict(), "filters": str(config.filters)}


def stored_runs() -> pd.DataFrame:
    """Return every run of the store that today's code would return, as `sweep` does but without references; no damaged
    ones. `summarize(stored_runs())` is a leaderboard. Only the small files are read and verified, no weights."""
    rows = []
    for path in run_folders():
        with suppress(RunError, OSError):
            manifest, config, _ = record = read_record(path, path.name)
            if of_today(manifest["made_from"], config["model"]):
                rows.append(stored_row(path, record))
    return pd.DataFrame(rows)


def run_folders() -> list[Path]:
    """Return what has the name of a run, in order."""
    return sorted(runs_dir().glob("[0-9a-f]" * 16))
