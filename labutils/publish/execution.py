"""The series: notebooks executed headless into git-ignored copies, their results in a table and an HTML page."""

import base64
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
from jinja2 import pass_context
from latex2mathml.converter import convert as latex_to_mathml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from PIL import Image
from tqdm import tqdm

from labutils.paths import ROOT, SCALES, local_dir, scale
from labutils.publish.summary import read_summary, write_summary
from labutils.store.files import sha256

NOTEBOOKS = ROOT / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"
KNOB = re.compile(r'^DATASET = "mnist"(?=[ \t]*(#|$))', re.MULTILINE)  # in an executed copy: the loaded one
SAVED = re.compile(r"""^[^#\n]*\bsave_results\(\s*["']([^"']+)""", re.MULTILINE)  # the name of a notebook's results
UNSUITABLE = "UnsuitableImages"  # the error of `report.prepare`; that module loads torch
BAR = "{desc} cell {n_fmt}/{total_fmt} {elapsed}"
NOTEBOOK_PAGE = Path(__file__).with_name("notebook.html")  # a template for nbconvert
STYLE = Path(__file__).with_name("site.css")
REPAIRS = (  # what latex2mathml 3.81 does not know, and the thin spaces that TeX puts around a function's name
    (r"\\[bB]igg?[lr]\s*(\\[lr]Vert)", r"\1"),
    (r"\\mathbb (\w)", r"\\mathbb{\1}"),
    (r"\\mathrm\{(\w)\}", r"\\text{\1}"),  # a single letter would be slanted
    (r"(?<=[\w)}])\s*(\\(?:log|ln)\b)", r"\,\1"),
    (r"(\\(?:log|ln)\b)\s*(?=[\w\\])", r"\1\,"),
)
HEADING = re.compile(r'<h([23]) id="([^"]+)">(.*?)<a class="anchor-link"', re.DOTALL)
IMPORT = re.compile(r"^(import|from) [^(\n]*(\([^)]*\))?.*$", re.MULTILINE)


def run_series(names: Sequence[str] = ()) -> int:
    """Execute notebooks (names such as "01_baseline", or paths; none means all) in order, on the images that
    LABUTILS_DATASET names, and print a results table and the page to open. Return the number of notebooks that failed;
    each leaves its copy, executed as far as it came.

    On other images than MNIST a notebook about two data sets is left out, and so is one whose `prepare` refuses the
    images (too few classes, another size). Asked for by name, the first is a ValueError before anything runs, as are an
    unknown name and a notebook that would save its results under another one; the second counts as failed.
    """
    from labutils.data import load_dataset  # only here: pages are written without torch

    paths = [_find(name) for name in names] or sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    for path in paths:  # a copy that still saves under its original's name would replace the original's results
        if wrong := [saved for saved in SAVED.findall("\n".join(code(path))) if saved != path.stem]:
            raise ValueError(f'{path.name} saves its results as {wrong[0]!r}: write save_results("{path.stem}", …)')
    wanted = os.environ.get("LABUTILS_DATASET") or "mnist"
    dataset = load_dataset(wanted).name
    folder = local_dir(dataset)
    if wanted != "mnist":
        fixed = [path for path in paths if not any(KNOB.search(source) for source in code(path))]
        paths = [path for path in paths if path not in fixed]
        if (names and fixed) or not paths:
            stems = ", ".join(path.stem for path in fixed)
            raise ValueError(f"LABUTILS_DATASET={wanted} cannot choose the images of {stems}: "
                             'a notebook about one data set has the line DATASET = "mnist"')  # fmt: skip
    print(f"{dataset} at {scale().name} scale; results go to {folder}")
    rows: list[dict[str, Any]] = []
    for i, path in enumerate(paths):
        print(f"{path.stem} ({i + 1} of {len(paths)}){_remaining(paths, rows, dataset)}")
        rows.append(_execute(path, folder, dataset))
    line = f"{dataset}, {scale().name} scale, {os.cpu_count()} cores"
    page = write_page(folder, line, {**results(folder), **{row["notebook"]: row for row in rows}})
    table = pd.DataFrame(rows)[["notebook", "answer", "minutes"]]
    print("\n" + table.to_string(index=False, max_colwidth=100 if len(table) > 1 else None, justify="left"))
    print(f"\nOpen {page.as_uri()}")
    return sum(row["failed"] or bool(names and row["left out"]) for row in rows)


