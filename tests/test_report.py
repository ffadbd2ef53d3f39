"""What a notebook shows: sources, figures with their descriptions, folded cells."""

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from labutils.objectives import squared_error
from labutils.plots import figure
from labutils.publish import report
from labutils.publish.execution import write_html
from labutils.publish.report import effects, judged, prepare, show, show_figure, verdict_table


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
        new_code_cell("import folded_module"),
        new_code_cell("open_cell = 2", outputs=[described, new_output("display_data", png)]),
    ]
    nbformat.write(new_notebook(cells=cells), tmp_path / "page.ipynb")
    write_html(tmp_path / "page.ipynb", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text().partition("<main")[2]  # behind the contents, which fold, too
    assert """alt='a "bent" &lt;curve&gt;'""" in page
    assert [page.count(f"<details><summary>{name}</summary>") for name in ("Code", "Imports")] == [1, 1]
    assert page.index("<summary>Imports") < page.index("folded_module")
    assert page.index("<details>") < page.index("folded_cell") < page.index("</details>") < page.index("open_cell")


def test_prepare_says_once_that_images_are_few(monkeypatch, digits):
    said = []
    monkeypatch.setattr(report, "display", lambda text: said.append(text.data))
    monkeypatch.setattr(report, "load_dataset", lambda name: digits)
    data, baseline, budgets = prepare("mnist")
    assert (data, baseline.dataset) == (digits, "mnist5k")
    assert "4,000 training, 500 validation and 500 test images" in said[0]
    assert said[1].startswith("> **Few images.**")
    short, long = sorted(budgets)
    assert long >= 4 * short


@pytest.mark.parametrize(("guess", "said"), [(None, ""), (0.5, "You predicted 0.5, off by a factor of 2.")])
def test_a_prediction_is_judged(guess, said):
    assert judged(guess, 0.25).strip() == said


def test_effects_are_said_with_their_intervals():
    index = pd.MultiIndex.from_product([[1, 6], ["relu", "silu", "2"]], names=["epochs", "arm"])
    table = pd.DataFrame({
        "lr": 0.01, "mean": 0.004, "n": 5, "n_params": 1, "macs": 1, "ratio": [None, 0.826, 9.44] * 2,
        "ratio_low": [None, 0.81, 9.1] * 2, "ratio_high": [None, 0.843, 10.2] * 2,
        "verdict": ["baseline", "better", "worse"] * 2,
    }, index)  # fmt: skip
    assert effects(table) == "silu × 0.83 [0.81, 0.84] / × 0.83 [0.81, 0.84]; 2 × 9.4 [9.1, 10.2] / × 9.4 [9.1, 10.2]"
    page = verdict_table(table, "Table 1.").to_html()
    assert "× 0.83 [0.81, 0.84]" in page
    assert page.count("font-weight: bold") == 1
