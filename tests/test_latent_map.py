"""The map of codes: what it sends to the page, and what it answers."""

import base64
from dataclasses import replace

import numpy as np
import pytest
import torch
from ipywidgets.widgets import widget as ipywidgets_widget
from sklearn.decomposition import PCA
from test_widgets import TINY, message, trained_like

from labutils import LatentExplorer, LatentMap
from labutils.explore.latent_map import Projection
from labutils.explore.space import latent_space
from labutils.pictures import png


@pytest.fixture(scope="module")
def space(digits):
    return latent_space(trained_like(TINY), digits, n=200)


@pytest.fixture
def sent(monkeypatch):
    """What a map sends to the page."""
    messages = []
    monkeypatch.setattr(LatentMap, "send", lambda self, content: messages.append(content))
    return messages


def picture(images):
    """What the kernel answers: the address of a picture."""
    return {"picture": "data:image/png;base64," + base64.b64encode(png(images)).decode()}


def ask(the_map, content):
    the_map._handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})


def test_points_are_the_test_images(space):
    the_map = LatentMap(space, n=100)
    xy = np.frombuffer(base64.b64decode(the_map.data["xy"]), np.float32).reshape(-1, 2)
    labels = np.frombuffer(base64.b64decode(the_map.data["labels"]), "<u2")
    assert xy.shape == (100, 2)
    np.testing.assert_array_equal(labels, space.data.test.labels[the_map.index])
    x0, x1, y0, y1 = the_map.data["extent"]
    assert ((xy[:, 0] > x0) & (xy[:, 0] < x1) & (xy[:, 1] > y0) & (xy[:, 1] < y1)).mean() > 0.95
    the_map.close()


def test_hovering_is_answered_with_the_decoded_point(space, sent):
    the_map = LatentMap(space, n=100)
    ask(the_map, {"hover": [0.5, -0.25]})
    code = the_map.projection.inverse(torch.tensor([[0.5, -0.25]]))
    assert sent == [picture(space.decode(code))]
    the_map.close()


def test_a_conditional_decoder_is_told_the_class_of_the_nearest_image(digits, sent):
    space = latent_space(trained_like(replace(TINY, model="conditional_vae")), digits, n=200)
    the_map = LatentMap(space, n=60)
    for point in (5, 17, 40):
        x, y = (float(v) for v in the_map.projection.xy[point])
        ask(the_map, {"hover": [x, y]})
        code = the_map.projection.inverse(torch.tensor([[x, y]]))
        label = int(space.data.test.labels[the_map.index[point]])
        assert sent[-1] == picture(space.decode(code, label))
        assert sent[-1] != picture(space.decode(code))
    the_map.close()


class Own(torch.nn.Module):
    """A model of a reader's: it decodes in its own way."""

    def __init__(self, model):
        super().__init__()
        self.encode, self.decoder = model.encode, model.decoder

    def decode(self, z, y=None):
        return self.decoder(z).clamp(0, 1)


class Whole(torch.nn.Module):
    """Layers that are no sequence."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        return self.layers(x)


def test_what_the_browser_cannot_decode_the_kernel_does(digits, space):
    unknown_layer = trained_like(TINY)
    unknown_layer.decoder.append(torch.nn.Softplus())
    one_module = trained_like(TINY)
    one_module.decoder = Whole(one_module.decoder)
    models = [unknown_layer, Own(space.model), one_module]
    maps = [LatentMap(space, n=20), *(LatentMap(model, digits, n=20) for model in models)]
    assert [the_map.data["decoder"] is None for the_map in maps] == [False, True, True, True]
    for the_map in maps:
        the_map.close()


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_an_error_is_told_to_the_page_and_raised(digits, space, sent, kind):
    class Failing(Own):
        def decode(self, z, y=None):
            raise kind("shapes differ")

    the_map = LatentMap(Failing(space.model), digits, n=20)
    with pytest.raises(kind, match="shapes differ"):
        the_map._received(the_map, {"hover": [0.0, 0.0]}, [])  # ipywidgets would log it
    assert sent == [{"error": f"{kind.__name__}: shapes differ"}]
    the_map.close()


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_a_place_may_be_whole_numbers(space, method):
    the_map = LatentMap(space, method=method, n=50)
    assert the_map.picture_at(0, 1) == the_map.picture_at(0.0, 1.0)
    the_map.close()


def test_a_click_loads_the_image_into_the_explorer(space, sent):
    explorer = LatentExplorer(space)
    the_map = LatentMap(explorer=explorer, n=100)
    ask(the_map, {"click": 42})
    assert the_map.clicked == int(the_map.index[42])
    torch.testing.assert_close(explorer.z, space.test_z[the_map.clicked], rtol=1e-4, atol=1e-4)
    slider = next(iter(explorer.sliders.values()))
    message(slider, value=slider.max)  # the explorer goes on from there
    for one in (the_map, explorer):
        one.close()


def test_pca_is_inverted_exactly(space):
    projection = Projection(space.test_z, "pca")
    oracle = PCA(2, random_state=0).fit(space.test_z.numpy())
    z = projection.inverse(torch.from_numpy(projection.xy[:20]))
    np.testing.assert_allclose(z, oracle.inverse_transform(projection.xy[:20]), rtol=1e-3, atol=1e-3 * float(z.std()))


def test_two_units_are_their_own_map(digits):
    space = latent_space(trained_like(replace(TINY, latent_dim=2)), digits, n=200)
    the_map = LatentMap(space, n=50)
    assert the_map.projection.method == "codes"
    point = torch.tensor([[0.3, 1.5]])
    torch.testing.assert_close(the_map.projection.inverse(point), point, rtol=1e-4, atol=1e-4)
    the_map.close()


def test_where_there_is_no_inverse_the_nearest_code_answers(space):
    projection = Projection(space.test_z[:60], "tsne")
    near = torch.from_numpy(projection.xy[7:9]) + 1e-3
    assert torch.equal(projection.inverse(near), space.test_z[7:9])


@pytest.mark.parametrize("method", ["codes", "isomap"])
def test_an_impossible_projection_is_refused(space, method):
    with pytest.raises(ValueError, match="must be one of"):
        LatentMap(space, method=method)


def test_a_code_of_one_unit_has_no_map():
    with pytest.raises(ValueError, match="two units or more"):
        Projection(torch.rand(20, 1), "pca")


def test_a_closed_map_leaves_nothing(space):
    before = len(ipywidgets_widget._instances)
    LatentMap(space, n=50).close()
    assert len(ipywidgets_widget._instances) == before


def test_a_map_of_nothing_is_refused():
    with pytest.raises(ValueError, match="explorer"):
        LatentMap()