def _remaining(paths: Sequence[Path], rows: Sequence[Mapping[str, Any]], dataset: str) -> str:
    """Return a text with the minutes to the end, from those published and the pace of the notebooks executed so far."""
    minutes = {path.stem: read_summary(ROOT / "outputs" / path.stem).get("minutes", 0.0) for path in paths}
    done = [row for row in rows if not row["failed"] and not row.get("left out")]
    as_published = (dataset, scale()) == ("mnist", SCALES["full"])
    enough = 0 if as_published else 1 if dataset == "mnist" else 3  # one notebook says little about other images
    if not all(minutes.values()) or len(done) < enough:
        return ""
    pace = 1.0
    if done:
        pace = sum(row["minutes"] for row in done) / sum(minutes[row["notebook"]] for row in done)
    to_come = pace * sum(minutes[path.stem] for path in paths[len(rows) :])
    return f", about {max(1, to_come):.0f} min to the end"


def _find(name: str) -> Path:
    path = Path(name) if name.endswith(".ipynb") else NOTEBOOKS / f"{name}.ipynb"
    if not path.is_file():
        stems = ", ".join(sorted(p.stem for p in NOTEBOOKS.glob("[0-9]*.ipynb")))
        raise ValueError(f"there is no notebook {name!r}; there are {stems}, and any other by its path, ….ipynb")
    return path


def code_cells(notebook: Path) -> list[dict[str, Any]]:
    """Return a notebook's code cells, none where there is no file."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"] if notebook.exists() else []
    return [cell for cell in cells if cell["cell_type"] == "code"]


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the summaries in a folder of results, by notebook, each with its folder."""
    found = [path.parent for path in sorted(folder.glob("[0-9]*/summary.json"))]
    return {path.name: read_summary(path) | {"folder": str(path)} for path in found}


def _execute(path: Path, folder: Path, dataset: str) -> dict[str, Any]:
    """Run one notebook in a kernel of its own, write its copy and page, and return its row of the results table."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in cells:
        cell.source = KNOB.sub(
            lambda _: f"DATASET = {json.dumps(dataset, ensure_ascii=False)}", cell.source
        )  # a path may have a backslash
    (folder / path.stem / "summary.json").unlink(missing_ok=True)  # of an earlier execution
    start = time.perf_counter()
    with tqdm(total=len(cells), desc=path.stem, bar_format=BAR) as bar:
        failure = _run_cells(notebook, path, bar)
    minutes = round((time.perf_counter() - start) / 60, 1)
    for cell in cells:
        _strip(cell)
    copy = folder / "notebooks" / path.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, copy)
    write_html(copy, copy.with_suffix(".html"))
    summary: dict[str, Any] = {"question": "", "answer": failure, "figures": []}
    if not failure and (saved := read_summary(folder / path.stem)):
        summary = {**saved, "minutes": minutes, "executed": code_and_outputs(copy)}
        write_summary(folder / path.stem, summary)
    left_out = failure.startswith("left out")
    failed = bool(failure) and not left_out
    return {"notebook": path.stem, **summary, "minutes": minutes, "failed": failed, "left out": left_out}


def _run_cells(notebook: Any, path: Path, bar: tqdm) -> str:
    """Fill in the outputs of a notebook, executed in its folder. Return how it failed, why it is left out, or ""."""
    client = NotebookClient(
        notebook,
        timeout=None,
        record_timing=False,
        store_widget_state=False,
        extra_arguments=["--log-level=CRITICAL"],  # no notes on sockets
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_executed=lambda cell, cell_index, execute_reply: bar.update(),
    )
    # a kernel asked to end waits for loky's resource tracker, which ends only after it
    client.create_kernel_manager().shutdown_wait_time = 1
    try:
        client.execute()
    except Exception as error:
        # a signal to us, on which nbclient 0.11 ends the kernel (test_a_stopped_series_stops holds this)
        if hasattr(client, "_async_cleanup_kernel_future"):
            raise KeyboardInterrupt(f"in {path.stem}; finished runs are stored") from error
        if isinstance(error, CellExecutionError):
            if error.ename == UNSUITABLE:
                return f"left out: {error.evalue}"
            tqdm.write(f"{path.stem} failed: {error}")
            return f"FAILED: {error.ename}: {error.evalue}"
        if isinstance(error, DeadKernelError):  # out of memory, say
            return f"FAILED: {error}"
        raise
    return ""


def code(notebook: Path) -> list[str]:
    """Return the source of each code cell of a notebook, without import statements and blank lines."""
    sources = [IMPORT.sub("", "".join(cell["source"])) for cell in code_cells(notebook)]
    return ["\n".join(line for line in source.splitlines() if line) for source in sources]


def code_and_outputs(notebook: Path) -> str:
    """Return the SHA-256 sum of a notebook's `code` and outputs, not of its prose and imports."""
    outputs = [cell["outputs"] for cell in code_cells(notebook)]
    return sha256(json.dumps(list(zip(code(notebook), outputs, strict=True))).encode())


