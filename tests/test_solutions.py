"""The folded solutions of a notebook's exercises run at its end, in its kernel, as the reader is told."""

import re

import nbformat
import pytest
from nbclient import NotebookClient

from labutils.paths import ROOT

SOLUTION = re.compile(r"<summary>Solution</summary>(.*?)</details>", re.DOTALL)
CODE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def solutions(path):
    """The code of a notebook's folded solutions, in order."""
    prose = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    return [code for solution in SOLUTION.findall(prose) for code in CODE.findall(solution)]


WITH_SOLUTIONS = [path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if solutions(path)]


@pytest.mark.parametrize("path", WITH_SOLUTIONS, ids=lambda path: path.stem)
def test_the_solutions_run_after_their_notebook(path, tmp_path, monkeypatch):
    monkeypatch.setenv("LABUTILS_SCALE", "smoke")
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    notebook.cells += [nbformat.v4.new_code_cell(code) for code in solutions(path)]
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()


def test_the_first_notebook_has_solutions():
    assert len(solutions(ROOT / "notebooks" / "00_from_scratch.ipynb")) >= 4
