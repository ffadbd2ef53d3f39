"""The series: notebooks executed headless into git-ignored copies, their results in a table and an HTML page."""

import html
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from labutils.config import ROOT, Config, local_dir, scale
from labutils.data import load_dataset

NOTEBOOKS = ROOT / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"
ERRORS = ("mean", "std", "low", "high", "test_mse", "val_mse", "pca_mse", "difference")
FORMATS: dict[Any, Any] = {
    **dict.fromkeys(ERRORS, "{:.4f}"),
    **dict.fromkeys(("percent", "percent_low", "percent_high"), "{:+.1f}"),
    **dict.fromkeys(("n_params", "macs"), "{:,.0f}"),
    **dict.fromkeys(("seconds", "code_bytes", "epochs", "train_us"), "{:.0f}"),
    "lr": "{:g}",
    **dict.fromkeys(("latency_ms", "batch_latency_ms"), "{:.2f}"),
}


def styled(table: pd.DataFrame, caption: str = "") -> Any:
    """A table as a notebook shows it: digits by the kind of the column, the baseline's row in bold."""
    known = {name: form for name, form in FORMATS.items() if name in table}
    style = table.style.format(known, na_rep="").set_caption(caption)
    style = style.set_table_styles([{"selector": "td, th", "props": "white-space: nowrap"}])
    if "verdict" in table:
        style = style.apply(lambda row: ["font-weight: bold" * (row["verdict"] == "baseline")] * len(row), axis=1)
    return style


def settings(**configs: Config) -> Any:
    """Configs side by side, a row a field; blank, or left out, where no model has the field."""
    table = pd.DataFrame(
        {
            name: {f.name: str(getattr(config, f.name)) for f in fields(Config) if config.model in f.metadata["models"]}
            for name, config in configs.items()
        }
    )
    return styled(table.reindex([f.name for f in fields(Config)]).dropna(how="all"))


def save_results(
    stem: str, dataset: str, df: pd.DataFrame, figures: Mapping[str, Figure], *, question: str, answer: str
) -> Path:
    """Write a notebook's table, figures, question and answer to `outputs/local/<dataset>-<scale>/<stem>/`.

    Returns:
        The folder: results.csv, <figure>.png, summary.json.
    """
    folder = local_dir(dataset) / stem
    folder.mkdir(parents=True, exist_ok=True)
    df.to_csv(folder / "results.csv", index=False)
    for name, fig in figures.items():
        fig.savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight", facecolor="white")
    summary = {"question": question, "answer": answer, "figures": list(figures)}
    (folder / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False), encoding="utf-8")
    return folder


def run_series(names: Sequence[str] = ()) -> int:
    """Execute notebooks in order and print a results table and the page to open.

    Args:
        names: notebooks such as "01_baseline" or a path; none means all.

    Returns:
        The number of notebooks that failed; each leaves its copy, executed as far as it came.

    Raises:
        ValueError: there is no such notebook; nothing has run then.
    """
    paths = [_find(name) for name in names] or sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    dataset = load_dataset().name
    folder = local_dir(dataset)
    print(f"{len(paths)} notebook{'s' * (len(paths) > 1)} on {dataset} at {scale().name} scale; results go to {folder}")
    rows: list[dict[str, Any]] = []
    for i, path in enumerate(paths):
        print(f"{path.stem} ({i + 1} of {len(paths)}){_remaining(paths, rows)}")
        rows.append(_execute(path, folder))
    page = _write_page(folder, dataset, rows)
    table = pd.DataFrame(rows)[["notebook", "answer", "minutes"]]
    print("\n" + table.to_string(index=False, max_colwidth=100, justify="left"))
    print(f"\nOpen {page.as_uri()}")
    return sum(row["failed"] for row in rows)


def _remaining(paths: Sequence[Path], rows: Sequence[Mapping[str, Any]]) -> str:
    """Minutes left, from what the published notebooks took, at the pace of those that have been executed."""
    known = {path.stem: _summary(ROOT / "outputs" / path.stem).get("minutes", 0.0) for path in paths}
    done = {row["notebook"]: row["minutes"] for row in rows if known[row["notebook"]]}
    if not done or not all(known.values()):
        return ""
    pace = sum(done.values()) / sum(known[name] for name in done)
    left = pace * sum(known[path.stem] for path in paths[len(rows) :])
    return f", about {max(1, round(left))} minutes to the end"


def _summary(folder: Path) -> dict[str, Any]:
    file = folder / "summary.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def publish(root: Path = ROOT) -> list[str]:
    """Replace published notebooks, tables and figures by those of the last full runs on MNIST, and the README's table.

    Returns:
        The notebooks published: those that ended well. Others keep what was published before.

    Raises:
        FileNotFoundError: there is no full run on MNIST to publish.
    """
    source = root / "outputs" / "local" / "mnist-full"
    stems = sorted(path.parent.name for path in source.glob("[0-9]*/summary.json"))
    if not stems:
        raise FileNotFoundError(f"{source} holds no results: `python -m labutils run` first, with the full MNIST")
    for stem in stems:
        for old in (root / "outputs" / stem).glob("*"):
            if not old.name.startswith("screenshot_"):  # of a browser: no notebook makes them
                old.unlink()
        shutil.copytree(source / stem, root / "outputs" / stem, dirs_exist_ok=True)
        shutil.copy(source / "notebooks" / f"{stem}.ipynb", root / "notebooks")
    rows = []
    for path in sorted((root / "outputs").glob("[0-9]*/summary.json")):
        summary, stem = _summary(path.parent), path.parent.name
        cells = f"[{stem}](notebooks/{stem}.ipynb)", summary["question"], summary["answer"], summary.get("minutes", "")
        rows.append(f"| {' | '.join(map(str, cells))} |")
    readme, rule = root / "README.md", "|---|---|---|--:|\n"
    before, table = readme.read_text(encoding="utf-8").split(rule, 1)
    after = table[table.index("\n\n") :]
    readme.write_text(before + rule + "\n".join(rows) + after, encoding="utf-8")
    return stems


