"""The series: executed copies, a table and a page; nothing committed is touched."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import nbformat
import numpy as np
import psutil
import pytest
from PIL import Image

from labutils.publish import execution as series_module
from labutils.publish.execution import run_series
from labutils.publish.report import save_results
from labutils.store.key import code_hash

LOADED = {"fashion_mnist": "fashion_mnist"}
CELLS = """
import pandas as pd
from labutils.plots import figure
from labutils.publish.report import save_results
save_results("00_ok", "mnist5k", pd.DataFrame({"a": [1]}), {"empty": figure(1, 1)[0]}, question="2 < 3?", answer="Yes.")
"""


@pytest.fixture
def series(tmp_path, monkeypatch):
    """Two notebooks, the second of which fails."""
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path / "out"))
    monkeypatch.setattr(series_module, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr("labutils.data.load_dataset", lambda name: SimpleNamespace(name=LOADED.get(name, "mnist5k")))
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
    made_with = json.loads((folder / "00_ok" / "summary.json").read_text())["made_with"]
    assert (made_with["code"], made_with["scale"]) == (code_hash(), "full")
    assert nbformat.read(folder / "notebooks" / "00_ok.ipynb", as_version=4).cells[0].execution_count == 1


@pytest.mark.skipif(os.name != "posix", reason="signals are those of Linux and macOS")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
def test_a_stopped_series_stops(tmp_path, how, request):
    waiting = nbformat.v4.new_code_cell("open('started', 'w').close(); import time; time.sleep(600)")
    nbformat.write(nbformat.v4.new_notebook(cells=[waiting]), tmp_path / "00_wait.ipynb")
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "01_never.ipynb")
    command = [
        sys.executable,
        "-m",
        "labutils",
        "run",
        str(tmp_path / "00_wait.ipynb"),
        str(tmp_path / "01_never.ipynb"),
    ]
    env = {**os.environ, "LABUTILS_OUTPUTS": str(tmp_path / "out"), "LABUTILS_SCALE": "smoke"}
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        request.addfinalizer(process.kill)
        deadline = time.monotonic() + 120
        while not (tmp_path / "started").exists() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(how)
        assert "stopped: in 00_wait" in process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert not psutil.wait_procs(family, timeout=30)[1]
    assert not list((tmp_path / "out").rglob("01_never*"))


def test_pictures_in_a_notebook_are_small_and_look_the_same():
    rng = np.random.default_rng(0)
    grey = np.repeat(np.repeat(rng.integers(0, 256, (30, 30), dtype=np.uint8), 10, 0), 10, 1)
    buffer = io.BytesIO()
    Image.fromarray(np.dstack([grey, grey, grey, np.full_like(grey, 255)])).save(buffer, "png")
    picture = nbformat.v4.new_output("display_data", data={"image/png": base64.b64encode(buffer.getvalue()).decode()})
    cell = nbformat.v4.new_code_cell("1", outputs=[picture])
    series_module._strip(cell)
    small = base64.b64decode(cell.outputs[0].data["image/png"])
    assert len(small) < len(buffer.getvalue())
    seen = np.asarray(Image.open(io.BytesIO(small)).convert("L")).astype(int)
    assert np.abs(seen - grey).mean() < 3


@pytest.mark.filterwarnings("default")
def test_one_notebook_more_keeps_the_others_on_the_page(series):
    assert run_series(["00_ok"]) == 0
    assert run_series(["01_bad"]) == 1
    page = (series / "out" / "local" / "mnist5k-full" / "index.html").read_text()
    assert "00_ok/empty.png" in page
    assert "01_bad" in page


@pytest.mark.filterwarnings("default")
def test_the_series_runs_on_other_images_in_a_folder_of_its_own(series, monkeypatch):
    knob = "DATASET = \"mnist\"  # or another\nassert DATASET == 'fashion_mnist', DATASET\n"
    source = knob + CELLS.replace('"mnist5k"', "DATASET").replace("00_ok", "02_any")
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), series / "02_any.ipynb")
    before = (series / "02_any.ipynb").read_bytes()
    monkeypatch.setenv("LABUTILS_DATASET", "fashion_mnist")
    assert run_series() == 0  # those without the knob are left out
    folder = series / "out" / "local" / "fashion_mnist-full"
    assert [p.name for p in folder.glob("0*")] == ["02_any"]
    assert (series / "02_any.ipynb").read_bytes() == before


@pytest.mark.filterwarnings("default")
def test_a_notebook_that_needs_other_images_is_left_out(series, monkeypatch):
    source = 'from labutils.publish.report import prepare\nDATASET = "mnist"\nprepare(DATASET, classes=2)'
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), series / "02_ten.ipynb")
    monkeypatch.setitem(LOADED, "digits", "digits")
    monkeypatch.setenv("LABUTILS_DATASET", "digits")
    assert run_series() == 0
    page = (series / "out" / "local" / "digits-full" / "index.html").read_text()
    assert "left out: this notebook is written for 28 × 28 grey pixels" in page
    assert run_series(["02_ten"]) == 1, "whoever asked for it waits for an answer"


def test_a_set_that_was_not_found_is_not_looked_for_in_each_notebook(series):
    source = "DATASET = \"mnist\"\nassert DATASET == 'mnist5k', DATASET"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), series / "02_any.ipynb")
    assert run_series(["02_any"]) == 0


def test_the_time_left_is_what_the_published_took_at_todays_pace(tmp_path, monkeypatch):
    monkeypatch.setattr(series_module, "ROOT", tmp_path)
    paths = [tmp_path / f"{name}.ipynb" for name in ("01_a", "02_b", "03_c")]
    for path, minutes in zip(paths, (2.0, 3.0, 5.0), strict=True):
        (tmp_path / "outputs" / path.stem).mkdir(parents=True)
        (tmp_path / "outputs" / path.stem / "summary.json").write_text(json.dumps({"minutes": minutes}))
    monkeypatch.setenv("LABUTILS_SCALE", "full")
    assert series_module._remaining(paths, [], "mnist") == ", about 10 min to the end"
    done = [{"notebook": "01_a", "minutes": 1.0, "failed": False}]  # on a machine that is twice as fast
    assert series_module._remaining(paths, done, "mnist") == ", about 4 min to the end"
    failed = [{"notebook": "02_b", "minutes": 0.1, "failed": True}]  # at once: that says nothing about the pace
    assert series_module._remaining(paths, done + failed, "mnist") == ", about 2 min to the end"
    left_out = [{"notebook": "02_b", "minutes": 0.1, "failed": False, "left out": True}]
    assert series_module._remaining(paths, done + left_out, "mnist") == ", about 2 min to the end"
    for few in ([], done, 2 * done):  # the same notebooks with fewer images are other work
        assert series_module._remaining([*paths, paths[2]], few, "mnist5k") == ""
    assert series_module._remaining([*paths, paths[2]], 3 * done, "mnist5k") == ", about 2 min to the end"
    (tmp_path / "outputs" / "03_c" / "summary.json").write_text("{}")
    assert series_module._remaining(paths, done, "mnist") == ""


def test_a_notebook_without_the_knob_is_refused_on_other_images(series, monkeypatch):
    monkeypatch.setenv("LABUTILS_DATASET", "fashion_mnist")
    with pytest.raises(ValueError, match=r"cannot choose the images of 00_ok: .* has the line DATASET"):
        run_series(["00_ok"])
    cells = [nbformat.v4.new_code_cell('DATASET = "mnist"')]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), series / "02_any.ipynb")
    with pytest.raises(ValueError, match="00_ok"):  # asked for by name: not left out without a word
        run_series(["02_any", "00_ok"])


def test_an_unknown_notebook_is_refused_before_anything_runs(series):
    with pytest.raises(ValueError, match="there are 00_ok, 01_bad"):
        run_series(["00_ok", "02_none"])
    assert not (series / "out" / "local").exists()


@pytest.mark.parametrize("quote", ['\\"', "'"])
def test_a_copy_that_would_replace_its_originals_results_is_refused_before_anything_runs(series, quote):
    copy = (series / "00_ok.ipynb").read_text().replace('save_results(\\"00_ok\\"', f"save_results({quote}00_ok{quote}")
    assert f"{quote}00_ok{quote}" in copy
    (series / "02_copy.ipynb").write_text(copy)
    with pytest.raises(ValueError, match=r"^02_copy.ipynb saves its results as '00_ok': write save_results\(.02_copy"):
        run_series()
    assert not (series / "out" / "local").exists()


def test_saving_needs_no_notebook(series):
    import pandas as pd

    folder = save_results("x", "mnist", pd.DataFrame({"a": [1]}), {}, question="q", answer="a")
    assert (folder / "results.csv").read_text() == "a\n1\n"
