"""The exported page, opened from a file: no server, no network, the same pictures as Python's."""

import base64
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from browser_places import SEEN
from PIL import Image
from torch import nn

from labutils import BASELINE, COMPACT, CONV_VAE, MLP_VAE, load_run
from labutils.config import Config
from labutils.data import Dataset, Split
from labutils.explore.latent_map import LatentMap
from labutils.explore.network import SCRIPTS
from labutils.explore.page import export_html
from labutils.explore.space import latent_space
from labutils.kinds import has_field
from labutils.models import Autoencoder, build_model
from labutils.pictures import as_images
from labutils.store.weights import pretrained_index

MODELS = {
    "plain autoencoder": BASELINE,
    "batch norm and SiLU": COMPACT,
    "residual VAE": CONV_VAE,
    "conditional VAE": replace(CONV_VAE, model="conditional_vae", latent_dim=16),
    "MLP VAE with batch norm": replace(MLP_VAE, batch_norm=True, hidden=64),
    "depth 4, gelu": Config(filters=(4, 8, 8, 8, 8), depth=4, activation="gelu", latent_dim=2),
    "depth 1, elu": Config(filters=(4, 4), depth=1, activation="elu", latent_dim=3),
    "tanh": replace(BASELINE, activation="tanh"),
    "leaky relu": replace(BASELINE, activation="leaky_relu"),
}


ENCODE = "([x, y]) => x.map((pixels, i) => Array.from(labutils.encode(Float32Array.from(pixels), y[i])))"


def busy(config):
    """A model all of whose numbers matter: untrained norms do nothing, and a VAE's last layer starts near zero."""
    model = build_model(config).eval()
    generator = torch.Generator().manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            for tensor, low, high in ((layer.running_mean, -1, 1), (layer.running_var, 0.5, 2),
                                      (layer.weight.data, 0.5, 1.5), (layer.bias.data, -0.5, 0.5)):  # fmt: skip
                tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))
    if hasattr(model, "posterior"):
        for network in (model.encoder, model.decoder):
            last = [layer for layer in network if hasattr(layer, "weight")][-1]
            last.weight.data.mul_(100)
    if getattr(model, "conditional", False):
        model.label_shift.weight.data.normal_(generator=generator)
    return model


def opened(page, space, tmp_path, **options):
    """The exported page, and every address that it asks for."""
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    path = export_html(space, tmp_path / "page.html", n=150, **options)
    page.goto(path.as_uri())
    page.wait_for_function("window.labutils")
    return asked


def canvas_pixels(page, selector):
    data = page.locator(selector).evaluate("(c) => Array.from(c.getContext('2d').getImageData(0, 0, 28, 28).data)")
    return np.array(data).reshape(28, 28, 4)[..., 0]


@pytest.mark.parametrize("name", MODELS)
def test_the_page_decodes_as_python_does(page, name, digits, tmp_path):
    config = MODELS[name]
    space = latent_space(busy(config), digits, n=200)
    asked = opened(page, space, tmp_path)
    z = 3 * torch.randn(20, config.latent_dim, generator=torch.Generator().manual_seed(1))
    labels = list(range(10)) * 2 if space.conditional else [-1] * 20
    got = page.evaluate("([z, y]) => z.map((code, i) => Array.from(labutils.decode(code, y[i])))", [z.tolist(), labels])
    expected = space.decode(z, torch.tensor(labels) if space.conditional else None).flatten(1).numpy()
    at = LatentMap(space, n=150).projection.xy[:20]  # where an image is, a conditional decoder is told its class
    label_at = page.evaluate("(xy) => xy.map(([x, y]) => labutils.labelAt(x, y))", at.tolist())
    index = torch.arange(150) * len(digits.test) // 150
    assert label_at == (digits.test.labels[index[:20]].tolist() if space.conditional else [-1] * 20)
    assert expected.std() > 0.02, "pictures that differ"
    assert np.abs(np.array(got) - expected).max() < 1e-3
    x, y = digits.test.images[:20], torch.tensor(labels) if space.conditional else None
    codes = page.evaluate(ENCODE, [(x.flatten(1) / 255).tolist(), labels])
    np.testing.assert_allclose(codes, space.encode(x, y), atol=1e-3, rtol=1e-3)
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)


