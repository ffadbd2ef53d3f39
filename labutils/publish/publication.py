"""Publishing: what a full run on MNIST found becomes what the repository shows."""

import csv
import hashlib
import shutil
from pathlib import Path
from typing import Any

from labutils.paths import ROOT
from labutils.publish.report import read_summary, write_summary
from labutils.publish.series import code_and_outputs, code_cells, code_without_imports, results, write_html, write_page

RULE = "|---|---|---|--:|\n"  # below the head of the README's table
SCREENSHOTS = "screenshot_*.png"  # of a browser: no notebook makes them


def publish(root: Path = ROOT) -> list[str]:
    """Replace published notebooks, tables and figures by those of the last full runs on MNIST, the README's table, and
    the pages in outputs/report. A notebook's minutes are those of its longest published execution with the same runs:
    one that read them from the store took less. (Delete them from outputs/<stem>/summary.json when its work has become
    less.)

    Returns:
        The notebooks published: those that ended well. Others keep what was published before.

    Raises:
        FileNotFoundError: there is no full run on MNIST to publish.
        ValueError: a table is not that of the executed notebook beside it, or that has other code than today's (its
            prose may be older: only outputs are taken from it). Nothing has been replaced then.
    """
    source = root / "outputs" / "local" / "mnist-full"
    stems = sorted(path.parent.name for path in source.glob("[0-9]*/summary.json"))
    if not stems:
        raise FileNotFoundError(f"{source} holds no results: `python -m labutils run` first, with the full MNIST")
    notebooks = {stem: source / "notebooks" / f"{stem}.ipynb" for stem in stems}
    for stem, notebook in notebooks.items():
        if read_summary(source / stem).get("executed") != code_and_outputs(notebook):
            raise ValueError(f"{stem}: {source} holds a table and a notebook of two executions: `labutils run {stem}`")
        if _code(notebook) != _code(root / "notebooks" / notebook.name):
            raise ValueError(f"{stem}: its code has changed since it was executed: `labutils run {stem}`")
    for stem, notebook in notebooks.items():
        target = root / "outputs" / stem
        screenshots = set(target.glob(SCREENSHOTS))
        now, before = (read_summary(folder) for folder in (source / stem, target))
        same_runs = _runs(source / stem) == _runs(target)
        minutes = max(now.get("minutes", 0), before.get("minutes", 0) if same_runs else 0)
        for old in set(target.glob("*")) - screenshots:
            old.unlink()
        shutil.copytree(source / stem, target, dirs_exist_ok=True)
        _put_outputs(notebook, root / "notebooks" / notebook.name)
        write_summary(target, read_summary(target) | {"minutes": minutes, "files": published_sums(target, notebook)})
    readme = root / "README.md"
    head, table = readme.read_text(encoding="utf-8").split(RULE, 1)
    rows = "\n".join(table_row(stem, summary) for stem, summary in published(root).items())
    readme.write_text(head + RULE + rows + table[table.index("\n\n") :], encoding="utf-8")
    write_pages(root)
    return stems


def _code(notebook: Path) -> list[str]:
    return [code_without_imports(cell) for cell in code_cells(notebook)] if notebook.exists() else []


def _runs(folder: Path) -> set[str]:
    """The names of the runs in a table of results."""
    try:
        lines = (folder / "results.csv").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return set()
    return {row.get("run", "") for row in csv.DictReader(lines)}


def _put_outputs(executed: Path, notebook: Path) -> None:
    """The outputs of an executed copy into the notebook that it was made from."""
    import nbformat

    target = nbformat.read(notebook, as_version=4)
    cells = (cell for cell in target.cells if cell.cell_type == "code")
    for cell, there in zip(cells, code_cells(executed), strict=True):
        cell.outputs, cell.execution_count = nbformat.from_dict(there["outputs"]), there["execution_count"]
    nbformat.write(target, notebook)


def published(root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """The summaries of what is published, by notebook."""
    return results(root / "outputs")


def table_row(stem: str, summary: dict[str, Any]) -> str:
    """A notebook's row of the README's table."""
    cells = f"[{stem}](notebooks/{stem}.ipynb)", summary["question"], summary["answer"], summary.get("minutes") or ""
    return f"| {' | '.join(map(str, cells))} |"


def published_sums(folder: Path, notebook: Path) -> dict[str, str]:
    """What was published together: SHA-256 sums of the files in a folder, and of a notebook."""
    files = sorted(set(folder.glob("*")) - set(folder.glob(SCREENSHOTS)) - {folder / "summary.json"})
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return sums | {notebook.name: code_and_outputs(notebook)}


def write_pages(root: Path = ROOT) -> Path:
    """What is published, as pages to read without Jupyter and without a network: outputs/report/index.html with the
    results table and every figure, and a page for each notebook."""
    import nbformat

    folder, summaries = root / "outputs" / "report", published(root)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "notebooks").mkdir(parents=True)
    for stem in summaries:
        shutil.copytree(root / "outputs" / stem, folder / stem)
        notebook = nbformat.read(root / "notebooks" / f"{stem}.ipynb", as_version=4)
        write_html(notebook, folder / "notebooks" / f"{stem}.html")
    machines = {row.get("made_with", {}).get("machine", "") for row in summaries.values()}
    return write_page(folder, f"published on the full MNIST; {', '.join(sorted(machines))}", summaries)
