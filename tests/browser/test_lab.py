"""Notebook 11 in JupyterLab, in a real browser: keys and mouse move sliders, and pictures are the decoder's."""

import base64
import io
import json
import statistics
import time

import numpy as np
import pytest
import torch
from browser_places import SEEN
from PIL import Image

from labutils import LatentMap, load_dataset, load_run
from labutils.latent_map import GRID
from labutils.pictures import png

expect = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed").expect

EXPLORER = ".jp-OutputArea-output:has(.labutils-slider)"
MINUTES = 60_000

BYTES = """async (image) => {
    const buffer = await (await fetch(image.src)).arrayBuffer();
    return btoa(String.fromCharCode(...new Uint8Array(buffer)));
}"""
# the time from a key (or a mouse button) to the first frame after the new picture has loaded
STOPWATCH = """(image) => {
    window.times = [];
    let start = 0;
    document.addEventListener("keydown", () => { start = performance.now(); }, true);
    image.addEventListener("load", () => requestAnimationFrame(() => {
        if (start) window.times.push(performance.now() - start);
        start = 0;
    }));
}"""


@pytest.fixture(scope="module")
def notebook(browser, lab):
    """Notebook 11, run from top to bottom; gives the page and the seconds until its first picture could be moved."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(lab.url)
    page.wait_for_function("window.jupyterapp && window.jupyterapp.shell.currentWidget", timeout=MINUTES)
    page.wait_for_function(
        "() => { const s = jupyterapp.shell.currentWidget.sessionContext; return s && s.session && s.session.kernel && "
        "s.session.kernel.status === 'idle' }",
        timeout=MINUTES,
    )
    start = time.perf_counter()
    page.evaluate("() => { window.done = false; jupyterapp.commands.execute('notebook:run-all-cells')"
                  ".then(() => { window.done = true }) }")  # fmt: skip
    handle = page.locator(f"{EXPLORER} .labutils-slider .noUi-handle").first
    handle.wait_for(timeout=2 * MINUTES)
    picture = page.locator(f"{EXPLORER} img.labutils-pixels").first
    before = picture.get_attribute("src")
    handle.focus()
    page.keyboard.press("ArrowRight")
    expect(picture).not_to_have_attribute("src", before, timeout=2 * MINUTES)
    seconds = time.perf_counter() - start
    page.wait_for_function("window.done", timeout=3 * MINUTES)
    report(seconds_to_moving_digits=seconds, seconds_run_all=time.perf_counter() - start)
    yield page
    page.close()


def report(**figures):
    """Figures of this run, printed and kept: they are reported, never asserted."""
    file = SEEN / "latency.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    rounded = {name: round(value, 1) for name, value in figures.items()}
    file.write_text(json.dumps({**known, **rounded}, indent=1))
    print(rounded)


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


def picture_bytes(image):
    return base64.b64decode(image.evaluate(BYTES))


def shown_code(page):
    """The explorer's code as its text line says it, once it rests."""
    page.wait_for_timeout(600)
    text = page.locator(f"{EXPLORER} input[type=text]").first.input_value()
    return torch.tensor([float(number) for number in text.split(",")])


def check_picture(page):
    """The bytes of the <img> are those of the decoded code, up to the digits that the text line shows."""
    code, run = shown_code(page), load_run("vae16")
    got = pixels(picture_bytes(page.locator(f"{EXPLORER} img.labutils-pixels").first))
    assert np.abs(got - pixels(png(run.decode(code)))).max() <= 2
    return code


def test_no_cell_failed(notebook):
    assert notebook.locator(".jp-OutputArea-output[data-mime-type*='stderr']").count() == 0, "no traceback, no warning"
    assert notebook.locator(f"{EXPLORER} .labutils-slider").count() == 16
    widgets = notebook.evaluate("""() => jupyterapp.shell.currentWidget.content.widgets.map((cell) =>
        cell.model.type === 'code' ? cell.model.executionCount : 0)""")
    counts = [count for count in widgets if count]
    assert counts == list(range(1, len(counts) + 1))