@pytest.mark.parametrize("name", [name for name in pretrained_index() if name != "classifier"])
def test_the_page_encodes_as_python_does(page, name, digits, tmp_path):
    run = load_run(name)
    space = latent_space(run, digits, n=200)
    asked = opened(page, space, tmp_path, classifier="classifier", method="tsne")
    x, y = digits.test.images[:100], digits.test.labels[:100] if space.conditional else None
    z = run.encode(x, y)
    labels = [-1] * 100 if y is None else y.tolist()
    pixels = (x.flatten(1) / 255).tolist()
    got = page.evaluate(
        "([x, y]) => x.map((p, i) => Array.from(labutils.encode(Float32Array.from(p), y[i])))", [pixels, labels]
    )
    # codes of an autoencoder reach tens: float32 sums in another order differ in their last digits
    np.testing.assert_allclose(got, z, atol=1e-4, rtol=1e-4)
    shares = page.evaluate("(x) => x.map((p) => Array.from(labutils.classify(Float32Array.from(p))))", pixels)
    with torch.inference_mode():
        expected = load_run("classifier").model(x.float() / 255).softmax(1)
    np.testing.assert_allclose(shares, expected, atol=1e-4)
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)


def test_the_page_frames_drawings_as_python_does(page, digits, tmp_path):
    opened(page, latent_space(busy(replace(BASELINE, latent_dim=6)), digits, n=200), tmp_path)
    zoomed = torch.nn.functional.interpolate(digits.test.images[:40] / 255, (97, 111), mode="bilinear").clamp(0, 1)
    small = torch.nn.functional.pad(digits.test.images[40:50, :, 4:24:2, 4:24:2] / 255, (9, 40, 30, 2))  # must grow
    for drawings in (zoomed, small):
        height, width = drawings.shape[2:]
        got = page.evaluate("([x, w, h]) => x.map((ink) => Array.from(labutils.framed(ink, w, h)))",
                            [drawings.flatten(1).tolist(), width, height])  # fmt: skip
        expected = [as_images(drawing[0].numpy())[0].flatten().tolist() for drawing in drawings]
        np.testing.assert_allclose(got, expected, atol=1e-4)
    assert page.evaluate("labutils.framed(new Float32Array(100), 10, 10)") is None


def draw(page, selector, points, steps=8):
    """Draw strokes with the mouse, each a list of places in shares of the element."""
    box = page.locator(selector).bounding_box()
    for stroke in points:
        for k, (u, v) in enumerate(stroke):
            page.mouse.move(box["x"] + u * box["width"], box["y"] + v * box["height"], steps=steps if k else 1)
            if k == 0:
                page.mouse.down()
        page.mouse.up()


SEVEN = [[(0.3, 0.25), (0.72, 0.25), (0.45, 0.8)]]


