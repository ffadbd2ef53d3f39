"""A notebook's summary.json. Not in report.py: pages are written without torch, which takes a second to load."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labutils.store.files import write_atomically


def read_summary(folder: Path) -> dict[str, Any]:
    """Return a folder's summary.json, or {}: question, answer, figures, made_with, see `save_results`."""
    file = folder / "summary.json"
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}): run its notebook again") from error


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write a folder's summary.json."""
    text = json.dumps(summary, indent=1, ensure_ascii=False)
    write_atomically(folder / "summary.json", f"{text}\n".encode())
