"""What the run store holds, and the removal of what is of no use any more."""

import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from labutils.config import Config
from labutils.paths import runs_dir
from labutils.store.files import PARSE_ERRORS
from labutils.store.folder import RunError, is_as_kept, out_of_reach, read_content, read_manifest, run_folders
from labutils.store.key import of_today

ABANDONED = 7 * 24 * 3600  # seconds after which nobody will go on with what is unfinished
UNFINISHED = re.compile(
    r"writing-[0-9a-f]{8}|[0-9a-f]{16}(-[0-9a-f]{8}\.new|\.safetensors)"
)  # names that the store gives
USELESS = ("other code", "damaged", "set aside", "abandoned")
ABOUT = ["name", "state", "bytes", "days", "note", "result"]  # columns of a survey, before the fields of Config
HEADLINES = ("test_accuracy", "test_neg_elbo", "test_mse")  # a run's result is the first that it has


def survey(*, verify: bool = False) -> pd.DataFrame:
    """A row for everything in the run store: name, state, bytes, days since it was written, note; of runs also the
    result (its most telling metric) and the fields of the config.

    state is one of: ok; other code (made by labutils or torch of another day); damaged; unreadable (now; that says
    nothing about it); set aside (was damaged when it was asked for); encoder (kept for `Config.encoder`, or another
    day's run whose encoder a classifier of today started from); unfinished (a checkpoint, or a run being written);
    abandoned (the same, and of no use).

    Args:
        verify: read every byte, the weights too.
    """
    runs = runs_dir()
    rows = [{**_size_and_age(path), **_state_of_run(path, verify)} for path in run_folders()]
    encoders = {str(row["encoder"]) for row in rows if row["state"] == "ok"}
    for row in rows:
        if row["state"] == "other code" and row["name"] in encoders:
            row["state"] = "encoder"
    others = dict.fromkeys(runs.glob("damaged-*"), "set aside")
    others |= {path: _state_of_encoder(path, verify) for path in runs.glob("encoders/*.safetensors")}
    others |= dict.fromkeys(runs.glob("unfinished/*"), "unfinished")
    others |= dict.fromkeys(abandoned(), "abandoned")
    rows += [{**_size_and_age(path), "state": state} for path, state in sorted(others.items())]
    return pd.DataFrame(rows, columns=[*ABOUT, *(f.name for f in fields(Config))])


def _size_and_age(path: Path) -> dict[str, Any]:
    size, newest = 0, 0.0
    for file in (path, *path.rglob("*")):
        with suppress(OSError):  # finished just now
            state = file.stat()
            size += 0 if file.is_dir() else state.st_size
            newest = max(newest, state.st_mtime)
    days = (time.time() - newest) / 86_400
    return {"name": str(path.relative_to(runs_dir())), "bytes": size, "days": days, "note": ""}


def _state_of_run(path: Path, verify: bool) -> dict[str, Any]:
    """The state, a note, the result and the config's fields."""
    try:
        manifest = read_manifest(path)
        # not as a Config: one of another day may have other fields
        config, metrics = (json.loads(read_content(path, manifest, f"{name}.json")) for name in ("config", "metrics"))
        for name in manifest["files"] if verify else ():
            read_content(path, manifest, name)
        if manifest["key"] != path.name:
            raise ValueError("it holds another run than its name says")
    except (RunError, OSError, *PARSE_ERRORS) as error:
        return {"state": "unreadable" if out_of_reach(error) else "damaged", "note": str(error)}
    result = next((f"{name} {metrics[name]:.4g}" for name in HEADLINES if name in metrics), "")
    state = "ok" if of_today(manifest["made_from"], config.get("model", "")) else "other code"
    return {f.name: config.get(f.name) for f in fields(Config)} | {"result": result, "state": state}


def _state_of_encoder(path: Path, verify: bool) -> str:
    try:
        return "encoder" if not verify or is_as_kept(path) else "damaged"
    except OSError:
        return "unreadable"


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
    """What tells one row of `survey` from another, as `select` takes it: "latent_dim=8 seed=1", defaults left out."""
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
    week. What has a name that the store does not give stays."""
    useless = []
    for path in (runs_dir() / "unfinished").glob("*"):
        with suppress(FileNotFoundError):  # finished just now
            old = time.time() - path.stat().st_mtime > ABANDONED
            if UNFINISHED.fullmatch(path.name) and (old or (runs_dir() / path.stem / "MANIFEST.json").exists()):
                useless.append(path)
    return useless


def tidy() -> None:
    """Remove what is abandoned; what cannot be removed now is removed another time."""
    with suppress(OSError):
        remove(abandoned())


def remove(paths: Iterable[Path]) -> None:
    """Delete files and folders of the store. A folder goes out of sight first: nobody reads half a run."""
    for path in paths:
        with suppress(FileNotFoundError):  # another process was faster
            if path.is_dir():
                hidden = path.rename(path.with_name(f"damaged-{path.name}-{os.urandom(4).hex()}"))
                shutil.rmtree(hidden)
            else:
                path.unlink()
