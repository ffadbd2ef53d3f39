"""What the run store holds, what of it is of no use any more, and how that leaves."""

import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from labutils.config import Config
from labutils.paths import runs_dir
from labutils.store.folder import (
    UNREADABLE,
    RunError,
    is_as_kept,
    out_of_reach,
    read_content,
    read_manifest,
    run_folders,
    unfinished_dir,
)
from labutils.store.key import of_today

ABANDONED = 7 * 24 * 3600  # seconds after which nobody will go on with what is unfinished
RUN = re.compile("[0-9a-f]{16}")
OURS = re.compile(r"writing-[0-9a-f]{8}|[0-9a-f]{16}(-[0-9a-f]{8}\.new|\.safetensors)")
USELESS = ("other code", "damaged", "set aside", "abandoned")
ABOUT = ["name", "state", "bytes", "days", "note", "result"]  # columns of a survey, before the fields of Config
HEADLINES = ("test_accuracy", "test_neg_elbo", "test_mse")  # a run's result is the first that it has


def survey(*, verify: bool = False) -> pd.DataFrame:
    """A row for everything in the run store: name, state, bytes, days since it was written, note; of runs also the
    result (its most telling metric) and the fields of the config.

    state is one of: ok; other code (made by labutils or torch of another day: nobody asks for it under its name);
    damaged; unreadable (now; that says nothing about it); set aside (was damaged when it was asked for); encoder (kept
    for `Config.encoder`, or another day's run whose encoder a classifier of today started from); unfinished (a
    checkpoint, or a run being written); abandoned (the same, and of no use).

    Args:
        verify: read every byte, the weights too.
    """
    runs, rows = runs_dir(), []
    for path in run_folders():
        rows.append({**_about(path), **_state_of_run(path, verify)})
    used = {str(row["encoder"]) for row in rows if row["state"] == "ok"}
    for row in rows:
        if row["state"] == "other code" and row["name"] in used:
            row["state"] = "encoder"
    for path in sorted(runs.glob("damaged-*")):
        rows.append({**_about(path), "state": "set aside"})
    for path in sorted(runs.glob("encoders/*.safetensors")):
        rows.append({**_about(path), **_state_of_encoder(path, verify)})
    useless = abandoned()
    for path in sorted(runs.glob("unfinished/*")):
        rows.append({**_about(path), "state": "abandoned" if path in useless else "unfinished"})
    return pd.DataFrame(rows, columns=[*ABOUT, *(f.name for f in fields(Config))])


def _about(path: Path) -> dict[str, Any]:
    size, newest = 0, 0.0
    inside = () if path.is_symlink() else os.walk(path)  # which passes over folders that vanish, unlike rglob
    for file in (path, *(Path(folder, name) for folder, _, names in inside for name in names)):
        with suppress(FileNotFoundError):  # finished just now
            state = file.lstat()
            size += 0 if stat.S_ISDIR(state.st_mode) else state.st_size
            newest = max(newest, state.st_mtime)
    days = (time.time() - newest) / 86_400
    return {"name": str(path.relative_to(runs_dir())), "bytes": size, "days": days, "note": ""}


def _state_of_run(path: Path, verify: bool, key: str = "") -> dict[str, Any]:
    """The state, a note, the result and the config's fields; `key` says which run it has to be, its name else."""
    try:
        manifest = read_manifest(path)
        # not as a Config: one of another day may have other fields
        config = dict(json.loads(read_content(path, manifest, "config.json")))
        metrics = dict(json.loads(read_content(path, manifest, "metrics.json")))
        result = next((f"{name} {metrics[name]:.4g}" for name in HEADLINES if name in metrics), "")
        for name in manifest["files"] if verify else ():
            read_content(path, manifest, name)
        if manifest["key"] != (key or path.name):
            raise ValueError("it holds another run than its name says")
    except (RunError, *UNREADABLE) as error:
        return {"state": "unreadable" if out_of_reach(error) else "damaged", "note": str(error)}
    known = {f.name: config.get(f.name) for f in fields(Config)}
    return {
        **known,
        "result": result,
        "state": "ok" if of_today(manifest["made_from"], config.get("model", "")) else "other code",
    }


def _state_of_encoder(path: Path, verify: bool) -> dict[str, Any]:
    try:
        return {"state": "encoder" if not verify or is_as_kept(path) else "damaged"}
    except OSError as error:
        return {"state": "unreadable", "note": str(error)}


def select(table: pd.DataFrame, wanted: Mapping[str, str]) -> pd.DataFrame:
    """The rows of `survey` whose fields have the values wanted, given as text: {"latent_dim": "8", "filters": "4,4"}.

    Raises:
        ValueError: there is no such field.
    """
    for field, text in wanted.items():
        if field not in table:
            raise ValueError(f"{field!r} is no field of Config, and none of {', '.join(ABOUT)}")
        table = table[table[field].map(_as_text).eq(_as_text(text))]
    return table


def differences(table: pd.DataFrame) -> list[str]:
    """What tells one row of `survey` from another, as `select` takes it: "latent_dim=8 seed=1", what is BASELINE's left
    out."""
    defaults = {name: _as_text(value) for name, value in Config().to_dict().items()}
    texts = table[list(defaults)].map(_as_text)
    differ = [name for name in defaults if texts.loc[table["model"].notna(), name].nunique() > 1]
    rows = [dict(zip(differ, row, strict=True)) for row in texts[differ].to_numpy()]
    return [" ".join(f"{n}={text}" for n, text in row.items() if text not in ("none", defaults[n])) for row in rows]


def _as_text(value: Any) -> str:
    """8, 8.0 and "8" alike: "8"; (4, 4), [4, 4] and "4,4" as well; of what is missing "none"."""
    if value is None or value != value:
        return "none"
    if not isinstance(value, bool):
        with suppress(TypeError, ValueError, OverflowError):
            return f"{float(value):.12g}"
    return str(value).strip("()[]").replace(" ", "").lower()


def abandoned() -> list[Path]:
    """What lies among the unfinished and is of no use: checkpoints of finished runs, and what nobody touched for a
    week."""
    found = []
    # what has another name is not ours
    for path in filter(lambda path: OURS.fullmatch(path.name), (runs_dir() / "unfinished").glob("*")):
        with suppress(FileNotFoundError):  # finished just now
            if time.time() - path.stat().st_mtime > ABANDONED or (runs_dir() / path.stem / "MANIFEST.json").exists():
                found.append(path)
    return found


def tidy() -> None:
    """Remove what is abandoned; what cannot be removed now is removed another time."""
    for path in abandoned():
        with suppress(OSError):
            remove([path])


def remove(paths: Iterable[Path]) -> None:
    """Delete files and folders of the store, each out of sight first: nobody reads half a run. A run that is whole and
    of today when it comes to that stays: another process has trained it again since it was found to be of no use.
    """
    for path in paths:
        gone = unfinished_dir() / f"writing-{os.urandom(4).hex()}"
        with suppress(FileNotFoundError):  # another process was faster
            path.rename(gone)
            if RUN.fullmatch(path.name) and _state_of_run(gone, True, path.name)["state"] == "ok":
                with suppress(OSError):  # or faster still, and there is another one
                    gone.rename(path)
                    continue
            if gone.is_dir() and not gone.is_symlink():
                shutil.rmtree(gone)
            else:
                gone.unlink()
