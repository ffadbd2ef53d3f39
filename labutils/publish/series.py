"""The series: notebooks executed headless into git-ignored copies, their results in a table and an HTML page."""

import ast
import base64
import hashlib
import html
import io
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from labutils.data import load_dataset
from labutils.paths import ROOT, local_dir, scale
from labutils.publish.report import read_summary, write_summary

NOTEBOOKS = ROOT / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"
KNOB = re.compile(r'^DATASET = "mnist"$', re.MULTILINE)  # in an executed copy it names the set that was found


def run_series(names: Sequence[str] = ()) -> int:
    """Execute notebooks in order, on the images that LABUTILS_DATASET names, and print a results table and the page to
    open. (A notebook about two data sets has no such knob: on other images than MNIST it is left out.)

    Args:
        names: notebooks such as "01_baseline" or a path; none means all.

    Returns:
        The number of notebooks that failed; each leaves its copy, executed as far as it came.

    Raises:
        ValueError: there is no such notebook, or none that LABUTILS_DATASET is for; nothing has run then.
    """
    paths = [_find(name) for name in names] or sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    wanted = os.environ.get("LABUTILS_DATASET") or "mnist"
    dataset = load_dataset(wanted).name
    folder = local_dir(dataset)
    if wanted != "mnist":
        paths = [path for path in paths if any(KNOB.search("".join(cell["source"])) for cell in code_cells(path))]
        if not paths:
            raise ValueError(f"{', '.join(names)}: about two data sets, LABUTILS_DATASET={wanted} cannot choose one")
    count = f"{len(paths)} notebook{'s' if len(paths) > 1 else ''}"
    print(f"{count} on {dataset} at {scale().name} scale; results go to {folder}")
    rows: list[dict[str, Any]] = []
    for i, path in enumerate(paths):
        print(f"{path.stem} ({i + 1} of {len(paths)}){_remaining(paths, rows, dataset)}")
        rows.append(_execute(path, folder, dataset))  # the set that was found: no knob looks for it again
    line = f"{dataset}, {scale().name} scale, {os.cpu_count()} cores"
    page = write_page(folder, line, {**results(folder), **{row["notebook"]: row for row in rows}})
    table = pd.DataFrame(rows)[["notebook", "answer", "minutes"]]
    print("\n" + table.to_string(index=False, max_colwidth=100 if len(table) > 1 else None, justify="left"))
    print(f"\nOpen {page.as_uri()}")
    return sum(row["failed"] for row in rows)


def _remaining(paths: Sequence[Path], rows: Sequence[Mapping[str, Any]], dataset: str) -> str:
    """Minutes left, from what the published notebooks took, at the pace of those that have been executed."""
    known = {path.stem: read_summary(ROOT / "outputs" / path.stem).get("minutes", 0.0) for path in paths}
    if not all(known.values()):
        return ""
    done = [row for row in rows if not row["failed"]]
    if len(done) >= (1 if dataset == "mnist" else 3):  # on other images one notebook says little about the others
        pace = sum(row["minutes"] for row in done) / sum(known[row["notebook"]] for row in done)
    elif dataset == "mnist" and scale().name == "full":
        pace = 1.0  # on a machine such as that on which they were published
    else:
        return ""
    left = max(1, round(pace * sum(known[path.stem] for path in paths[len(rows) :])))
    return f", about {left} minute{'s' if left > 1 else ''} to the end"


def _find(name: str) -> Path:
    path = Path(name) if name.endswith(".ipynb") else NOTEBOOKS / f"{name}.ipynb"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in NOTEBOOKS.glob("[0-9]*.ipynb")))
        raise ValueError(f"there is no notebook {name!r}; there are {known}")
    return path


def code_cells(notebook: Path) -> list[dict[str, Any]]:
    """A notebook's code cells as its file has them."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """The summaries in a folder of results, by notebook; torn ones are left out, with a warning."""
    found = {path.parent.name: read_summary(path.parent) for path in sorted(folder.glob("[0-9]*/summary.json"))}
    return {stem: summary for stem, summary in found.items() if summary}


def _execute(path: Path, folder: Path, dataset: str) -> dict[str, Any]:
    """Run one notebook in a kernel of its own; its row of the results table."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    class Client(NotebookClient):  # defined here: nbclient loads only for those who run the series
        def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
            """A progress bar in the kernel speaks to a widget that nobody sees: its text goes to the terminal."""
            if msg["msg_type"] == "comm_msg":
                text = msg["content"]["data"].get("state", {}).get("value")
                if isinstance(text, str) and "/" in text and "<" not in text:
                    bar.set_postfix_str(f"{_first_line(cell)}{html.unescape(text)}")
            return super().process_message(msg, cell, cell_index)

    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in cells:
        cell.source = KNOB.sub(f'DATASET = "{dataset}"', cell.source)
    form = "{desc} cell {n_fmt}/{total_fmt} {elapsed} {postfix}"
    bar = tqdm(total=len(cells), desc=path.stem, bar_format=form)
    client = Client(
        notebook,
        timeout=None,
        extra_arguments=["--log-level=CRITICAL"],  # the kernel's notes on its sockets are not the reader's
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_execute=lambda cell, cell_index: bar.set_postfix_str(_first_line(cell)),
        on_cell_executed=lambda cell, cell_index, execute_reply: bar.update(),
    )
    # a kernel that asked to end waits for loky's resource tracker, which ends only after it: patience is of no use
    client.create_kernel_manager().shutdown_wait_time = 1
    summary_file = folder / path.stem / "summary.json"
    summary_file.unlink(missing_ok=True)  # what an earlier run found must not stand for this one
    start, failure = time.perf_counter(), ""
    with bar:
        try:
            client.execute()
        except Exception as error:
            # a signal to us, on which nbclient 0.11 ends the kernel (test_a_stopped_series_stops holds this)
            if hasattr(client, "_async_cleanup_kernel_future"):
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
    write_html(notebook, target.with_suffix(".html"))
    summary: dict[str, Any] = {"question": "", "answer": failure, "figures": []}
    if summary_file.exists() and not failure:
        summary = read_summary(summary_file.parent) | {"minutes": minutes, "executed": code_and_outputs(target)}
        write_summary(summary_file.parent, summary)
    return {"notebook": path.stem, **summary, "minutes": minutes, "failed": bool(failure)}


