"""LatentExplorer without a browser: what a slider, a button and a message from a page do in the kernel."""

import asyncio
import gc
import io
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from ipywidgets import Button, GridBox
from ipywidgets.widgets import widget as ipywidgets_widget
from PIL import Image

from labutils import BASELINE, Config, LatentExplorer
from labutils.data import Split, to_float
from labutils.explore.controls import Later, Status
from labutils.explore.page import export_html
from labutils.explore.space import RANDOM, latent_space
from labutils.models import build_model
from labutils.pictures import png

TINY = replace(BASELINE, filters=(4, 4), depth=2, latent_dim=5)


def trained_like(config, seed=0):
    """A model as if trained: untrained VAEs give every image the same code."""
    model = build_model(config).eval()
    with torch.no_grad():
        for layer in (model.encoder[-1], model.decoder[-1]):
            if hasattr(layer, "weight"):
                layer.weight.mul_(5)
        if config.model != "cae":
            model.encoder[-1].weight.mul_(100)
        if config.model == "conditional_vae":
            torch.manual_seed(seed)
            model.label_shift.weight.normal_()
    return model


@pytest.fixture(scope="module")
def space(digits):
    return latent_space(trained_like(TINY), digits, n=300)


@pytest.fixture(scope="module")
def classifier():
    return build_model(Config(model="classifier", filters=(4, 4), depth=2, latent_dim=5)).eval()


@pytest.fixture
def explorer(space, classifier):
    explorer = LatentExplorer(space, classifier=classifier)
    yield explorer
    explorer.close()


def shown(image):
    return np.asarray(Image.open(io.BytesIO(image.value)))


def expected(explorer, z):
    return np.asarray(Image.open(io.BytesIO(png(explorer.space.decode(torch.as_tensor(z)[None], explorer.y)))))


def message(widget, **state):
    """What a page sends when a control moves there."""
    widget._handle_msg({"content": {"data": {"method": "update", "state": state, "buffer_paths": []}}, "buffers": []})


def buttons(widget):
    if isinstance(widget, Button):
        return [widget]
    return [button for child in getattr(widget, "children", ()) for button in buttons(child)]


def test_a_slider_for_every_unit_the_most_important_first(explorer, space):
    assert sorted(explorer.sliders) == list(range(5))
    variances = [space.importance[unit] for unit in explorer.sliders]
    assert variances == sorted(variances, reverse=True)
    np.testing.assert_allclose(space.importance, space.z.var(0), rtol=1e-5)
    for unit, slider in explorer.sliders.items():
        assert f"z{unit}" in slider.description
        assert slider.min <= np.quantile(space.z[:, unit], 0.005) + 1e-5
        assert slider.max >= np.quantile(space.z[:, unit], 0.995) - 1e-5


def test_a_moved_slider_changes_one_unit_and_draws_once(explorer):
    before, z = explorer.renders, explorer.z.clone()
    unit, slider = list(explorer.sliders.items())[2]
    message(slider, value=slider.min + 0.3 * (slider.max - slider.min))
    z[unit] = slider.value
    assert explorer.renders == before + 1
    assert torch.equal(explorer.z, z)
    np.testing.assert_array_equal(shown(explorer.picture), expected(explorer, z))


def test_a_picture_goes_to_the_page_in_one_message(explorer, monkeypatch):
    sent = []
    monkeypatch.setattr(explorer.picture, "_send", lambda msg, buffers=None: sent.append((msg, buffers)))
    slider = next(iter(explorer.sliders.values()))
    message(slider, value=slider.max)
    assert [msg["state"].keys() for msg, _ in sent] == [
        {"format", "value", "width", "height"} & sent[0][0]["state"].keys()
    ]
    assert bytes(sent[0][1][0]) == explorer.picture.value


