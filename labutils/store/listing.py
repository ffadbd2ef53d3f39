"""What the run store holds, and the removal of what is of no use any more."""

import json
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from labutils.config import field_names
from labutils.kinds import KINDS
from labutils.paths import runs_dir
from labutils.store.folder import RunError, read_content, read_encoder, read_record, run_folders
from labutils.store.key import RECIPES, code_hash, of_today

ABANDONED = 7 * 24 * 3600  # seconds after which nobody will go on with what is unfinished
USELESS = ("other code", "damaged", "set aside", "abandoned")
ABOUT = ["name", "state", "bytes", "days", "result", "note"]  # columns of a survey, before the fields of Config
HEADLINES = ("test_accuracy", "test_neg_elbo", "test_mse")  # a run's result is the first that it has


def survey(*, verify: bool = False) -> pd.DataFrame:
    """Return a row for everything in the run store: name, state, bytes, days since it was written, note; of runs also
    the result (its most telling metric) and the fields of the config. `verify` reads every byte, the weights too.

    state is one of: ok; other code (made by labutils or torch of another day); unknown kind (of a model that is not
    defined here, and may be elsewhere); damaged; unreadable (now; that says nothing about it); set aside (was damaged
    when it was asked for); encoder (kept for `Config.encoder`, or another day's run whose encoder a classifier of today
    started from); unfinished (a checkpoint, or a run being written); abandoned (the same, untouched for a week).
    """
    runs = runs_dir()
    states = {path: _state(path, verify) for path in (*run_folders(), *sorted(runs.glob("encoders/*.safetensors")))}
    started_from = {state.get("encoder") for state in states.values() if state["state"] == "ok"}
    for path, state in states.items():
        if state["state"] == "other code" and path.name in started_from:
            state["state"] = "encoder"
    states |= {path: {"state": "set aside"} for path in sorted(runs.glob("damaged-*"))}
    states |= {path: {"state": "unfinished"} for path in sorted(runs.glob("unfinished/*"))}
    states |= {path: {"state": "abandoned"} for path in abandoned()}
    rows = []
    for path, state in states.items():
        with suppress(OSError):  # finished just now, or out of reach
            size = sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
            days = (time.time() - path.stat().st_mtime) / 86_400
            rows.append({"name": str(path.relative_to(runs)), "bytes": size, "days": days, "note": "", **state})
    return pd.DataFrame(rows, columns=[*ABOUT, *field_names(KINDS)])


def _state(path: Path, verify: bool) -> dict[str, Any]:
    """Return the state of a run or a kept encoder; also a note, or the run's result and the fields of its config."""
    try:
        if path.suffix:
            if verify:
                read_encoder(path.stem)
            return {"state": "encoder"}
        manifest, config, metrics = read_record(path, path.name)
        for name in manifest["files"] if verify else ():
            read_content(path, manifest, name)
    except RunError as error:
        return {"state": "damaged", "note": str(error.__cause__)}
    except OSError as error:
        return {"state": "unreadable", "note": str(error)}
    result = next((f"{name} {metrics[name]:.4g}" for name in HEADLINES if name in metrics), "")
    model = config.get("model", "")
    state = "ok" if of_today(manifest["made_from"], model) else "other code" if model in KINDS else "unknown kind"
    note = "" if model in KINDS else f"model={model!r} is not defined here: --define the file that does"
    # not as a Config: one of another day may have other fields
    filters = ",".join(map(str, config.get("filters", ())))
    return config | {"filters": filters, "state": state, "result": result, "note": note}


def is_proved() -> bool:
    """Return whether `make same` has seen today's labutils: else runs of "other code" may turn out to be today's."""
    return json.loads(RECIPES.read_text(encoding="utf-8"))["code"] == code_hash()


def select(table: pd.DataFrame, wanted: Mapping[str, str]) -> pd.DataFrame:
    """Return the rows of `survey` whose fields have these values, given as text: {"latent_dim": "8", "filters": "4,4"}.
    A ValueError names a field that no kind of model defined here has."""
    for field, text in wanted.items():
        if field not in table:
            raise ValueError(f"{field!r} is no field of Config, and none of {', '.join(ABOUT)}")
        texts = table[field].astype(object).map(str).str.lower().replace("nan", "none")
        numbers = pd.to_numeric(table[field], errors="coerce")
        table = table[texts.eq(text.lower()) | numbers.eq(pd.to_numeric(text, errors="coerce"))]
    return table


def abandoned() -> list[Path]:
    """Return the checkpoints and half-written runs that nobody touched for a week."""
    paths = []
    for pattern in ("writing-*", "[0-9a-f]" * 16 + "*"):  # the names that the store gives
        for path in runs_dir().glob(f"unfinished/{pattern}"):
            with suppress(FileNotFoundError):  # finished just now
                if time.time() - path.stat().st_mtime > ABANDONED:
                    paths.append(path)
    return paths


def tidy() -> None:
    """Remove what is abandoned; what cannot be removed now is removed another time."""
    with suppress(OSError):
        remove(abandoned())


def remove(paths: Iterable[Path]) -> None:
    """Delete files and folders of the store."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