def test_a_drawn_digit_is_encoded_while_the_stroke_grows(page, digits, tmp_path):
    opened(page, latent_space("vae16", digits, n=200), tmp_path, classifier="classifier", method="tsne")
    page.evaluate("""() => {
        window.delays = []; window.codes = new Set();
        const pad = document.querySelector("#pad canvas");
        pad.addEventListener("pointermove", (event) => {
            if (!event.buttons) return;
            const before = document.querySelector("#code").value, begin = performance.now();
            const look = () => {
                const now = document.querySelector("#code").value;
                if (now === before && performance.now() - begin < 300) return requestAnimationFrame(look);
                delays.push(performance.now() - begin); codes.add(now);
            };
            requestAnimationFrame(look);
        });
    }""")
    draw(page, "#pad canvas", SEVEN)
    page.wait_for_timeout(400)
    assert page.locator("#status").inner_text() == "started from your drawing"
    assert page.locator("#what").inner_text() == "your drawing"
    assert page.evaluate("codes.size") > 4, "it follows the stroke"
    assert page.locator("#opinion span").first.inner_text() == "7"
    assert page.locator("#neighbours").inner_text().count("7") >= 3
    framed = 1 - canvas_pixels(page, "#real") / 255
    code = [float(v) for v in page.locator("#code").input_value().split(",")]
    np.testing.assert_allclose(code, load_run("vae16").encode(torch.tensor(framed, dtype=torch.float32)[None, None])[0],
                               atol=0.02)  # fmt: skip
    delays = sorted(page.evaluate("delays"))
    report = SEEN / "pen.json"
    report.write_text(json.dumps({"median_ms": delays[len(delays) // 2], "n": len(delays)}))
    page.screenshot(path=SEEN / "drawn.png", full_page=True)
    page.locator("#pad button", has_text="undo").click()
    page.wait_for_timeout(100)
    darkest = """() => Math.min(...document.querySelector("#pad canvas").getContext("2d").getImageData(0, 0, 168, 168)
                 .data.filter((_, i) => i % 4 === 0))"""
    assert page.evaluate(darkest) == 255


def test_who_is_told_the_digit_is_told_what_the_classifier_reads(page, digits, tmp_path):
    space = latent_space("conditional_vae", digits, n=200)
    opened(page, space, tmp_path, classifier="classifier", method="tsne")
    page.locator("#label").select_option("0")
    draw(page, "#pad canvas", SEVEN)
    page.wait_for_timeout(200)
    assert page.locator("#label").input_value() == "7"
    page.locator("#pad button", has_text="clear").click()
    page.wait_for_timeout(100)
    assert "started from test image" in page.locator("#status").inner_text()


def test_a_picture_is_put_on_the_pad_whichever_way_its_ink(page, digits, tmp_path):
    opened(page, latent_space("vae16", digits, n=200), tmp_path, classifier="classifier", method="tsne")
    three = int((digits.test.labels == 3).nonzero()[0])
    pixels = torch.nn.functional.interpolate(digits.test.images[[three]], scale_factor=5)[0, 0].numpy()
    for name, picture in (("light on dark", pixels), ("dark on light", 255 - pixels)):
        Image.fromarray(picture).save(tmp_path / "picture.png")
        page.locator("#pad input[type=file]").set_input_files(tmp_path / "picture.png")
        page.wait_for_function("document.querySelector('#status').textContent === 'started from your drawing'")
        page.wait_for_timeout(200)
        assert page.locator("#opinion span").first.inner_text() == "3", name
        page.locator("#pad button", has_text="clear").click()
        page.locator("#zeros").click()


def test_the_page_fits_a_telephone(browser, digits, tmp_path):
    page = browser.new_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    opened(page, latent_space("vae16", digits, n=200), tmp_path, classifier="classifier", method="tsne")
    for width in (320, 360, 390):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=SEEN / "telephone.png", full_page=True)
    page.locator("#random").click()
    assert not page.locator("#pair").is_visible()
    page.locator("#sliders input").last.scroll_into_view_if_needed()
    box = page.locator("#picture").bounding_box()
    assert 0 <= box["y"] < 300, "the picture stays in sight of its sliders"
    slider = page.locator("#sliders input").nth(5)
    code = page.locator("#code").input_value
    before, box, scrolled = code(), slider.bounding_box(), page.evaluate("scrollY")
    finger = {"x": box["x"] + 0.8 * box["width"], "y": box["y"] + box["height"] / 2}
    touch = page.context.new_cdp_session(page)
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [finger]})
    for step in range(15):
        moved = {**finger, "y": finger["y"] + 10 * step}
        touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [moved]})
        page.wait_for_timeout(16)
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert page.evaluate("scrollY") < scrolled - 50
    assert code() == before, "a finger that scrolls changes no code"
    page.screenshot(path=SEEN / "telephone_sliders.png")
    page.close()


def test_the_page_is_alive(page, digits, tmp_path):
    space = latent_space(busy(replace(BASELINE, latent_dim=6)), digits, n=200)
    opened(page, space, tmp_path)
    first = page.locator("#sliders input").first
    before = canvas_pixels(page, "#picture")
    first.focus()
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    code = page.locator("#code").input_value()
    z = torch.tensor([[float(v) for v in code.split(",")]])
    expected = 255 * (1 - space.decode(z)[0, 0].numpy())
    assert np.abs(canvas_pixels(page, "#picture") - expected).max() <= 1.5
    assert not np.array_equal(before, canvas_pixels(page, "#picture"))
    for button in ("image", "random", "zeros", "reset"):
        page.locator(f"#{button}").click()
    assert [float(v) for v in page.locator("#code").input_value().split(",")] == [0.0] * 6
    page.locator("#code").fill("1 2 3")
    page.locator("#code").press("Enter")
    assert "6 numbers" in page.locator("#status").inner_text()
    page.locator("#code").fill("0.1 0.2 0.3, 0.4 0.5 0.6")
    page.locator("#code").press("Enter")
    assert "typed code" in page.locator("#status").inner_text()


