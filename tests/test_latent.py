"""Codes, and the pictures made of them."""

import numpy as np
import pandas as pd
import pytest
import torch

from labutils import BASELINE, plots
from labutils.latent import decode_codes, encode_images, interpolate, project, reconstruct, sample_normal
from labutils.models import build_model


@pytest.fixture(scope="module")
def model():
    return build_model(BASELINE).eval()


def test_sets_are_encoded_and_decoded_in_order_whatever_the_batch(model, digits):
    x = digits.test.images[:25]
    z = encode_images(model, x, batch_size=10)
    assert z.shape == (25, 32)
    torch.testing.assert_close(z, encode_images(model, x.float() / 255))
    torch.testing.assert_close(decode_codes(model, z, batch_size=7), reconstruct(model, x))


def test_interpolation_starts_and_ends_at_its_ends():
    a, b = torch.zeros(3), torch.tensor([1.0, 2.0, 4.0])
    path = interpolate(a, b, 5)
    assert torch.equal(path[0], a)
    assert torch.equal(path[-1], b)
    assert torch.equal(path[2], (a + b) / 2)


def test_samples_have_a_stream_of_their_own():
    state = torch.get_rng_state()
    assert torch.equal(sample_normal(4, 2, seed=1), sample_normal(4, 2, seed=1))
    assert not torch.equal(sample_normal(4, 2, seed=1), sample_normal(4, 2, seed=2))
    assert torch.equal(state, torch.get_rng_state())


def test_projections_are_repeatable_and_unknown_ones_refused(digits):
    z = digits.test.images[:60].flatten(1).float()
    np.testing.assert_allclose(project(z, "pca"), project(z, "pca"), rtol=1e-6)
    assert project(z, "tsne").shape == (60, 2)  # umap runs in the notebook: compiling it takes ten seconds
    with pytest.raises(ValueError, match="isomap"):
        project(z, "isomap")


def test_every_plot_draws_and_leaves_no_figure_open(digits):
    x, labels = digits.test.images[:20], digits.test.labels[:20].numpy()
    history = pd.DataFrame({"epoch": [1, 2], "train_mse": [0.2, 0.1], "val_mse": [0.2, 0.15]})
    names = plots.class_names("mnist")
    columns = ["mean", "low", "high", "percent", "percent_low", "percent_high"]
    effects = pd.DataFrame([[2, 1, 3] + [np.nan] * 3, [3, 2, 4, 50, 40, 60]], [False, True], columns)
    effects["verdict"] = ["baseline", "worse"]
    figures = [
        plots.plot_images({"a": x[:5], "b": x[:3].float() / 255}, columns="12345", title="digits"),
        plots.plot_history({"a": history}, {"PCA-2": 0.3}),
        plots.plot_curves(
            {"a": pd.DataFrame({"x": [1, 2], "y": [3, 4], "low": [2, 3], "high": [5, 6]})},
            "x",
            "y",
            lines={"floor": 1.0},
            log="xy",
        ),
        plots.plot_pareto(effects.assign(**{"macs": [1, 2], "on front: macs": [True, False]}), ["macs"], [True]),
        plots.plot_effects(effects, floors={"PCA": 4.0}),
        plots.plot_error_by_class({"a": np.ones(100)}, np.arange(100) % 10, names),
        plots.plot_projections({"PCA": np.random.default_rng(0).normal(size=(20, 2))}, labels, names),
    ]
    for figure in figures:
        figure.canvas.draw()
    assert plots.plt.get_fignums() == []