def code_and_outputs(notebook: Path) -> str:
    """The SHA-256 sum of a notebook's code and outputs; "" where there is none. Its prose may be mended, and what it
    imports may have moved."""
    if not notebook.exists():
        return ""
    cells = [(code_without_imports(cell), cell["outputs"]) for cell in code_cells(notebook)]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def code_without_imports(cell: Mapping[str, Any]) -> str:
    """The source of a code cell but for its import statements, blank lines and what no Python is."""
    lines = "".join(cell["source"]).splitlines()
    try:
        tree = ast.parse("\n".join(lines))
    except SyntaxError:  # a cell with magics
        return "\n".join(lines)
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            lines[node.lineno - 1 : node.end_lineno] = [""] * ((node.end_lineno or 0) - node.lineno + 1)
    return "\n".join(line for line in lines if line)


def _first_line(cell: Any) -> str:
    lines = [line for line in cell.source.splitlines() if line and not line.startswith(("#", "import", "from"))]
    return (lines or [""])[0][:40]


def _strip(notebook: Any) -> None:
    """Leave what a reader sees: no progress bars (they need a kernel), no timing metadata, no widget state; pictures in
    128 colours or 32 greys, which look the same and take a third of the room."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
            for data in (o["data"] for o in cell.outputs if "image/png" in o.get("data", {})):
                data["image/png"] = _few_colours(data["image/png"])


def _few_colours(picture: str) -> str:
    """A PNG file in base64 → the smaller of it and the same with a palette."""
    from PIL import Image

    content, buffer = base64.b64decode(picture), io.BytesIO()
    full = Image.open(io.BytesIO(content)).convert("RGB")
    grey = np.ptp(np.asarray(full).astype(int), axis=2).max() < 16
    # MAXCOVERAGE keeps rare colours, such as those of a colour bar's ends
    few = full.quantize(32 if grey else 128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(buffer, "png", optimize=True)
    return base64.b64encode(min(content, buffer.getvalue(), key=len)).decode()


def write_html(notebook: Any, path: Path) -> None:
    """A notebook as a page."""
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter(template_name="lab").from_notebook_node(notebook, {"metadata": {"name": path.stem}})
    path.write_text(body, encoding="utf-8")


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; vertical-align: top; padding: .5rem .8rem }
tr + tr { border-top: 1px solid #ddd } td.n { text-align: right } a { color: #0072b2 } .failed { color: #b00 }
figure { margin: 2rem 0 } img { max-width: 100% } figcaption, .small { color: #666; font-size: .9rem }
"""


def write_page(folder: Path, line: str, rows: Mapping[str, Mapping[str, Any]]) -> Path:
    """index.html beside the pages of executed notebooks: a line, the results table and every figure; readable without
    a network."""
    lines, pictures = [], []
    for name, row in sorted(rows.items()):
        link = f'<a href="notebooks/{name}.html">{name}</a>'
        state = ' class="failed"' if row.get("failed") else ""
        question, answer = html.escape(row["question"]), html.escape(row["answer"])
        lines.append(f"<tr><td>{link}<td>{question}<td{state}>{answer}<td class=n>{row.get('minutes') or ''}</tr>")
        for figure in row["figures"]:
            caption = f"{link}: {html.escape(figure.replace('_', ' '))}"
            picture = f'<img src="{name}/{figure}.png" alt="{html.escape(figure)}">'
            pictures.append(f"<figure>{picture}<figcaption>{caption}</figcaption></figure>")
    head = "<tr><th>notebook<th>question<th>answer<th>minutes</tr>"
    body = (
        f"<h1>latent-digits-lab</h1><p class=small>{html.escape(line)}</p>"
        f"<table>{head}{''.join(lines)}</table>{''.join(pictures)}"
    )
    page = folder / "index.html"
    document = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>latent-digits-lab</title><style>{STYLE}</style>"
    )
    page.write_text(f"{document}<body>{body}</body></html>\n", encoding="utf-8")
    return page
