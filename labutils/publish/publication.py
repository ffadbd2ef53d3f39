"""Publishing: results of a full run on MNIST replace what the repository shows."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from labutils.paths import ROOT
from labutils.publish.execution import code, code_and_outputs, code_cells, results, table_row, write_html, write_page
from labutils.publish.summary import read_summary, write_summary
from labutils.publish.words import findings, plain
from labutils.store.files import sha256

TRAINING_IMAGES = {"mnist": 54_000, "fashion_mnist": 54_000, "digits": 1439}
RULE = "|---|---|---|--:|\n"  # below the head of the README's table
PLACE = re.compile(r"(?<=<!-- findings -->\n).*?(?=<!-- /findings -->)", re.DOTALL)  # of the findings in the README
SCREENSHOTS = "screenshot_*.png"  # of a browser: no notebook makes them


def publish(root: Path = ROOT) -> list[str]:
    """Replace published notebooks, tables and figures by those of the last full runs on MNIST, and with them the
    README's table and the pages in outputs/report. Return the names of the notebooks; those that failed keep what was
    published.

    A notebook's minutes are those of its longest published execution with the same runs, since one that reads them from
    the store takes less. When its work has become less, delete them from outputs/<stem>/summary.json.

    Raises:
        FileNotFoundError: there is no full run on MNIST to publish.
        ValueError: a table is not that of the executed notebook beside it; the notebook's code (not its prose), or what
            labutils makes of a config, has changed since; or an answer is not what the README's findings were told of.
            Nothing has been replaced then.
    """
    source = root / "outputs" / "local" / "mnist-full"
    stems = sorted(path.parent.name for path in source.glob("[0-9]*/summary.json"))
    if not stems:
        raise FileNotFoundError(f"{source} holds no results: `python -m labutils run` first, with the full MNIST")
    notebooks = {stem: source / "notebooks" / f"{stem}.ipynb" for stem in stems}
    for stem, notebook in notebooks.items():
        again = f"`python -m labutils run {stem}`"
        if read_summary(source / stem).get("executed") != code_and_outputs(notebook):
            raise ValueError(f"{stem}: {source} holds a table and a notebook of two executions: {again}")
        if code(notebook) != code(root / "notebooks" / notebook.name):
            raise ValueError(f"{stem}: its code has changed since it was executed: {again}")
        if foreign := foreign_runs(source / stem):
            raise ValueError(f"{stem}: today's labutils makes other runs than its table has ({len(foreign)}, such as "
                             f"{foreign[0]}): `make same`, and if they differ {again}")  # fmt: skip
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme_of(text, results(root / "outputs") | results(source))  # says which finding an answer contradicts
    for stem, notebook in notebooks.items():
        _publish_notebook(notebook, source / stem, root)
    readme.write_text(readme_of(text, results(root / "outputs")), encoding="utf-8")
    write_pages(root)
    return stems


def readme_of(text: str, summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a README with the findings and the table of what is published."""
    told = [
        f"- **{claim}** {words} [{stem[:2]}](notebooks/{stem}.ipynb)\n" for stem, claim, words in findings(summaries)
    ]
    if told and not PLACE.search(text):
        raise ValueError("the README has no place for the findings: <!-- findings --> and <!-- /findings -->")
    text = PLACE.sub(lambda _: "".join(told), text)
    head, table = text.split(RULE, 1)
    rows = [table_row(stem, {**summary, "answer": plain(summary)}) for stem, summary in summaries.items()]
    return head + RULE + "\n".join(rows) + table[table.index("\n\n") :]


def _publish_notebook(executed: Path, source: Path, root: Path) -> None:
    """Replace a published table with its figures, and the outputs of the notebook that was executed for them."""
    target = root / "outputs" / source.name
    summary, before = read_summary(source), read_summary(target)
    runs, runs_before = ({row["run"] for row in stored_rows(folder)} for folder in (source, target))
    if runs == runs_before:
        summary["minutes"] = max(summary.get("minutes", 0), before.get("minutes", 0))
    for old in set(target.glob("*")) - set(target.glob(SCREENSHOTS)):
        old.unlink()
    shutil.copytree(source, target, dirs_exist_ok=True)
    notebook = json.loads((root / "notebooks" / executed.name).read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for cell, done in zip(cells, code_cells(executed), strict=True):
        cell |= {"outputs": done["outputs"], "execution_count": done["execution_count"]}
    text = json.dumps(notebook, indent=1, ensure_ascii=False)
    (root / "notebooks" / executed.name).write_text(f"{text}\n", encoding="utf-8")
    write_summary(target, summary | {"files": published_sums(target, executed)})


def foreign_runs(folder: Path) -> list[str]:
    """Return those runs of a folder's results.csv that today's labutils would not make of their configs, of built-in
    kinds of model (others are defined in cells). A table that is not one of today's configs is a ValueError."""
    from labutils.data import load_dataset  # only here: pages are written without torch
    from labutils.download import CHECKSUMS
    from labutils.kinds import BUILT_IN
    from labutils.store.key import run_key
    from labutils.sweeps import config_of

    data = {name: sha256("".join(sums).encode()) for name, sums in CHECKSUMS.items()}
    data["digits"] = load_dataset("digits").checksum
    foreign = []
    try:
        for row in stored_rows(folder):
            if row["model"] in BUILT_IN:
                config = config_of(row)
                if config.n_train == TRAINING_IMAGES.get(config.dataset):  # of these a run's config says None
                    config = replace(config, n_train=None)
                if run_key(config, data.get(config.dataset, "")) != row["run"]:
                    foreign.append(row["run"])
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{folder.name}: its table is not one of today's configs ({error})") from error
    return foreign


def stored_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a folder's results.csv that are runs of the store; none where there is no table."""
    table = folder / "results.csv"
    rows = [dict(row) for _, row in pd.read_csv(table).iterrows()] if table.exists() else []
    return [row for row in rows if re.fullmatch("[0-9a-f]{16}", str(row.get("run")))]


def published_sums(folder: Path, notebook: Path) -> dict[str, str]:
    """Return the SHA-256 sums of a folder's files, by name, and of the notebook published with them."""
    files = sorted(set(folder.glob("*")) - set(folder.glob(SCREENSHOTS)) - {folder / "summary.json"})
    return {path.name: sha256(path.read_bytes()) for path in files} | {notebook.name: code_and_outputs(notebook)}


def write_pages(root: Path = ROOT) -> Path:
    """Write what is published as pages to read without Jupyter and network, those of notebooks that changed, and return
    that with the table and figures, outputs/report/index.html."""
    folder, summaries = root / "outputs" / "report", results(root / "outputs")
    (folder / "notebooks").mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("[0-9]*"), *folder.glob("notebooks/*.html")):
        if old.is_dir():
            shutil.rmtree(old)
        elif old.stem not in summaries:
            old.unlink()
    for stem in summaries:
        shutil.copytree(root / "outputs" / stem, folder / stem)
        write_html(root / "notebooks" / f"{stem}.ipynb", folder / "notebooks" / f"{stem}.html", list(summaries))
    machines = {row.get("made_with", {}).get("machine", "") for row in summaries.values()}
    return write_page(folder, f"published on the full MNIST; {', '.join(sorted(machines))}", summaries)
