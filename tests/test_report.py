"""The series: executed copies, a table and a page; nothing committed is touched."""

import nbformat
import pytest

from labutils import report
from labutils.report import run_series, save_results

CELLS = """
import pandas as pd
from labutils.plots import figure
from labutils.report import save_results
save_results("00_ok", "mnist5k", pd.DataFrame({"a": [1]}), {"empty": figure(1, 1)[0]}, question="2 < 3?", answer="Yes.")
"""


@pytest.fixture
def series(tmp_path, monkeypatch):
    """Two notebooks, the second of which fails."""
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path / "out"))
    monkeypatch.setattr(report, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(report, "load_dataset", lambda: type("Loaded", (), {"name": "mnist5k"}))
    for name, source in {"00_ok": CELLS, "01_bad": "assert False, 'a claim'"}.items():
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), tmp_path / f"{name}.ipynb")
    return tmp_path


@pytest.mark.filterwarnings("default")  # jupyter's own, in the client
def test_the_series_goes_on_past_a_failure_and_reports_it(series, capsys):
    before = {p: p.read_bytes() for p in series.glob("*.ipynb")}
    assert run_series() == 1
    assert {p: p.read_bytes() for p in series.glob("*.ipynb")} == before
    text = capsys.readouterr().out
    assert "Yes." in text
    assert "FAILED: AssertionError: a claim" in text
    folder = series / "out" / "local" / "mnist5k-full"
    page = (folder / "index.html").read_text()
    assert "2 &lt; 3?" in page
    assert "00_ok/empty.png" in page
    assert {p.name for p in (folder / "00_ok").iterdir()} == {"results.csv", "empty.png", "summary.json"}
    assert {p.name for p in (folder / "notebooks").glob("*.html")} == {"00_ok.html", "01_bad.html"}
    assert nbformat.read(folder / "notebooks" / "00_ok.ipynb", as_version=4).cells[0].execution_count == 1


def test_an_unknown_notebook_is_refused_before_anything_runs(series):
    with pytest.raises(ValueError, match="there are 00_ok, 01_bad"):
        run_series(["00_ok", "02_none"])
    assert not (series / "out" / "local").exists()


def test_saving_needs_no_notebook(series):
    import pandas as pd

    folder = save_results("x", "mnist", pd.DataFrame({"a": [1]}), {}, question="q", answer="a")
    assert (folder / "results.csv").read_text() == "a\n1\n"
