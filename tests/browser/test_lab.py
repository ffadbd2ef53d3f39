"""Notebook 11 in JupyterLab, in a real browser: keys and mouse move sliders, and pictures are the decoder's."""

import base64
import io
import json
import statistics
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from browser_places import SEEN
from PIL import Image

from labutils import LatentMap, load_dataset, load_run
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
    return np.asarray(Image.open(io.BytesIO(data)).convert("L")).astype(int)


def picture_bytes(image):
    return base64.b64decode(image.evaluate(BYTES))


def shown_code(page):
    """The explorer's code as its text line says it. The line follows when the explorer rests."""
    text = page.locator(f"{EXPLORER} input[type=text]").first.input_value()
    return torch.tensor([float(number) for number in text.split(",")])


def settled(page):
    """The shown code, once the bytes of the <img> are those of its picture, up to the digits that the line shows."""
    run, picture = load_run("vae16"), page.locator(f"{EXPLORER} img.labutils-pixels").first
    for _ in range(100):
        page.wait_for_timeout(300)
        code = shown_code(page)
        if np.abs(pixels(picture_bytes(picture)) - pixels(png(run.decode(code)))).max() <= 2:
            return code
    pytest.fail(f"the picture is not that of the code {code.tolist()}")


def test_no_cell_failed(notebook):
    assert notebook.locator(".jp-OutputArea-output[data-mime-type*='stderr']").all_inner_texts() == []
    assert notebook.locator(f"{EXPLORER} .labutils-slider").count() == 16
    widgets = notebook.evaluate("""() => jupyterapp.shell.currentWidget.content.widgets.map((cell) =>
        cell.model.type === 'code' ? cell.model.executionCount : 0)""")
    counts = [count for count in widgets if count]
    assert counts == list(range(1, len(counts) + 1))