def test_all_sliders_are_set_under_one_guard(explorer, space):
    for start in (
        lambda: explorer.from_image(7),
        lambda: explorer.from_digit(3),
        lambda: explorer.from_random("gaussian"),
        lambda: explorer.zeros(),
        lambda: explorer.paste("1, 2, 3 4\t-5"),
        lambda: explorer.load(torch.full((5,), 1e3)),
        lambda: explorer.reset(),
    ):
        before = explorer.renders
        start()
        assert explorer.renders == before + 1
        for unit, slider in explorer.sliders.items():
            assert slider.value == pytest.approx(float(explorer.z[unit].clamp(slider.min, slider.max)))
        np.testing.assert_array_equal(shown(explorer.picture), expected(explorer, explorer.z))


def test_a_far_code_is_kept_though_the_sliders_end(explorer):
    explorer.load(torch.full((5,), 1e3))
    assert (explorer.z == 1e3).all()
    assert "5 of its units" in explorer.status.line.value
    unit, slider = next(iter(explorer.sliders.items()))
    message(slider, value=slider.max)  # the page reports where the slider rests
    assert (explorer.z == 1e3).all()
    message(slider, value=slider.max - slider.step)
    assert explorer.z[unit] == pytest.approx(slider.max - slider.step)


def test_a_page_that_rounds_what_it_is_sent_has_not_moved_a_slider(explorer):
    explorer.from_image(1)
    before, z = explorer.renders, explorer.z.clone()
    for slider in explorer.sliders.values():
        steps = round((slider.value - slider.min) / slider.step)
        message(slider, value=slider.min + steps * slider.step)
    assert explorer.renders == before
    assert torch.equal(explorer.z, z)
    for unit, slider in explorer.sliders.items():  # one step from there is a move
        message(slider, value=slider.value - slider.step)
        assert explorer.z[unit] == pytest.approx(slider.value)
    assert explorer.renders == before + 5


def test_a_start_from_a_digit_takes_the_next_of_its_kind(explorer, space):
    labels = space.data.test.labels
    seen = []
    for _ in range(3):
        explorer.from_digit(4)
        seen.append(explorer.index)
    assert len(set(seen)) == 3
    assert all(labels[i] == 4 for i in seen)
    torch.testing.assert_close(explorer.z, space.test_z[seen[-1]], rtol=1e-4, atol=1e-4)
    explorer.from_image(len(labels) - 1)
    explorer.from_digit(4)  # round again
    assert explorer.index == int((labels == 4).nonzero()[0])


@pytest.mark.parametrize("method", RANDOM)
def test_random_codes_differ_and_repeat(explorer, method):
    codes = []
    for seed in (1, 2, 1):
        explorer.from_random(method, seed)
        codes.append(explorer.z.clone())
    assert torch.equal(codes[0], codes[2])
    assert not torch.equal(codes[0], codes[1])


def test_a_pasted_code_is_what_copying_gave(explorer):
    explorer.from_image(5)
    explorer.describe()
    text, picture = explorer.code.value, explorer.picture.value
    explorer.zeros()
    message(explorer.code, value=f"[{text}]")
    assert explorer.code.value == text
    assert np.abs(shown(explorer.picture).astype(int) - np.asarray(Image.open(io.BytesIO(picture)))).max() <= 1


@pytest.mark.parametrize("text", ["1, 2", "a b c d e", "nan, 1, 2, 3, 4", ""])
def test_a_text_that_is_no_code_is_refused_and_changes_nothing(explorer, text):
    explorer.favourites["of another model"] = {"z": [0.0], "y": None}
    before, real = explorer.z.clone(), explorer.real.value
    for wrong in (
        lambda: explorer.paste(text),
        lambda: explorer.recall("of another model"),
        lambda: explorer.load(torch.zeros(5), y=12),
    ):
        with pytest.raises(ValueError, match=r"code|no label"):
            wrong()
    assert torch.equal(explorer.z, before)
    assert explorer.real.value == real
    assert explorer.pair.layout.visibility == "visible"


def test_a_text_without_numbers_is_told_what_a_code_is(explorer):
    with pytest.raises(ValueError, match=r"a code is numbers separated by commas or spaces: .*'hello'"):
        explorer.paste("hello")


