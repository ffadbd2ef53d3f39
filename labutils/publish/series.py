"""The series: notebooks executed headless into git-ignored copies, their results in a table and an HTML page."""

import base64
import html
import io
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from PIL import Image
from tqdm import tqdm

from labutils.data import load_dataset
from labutils.paths import ROOT, local_dir, scale
from labutils.publish.report import read_summary, write_summary
from labutils.store.files import sha256

NOTEBOOKS = ROOT / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"
KNOB = re.compile(r'^DATASET = "mnist"$', re.MULTILINE)  # in an executed copy it names the set that was found
BAR = "{desc} cell {n_fmt}/{total_fmt} {elapsed} {postfix}"
IMPORT = re.compile(r"^(import|from) [^(\n]*(\([^)]*\))?.*$", re.MULTILINE)


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
        paths = [path for path in paths if any(KNOB.search(source) for source in code(path))]
        if not paths:
            raise ValueError(f"{', '.join(names)}: about two data sets, LABUTILS_DATASET={wanted} cannot choose one")
    print(f"{dataset} at {scale().name} scale; results go to {folder}")
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
    """Minutes to the end, from what the published notebooks took, at the pace of those that have been executed."""
    minutes = {path.stem: read_summary(ROOT / "outputs" / path.stem).get("minutes", 0.0) for path in paths}
    if not all(minutes.values()):
        return ""
    done = [row for row in rows if not row["failed"]]
    if len(done) >= (1 if dataset == "mnist" else 3):  # on other images one notebook says little about the others
        pace = sum(row["minutes"] for row in done) / sum(minutes[row["notebook"]] for row in done)
    elif dataset == "mnist" and scale().name == "full":
        pace = 1.0  # on a machine such as that on which they were published
    else:
        return ""
    to_come = pace * sum(minutes[path.stem] for path in paths[len(rows) :])
    return f", about {max(1, to_come):.0f} min to the end"


def _find(name: str) -> Path:
    path = Path(name) if name.endswith(".ipynb") else NOTEBOOKS / f"{name}.ipynb"
    if not path.is_file():
        stems = ", ".join(sorted(p.stem for p in NOTEBOOKS.glob("[0-9]*.ipynb")))
        raise ValueError(f"there is no notebook {name!r}; there are {stems}")
    return path


def code_cells(notebook: Path) -> list[dict[str, Any]]:
    """A notebook's code cells as its file has them; none where there is no file."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"] if notebook.exists() else []
    return [cell for cell in cells if cell["cell_type"] == "code"]


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """The summaries in a folder of results, by notebook."""
    return {path.parent.name: read_summary(path.parent) for path in sorted(folder.glob("[0-9]*/summary.json"))}


def _execute(path: Path, folder: Path, dataset: str) -> dict[str, Any]:
    """Run one notebook in a kernel of its own and write its copy and page; its row of the results table."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in cells:
        cell.source = KNOB.sub(f'DATASET = "{dataset}"', cell.source)
    # what an earlier run found must not stand for this one
    (folder / path.stem / "summary.json").unlink(missing_ok=True)
    start = time.perf_counter()
    with tqdm(total=len(cells), desc=path.stem, bar_format=BAR) as bar:
        failure = _run_cells(notebook, path, bar)
    minutes = round((time.perf_counter() - start) / 60, 1)
    for cell in cells:
        _strip(cell)
    copy = folder / "notebooks" / path.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, copy)
    write_html(notebook, copy.with_suffix(".html"))
    summary: dict[str, Any] = {"question": "", "answer": failure, "figures": []}
    if not failure and (saved := read_summary(folder / path.stem)):
        summary = {**saved, "minutes": minutes, "executed": code_and_outputs(copy)}
        write_summary(folder / path.stem, summary)
    return {"notebook": path.stem, **summary, "minutes": minutes, "failed": bool(failure)}


def _run_cells(notebook: Any, path: Path, bar: tqdm) -> str:
    """Fill in the outputs of a notebook, in the folder of its file; how it failed, or ""."""
    client = Client(
        notebook,
        timeout=None,
        record_timing=False,
        store_widget_state=False,
        extra_arguments=["--log-level=CRITICAL"],  # the kernel's notes on its sockets are not the reader's
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_execute=lambda cell, cell_index: bar.set_postfix_str(_first_line(cell)),
        on_cell_executed=lambda cell, cell_index, execute_reply: bar.update(),
    )
    client.bar = bar
    # a kernel that asked to end waits for loky's resource tracker, which ends only after it: patience is of no use
    client.create_kernel_manager().shutdown_wait_time = 1
    try:
        client.execute()
    except Exception as error:
        # a signal to us, on which nbclient 0.11 ends the kernel (test_a_stopped_series_stops holds this)
        if hasattr(client, "_async_cleanup_kernel_future"):
            raise KeyboardInterrupt(f"in {path.stem}; finished runs are stored") from error
        if isinstance(error, CellExecutionError):
            tqdm.write(f"{path.stem} failed: {error}")
            return f"FAILED: {error.ename}: {error.evalue}"
        if isinstance(error, DeadKernelError):  # out of memory, say
            return f"FAILED: {error}"
        raise
    return ""


