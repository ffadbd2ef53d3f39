"""Notebook 11 in Jupyter Notebook 7, in a real browser: what JupyterLab's tests do in short."""

import base64

import numpy as np
import pytest
from browser_places import SEEN
from test_lab import BYTES, EXPLORER, MINUTES, shown_code

expect = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed").expect
READY = """() => {
    const panel = window.jupyterapp && window.jupyterapp.shell.currentWidget, session = panel && panel.sessionContext;
    return session && session.session && session.session.kernel && session.session.kernel.status === 'idle';
}"""


@pytest.fixture(scope="module")
def notebook(browser, notebook_7):
    """Notebook 11, run from top to bottom."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(notebook_7.url)
    page.wait_for_function(READY, timeout=2 * MINUTES)
    page.evaluate("() => { window.done = false; jupyterapp.commands.execute('notebook:run-all-cells')"
                  ".then(() => { window.done = true }) }")  # fmt: skip
    page.wait_for_function("window.done", timeout=5 * MINUTES)
    page.locator(f"{EXPLORER} .labutils-slider .noUi-handle").first.wait_for(timeout=2 * MINUTES)
    yield page
    page.close()


def png_of(notebook, selector):
    return base64.b64decode(notebook.locator(selector).first.evaluate(BYTES))


def test_no_cell_failed(notebook):
    assert notebook.locator(".jp-OutputArea-output[data-mime-type*='stderr']").all_inner_texts() == []
    assert notebook.locator(f"{EXPLORER} .labutils-slider").count() == 16


def test_a_key_moves_a_slider_and_the_picture_follows(notebook):
    picture = notebook.locator(f"{EXPLORER} img.labutils-pixels").first
    picture.scroll_into_view_if_needed()
    code, before = shown_code(notebook), picture.get_attribute("src")
    handle = notebook.locator(f"{EXPLORER} .labutils-slider .noUi-handle").first
    handle.focus()
    notebook.keyboard.press("ArrowRight")  # which in Notebook 7 also unfolds a heading
    expect(picture).not_to_have_attribute("src", before, timeout=MINUTES)
    for _ in range(100):
        if (shown_code(notebook) != code).any():
            break
        notebook.wait_for_timeout(100)
    assert (shown_code(notebook) != code).sum() == 1


def test_a_digit_drawn_on_the_pad_is_encoded(notebook):
    pad = notebook.locator(f"{EXPLORER} canvas[aria-label='pad to draw a digit on']").first
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    for k, (u, v) in enumerate(((0.3, 0.25), (0.72, 0.25), (0.45, 0.8))):  # a seven
        notebook.mouse.move(box["x"] + u * box["width"], box["y"] + v * box["height"], steps=8 if k else 1)
        if k == 0:
            notebook.mouse.down()
    notebook.mouse.up()
    status = notebook.locator(f"{EXPLORER} .labutils-caption", has_text="started from").first
    expect(status).to_contain_text("your drawing", timeout=MINUTES)
    notebook.locator(EXPLORER).first.screenshot(path=SEEN / "notebook_7.png")


def test_mouse_and_keys_walk_over_the_map(notebook):
    canvas, picture = notebook.locator("canvas[aria-label^='map of']").first, ".latent-map-picture"
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    notebook.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.4 * box["height"])
    notebook.wait_for_timeout(1000)
    seen = [png_of(notebook, picture)]
    canvas.focus()
    for key in ("Shift+ArrowRight", "Shift+ArrowDown", "Shift+ArrowRight"):
        notebook.keyboard.press(key)
    notebook.wait_for_timeout(1000)
    assert png_of(notebook, picture) != seen[0]
    cells = notebook.evaluate("jupyterapp.shell.currentWidget.content.widgets.length")
    notebook.keyboard.press("Enter")
    expect(notebook.locator(".latent-map-text").first).to_contain_text("loaded a", timeout=MINUTES)
    assert notebook.evaluate("jupyterapp.shell.currentWidget.content.widgets.length") == cells
    assert np.isfinite(shown_code(notebook).numpy()).all()