def test_a_drawing_s_code_follows_the_pen(explorer, monkeypatch):
    answers = []
    monkeypatch.setattr(explorer.pad, "send", lambda content: answers.append(content))
    drawn = explorer.space.data.test.images[[7]] / 255
    explorer.pad._handle_custom_msg({}, [drawn.numpy().tobytes()])
    assert torch.equal(explorer.z, explorer.space.encode(drawn, -1)[0])
    assert "your drawing" in explorer.status.line.value
    assert explorer.real_caption.value == "your drawing"
    np.testing.assert_array_equal(shown(explorer.real), 255 - explorer.space.data.test.images[7, 0].numpy())
    np.testing.assert_array_equal(shown(explorer.rebuilt), expected(explorer, explorer.z))
    monkeypatch.setattr(explorer, "load", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        explorer.pad._received(explorer.pad, {}, [drawn.numpy().tobytes()])
    assert "ZeroDivisionError" in explorer.status.line.value
    assert len(answers) == 2, "the pad waits for an answer, also after an error"


def test_an_image_that_is_not_there_is_refused(explorer):
    last = len(explorer.space.data.test) - 1
    explorer.from_image(last)
    for index in (-1, last + 1):
        with pytest.raises(IndexError, match=f"{index} must be from 0 to {last}"):
            explorer.from_image(index)
    assert explorer.index == last


def test_an_error_stays_until_something_works(explorer):
    with pytest.raises(ValueError, match="'no'"):
        explorer.code.value = "no code"
    explorer.describe()  # what an earlier move asked for comes late
    assert explorer.status.error is not None
    assert "no" in explorer.status.line.value
    explorer.from_image(1)
    assert explorer.status.error is None


def test_reset_brings_the_real_image_back(explorer):
    explorer.from_image(4)
    real, picture = explorer.real.value, explorer.picture.value
    slider = next(iter(explorer.sliders.values()))
    message(slider, value=slider.max)
    explorer.reset()
    assert (explorer.real.value, explorer.picture.value) == (real, picture)
    explorer.zeros()
    assert explorer.pair.layout.visibility == "hidden"


def test_what_tells_no_classes_is_no_classifier(digits):
    with pytest.raises(ValueError, match="name a classifier"):
        LatentExplorer(trained_like(TINY), digits, classifier=trained_like(TINY))


@pytest.mark.parametrize(
    ("other", "words"),
    [({"channels": 3}, "takes other images"), ({"classes": 7}, "tells 7 classes, and mnist5k has 10")],
)
def test_a_classifier_of_other_images_is_refused(space, tmp_path, other, words):
    judge = build_model(Config(model="classifier", filters=(4, 4), depth=2, latent_dim=5, **other)).eval()
    for use in (LatentExplorer, partial(export_html, path=tmp_path / "page.html")):
        with pytest.raises(ValueError, match=words):
            use(space, classifier=judge)


def test_names_are_text_and_no_markup(space, classifier, monkeypatch, tmp_path):
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path))
    named = replace(space.data, classes=("<b>'me'", *space.data.classes[1:]))
    explorer = LatentExplorer(replace(space, name="<b>'me'", data=named), classifier=classifier)
    explorer.from_digit(0)
    explorer.describe()
    for text in (explorer.links, explorer.opinion, explorer.facts, explorer.real_caption):
        assert "<b>'me" not in text.value
    assert "&lt;b&gt;" in explorer.real_caption.value
    assert not any("<b>'me" in str(getattr(part, "value", "")) for part in explorer.box.children)
    explorer.close()


def test_a_class_without_a_test_image_is_named(space):
    test = space.data.test
    kept = test.labels != 3
    few = replace(space.data, test=Split(test.images[kept], test.labels[kept]))
    explorer = LatentExplorer(replace(space, data=few))
    with pytest.raises(ValueError, match="no test image of mnist5k is a 3"):
        explorer.from_digit(3)
    explorer.close()


