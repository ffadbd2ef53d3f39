"""What every notebook keeps to; that they run is nbmake's part (`make test`)."""

import ast
import json

import nbformat
import pytest
from solutions import NOTEBOOKS, solutions

from labutils.publish.execution import code_cells


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_checks_itself_in_short_cells_and_carries_no_machine(path):
    cells = ["".join(cell["source"]) for cell in code_cells(path)]
    tree = ast.parse("\n".join(cells))
    assert any(isinstance(node, ast.Assert) for node in ast.walk(tree)), "every claim is a check that can fail"
    lines = [[x for x in cell.splitlines() if x and not x.startswith(("import ", "from "))] for cell in cells]
    assert [n for n in map(len, lines) if n > 18] == [], "a cell has at most 18 lines, imports and blank ones aside"
    assert "pip install" not in "\n".join(cells), "requirements.txt installs"
    assert path.stat().st_size < 1_000_000, "a megabyte: fewer or smaller pictures"
    notebook = json.loads(path.read_text())
    assert "widgets" not in notebook["metadata"], "the state of widgets: save without it"
    assert not any("execution" in c["metadata"] for c in notebook["cells"]), "times of a machine: save without them"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_all_there_in_order_or_all_absent(path):
    counts = [cell["execution_count"] for cell in code_cells(path)]
    assert counts in ([None] * len(counts), list(range(1, len(counts) + 1))), "run all cells in order, or clear them"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_cell_has_a_text_that_nobody_sees(path):
    for cell in code_cells(path):
        *statements, _ = ast.parse("".join(cell["source"])).body
        texts = [s.value.value for s in statements if isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)]
        assert texts == [], "write it as a comment"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_folded_on_a_page_is_folded_in_jupyter(path):
    folded = {
        bool(cell["metadata"].get("jupyter", {}).get("source_hidden"))
        for cell in code_cells(path)
        if "hide-input" in cell["metadata"].get("tags", ())
    }
    assert folded == {True}, "a cell with the tag hide-input has jupyter.source_hidden in its metadata, too"
    assert "hide-input" in code_cells(path)[-1]["metadata"].get("tags", ()), "the last cell checks and saves, folded"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_exercises_have_solutions(path):
    notebook = nbformat.read(path, as_version=4)
    exercises = [cell.source for cell in notebook.cells if "## Exercises" in cell.source]
    assert len(exercises) == 1, "one cell with the heading ## Exercises"
    assert exercises[0].count("<summary>Solution</summary>") >= 4, "four exercises"
    assert len(solutions(notebook)) >= (4 if path.stem.startswith("00") else 3), "of which three have code"