def _strip(cell: Any) -> None:
    """Remove widgets from a code cell's outputs, but not the pictures that take their place; give images 128 colours or
    32 greys, for a third of the bytes."""
    kept = []
    for output in cell.outputs:
        data = output.get("data", {})
        widget, picture = data.pop(WIDGET, None), data.get("image/png")
        if picture:
            data["image/png"] = _few_colours(picture)
        if picture or not widget:
            kept.append(output)
    cell.outputs = kept


def _few_colours(picture: str) -> str:
    """Return a PNG file in base64, with a palette if that is smaller."""
    content, buffer = base64.b64decode(picture), io.BytesIO()
    full = Image.open(io.BytesIO(content)).convert("RGB")
    grey = np.ptp(np.asarray(full).astype(int), axis=2).max() < 16
    # MAXCOVERAGE keeps rare colours, such as those of a colour bar's ends
    few = full.quantize(32 if grey else 128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(buffer, "png", optimize=True)
    return base64.b64encode(min(content, buffer.getvalue(), key=len)).decode()


class Formulas(IPythonRenderer):
    """nbconvert's Markdown, with formulas in MathML, which a browser draws without a script, and links to pages."""

    notebook = ""

    def inline_math(self, body: str, display: str = "inline") -> str:
        latex = body
        for pattern, replacement in REPAIRS:
            latex = re.sub(pattern, replacement, latex)
        try:
            mathml = latex_to_mathml(latex, display=display)
        except Exception as error:  # the package has no common class for what it refuses
            raise ValueError(f"{self.notebook}: no MathML for the formula {body!r} ({error!r})") from error
        if "\\" in mathml:  # it hands on a command that it does not know
            raise ValueError(f"{self.notebook}: no MathML for the formula {body!r}: an unknown command")
        return mathml.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "").replace(">~<", ">&#x0223C;<")

    def block_math(self, body: str) -> str:
        return f'<span class="formula">{self.inline_math(body, "block")}</span>'

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(rf"\begin{{{name}}}{body}\end{{{name}}}")

    def link(self, text: str, url: str, title: str | None = None) -> str:
        return super().link(text, re.sub(r"^(\w+)\.ipynb", r"\1.html", url), title)


class PageExporter(HTMLExporter):
    """nbconvert's exporter with formulas in MathML."""

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        renderer = Formulas(escape=False, embed_images=True)
        renderer.notebook = context["resources"]["metadata"]["name"]
        return MarkdownWithMath(renderer=renderer).render(source)


