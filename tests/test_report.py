"""What a notebook shows: sources, figures with their descriptions, folded cells."""

import nbformat
from nbformat.v4 import new_code_cell, new_notebook, new_output

from labutils.objectives import squared_error
from labutils.plots import figure
from labutils.publish import report
from labutils.publish.execution import write_html
from labutils.publish.report import show, show_figure


def test_show_gives_the_source_and_where_it_stands():
    text = show(squared_error).data
    assert text.startswith("`squared_error`, in `labutils/objectives.py`:\n\n```python\ndef squared_error(")
    assert 'F.mse_loss(model(x, y), x, reduction="sum")' in text
    assert show(nbformat.NotebookNode).data.count("class NotebookNode") == 1


def test_a_figure_is_shown_with_its_description_above_its_caption(monkeypatch):
    shown = []
    monkeypatch.setattr(report, "display", lambda thing, metadata=None: shown.append((thing, metadata)))
    show_figure(fig := figure(1, 1)[0], "**Figure 1.** A line.", "a line")
    assert shown[0] == (fig, {"image/png": {"alt": "a line"}})
    assert shown[1][0].data == "**Figure 1.** A line."


def test_a_page_carries_descriptions_and_folds_what_is_tagged(tmp_path):
    png = {"image/png": "iVBORw0KGgo="}
    described = new_output("display_data", png, metadata={"image/png": {"alt": 'a "bent" <curve>'}})
    cells = [
        new_code_cell("folded_cell = 1", metadata={"tags": ["hide-input"]}),
        new_code_cell("open_cell = 2", outputs=[described, new_output("display_data", png)]),
    ]
    nbformat.write(new_notebook(cells=cells), tmp_path / "page.ipynb")
    write_html(tmp_path / "page.ipynb", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert """alt='a "bent" &lt;curve&gt;'""" in page
    assert page.count("<details><summary>Code</summary>") == 1
    assert page.index("<details>") < page.index("folded_cell") < page.index("</details>") < page.index("open_cell")
