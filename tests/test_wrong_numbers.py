"""Numbers that go wrong: each ends as an error that names it, or as a result that is defined."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from labutils import CLASSIFIER, CONV_VAE, MLP_VAE, Config, compare, run, summarize
from labutils.data import Dataset, Split, batch_sizes, batches
from labutils.evaluation import references
from labutils.metrics import reconstruction_metrics, run_metrics
from labutils.models import build_model
from labutils.objectives import build_objective
from labutils.stats import pareto
from labutils.training import TrainingDiverged, evaluate, fit

TINY = Config(filters=(3, 4), depth=2, latent_dim=4, batch_norm=True, epochs=2, batch_size=16, device="cpu",
              precision="float32", dataset="mnist5k")  # fmt: skip
SMALL = {"filters": (3, 4), "depth": 2, "latent_dim": 4, "epochs": 1, "batch_size": 16, "device": "cpu"}
MODELS = {"cae": TINY, "mlp_vae": replace(MLP_VAE, hidden=8, batch_norm=True, latent_dim=4, epochs=1, device="cpu"),
          "conv_vae": replace(CONV_VAE, **SMALL), "classifier": replace(CLASSIFIER, **SMALL, head=8)}  # fmt: skip


def some(n, value=None):
    """n images, noise or all of one grey."""
    images = torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(n))
    return Split(images if value is None else torch.full_like(images, value), torch.arange(n) % 10)


def train(config, train, val):
    model, objective = build_model(config), build_objective(config)
    return model, fit(model, objective, train, val, config)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -0.1, 1.1])
@pytest.mark.parametrize("where", ["train", "val"])
def test_what_is_no_image_is_refused(value, where):
    splits = {"train": some(20), "val": some(20)}
    splits[where].images[7, 0, 3, 4] = value
    with pytest.raises(ValueError, match="finite and within"):
        train(TINY, **splits)


def test_codes_that_are_not_finite_diverge():
    codes = torch.randn(20, 4)
    codes[3, 2] = float("nan")
    config = replace(MODELS["classifier"], encoder_lr=0.0)
    model = build_model(config)
    with pytest.raises(TrainingDiverged, match="loss nan in epoch 1"):
        fit(model.head, build_objective(config), Split(codes, torch.arange(20) % 10), Split(codes, torch.zeros(20)),
            config)  # fmt: skip


@pytest.mark.parametrize("empty", ["train", "val"])
def test_an_empty_split_is_refused(empty):
    splits = {"train": some(20), "val": some(20), empty: some(0)}
    with pytest.raises(ValueError, match="N > 0"):
        train(TINY, **splits)
    with pytest.raises(ValueError, match="empty split"):
        evaluate(build_model(TINY), build_objective(TINY), some(0))
    with pytest.raises(ValueError, match="empty split"):
        reconstruction_metrics(build_model(TINY), some(0))


def test_an_exploding_loss_is_named_and_no_run_is_stored(tmp_path, monkeypatch):
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path))
    wild = replace(TINY, optimizer="sgd", lr=100.0, activation="elu", batch_norm=False, loss="bce", n_train=200)
    with pytest.raises(TrainingDiverged, match=r"epoch \d.*learning rate was"):
        run(wild, progress=False)
    assert not list(tmp_path.glob("runs/*/MANIFEST.json"))


def test_a_metric_that_is_not_finite_is_no_result(tmp_path, monkeypatch):
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path))
    monkeypatch.setattr("labutils.runs.run_metrics", lambda *_: {"test_mse": 0.1, "psnr": float("nan")})
    with pytest.raises(TrainingDiverged, match="psnr is nan after 2 epochs"):
        run(replace(TINY, n_train=200), progress=False)
    assert not list(tmp_path.glob("runs/*/MANIFEST.json"))


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", MODELS)
def test_constant_images_train_and_have_finite_metrics(kind, value):
    config = replace(MODELS[kind], epochs=1)
    data = Dataset("mnist5k", "here", f"constant {value}", some(40, value), some(10, value), some(10, value))
    model, history = train(config, data.train, data.val)
    metrics = run_metrics(model, config, data, history)
    assert np.isfinite(list(metrics.values())).all()
    # the mean image is the image; no component adds to it
    assert references(data, 4) == pytest.approx({"pca_mse": 0, "mean_image_mse": 0}, abs=1e-12)


@pytest.mark.parametrize("kind", MODELS)
def test_a_last_batch_of_one_image_joins_the_one_before(kind):
    _, history = train(MODELS[kind], some(33), some(1))  # 16 + 17
    assert np.isfinite(history["val_loss"]).all()


def test_batches_hold_every_image_once_and_never_one_alone():
    assert batch_sizes(33, 16) == [16, 17]
    assert batch_sizes(34, 16) == [16, 16, 2]
    assert batch_sizes(32, 16) == [16, 16]
    assert batch_sizes(5, 16) == [5]
    assert batch_sizes(1, 16) == [1]
    assert batch_sizes(3, 1) == [1, 1, 1]
    for n in range(1, 40):
        for size in range(1, 45):
            sizes = batch_sizes(n, size)
            assert sum(sizes) == n
            assert min(sizes) > 1 or 1 in (n, size)
    seen = torch.cat([y for _, y in batches(Split(torch.zeros(33, 1, 28, 28), torch.arange(33)), 16)])
    assert seen.tolist() == list(range(33))


@pytest.mark.parametrize(("n", "batch_size"), [(1, 16), (20, 1)])
def test_batches_of_one_train_what_they_can(n, batch_size):
    for kind in ("cae", "conv_vae"):  # a feature map of one image has many pixels to normalise by
        train(replace(MODELS[kind], batch_size=batch_size), some(n), some(1))
    for kind in ("mlp_vae", "classifier"):
        with pytest.raises(ValueError, match="batches of one image"):
            train(replace(MODELS[kind], batch_size=batch_size), some(n), some(1))


def test_a_batch_larger_than_the_data_is_the_data():
    _, history = train(replace(TINY, batch_size=1_000_000), some(20), some(1))
    assert len(history) == 2


def test_more_training_images_than_there_are_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path))
    for config in (TINY, MODELS["classifier"]):
        with pytest.raises(ValueError, match="n_train=4001 exceeds the 4000"):
            run(replace(config, dataset="mnist5k", n_train=4001), progress=False)


# --- failed runs in tables --------------------------------------------------------------------------------------------


def table(**failed):
    """Three values, three seeds; the runs named (value, seed) have failed."""
    rows = []
    for value in "abc":
        for seed in range(3):
            row = {"latent_dim": value, "seed": seed, "n_params": 1.0, "macs": 1.0, "code_bytes": 4.0, "error": "",
                   "test_mse": ord(value) + seed / 10}  # fmt: skip
            if seed in failed.get(value, ()):
                row |= {"error": "TrainingDiverged: no", "test_mse": np.nan, "n_params": np.nan}
            rows.append(row)
    return pd.DataFrame(rows)


def test_failed_runs_are_left_out_of_summaries_and_named():
    with pytest.warns(UserWarning, match="4 of 9 runs failed"):
        summary = summarize(table(a=(0,), b=(0, 1, 2)), "latent_dim")
    assert summary["n"].tolist() == [2, 0, 3]
    assert summary["mean"]["a"] == pytest.approx(97.15)
    assert np.isnan(summary["mean"]["b"])
    with pytest.warns(UserWarning, match="4 of 9"):
        compared = compare(table(a=(0,), b=(0, 1, 2)), "latent_dim", baseline="c")
    assert compared["n"].to_dict() == {"a": 2, "b": 0}
    assert compared["verdict"].to_dict() == {"a": "better", "b": "not resolved"}
    with pytest.warns(UserWarning, match="6 of 9"):
        nothing = compare(table(b=(0, 1, 2), c=(0, 1, 2)), "latent_dim", baseline="c")
    assert nothing["verdict"].to_dict() == {"a": "not resolved", "b": "not resolved"}
    costs = summary.assign(n_params=[1.0, np.nan, 2.0])
    assert pareto(costs, "n_params").to_dict() == {"a": True, "b": False, "c": False}


def test_nothing_is_said_where_nothing_failed():
    assert summarize(table(), "latent_dim")["n"].tolist() == [3, 3, 3]
    published = table().assign(error=np.nan)  # how an empty column comes back from CSV
    assert summarize(published, "latent_dim")["n"].tolist() == [3, 3, 3]


def test_a_table_of_failures_alone_says_why():
    everything = table(a=(0, 1, 2), b=(0, 1, 2), c=(0, 1, 2)).drop(columns="test_mse")
    with pytest.warns(UserWarning, match="9 of 9"):
        assert (summarize(everything, "latent_dim")["n"] == 0).all()