def test_reset_after_a_drawing_brings_it_back(explorer, digits):
    drawing = to_float(digits.test.images[7])
    explorer.from_drawing(drawing)
    z, shown = explorer.z.clone(), explorer.real.value
    message(explorer.sliders[0], value=float(explorer.sliders[0].max))
    explorer.reset()
    torch.testing.assert_close(explorer.z, z)
    assert (explorer.real.value, explorer.real_caption.value) == (shown, "your drawing")
    assert explorer.pair.layout.visibility == "visible"
    explorer.zeros()
    explorer.reset()
    assert explorer.pair.layout.visibility == "hidden"


def test_favourites_stay(space, tmp_path, monkeypatch):
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path))
    named = LatentExplorer(replace(space, name="vae5"))
    named.from_image(3)
    z, name = named.z.clone(), named.keep("a nice one")
    named.zeros()
    message(named.favourite, index=1)
    torch.testing.assert_close(named.z, z, rtol=0, atol=1e-5)
    again = LatentExplorer(replace(space, name="vae5"))
    again.recall(name)
    torch.testing.assert_close(again.z, z, rtol=0, atol=1e-5)
    (file,) = tmp_path.glob("**/*.json")
    assert file.name.startswith("vae5-")
    other = LatentExplorer(replace(space, name="vae5", model=trained_like(replace(TINY, activation="elu"))))
    assert other.favourites == named.favourites  # the same weights, though another activation
    torch.manual_seed(1)
    new = LatentExplorer(replace(space, name="vae5", model=build_model(TINY).eval()))
    assert new.favourites == {}  # in other weights a code is another picture
    first, second = (LatentExplorer(replace(space, name="vae5")) for _ in range(2))  # two notebooks
    first.keep("mine")
    second.keep("yours")
    assert set(second.favourites) == {"a nice one", "mine", "yours"}
    for one in (first, second):
        one.close()
    for one in (named, again, other, new):
        one.close()


def test_the_side_says_what_is_known(explorer, space):
    explorer.from_image(2)
    explorer.describe()
    (found,), (errors,) = space.nearest(space.decode(explorer.z[None]))
    pixels = space.train.images.float().flatten(1) / 255
    oracle = (pixels - space.decode(explorer.z[None]).flatten(1)).square().mean(1)
    torch.testing.assert_close(errors, oracle.sort().values[:5], rtol=1e-3, atol=1e-6)
    assert found[0] == oracle.argmin()
    assert shown(explorer.nearest).shape == (28, 140)
    assert "classifier" in explorer.opinion.value
    assert "%" in explorer.facts.value


def test_distance_ranks_what_is_far_as_far(space):
    centre = space.z.mean(0)
    assert space.code_rank(centre) < 0.05
    assert space.code_rank(centre + 100 * space.z.std(0)) == 1.0
    ranks = [space.code_rank(z) for z in space.z[:100]]
    assert 0.3 < np.mean(ranks) < 0.7


def test_a_sleeping_unit_does_not_count_as_distance(space):
    z = torch.randn(500, space.latent_dim, generator=torch.Generator().manual_seed(0))
    z[:, -1] *= 0.01
    asleep = replace(space, z=z)
    code = z[3].clone()
    rank = asleep.code_rank(code)
    code[-1] += 3
    assert asleep.code_rank(code) == rank < 1


def test_the_side_waits_for_a_pause(explorer, monkeypatch):
    calls = []
    monkeypatch.setattr(explorer._side, "function", lambda: calls.append(1))
    monkeypatch.setattr(explorer._side, "seconds", 0.05)

    async def drag():
        slider = next(iter(explorer.sliders.values()))
        for share in np.linspace(0, 1, 20):
            message(slider, value=slider.min + share * (slider.max - slider.min))
        assert calls == []
        await asyncio.sleep(0.3)

    before = explorer.renders
    asyncio.run(drag())
    assert explorer.renders == before + 20
    assert calls == [1]