def write_html(notebook: Path, path: Path, series: Sequence[str] = (), explorer: str = "", address: str = "") -> None:
    """Write a notebook as a page with its contents beside it: formulas in MathML, figures with their descriptions,
    cells with the tag "hide-input", and those of imports alone, folded.

    `series` names the notebooks that have a page beside it, for the links to the previous and the next; `explorer` is
    the address of an explorer's page, to stand where the notebook has its sliders; `address` that of the repository,
    for links to the notebook there and in Colab. A page that was made of the same is left as it is: converting takes a
    second or two. A formula that cannot be converted is a ValueError.
    """
    parts = (notebook.read_bytes(), *(file.read_bytes() for file in (Path(__file__), NOTEBOOK_PAGE, STYLE)))
    mark = f"<!-- {sha256(b''.join([*parts, repr((notebook.stem, series, explorer, address)).encode()]))} -->"
    if path.exists() and path.read_text(encoding="utf-8").endswith(mark):
        return
    nb = nbformat.read(notebook, as_version=4)
    threes = zip(("", *series), series, (*series[1:], ""), strict=False)  # before, a notebook, after
    before, after = next(((a, b) for a, stem, b in threes if stem == notebook.stem), ("", ""))
    text = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    question = re.search(r"\*\*(?:The question|Question)\.\*\* (.+)", text)
    cells = [cell for cell in nb.cells if cell.cell_type == "code"]
    for cell in [cell for cell in cells if "LatentExplorer(" in cell.source][:1]:
        cell.metadata["explorer"] = explorer
    for cell in cells:
        cell.metadata["imports"] = bool(cell.source) and not IMPORT.sub("", cell.source).strip()
    resources = {
        "metadata": {"name": notebook.stem}, "style": STYLE.read_text(encoding="utf-8"),
        "title": title[1] if (title := re.search(r"^# (.+)", text, re.MULTILINE)) else notebook.stem,
        "description": re.sub(r"[*`$]|\[(.*?)\]\(.*?\)", r"\1", question[1] if question else notebook.stem),
        "previous": before, "next": after, "address": address,
    }  # fmt: skip
    exporter = PageExporter(template_name="lab", raw_template=NOTEBOOK_PAGE.read_text(encoding="utf-8"))
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    body, _ = exporter.from_notebook_node(nb, resources)
    lines = [f'<li class="h{level}"><a href="#{id}">{heading}</a></li>' for level, id, heading in HEADING.findall(body)]
    path.write_text(body.replace("@@CONTENTS@@", "\n".join(lines)) + mark, encoding="utf-8")


def table_row(stem: str, summary: Mapping[str, Any], suffix: str = ".ipynb") -> str:
    """Return a notebook's row of a results table in Markdown."""
    cells = f"[{stem}](notebooks/{stem}{suffix})", summary["question"], summary["answer"], summary.get("minutes") or ""
    return f"| {' | '.join(' '.join(str(cell).split()) for cell in cells)} |"


DOCTYPE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">"""


def write_page(folder: Path, line: str, rows: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write index.html with a line, the results table and every figure into a folder of results; return its path."""
    parts = [f"# latent-digits-lab\n\n{line}\n\n| notebook | question | answer | minutes |\n|---|---|---|--:|"]
    parts += [table_row(stem, row, ".html") for stem, row in sorted(rows.items())]
    for stem, row in sorted(rows.items()):
        words = {name: f"{stem}: {name.replace('_', ' ')}" for name in row["figures"]}
        parts += [
            f"\n![{text}; its notebook's page describes it]({stem}/{name}.png)\n{text}" for name, text in words.items()
        ]
    head = f"<title>latent-digits-lab</title><style>{STYLE.read_text(encoding='utf-8')}</style>"
    body = f'<div class="front jp-RenderedMarkdown">{markdown2html(chr(10).join(parts))}</div>'
    page = folder / "index.html"
    page.write_text(f"{DOCTYPE}{head}<body>{body}</body></html>", encoding="utf-8")
    return page