def test_a_class_that_the_page_lacks_changes_nothing(page, digits, tmp_path):
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    space = latent_space(busy(replace(BASELINE, latent_dim=6)), digits, n=200)
    path = export_html(space, tmp_path / "page.html", n=6)
    page.goto(path.as_uri())
    page.wait_for_function("window.labutils")
    before = page.locator("#code").input_value()
    lacking = page.evaluate("[...Array(10).keys()].find((k) => !labutils.labels.includes(k))")
    page.locator("#digit").select_option(str(lacking))
    page.locator("#image").click()
    assert page.locator("#code").input_value() == before
    page.locator("#digit").select_option("-1")
    page.locator("#image").click()
    assert page.locator("#code").input_value() != before
    assert not errors


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_the_map_of_the_page_hovers_and_clicks(page, digits, tmp_path, method):
    space = latent_space(busy(replace(BASELINE, latent_dim=6)), digits, n=200)
    opened(page, space, tmp_path, method=method)
    page.screenshot(path=SEEN / "page.png")
    box = page.locator("#map canvas").bounding_box()
    pictures = set()
    for share in (0.3, 0.5, 0.7):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + share * box["height"])
        pictures.add(page.locator(".latent-map-picture").get_attribute("src"))
    assert len(pictures) == 3
    # in the page as in Python: a point of the map to its code
    the_map = LatentMap(space, method=method, n=150)
    xy = [[0.3, -0.2], [1.0, 0.5]]
    got = page.evaluate("(xy) => xy.map(([x, y]) => Array.from(labutils.inverse(x, y)))", xy)
    torch.testing.assert_close(torch.tensor(got), the_map.projection.inverse(torch.tensor(xy)), rtol=1e-3, atol=1e-3)
    the_map.close()
    x0, x1, y0, y1 = the_map.projection.extent
    px, py = the_map.projection.xy[20]
    u = box["x"] + 15 + (px - x0) / (x1 - x0) * (box["width"] - 30)
    v = box["y"] + 15 + (y1 - py) / (y1 - y0) * (box["height"] - 30)
    page.mouse.click(float(u), float(v))
    assert "started from test image" in page.locator("#status").inner_text()
    page.mouse.click(box["x"] + 4, box["y"] + 4)
    corner = torch.tensor([[x0 - 11 / (box["width"] - 30) * (x1 - x0), y1 + 11 / (box["height"] - 30) * (y1 - y0)]])
    code = torch.tensor([page.evaluate("Array.from(labutils.code())")])
    torch.testing.assert_close(code, the_map.projection.inverse(corner), rtol=1e-3, atol=1e-2)
    origin = "the map at" if method == "pca" else "test image"  # of t-SNE a place is the nearest image
    assert page.locator("#status").inner_text().startswith(f"started from {origin}")
    assert page.locator("#pair").is_visible() == (method == "tsne")
    page.locator("#image").click()
    assert "○" in page.locator(".latent-map-mark").inner_text()
    page.locator("#sliders input").first.press("ArrowRight")
    page.wait_for_timeout(300)
    assert "×" in page.locator(".latent-map-mark").inner_text()
    page.locator("#zeros").click()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.locator("#map canvas").focus()
    before = page.locator(".latent-map-picture").get_attribute("src")
    for key in ("ArrowLeft", "ArrowDown", "Shift+ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    assert page.locator(".latent-map-picture").get_attribute("src") != before
    assert "started from zeros" in page.locator("#status").inner_text()
    page.keyboard.press("Enter")
    assert "started from test image" in page.locator("#status").inner_text()


WIDGET = """async ([script, data]) => {
    const widget = (await import(`data:text/javascript;base64,${script}`)).default;
    window.sent = [];
    const model = { get: () => data, send: (message) => sent.push(message), on: (event, f) => { window.answer = f; } };
    widget.render({ model, el: document.body });
}"""


def test_a_map_that_the_kernel_decodes_asks_one_question_at_a_time(page, digits):
    model = busy(replace(BASELINE, latent_dim=6))
    model.decoder.append(torch.nn.Softplus())
    the_map = LatentMap(latent_space(model, digits, n=200), n=50)
    page.evaluate(WIDGET, [base64.b64encode(SCRIPTS.encode()).decode(), the_map.data])
    the_map.close()
    box = page.locator("canvas").bounding_box()
    text, picture = page.locator(".latent-map-text"), page.locator(".latent-map-picture")

    def hover(x):
        """Move the mouse, and return the place that the map tells."""
        page.mouse.move(box["x"] + x, box["y"] + 200)
        return [float(value) for value in text.inner_text().split("(")[1].split(")")[0].split(",")]

    places = [hover(x) for x in (100, 200, 300)]
    assert len(page.evaluate("sent")) == 1  # the centre, before the mouse came
    page.evaluate("answer({ picture: 'data:,first' })")
    assert picture.get_attribute("src") == "data:,first"
    assert [message["hover"] for message in page.evaluate("sent")[1:]] == [pytest.approx(places[-1], abs=0.006)]
    page.evaluate("answer({ error: 'RuntimeError: <b>shapes</b> differ' })")
    assert text.inner_text() == "RuntimeError: <b>shapes</b> differ"
    assert len(page.evaluate("sent")) == 2  # the mouse rests
    hover(400)
    assert len(page.evaluate("sent")) == 3  # after an error the next place is asked for


@pytest.mark.parametrize("channels", [1, 3])
def test_a_page_flattens_maps_as_python_does(page, channels, digits, tmp_path):
    shades = torch.arange(1, channels + 1).view(1, -1, 1, 1)
    images = (digits.test.images[:100] // shades).to(torch.uint8)
    part = Split(images, digits.test.labels[:100])
    data = Dataset("mine", "a test", "none", part, part, part, digits.classes)
    encoder = nn.Sequential(nn.Conv2d(channels, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(784, 3))
    decoder = nn.Sequential(nn.Linear(3, 784), nn.Unflatten(1, (4, 14, 14)), nn.ReLU(),
                            nn.ConvTranspose2d(4, channels, 3, 2, 1, output_padding=1))  # fmt: skip
    model = Autoencoder(Config(latent_dim=3, channels=channels), encoder, decoder)
    space = latent_space(model, data, n=100)
    opened(page, space, tmp_path)
    z = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    got = page.evaluate("(z) => z.map((code) => Array.from(labutils.decode(code, -1)))", z.tolist())
    expected = space.decode(z).permute(0, 2, 3, 1).flatten(1).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-4)
    pixels = (images[:3].permute(0, 2, 3, 1).flatten(1) / 255).tolist()
    np.testing.assert_allclose(
        page.evaluate(ENCODE, [pixels, [-1] * 3]), space.encode(images[:3]), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("kind", ["cae", "linear", "mlp_vae", "conditional_vae"])
@pytest.mark.parametrize(("channels", "size"), [(3, 16), (1, 9)])
def test_a_page_of_other_images_computes_as_python_does(page, kind, channels, size, tmp_path):
    generator = torch.Generator().manual_seed(0)
    images = (255 * torch.rand(120, channels, size, size, generator=generator) ** 2).to(torch.uint8)
    part = Split(images, torch.arange(120) % 3)
    data = Dataset("leaves", "a test", "none", part, part, part, ("ash", "oak", "yew"))
    fields = {"filters": (4, 6), "depth": 2} if has_field(kind, "filters") else {}
    config = Config(model=kind, image_size=size, channels=channels, classes=3, latent_dim=3, **fields)
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    space = latent_space(busy(config), data, n=120)
    opened(page, space, tmp_path)
    labels = [0, 1, 2] if space.conditional else [-1] * 3
    y = torch.tensor(labels) if space.conditional else None
    z = torch.randn(3, 3, generator=generator)
    got = page.evaluate("([z, y]) => z.map((code, i) => Array.from(labutils.decode(code, y[i])))", [z.tolist(), labels])
    expected = space.decode(z, y).permute(0, 2, 3, 1).flatten(1).numpy()  # the page keeps channels last
    np.testing.assert_allclose(got, expected, atol=1e-4)
    x = images[:3]
    pixels = (x.permute(0, 2, 3, 1).flatten(1) / 255).tolist()
    np.testing.assert_allclose(page.evaluate(ENCODE, [pixels, labels]), space.encode(x, y), atol=1e-4, rtol=1e-4)
    drawn = page.locator("#picture").evaluate(
        "(c) => [c.width, Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)]"
    )
    shown = np.array(drawn[1]).reshape(drawn[0], drawn[0], 4)[..., :channels]
    first = space.decode(space.encode(images[:1], 0), 0)[0].permute(1, 2, 0).numpy()
    assert drawn[0] == size
    assert np.abs(shown - 255 * (1 - first if channels == 1 else first)).max() <= 1
    assert page.locator("#pad").is_hidden()
    page.locator("#digit").select_option("1")
    page.locator("#image").click()
    assert "oak" in page.locator("#status").inner_text()
    assert not errors
