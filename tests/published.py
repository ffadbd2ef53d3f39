"""Whether what is published belongs together, and to today's code."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from labutils.config import Config
from labutils.data import load_dataset
from labutils.download import CHECKSUMS
from labutils.kinds import KINDS
from labutils.paths import ROOT
from labutils.publish.execution import code_cells, results
from labutils.publish.publication import SCREENSHOTS, published_sums, readme_of
from labutils.store.key import run_key
from labutils.sweeps import config_of

ALL = {"mnist": 54_000, "fashion_mnist": 54_000, "digits": 1439}  # training images


def problems(root: Path = ROOT) -> list[str]:
    """What is published and does not belong together, or not to today's code: a line each.

    A published notebook, its table and its figures must come from one execution; the runs of its table must be those
    that today's code would make from their configs; its answer must stand in its outputs, and the README must be the
    one that is made of the answers.
    """
    readme, published, found = (root / "README.md").read_text(encoding="utf-8"), results(root / "outputs"), []
    if readme != readme_of(readme, published):
        found.append("the README says something else than what is published")
    data = {name: hashlib.sha256("".join(sums).encode()).hexdigest() for name, sums in CHECKSUMS.items()}
    data["digits"] = load_dataset("digits").checksum
    for stem, summary in published.items():
        folder, notebook = root / "outputs" / stem, root / "notebooks" / f"{stem}.ipynb"
        if summary.get("files") != (there := published_sums(folder, notebook)):
            known = summary.get("files", {})
            others = sorted(name for name in {*known, *there} if known.get(name) != there.get(name))
            found.append(f"{stem}: {', '.join(others)} not as published")
        if {f"{name}.png" for name in summary["figures"]} != {path.name for path in folder.glob("*.png")} - {
            path.name for path in folder.glob(SCREENSHOTS)
        }:
            found.append(f"{stem}: other figures than summary.json names")
        if summary["answer"] not in "".join(_text(cell) for cell in code_cells(notebook)):
            found.append(f"{stem}: the notebook does not give the published answer")
        rows = [row for row in published_runs(folder) if row["model"] in KINDS]  # others are defined in cells
        try:
            foreign = [row["run"] for row in rows if run_key(_made(row), data.get(row["dataset"], "")) != row["run"]]
        except (KeyError, ValueError, TypeError) as error:
            found.append(f"{stem}: its table is not one of today's configs ({error})")
            continue
        if foreign:
            found.append(f"{stem}: today's code makes other runs of {len(foreign)} rows, such as {foreign[0]}")
    return found


def published_runs(folder: Path) -> list[dict[str, Any]]:
    """The rows of a published table that are runs of the store."""
    rows = [dict(row) for _, row in pd.read_csv(folder / "results.csv").iterrows()]
    return [row for row in rows if re.fullmatch("[0-9a-f]{16}", str(row.get("run")))]


def _made(row: dict[str, Any]) -> Config:
    """The config that a row's run was made from: the table has the number of images where that says "all"."""
    config = config_of(row)
    return replace(config, n_train=None if config.n_train == ALL.get(config.dataset) else config.n_train)


def _text(cell: dict[str, Any]) -> str:
    outputs = [output.get("data", {}).get("text/markdown", "") for output in cell.get("outputs", ())]
    return "".join("".join(text) for text in outputs)
