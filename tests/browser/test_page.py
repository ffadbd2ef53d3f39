"""The exported page, opened from a file: no server, no network, the same pictures as Python's."""

import base64
from dataclasses import replace

import numpy as np
import pytest
import torch
from browser_places import SEEN

from labutils import BASELINE, COMPACT, CONV_VAE, MLP_VAE
from labutils.config import Config
from labutils.explore.decoder import SCRIPTS
from labutils.explore.latent_map import LatentMap
from labutils.explore.page import export_html
from labutils.explore.space import latent_space
from labutils.models import build_model

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
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)


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
        return [float(value) for value in text.inner_text().split(")")[0].strip("(").split(",")]

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