def test_an_error_is_shown_and_raised(explorer, monkeypatch):
    slider = next(iter(explorer.sliders.values()))
    monkeypatch.setattr(type(explorer.space), "decode", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        slider.value = slider.max
    assert "ZeroDivisionError" in explorer.status.line.value
    assert isinstance(explorer.status.error, ZeroDivisionError)
    monkeypatch.undo()
    slider.value = slider.min
    assert explorer.status.error is None
    assert "ZeroDivisionError" not in explorer.status.line.value


def test_an_error_of_a_button_is_shown_too(explorer, monkeypatch):
    monkeypatch.setattr(explorer, "_start", lambda: explorer.load(torch.zeros(3)))
    reset = next(button for button in buttons(explorer.box) if button.description == "reset")
    reset.click()  # ipywidgets logs what a button raises
    assert "5 finite numbers" in explorer.status.line.value


def test_a_thousand_updates_leave_nothing_and_closing_takes_all_away(space, classifier):
    widgets_before = len(ipywidgets_widget._instances)
    explorer = LatentExplorer(space, classifier=classifier)
    sliders = list(explorer.sliders.values())

    def move(n):
        for i in range(n):
            slider = sliders[i % len(sliders)]
            slider.value = slider.min + (i * 0.37 % 1) * (slider.max - slider.min)
        gc.collect()
        return len(gc.get_objects())

    move(50)
    open_widgets, objects = len(ipywidgets_widget._instances), move(50)
    assert abs(move(1000) - objects) < 200
    assert len(ipywidgets_widget._instances) == open_widgets
    explorer.close()
    assert len(ipywidgets_widget._instances) == widgets_before


def test_a_conditional_model_is_told_its_label(digits):
    config = replace(TINY, model="conditional_vae")
    explorer = LatentExplorer(trained_like(config), digits, n=200)
    assert explorer.y == int(digits.test.labels[0])
    before = explorer.picture.value
    message(explorer.label, index=1 + (explorer.y + 1) % 10)
    assert explorer.y == (int(digits.test.labels[0]) + 1) % 10
    assert explorer.picture.value != before
    explorer.close()


def test_two_to_sixty_four_units(digits):
    for latent_dim in (2, 64):
        explorer = LatentExplorer(build_model(replace(TINY, latent_dim=latent_dim)), digits, n=200)
        assert len(explorer.sliders) == latent_dim
        (grid,) = (child for child in explorer.box.children if isinstance(child, GridBox))
        assert list(grid.children) == list(explorer.sliders.values())
        explorer.close()


def test_three_training_images_are_enough(digits):
    explorer = LatentExplorer(trained_like(TINY), digits, n=3)
    assert shown(explorer.nearest).shape == (28, 3 * 28)
    explorer.close()


def test_a_vae_is_ordered_by_kl(digits):
    from labutils.data import subset
    from labutils.evaluation import unit_kl

    model = trained_like(replace(TINY, model="conv_vae"))
    space = latent_space(model, digits, n=100)
    np.testing.assert_allclose(space.importance, unit_kl(model, subset(digits.train, 100)), rtol=1e-5)
    assert space.measure == "KL in nats"


def test_what_has_no_decoder_or_no_images_is_refused(digits, classifier):
    with pytest.raises(ValueError, match="Classifier"):
        LatentExplorer(classifier, digits)
    with pytest.raises(ValueError, match="data"):
        LatentExplorer(build_model(TINY))


def test_later_is_at_once_without_a_loop():
    calls = []
    Later(lambda: calls.append(1), 10).request()
    assert calls == [1]


def test_a_status_escapes_what_it_says():
    status = Status()
    with pytest.raises(ValueError, match="script"), status.watching():
        raise ValueError("<script>")
    assert "<script>" not in status.line.value
    status.line.close()


def test_a_picture_can_be_saved(explorer):
    explorer.describe()
    assert "download" in explorer.links.value


def test_a_model_in_training_is_decoded_as_it_will_be_and_trains_on(digits):
    model = trained_like(replace(TINY, batch_norm=True))
    space = latent_space(model, digits, n=100)
    before = space.decode(space.z[:3])
    model.train()
    assert torch.equal(space.decode(space.z[:3]), before)
    assert model.training