def test_keys_move_a_slider_and_the_picture_follows(notebook):
    handles = notebook.locator(f"{EXPLORER} .labutils-slider .noUi-handle")
    picture = notebook.locator(f"{EXPLORER} img.labutils-pixels").first
    picture.scroll_into_view_if_needed()
    before = check_picture(notebook)
    picture.evaluate(STOPWATCH)
    for i in range(60):
        if i % 10 == 0:
            handles.nth(i // 10).focus()
        notebook.keyboard.press("ArrowRight" if i % 20 < 10 else "ArrowLeft")
        notebook.wait_for_function(f"window.times.length > {i}", timeout=MINUTES)
        notebook.wait_for_timeout(30)
    times = notebook.evaluate("window.times")
    after = check_picture(notebook)
    assert not torch.equal(before, after)
    report(key_to_picture_ms_median=statistics.median(times), key_to_picture_ms_p95=float(np.quantile(times, 0.95)))


def test_the_mouse_drags_a_slider(notebook):
    picture = notebook.locator(f"{EXPLORER} img.labutils-pixels").first
    notebook.evaluate("window.sources = new Set()")
    picture.evaluate("(image) => image.addEventListener('load', () => window.sources.add(image.src))")
    before = shown_code(notebook)
    slider = notebook.locator(f"{EXPLORER} .labutils-slider").nth(1)
    box, handle = slider.locator(".noUi-base").bounding_box(), slider.locator(".noUi-handle").bounding_box()
    y = handle["y"] + handle["height"] / 2
    notebook.mouse.move(handle["x"] + handle["width"] / 2, y)
    notebook.mouse.down()
    for share in np.linspace(0, 1, 25):
        notebook.mouse.move(box["x"] + share * box["width"], y)
        notebook.wait_for_timeout(20)
    notebook.mouse.up()
    after = check_picture(notebook)
    assert (before != after).sum() == 1
    assert notebook.evaluate("window.sources.size") > 5, "while dragging, not at the end"


def test_buttons_set_every_slider(notebook):
    explorer = notebook.locator(EXPLORER)
    for text in ("test image", "random code", "zeros", "reset"):
        explorer.get_by_role("button", name=text, exact=True).click()
        check_picture(notebook)
    assert (shown_code(notebook) == 0).all()
    line = explorer.locator("input[type=text]").first
    line.fill("1 2 3")
    line.press("Enter")
    expect(explorer.locator(".labutils-error")).to_contain_text("16 finite numbers")
    line.fill(" ".join(["0.5"] * 16))
    line.press("Enter")
    expect(explorer.locator(".labutils-error")).to_have_count(0)
    assert (check_picture(notebook) == 0.5).all()
    notebook.locator(f"{EXPLORER} img.labutils-pixels").first.scroll_into_view_if_needed()


@pytest.fixture
def smoke(monkeypatch):
    """The images that the notebook has."""
    monkeypatch.setenv("LABUTILS_SCALE", "smoke")
    return load_dataset("mnist5k")


def place(canvas, the_map, xy):
    """Where a point of a map is on the screen."""
    box, (x0, x1, y0, y1) = canvas.bounding_box(), the_map.extent
    inner = [box["width"] - 30, box["height"] - 30]
    return (box["x"] + 15 + (xy[0] - x0) / (x1 - x0) * inner[0], box["y"] + 15 + (y1 - xy[1]) / (y1 - y0) * inner[1])


def test_hovering_over_the_map_decodes_the_point(notebook, smoke):
    canvas = notebook.locator("canvas[aria-label^='map of']").first
    canvas.scroll_into_view_if_needed()
    the_map, picture = LatentMap("vae2", smoke), notebook.locator(".latent-map-picture").first
    seen = []
    for xy in ((0.0, 0.0), (1.0, -1.0), (-1.5, 0.5)):
        notebook.mouse.move(*place(canvas, the_map, xy))
        notebook.wait_for_timeout(1500)
        seen.append(pixels(picture_bytes(picture)))
        assert np.abs(seen[-1] - pixels(the_map.picture_at(*xy))).mean() < 4  # the mouse knows whole pixels only
    assert np.abs(seen[0] - seen[1]).mean() > 4
    notebook.screenshot(path=SEEN / "map.png")


def test_a_click_on_the_map_loads_the_digit(notebook, smoke):
    canvas = notebook.locator("canvas[aria-label^='map of']").nth(1)
    canvas.scroll_into_view_if_needed()
    the_map = LatentMap("vae16", smoke)
    xy = the_map.projection.xy
    distances = np.linalg.norm(xy[:, None] - xy[None], axis=2) + 1e9 * np.eye(len(xy))
    point = int(distances.min(1).argmax())  # the loneliest, so that the click means it alone
    point = max((i for i in range(len(xy)) if np.abs(xy[i]).max() < 3), key=lambda i: distances[i].min())
    notebook.mouse.click(*place(canvas, the_map, xy[point]))
    label = smoke.test.labels[the_map.index[point]]
    status = notebook.locator(f"{EXPLORER} .labutils-caption", has_text="started from").last
    expect(status).to_contain_text(f"test image {int(the_map.index[point])}, a {int(label)}")
    code = check_picture(notebook)
    torch.testing.assert_close(code, the_map.space.test_z[the_map.index[point]], rtol=1e-3, atol=1e-3)
    assert GRID**2 * 28**2 > 0


def test_panels_follow_their_controls(notebook):
    for text in ("from test image", "calculate", "codes from", "farthest"):
        panel = notebook.locator(".jp-OutputArea-output", has_text=text).filter(
            has=notebook.locator("img.labutils-pixels")
        )
        picture = panel.first.locator("img.labutils-pixels").last
        picture.scroll_into_view_if_needed()
        before = picture_bytes(picture)
        control = panel.first.locator("input[type=number], input[type=text], .noUi-handle, select").last
        if text == "calculate":
            control.fill("3 - 5 + 8")
            control.press("Enter")
        else:
            control.focus()
            notebook.keyboard.press("ArrowUp")
            notebook.keyboard.press("Enter")
        for _ in range(100):
            if picture_bytes(panel.first.locator("img.labutils-pixels").last) != before:
                break
            notebook.wait_for_timeout(100)
        else:
            pytest.fail(f"the panel “{text}” did not answer")
