"""Whether what is published belongs together, and to today's code."""

import re
from pathlib import Path
from typing import Any

from labutils.paths import ROOT
from labutils.publish.execution import code_cells, results
from labutils.publish.publication import SCREENSHOTS, foreign_runs, published_sums, readme_of
from labutils.store.source import without_words

SHOWN = re.compile(r"`(\S+)`, in `(labutils/\S+\.py)`:\n\n```python\n(.*?)```", re.DOTALL)  # what report.show writes


def problems(root: Path = ROOT) -> list[str]:
    """What is published and does not belong together, or not to today's code: a line each.

    A published notebook, its table and its figures must come from one execution; the runs of its table must be those
    that today's code would make from their configs; the functions that it shows must be today's, but for comments and
    docstrings; its answer must stand in its outputs, and the README must be the one that is made of the answers.
    """
    readme, published, found = (root / "README.md").read_text(encoding="utf-8"), results(root / "outputs"), []
    if readme != readme_of(readme, published):
        found.append("the README says something else than what is published")
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
        text = "".join(_text(cell) for cell in code_cells(notebook))
        if summary["answer"] not in text:
            found.append(f"{stem}: the notebook does not give the published answer")
        for name, place, source in SHOWN.findall(text):
            if without_words(source) not in without_words((ROOT / place).read_text(encoding="utf-8")):
                found.append(f"{stem}: it shows {name} as it was, not as {place} has it today")
        try:
            if foreign := foreign_runs(folder):
                found.append(f"{stem}: today's code makes other runs of {len(foreign)} rows, such as {foreign[0]}")
        except ValueError as error:
            found.append(str(error))
    return found


def _text(cell: dict[str, Any]) -> str:
    outputs = [output.get("data", {}).get("text/markdown", "") for output in cell.get("outputs", ())]
    return "".join("".join(text) for text in outputs)