def test_keys_move_a_slider_and_the_picture_follows(notebook):
    handles = notebook.locator(f"{EXPLORER} .labutils-slider .noUi-handle")
    picture = notebook.locator(f"{EXPLORER} img.labutils-pixels").first
    picture.scroll_into_view_if_needed()
    before = settled(notebook)
    picture.evaluate(STOPWATCH)
    for i in range(40):
        if i % 10 == 0:
            handles.nth(i // 10).focus()
        notebook.keyboard.press("ArrowRight" if i % 20 < 10 else "ArrowLeft")
        notebook.wait_for_timeout(400)
    notebook.wait_for_function("window.times.length === 40", timeout=MINUTES)
    times = notebook.evaluate("window.times")
    after = settled(notebook)
    assert not torch.equal(before, after)
    notebook.locator(EXPLORER).first.screenshot(path=SEEN / "explorer.png")
    report(key_to_picture_ms_median=statistics.median(times), key_to_picture_ms_p95=float(np.quantile(times, 0.95)))


def test_a_digit_drawn_on_the_pad_is_encoded(notebook):
    pad = notebook.locator(f"{EXPLORER} canvas[aria-label='pad to draw a digit on']").first
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    status = notebook.locator(f"{EXPLORER} .labutils-caption", has_text="started from").first
    for k, (u, v) in enumerate(((0.3, 0.25), (0.72, 0.25), (0.45, 0.8))):  # a seven
        notebook.mouse.move(box["x"] + u * box["width"], box["y"] + v * box["height"], steps=8 if k else 1)
        if k == 0:
            notebook.mouse.down()
    notebook.mouse.up()
    expect(status).to_contain_text("your drawing", timeout=MINUTES)
    code = settled(notebook)
    opinion = notebook.locator(f"{EXPLORER} .labutils-caption", has_text="a classifier sees: 7")
    expect(opinion).to_have_count(1, timeout=MINUTES)  # it follows when the pen rests
    assert code.abs().sum() > 0
    notebook.locator(EXPLORER).first.screenshot(path=SEEN / "explorer_drawn.png")


def test_the_mouse_drags_a_slider(notebook):
    picture = notebook.locator(f"{EXPLORER} img.labutils-pixels").first
    notebook.evaluate("window.sources = new Set()")
    picture.evaluate("(image) => image.addEventListener('load', () => window.sources.add(image.src))")
    before = settled(notebook)
    slider = notebook.locator(f"{EXPLORER} .labutils-slider").nth(1)
    box, handle = slider.locator(".noUi-base").bounding_box(), slider.locator(".noUi-handle").bounding_box()
    y = handle["y"] + handle["height"] / 2
    notebook.mouse.move(handle["x"] + handle["width"] / 2, y)
    notebook.mouse.down()
    for share in np.linspace(0, 1, 25):
        notebook.mouse.move(box["x"] + share * box["width"], y)
        notebook.wait_for_timeout(20)
    notebook.mouse.up()
    after = settled(notebook)
    assert (before != after).sum() == 1
    assert notebook.evaluate("window.sources.size") > 5, "while dragging, not at the end"


def test_buttons_set_every_slider(notebook):
    explorer = notebook.locator(EXPLORER)
    codes = [settled(notebook)]
    picture = explorer.locator("img.labutils-pixels").first
    picture.evaluate("(image) => image.addEventListener('load', () => { window.loads = (window.loads || 0) + 1; })")
    for text, status in (("test image", "test image"), ("random code", "a random code"), ("zeros", "zeros")):
        explorer.get_by_role("button", name=text, exact=True).click()
        expect(explorer.locator(".labutils-caption", has_text="started from").last).to_contain_text(status)
        notebook.wait_for_timeout(1000)
        codes.append(settled(notebook))
        assert notebook.evaluate("window.loads") == len(codes) - 1, "all sliders at once, one picture"
    assert not any(torch.equal(a, b) for a, b in pairwise(codes))
    assert (codes[-1] == 0).all()
    handle = explorer.locator(".noUi-handle").first
    handle.focus()
    notebook.keyboard.press("ArrowRight")
    notebook.wait_for_timeout(1000)
    assert (settled(notebook) != 0).sum() == 1
    explorer.get_by_role("button", name="reset", exact=True).click()
    notebook.wait_for_timeout(1000)
    assert (settled(notebook) == 0).all()
    line = explorer.locator("input[type=text]").first
    line.fill("1 2 3")
    line.press("Enter")
    expect(explorer.locator(".labutils-error")).to_contain_text("16 finite numbers")
    line.fill(" ".join(["0.5"] * 16))
    line.press("Enter")
    expect(explorer.locator(".labutils-error")).to_have_count(0)
    assert (settled(notebook) == 0.5).all()
    notebook.locator(f"{EXPLORER} img.labutils-pixels").first.scroll_into_view_if_needed()


def test_a_code_is_copied_and_a_picture_saved(notebook):
    notebook.context.grant_permissions(["clipboard-read", "clipboard-write"])
    explorer = notebook.locator(EXPLORER)
    code = settled(notebook)
    explorer.get_by_role("button", name="copy code").click()
    copied = notebook.evaluate("navigator.clipboard.readText()")
    assert [float(v) for v in copied.split(",")] == code.tolist()
    with notebook.expect_download() as download:
        explorer.get_by_text("save PNG").click()
    assert download.value.suggested_filename == "vae16.png"
    picture = explorer.locator("img.labutils-pixels").first
    np.testing.assert_array_equal(pixels(download.value.path().read_bytes()), pixels(picture_bytes(picture)))


@pytest.fixture
def smoke(monkeypatch):
    """The images that the notebook has."""
    monkeypatch.setenv("LABUTILS_SCALE", "smoke")
    return load_dataset("mnist5k")


def place(canvas, the_map, xy):
    """Where a point of a map is on the screen."""
    box, (x0, x1, y0, y1) = canvas.bounding_box(), the_map.projection.extent
    inner = [box["width"] - 30, box["height"] - 30]
    x, y = map(float, xy)
    return box["x"] + 15 + (x - x0) / (x1 - x0) * inner[0], box["y"] + 15 + (y1 - y) / (y1 - y0) * inner[1]


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
    notebook.locator(".jp-OutputArea-output:has(canvas[aria-label^='map of'])").first.screenshot(path=SEEN / "map.png")


def test_a_click_on_the_map_loads_the_digit(notebook, smoke):
    canvas = notebook.locator("canvas[aria-label^='map of']").nth(1)
    canvas.scroll_into_view_if_needed()
    the_map = LatentMap("vae16", smoke, "tsne")  # as the notebook draws it with so few images
    xy = the_map.projection.xy
    distances = np.linalg.norm(xy[:, None] - xy[None], axis=2) + 1e9 * np.eye(len(xy))
    x0, x1, y0, y1 = the_map.projection.extent
    inside = ((xy > [x0, y0]) & (xy < [x1, y1])).all(1)
    point = int(np.where(inside, distances.min(1), 0).argmax())  # the loneliest: the click means it alone
    notebook.mouse.click(*place(canvas, the_map, xy[point]))
    label = smoke.test.labels[the_map.index[point]]
    status = notebook.locator(f"{EXPLORER} .labutils-caption", has_text="started from").last
    expect(status).to_contain_text(f"test image {int(the_map.index[point])}, a {int(label)}")
    notebook.wait_for_timeout(1000)
    code = settled(notebook)
    torch.testing.assert_close(code, the_map.space.test_z[the_map.index[point]], rtol=1e-3, atol=1e-3)


def test_panels_follow_their_controls(notebook):
    for text in ("units, by importance", "from test image", "calculate", "codes from", "farthest"):
        output = notebook.locator(".jp-OutputArea-output", has_text=text)
        panel = output.filter(has=notebook.locator("img.labutils-pixels")).first
        panel.scroll_into_view_if_needed()
        sources = "(panel) => [...panel.querySelectorAll('img.labutils-pixels')].map((image) => image.src).join()"
        before = panel.evaluate(sources)
        control = panel.locator("input[type=number], input[type=text]").first
        control.fill("3 - 5 + 8" if text == "calculate" else "7")
        control.press("Enter")
        for _ in range(100):
            if panel.evaluate(sources) != before:
                break
            notebook.wait_for_timeout(100)
        else:
            pytest.fail(f"the panel “{text}” did not answer")
