"""Each panel answers its question, and answers anew when a control moves."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from ipywidgets import Image, VBox
from ipywidgets.widgets import widget as ipywidgets_widget
from PIL import Image as Picture
from test_widgets import TINY, message, trained_like

from labutils.codes import interpolate
from labutils.explore import panels
from labutils.explore.panels import arithmetic, arithmetic_code, interpolation, random_digits, side_by_side, traversals
from labutils.explore.space import RANDOM, latent_space
from labutils.pictures import png


@pytest.fixture(scope="module")
def space(digits):
    return latent_space(trained_like(TINY), digits, n=300)


def views(widget):
    if isinstance(widget, Image):
        return [widget]
    return [v for child in getattr(widget, "children", ()) for v in views(child)]


def pixels(data):
    return np.asarray(Picture.open(io.BytesIO(data)))


def test_traversals_move_one_unit_through_its_range(space):
    panel = traversals(space, units=3)
    first = views(panel.box)[0].value
    z = space.encode(space.data.test.images[:1])[0].repeat(11, 1)
    unit = space.order[0]
    z[:, unit] = torch.linspace(float(space.low[unit]), float(space.high[unit]), 11)
    np.testing.assert_array_equal(pixels(first), pixels(png(space.decode(z))))
    message(panel.controls[0], value=5)
    assert views(panel.box)[0].value != first
    message(panel.controls[1], index=1)  # units 3 to 5: every page is full
    texts = [row.children[0].value for row in panel.box.children if len(views(row)) == 1]
    assert [text.split()[0] for text in texts] == [f"z{unit}" for unit in space.order[2:]]
    panel.close()


def test_interpolation_meets_both_ends(space):
    panel = interpolation(space, a=3, b=8)
    start, end, way, at = panel.controls
    left, between, _, strip = views(panel.box)
    assert pixels(left.value).shape == (28, 28)
    z = space.encode(space.data.test.images[[3, 8]])
    for spherical in (False, True):
        message(way, index=int(spherical))
        expected = space.decode(interpolate(*z, 11, spherical=spherical))
        np.testing.assert_allclose(pixels(strip.value).astype(int), pixels(png(expected)), atol=1)
        for share, column in ((0.0, 0), (1.0, 10), (0.5, 5)):
            message(at, value=share)
            tile = pixels(strip.value)[:, 28 * column : 28 * column + 28].astype(int)
            np.testing.assert_allclose(pixels(between.value), tile, atol=1)
    before = strip.value
    message(at, value=0.3)
    assert strip.value == before  # the place alone moves one picture
    message(start, value=4)
    message(end, value=9)
    assert strip.value != before
    panel.close()


def test_digits_can_be_calculated_with(space):
    mean = {d: space.mean_code(d) for d in range(10)}
    one = space.encode(space.data.test.images[12:13])[0]
    for text, code, names in (
        ("7 - 1 + 4", mean[7] - mean[1] + mean[4], ["7", "1", "4"]),
        ("(3 + 8) / 2", (mean[3] + mean[8]) / 2, ["3", "8"]),
        ("0.5 * 3 − #12", 0.5 * mean[3] - one, ["3", "#12"]),
        ("3 - 3", torch.zeros(5), ["3"]),
    ):
        got, operands = arithmetic_code(text, space)
        torch.testing.assert_close(got, code)
        assert list(operands) == names
        labels = [int(space.data.test.labels[12]) if "#" in name else int(name) for name in names]
        assert [label for _, label in operands.values()] == labels
    for text in panels.EXAMPLES:
        assert arithmetic_code(text, space)[0].isfinite().all()


@pytest.mark.parametrize(
    "text",
    [
        "7 +",
        "exit()",
        "12",
        "True",
        "#99999",
        "3 *",
        "1/0",
        "7**2",
        "",
        "image",
        "7 / 1 / 0",
    ],
)
def test_what_is_no_expression_is_refused(space, text):
    with pytest.raises(ValueError, match=r"digits|expression|last"):
        arithmetic_code(text, space)


def test_arithmetic_shows_operands_and_result_and_errors(space):
    panel = arithmetic(space)
    assert len(views(panel.box)) == 4
    message(panel.controls[0], value="2 - #3")
    assert len(views(panel.box)) == 3
    code = arithmetic_code("2 - #3", space)[0]
    np.testing.assert_array_equal(pixels(views(panel.box)[-1].value), pixels(png(space.decode(code[None]))))
    message(panel.controls[0], value="7 !")  # ipywidgets logs what a message from the page raises
    assert "7 !" in panel.status.line.value
    assert isinstance(panel.status.error, ValueError)
    with pytest.raises(ValueError, match="7 \\?"):
        panel.controls[0].value = "7 ?"
    message(panel.controls[0], value="1")
    assert panel.status.error is None
    panel.close()


def test_a_conditional_decoder_is_told_what_its_operands_are(digits):
    space = latent_space(trained_like(replace(TINY, model="conditional_vae")), digits, n=300)
    panel = arithmetic(space, expression="3 - #12")
    three, image, _ = views(panel.box)
    code, operands = arithmetic_code("3 - #12", space)
    label = int(digits.test.labels[12])
    assert three.value == png(space.decode(space.mean_code(3)[None], 3))
    assert image.value == png(space.decode(space.encode(digits.test.images[12:13], label), label))
    assert image.value != png(space.decode(operands["#12"][0][None]))
    for label in (5, -1):  # −1: nothing
        panel.controls[1].value = label
        assert views(panel.box)[-1].value == png(space.decode(code[None], label))
    assert views(panel.box)[-1].value == png(space.decode(code[None]))
    panel.close()


@pytest.mark.parametrize("method", RANDOM)
def test_every_sampler_has_a_grid(space, method):
    panel = random_digits(space, method=method, n=20)
    grid = views(panel.box)[0]
    assert pixels(grid.value).shape == (56, 15 * 28)
    before = grid.value
    message(panel.controls[2], value=1)
    assert grid.value != before
    message(panel.controls[2], value=0)
    assert grid.value == before
    panel.close()


def test_a_conditional_model_dreams_of_a_class(digits):
    space = latent_space(trained_like(replace(TINY, model="conditional_vae")), digits, n=200)
    panel = random_digits(space, method="prior", n=4)
    before = views(panel.box)[0].value
    message(panel.controls[1], index=3)
    assert views(panel.box)[0].value != before
    panel.close()


def test_two_models_walk_the_same_way(space, digits):
    other = latent_space(trained_like(replace(TINY, model="conv_vae")), digits, n=100)
    panel = side_by_side({"AE": space, "VAE": other})
    real, *strips = views(panel.box)
    assert len(strips) == 2
    rebuilt = pixels(png(space.decode(space.encode(digits.test.images[:1]))))
    np.testing.assert_allclose(pixels(strips[0].value)[:, :28].astype(int), rebuilt, atol=1)
    message(panel.controls[1], value=0.0)  # no step at all: the same picture nine times
    np.testing.assert_array_equal(pixels(strips[0].value)[:, :28], pixels(strips[0].value)[:, -28:])
    assert real.value == png(digits.test.images[:1])
    panel.close()


def test_closed_panels_leave_nothing(space):
    before = len(ipywidgets_widget._instances)
    for make in (traversals, interpolation, arithmetic, lambda s: random_digits(s, method="uniform")):
        panel = make(space)
        assert isinstance(panel.box, VBox)
        assert panel._repr_mimebundle_()
        for _ in range(3):
            panel.update()
        panel.close()
    assert len(ipywidgets_widget._instances) == before
