"""Copies of the notebooks with the folded solutions of their exercises as cells at the end, where readers are told to
run them. `make test` executes these copies: `python tests/solutions.py FOLDER` writes them."""

import re
import shutil
import sys
from pathlib import Path

import nbformat

from labutils.paths import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLUTION = re.compile(r"<summary>Solution</summary>(.*?)</details>", re.DOTALL)
CODE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def solutions(notebook):
    """The code of a notebook's folded solutions, in order."""
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return [code for solution in SOLUTION.findall(prose) for code in CODE.findall(solution)]


def write_copies(folder):
    """Write them into a folder that holds nothing else afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        notebook.cells += [nbformat.v4.new_code_cell(code) for code in solutions(notebook)]
        nbformat.write(notebook, folder / path.name)


if __name__ == "__main__":
    write_copies(Path(sys.argv[1]))
