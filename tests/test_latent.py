"""Codes, and the pictures made of them."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from labutils import BASELINE, Config, plots, run
from labutils.codes import (
    SAMPLERS,
    covariance_root,
    decode_codes,
    encode_images,
    interpolate,
    project,
    reconstruct,
    sample_codes,
    sample_normal,
    traverse,
)
from labutils.data import subset
from labutils.explore.gallery import epoch_gallery
from labutils.models import build_model
from labutils.stats import verdicts


@pytest.fixture(scope="module")
def model():
    return build_model(BASELINE).eval()


def test_sets_are_encoded_and_decoded_in_order_whatever_the_batch(model, digits):
    x = digits.train.images[:1025]  # a batch more than one
    z = encode_images(model, x)
    assert z.shape == (1025, 32)
    torch.testing.assert_close(z[1000:], encode_images(model, x[1000:].float() / 255))
    torch.testing.assert_close(decode_codes(model, z), reconstruct(model, x))
    torch.testing.assert_close(decode_codes(model, z)[1000:], reconstruct(model, x[1000:]))


def test_interpolation_starts_and_ends_at_its_ends():
    a, b = torch.zeros(3), torch.tensor([1.0, 2.0, 4.0])
    path = interpolate(a, b, 5)
    assert torch.equal(path[0], a)
    assert torch.equal(path[-1], b)
    assert torch.equal(path[2], (a + b) / 2)


def test_a_spherical_interpolation_keeps_the_length_and_turns_evenly():
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    path = interpolate(a, b, 4, spherical=True)
    torch.testing.assert_close(path, 2 * torch.tensor([[1.0, 0.0], [0.75**0.5, 0.5], [0.5, 0.75**0.5], [0.0, 1.0]]))
    torch.testing.assert_close(interpolate(a, 2 * a, 3, spherical=True)[1], 1.5 * a)  # one direction: no angle


def test_a_traversal_moves_one_unit():
    z = torch.tensor([1.0, 2.0, 3.0])
    codes = traverse(z, 1, torch.tensor([-1.0, 0.0]))
    assert codes.tolist() == [[1, -1, 3], [1, 0, 3]]
    assert z.tolist() == [1, 2, 3]


@pytest.mark.parametrize("method", SAMPLERS)
def test_samplers_know_what_they_may_know(method):
    # two clusters far from the origin, one a label
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 2
    z = 0.1 * torch.randn(400, 2, generator=generator) + torch.stack([20.0 * y - 10, torch.full((400,), 5.0)], 1)
    codes = sample_codes(method, 200, z, y, seed=3)
    assert codes.shape == (200, 2)
    assert torch.equal(codes, sample_codes(method, 200, z, y, seed=3))
    assert not torch.equal(codes, sample_codes(method, 200, z, y, seed=4))
    at_a_cluster = ((codes[:, 0].abs() - 10).abs() < 1).float().mean()
    assert (at_a_cluster > 0.95) == (method in ("gaussian per class", "mixture"))
    assert (codes[:, 1].mean() > 4) == (method != "prior")
    if method == "gaussian per class":
        assert (codes[:, 0] > 0).sum() == 100
        assert 20 < (codes[:100, 0] > 0).sum() < 80  # shuffled


def test_an_unknown_sampler_is_refused():
    with pytest.raises(ValueError, match="vamp"):
        sample_codes("vamp", 1, torch.zeros(2, 2), torch.zeros(2))


def test_a_tile_is_read_row_by_row():
    images = torch.arange(5).view(5, 1, 1, 1).expand(5, 1, 2, 2) / 5.0
    picture = plots.tile(images, columns=3)
    assert picture.shape == (4, 6)
    assert picture[::2, ::2] == pytest.approx(np.array([[0, 0.2, 0.4], [0.6, 0.8, 0]]))


@pytest.mark.parametrize("name", ["cae", "mlp_vae", "conditional_vae"])
def test_a_gallery_has_a_file_an_epoch_in_every_folder(name, digits, tmp_path, monkeypatch):
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path / "outputs"))
    config = Config(dataset="mnist5k", model=name, latent_dim=3, n_train=64, epochs=2, device="cpu")
    if name != "mlp_vae":
        config = replace(config, filters=(4, 4), depth=2)
    first = run(config, progress=False)
    r = run(config, progress=False, each_epoch=epoch_gallery(tmp_path, config, digits, maps=["pca"]))
    files = {path.relative_to(tmp_path / "mnist5k" / name) for path in tmp_path.glob("mnist5k/**/*.*")}
    folders = ["samples", "noise", "reconstructions", "interpolation", "codes_pca"]
    expected = {Path(folder) / f"epoch_00{epoch}.png" for folder in folders for epoch in (1, 2)}
    assert files == expected | {Path(f"checkpoints/epoch_00{epoch}.safetensors") for epoch in (1, 2)}
    last = load_file(tmp_path / "mnist5k" / name / "checkpoints" / "epoch_002.safetensors")
    for key, value in first.model.state_dict().items():  # pictures change no training
        assert torch.equal(last[key], value)
        assert torch.equal(r.model.state_dict()[key], value)


def test_samplers_take_few_codes_and_few_samples():
    z, y = torch.randn(15, 2), torch.arange(15) % 5
    for method in SAMPLERS:
        assert sample_codes(method, 3, z, y).shape == (3, 2)


def test_codes_can_be_trained_on(digits):
    model = build_model(replace(BASELINE, filters=(4, 4), depth=2))
    probe = torch.nn.Linear(32, 10)
    probe(encode_images(model, digits.test.images[:5])).sum().backward()
    assert probe.weight.grad is not None


def test_a_gallery_knows_its_images_by_themselves_and_takes_few(digits, tmp_path):
    """No set of that name can be loaded, and there is no 2 and no 5 to go between."""
    few = replace(digits, name="a drawer", val=subset(digits.val, 3), classes=("a", "b", *digits.classes[2:]))
    draw = epoch_gallery(tmp_path, Config(filters=(4, 4), depth=2, latent_dim=3), few, maps=[])
    draw(build_model(Config(filters=(4, 4), depth=2, latent_dim=3)), 1)
    assert (tmp_path / "a drawer" / "cae" / "interpolation" / "epoch_001.png").exists()


@pytest.mark.parametrize("wrong", [{"model": "classifier"}, {"latent_dim": 1}])
def test_a_gallery_of_what_has_none_is_refused(wrong, digits, tmp_path):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
        epoch_gallery(tmp_path, Config(**wrong), digits)


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
    costs = pd.DataFrame({"mean": [2, 3], "low": [1, 2], "high": [3, 4], "macs": [1, 2]}, [False, True])
    rows = [{"arm": arm, "epochs": epochs, "lr": lr, "seed": seed, "best": lr == 1, "test_mse": i + lr + seed / 9,
             "val_mse": i + lr if lr + i < 3 else np.nan, "n_params": 1, "macs": 1, "code_bytes": 4, "error": ""}
            for i, arm in enumerate("ab") for epochs in (1, 6) for lr in (1, 2) for seed in (0, 1)]  # fmt: skip
    tuned = pd.DataFrame(rows)
    passes = pd.DataFrame({"layer": ["a", "b"], "pass": ["forward", "backward"], "intensity": [1, 9], "gflops": [2, 3]})
    figures = [
        plots.plot_images({"a": x[:5], "b": x[:3].float() / 255}, columns="12345"),
        plots.plot_grids({"a": x, "b": x[:3].float() / 255}),
        plots.plot_roofline(passes, peak=1e11, bandwidths={"cache": 5e10, "memory": 1e10}),
        plots.plot_history({"a": history}, {"PCA-2": 0.3}),
        plots.plot_curves(
            {"a": pd.DataFrame({"x": [1, 2], "y": [3, 4], "low": [2, 3], "high": [5, 6]})},
            "x",
            "y",
            lines={"floor": 1.0},
            log="xy",
        ),
        plots.plot_pareto(costs.assign(**{"on front: macs": [True, False]}), ["macs"], [True]),
        plots.plot_rates(tuned),
        plots.plot_verdicts(verdicts(tuned)),
        plots.plot_confusion(labels, np.roll(labels, 1), names),
        plots.plot_projections({"PCA": np.random.default_rng(0).normal(size=(20, 2))}, labels, names),
    ]
    assert len(figures) == len([name for name in dir(plots) if name.startswith("plot_")]), "every one of them"
    for figure in figures:
        figure.canvas.draw()
    assert plots.plt.get_fignums() == []


def test_confusions_are_counted_by_label_and_answer():
    figure = plots.plot_confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1]), "abc")
    ax = figure.axes[0]
    texts = {tuple(int(v) for v in text.xy): text.get_text() for text in ax.texts}
    assert texts == {(0, 0): "1", (1, 0): "1", (1, 1): "1", (1, 2): "1"}  # (answer, label)
    assert ax.get_ylabel() == "label"
    assert np.trace(ax.images[0].get_array()) == 0


def test_a_name_stays_within_its_axes():
    costs = pd.DataFrame({"mean": [2, 3], "low": [1, 2], "high": [3, 4], "macs": [1, 9]}, ["cheap", "a long name " * 4])
    figure = plots.plot_pareto(costs.assign(**{"on front: macs": True}), ["macs"])
    (ax,) = figure.axes
    figure.draw_without_rendering()
    assert [label.get_ha() for label in ax.texts] == ["right", "left"]
    assert all(label.get_window_extent().x1 < ax.bbox.x1 for label in ax.texts)


def test_umap_leaves_torchs_threads_alone(monkeypatch):
    # a stand-in for umap, which numba compiles for half a minute; the real one draws maps in the notebooks
    class UMAP:
        def __init__(self, **options):
            assert options == {"n_neighbors": 15, "random_state": 3, "n_jobs": 1}

        def fit_transform(self, codes):
            torch.set_num_threads(5)  # as numba's OpenMP does: a thread a core
            return codes[:, :2]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    z = torch.randn(40, 5)
    np.testing.assert_array_equal(project(z, "umap", seed=3), z[:, :2])
    assert torch.get_num_threads() == 1


@pytest.mark.soak
def test_the_real_umap_leaves_torchs_threads_alone():
    # in a process of its own: only the first UMAP of a process changes them
    code = """
import warnings; warnings.simplefilter("ignore")
import torch; torch.set_num_threads(1)
from labutils.codes import project
project(torch.randn(40, 5), "umap")
print(torch.get_num_threads())
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["1"]


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_the_root_of_a_covariance_serves_codes_of_any_size(size):
    generator = torch.Generator().manual_seed(0)
    z = size * torch.randn(300, 5, generator=generator) @ torch.randn(5, 5, generator=generator)
    z = torch.cat([z, z[:, :1]], dim=1)  # a unit that says what another has said
    root = covariance_root(z)
    torch.testing.assert_close(root @ root.T, z.T.cov(), rtol=1e-3, atol=1e-4 * size**2)
    assert covariance_root(torch.zeros(9, 3)).isfinite().all()