class Client(NotebookClient):
    """A client that shows the text of the kernel's progress bars in the terminal: nobody sees their widgets."""

    bar: tqdm

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] == "comm_msg":
            text = msg["content"]["data"].get("state", {}).get("value")
            if isinstance(text, str) and "/" in text and "<" not in text:
                self.bar.set_postfix_str(f"{_first_line(cell)}{html.unescape(text)}")
        return super().process_message(msg, cell, cell_index)


def code(notebook: Path) -> list[str]:
    """The source of a notebook's code cells but for import statements and blank lines."""
    sources = [IMPORT.sub("", "".join(cell["source"])) for cell in code_cells(notebook)]
    return ["\n".join(line for line in source.splitlines() if line) for source in sources]


def code_and_outputs(notebook: Path) -> str:
    """The SHA-256 sum of a notebook's code and outputs. Its prose may be mended, and what it imports may have moved."""
    outputs = [cell["outputs"] for cell in code_cells(notebook)]
    return sha256(json.dumps(list(zip(code(notebook), outputs, strict=True))).encode())


def _first_line(cell: Any) -> str:
    lines = cell.source.splitlines()
    return next((line[:40] for line in lines if line and not line.startswith(("#", "import", "from"))), "")


def _strip(cell: Any) -> None:
    """Take progress bars, which need a kernel, out of a code cell's outputs, and give its pictures 128 colours or 32
    greys: they look the same and take a third of the room."""
    cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    for output in cell.outputs:
        if "image/png" in output.get("data", {}):
            output["data"]["image/png"] = _few_colours(output["data"]["image/png"])


def _few_colours(picture: str) -> str:
    """A PNG file in base64 → the smaller of it and the same with a palette."""
    content, buffer = base64.b64decode(picture), io.BytesIO()
    full = Image.open(io.BytesIO(content)).convert("RGB")
    grey = np.ptp(np.asarray(full).astype(int), axis=2).max() < 16
    # MAXCOVERAGE keeps rare colours, such as those of a colour bar's ends
    few = full.quantize(32 if grey else 128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(buffer, "png", optimize=True)
    return base64.b64encode(min(content, buffer.getvalue(), key=len)).decode()


# nbconvert's own template knows neither a picture's description nor a cell that is closed until it is asked for
NOTEBOOK_PAGE = """{% extends 'lab/index.html.j2' %}
{% block data_png scoped %}
{% set alt = output | get_metadata('alt', 'image/png') %}
{{ super() | replace('<img ', '<img alt="' ~ alt | escape_html ~ '" ', 1) if alt else super() }}
{% endblock %}
{% block input %}
{% if 'hide-input' in cell.metadata.get('tags', []) %}<details><summary>Code</summary>{{ super() }}</details>
{% else %}{{ super() }}{% endif %}
{% endblock %}"""


def write_html(notebook: Any, path: Path) -> None:
    """Write a notebook as a page: figures carry their descriptions, cells with the tag "hide-input" are folded."""
    exporter = HTMLExporter(template_name="lab", raw_template=NOTEBOOK_PAGE)
    body, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": path.stem}})
    path.write_text(body, encoding="utf-8")


def table_row(stem: str, summary: Mapping[str, Any], suffix: str = ".ipynb") -> str:
    """A notebook's row of a results table in Markdown."""
    cells = f"[{stem}](notebooks/{stem}{suffix})", summary["question"], summary["answer"], summary.get("minutes") or ""
    return f"| {' | '.join(' '.join(str(cell).split()) for cell in cells)} |"


PAGE = """<!doctype html><html lang=en><meta charset=utf-8><title>latent-digits-lab</title><style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; vertical-align: top; padding: .5rem .8rem }
tr + tr { border-top: 1px solid #ddd } a { color: #0072b2 } .anchor-link { display: none }
img { display: block; margin-top: 2rem; max-width: 100% }
</style><body>"""


def write_page(folder: Path, line: str, rows: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write index.html beside the pages of executed notebooks: a line, the results table and every figure; readable
    without a network."""
    parts = [f"# latent-digits-lab\n\n{line}\n\n| notebook | question | answer | minutes |\n|---|---|---|--:|"]
    parts += [table_row(stem, row, ".html") for stem, row in sorted(rows.items())]
    for stem, row in sorted(rows.items()):
        parts += [f"\n![{name}]({stem}/{name}.png)\n{stem}: {name.replace('_', ' ')}" for name in row["figures"]]
    page = folder / "index.html"
    page.write_text(PAGE + markdown2html("\n".join(parts)), encoding="utf-8")
    return page