def _find(name: str) -> Path:
    path = Path(name) if name.endswith(".ipynb") else NOTEBOOKS / f"{name}.ipynb"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in NOTEBOOKS.glob("[0-9]*.ipynb")))
        raise ValueError(f"there is no notebook {name!r}; there are {known}")
    return path


def _execute(path: Path, folder: Path) -> dict[str, Any]:
    """Run one notebook in a kernel of its own; its row of the results table."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    class Client(NotebookClient):  # defined here: nbclient loads only for those who run the series
        def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
            """A progress bar in the kernel speaks to a widget that nobody sees: its text goes to the terminal."""
            if msg["msg_type"] == "comm_msg":
                text = msg["content"]["data"].get("state", {}).get("value")
                if isinstance(text, str) and "/" in text:
                    bar.set_postfix_str(f"{_first_line(cell)}{html.unescape(text)}")
            return super().process_message(msg, cell, cell_index)

    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    form = "{desc} cell {n_fmt}/{total_fmt} {elapsed} {postfix}"
    bar = tqdm(total=len(cells), desc=path.stem, bar_format=form)
    client = Client(
        notebook,
        timeout=None,
        extra_arguments=["--log-level=ERROR"],  # the kernel's notes on its sockets are not the reader's
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_execute=lambda cell, cell_index: bar.set_postfix_str(_first_line(cell)),
        on_cell_executed=lambda cell, cell_index, execute_reply: bar.update(),
    )
    summary_file = folder / path.stem / "summary.json"
    summary_file.unlink(missing_ok=True)  # what an earlier run found must not stand for this one
    start, failure = time.perf_counter(), ""
    with bar:
        try:
            client.execute()
        except Exception as error:
            if hasattr(client, "_async_cleanup_kernel_future"):  # a signal to us, on which nbclient ends the kernel
                raise KeyboardInterrupt(f"in {path.stem}; finished runs are stored") from error
            if isinstance(error, CellExecutionError):
                failure = f"FAILED: {error.ename}: {error.evalue}"
                tqdm.write(f"{path.stem} failed: {error}")
            elif isinstance(error, DeadKernelError):  # out of memory, say
                failure = f"FAILED: {error}"
            else:
                raise
    minutes = round((time.perf_counter() - start) / 60, 1)
    _strip(notebook)
    target = folder / "notebooks" / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)
    _write_html(notebook, target.with_suffix(".html"))
    summary: dict[str, Any] = {"question": "", "answer": failure, "figures": []}
    if summary_file.exists() and not failure:
        summary = _summary(summary_file.parent) | {"minutes": minutes}
        summary_file.write_text(json.dumps(summary, indent=1, ensure_ascii=False), encoding="utf-8")
    return {"notebook": path.stem, **summary, "minutes": minutes, "failed": bool(failure)}


def _first_line(cell: Any) -> str:
    lines = [line for line in cell.source.splitlines() if line and not line.startswith(("#", "import", "from"))]
    return (lines or [""])[0][:40]


def _strip(notebook: Any) -> None:
    """Leave what a reader sees: no progress bars (they need a kernel), no timing metadata, no widget state."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]


def _write_html(notebook: Any, path: Path) -> None:
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter(template_name="lab").from_notebook_node(notebook, {"metadata": {"name": path.stem}})
    path.write_text(body, encoding="utf-8")


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; vertical-align: top; padding: .5rem .8rem }
tr + tr { border-top: 1px solid #ddd } td.n { text-align: right } a { color: #0072b2 } .failed { color: #b00 }
figure { margin: 2rem 0 } img { max-width: 100% } figcaption, .small { color: #666; font-size: .9rem }
"""


def _write_page(folder: Path, dataset: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """index.html beside the executed notebooks: the results table and every figure; readable without a network."""
    lines, pictures = [], []
    for row in rows:
        name = row["notebook"]
        link = f'<a href="notebooks/{name}.html">{name}</a>'
        state = ' class="failed"' if row["failed"] else ""
        question, answer = html.escape(row["question"]), html.escape(row["answer"])
        lines.append(f"<tr><td>{link}<td>{question}<td{state}>{answer}<td class=n>{row['minutes']}</tr>")
        for figure in row["figures"]:
            caption = f"{link}: {html.escape(figure.replace('_', ' '))}"
            picture = f'<img src="{name}/{figure}.png" alt="{html.escape(figure)}">'
            pictures.append(f"<figure>{picture}<figcaption>{caption}</figcaption></figure>")
    head = "<tr><th>notebook<th>question<th>answer<th>minutes</tr>"
    body = (
        f"<h1>latent-digits-lab</h1><p class=small>{dataset}, {scale().name} scale, {os.cpu_count()} cores</p>"
        f"<table>{head}{''.join(lines)}</table>{''.join(pictures)}"
    )
    page = folder / "index.html"
    document = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>latent-digits-lab</title><style>{STYLE}</style>"
    )
    page.write_text(f"{document}<body>{body}</body></html>\n", encoding="utf-8")
    return page
