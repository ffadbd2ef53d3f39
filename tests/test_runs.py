"""The store keeps its word: the same config returns the same run, damage is noticed, other code gets another key."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import torch.nn.functional as F
from damages import damaged
from golden import SMALL, TURNED
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import cpu_count
from safetensors import safe_open
from test_config import configs

from labutils import BASELINE, Config, ablate, load_run, run, runs, stored_runs, summarize, sweep, sweeps
from labutils.data import subset, to_float
from labutils.kinds import KINDS, has_field
from labutils.models import conv_autoencoder
from labutils.paths import ROOT
from labutils.store import folder
from labutils.store.folder import RunError
from labutils.store.key import FILES, RECIPES, code_hash, code_lines, hash_of, run_key
from labutils.training import TrainingDiverged

TINY = replace(BASELINE, dataset="mnist5k", filters=(4, 4), depth=2, latent_dim=3, epochs=1, n_train=200, device="cpu")


def equal(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.fixture(scope="module")
def stored():
    return run(TINY, progress=False)


def test_a_run_has_everything_the_contract_names(stored):
    assert stored.config == replace(TINY, precision="float32")
    assert list(stored.history["epoch"]) == [1]
    assert {p.name for p in stored.path.iterdir()} == {*folder.FILES, "MANIFEST.json"}
    expected = "test_mse test_bce val_mse train_mse psnr ssim n_params macs seconds images_per_second latency_ms"
    costs = "code_bytes batch_latency_ms"
    assert {*expected.split(), *costs.split(), "n_train"} == set(stored.metrics)
    assert np.isfinite(list(stored.metrics.values())).all()
    assert not stored.model.training


def test_the_second_call_returns_the_stored_run(stored, monkeypatch):
    monkeypatch.setattr(runs, "fit", lambda *a, **k: pytest.fail("trained again"))
    again = run(TINY, progress=False)
    assert again.metrics == stored.metrics
    assert equal(again.model, stored.model)
    pd.testing.assert_frame_equal(again.history, stored.history)


def test_the_stored_model_gives_the_metrics_that_are_stored_with_it(stored, digits):
    from labutils.metrics import reconstruction_metrics

    parts = {"test": digits.test, "val": digits.val, "train": subset(digits.train, 200)}
    measured = {part: reconstruction_metrics(stored.model, split) for part, split in parts.items()}
    expected = {f"{part}_mse": measures["mse"] for part, measures in measured.items()}
    expected |= {"test_bce": measured["test"]["bce"], "code_bytes": 4 * 3, "n_train": 200}
    expected |= {name: measured["test"][name] for name in ("psnr", "ssim")}
    assert {name: stored.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert stored.metrics["seconds"] * stored.metrics["images_per_second"] == pytest.approx(200)


COSTS = {"n_train", "n_params", "macs", "latency_ms", "batch_latency_ms", "code_bytes", "seconds",
         "images_per_second"}  # fmt: skip


def test_a_stored_vae_generates_what_it_generated(store):
    config = Config(dataset="mnist5k", model="mlp_vae", hidden=8, latent_dim=3, epochs=2, n_train=200, device="cpu")
    first = run(config, progress=False)
    again = run(config, progress=False)
    assert torch.equal(first.model.sample(4, seed=0), again.model.sample(4, seed=0))
    m = again.metrics
    assert m["test_neg_elbo"] == pytest.approx(m["test_bce_sampled"] + m["test_kl"])
    assert m["val_neg_elbo"] == pytest.approx(again.history["val_bce"].iloc[-1] + again.history["val_kl"].iloc[-1])
    expected = "test_mse val_mse train_mse test_bce psnr ssim val_neg_elbo test_neg_elbo"
    sampled = "test_bce_sampled test_mse_sampled test_kl test_active_units"
    assert set(m) == {*expected.split(), *sampled.split(), *COSTS}
    assert list(again.history) == [
        *("epoch", "lr", "train_loss", "train_bce", "train_kl", "val_loss", "val_bce", "val_kl", "seconds")
    ]


def test_a_sixth_kind_of_model_costs_one_entry(store, monkeypatch):
    kind = replace(KINDS["cae"], network=lambda config: conv_autoencoder(replace(config, activation="tanh")))
    monkeypatch.setitem(KINDS, "tanh_cae", kind)
    config = replace(TINY, model="tanh_cae", loss="bce")
    r = run(config, progress=False)
    assert load_run(r.path.name).config.model == "tanh_cae"
    assert not equal(r.model, run(replace(TINY, loss="bce"), progress=False).model)
    assert sweep([config, replace(config, seed=1)], ThreadPoolExecutor(1))["test_mse"][0] == r.metrics["test_mse"]


def test_a_classifier_is_stored_with_its_accuracies(store, digits):
    config = replace(TINY, model="classifier", batch_norm=True, latent_dim=16, epochs=3, n_train=1000)
    r = run(config, progress=False)
    accuracies = {"test_accuracy", "val_accuracy", "train_accuracy"}
    assert set(r.metrics) == accuracies | {"test_nll", "val_nll", "train_nll"} | COSTS
    assert all(0.3 < r.metrics[name] <= 1 for name in accuracies)
    assert r.metrics["val_accuracy"] == pytest.approx(r.history["val_accuracy"].iloc[-1])
    with torch.no_grad():
        logits = r.model(to_float(digits.test.images))
    assert r.metrics["test_nll"] == pytest.approx(float(F.cross_entropy(logits, digits.test.labels)), rel=1e-5)
    assert r.metrics["test_accuracy"] == pytest.approx(float((logits.argmax(1) == digits.test.labels).float().mean()))


def test_who_asks_for_the_epochs_gets_them_and_the_same_run(store):
    first, epochs = run(TINY, progress=False), []
    damage("bit flip", first.path)
    with pytest.warns(UserWarning, match="set aside"):
        again = run(TINY, progress=False, each_epoch=lambda model, epoch: epochs.append(epoch))
    run(TINY, progress=False, each_epoch=lambda model, epoch: epochs.append(epoch))
    assert epochs == [1, 1]
    assert equal(first.model, again.model)


def test_the_weights_file_says_what_it_is(stored):
    with safe_open(stored.path / "model.safetensors", "pt") as file:
        assert Config.from_dict(json.loads(file.metadata()["config"])) == stored.config


@pytest.mark.parametrize("field", [f.name for f in fields(Config)])
def test_every_field_changes_the_key(field):
    other = {
        "dataset": "fashion_mnist", "image_size": 32, "channels": 3, "classes": 5, "filters": (4, 5, 6),
        "depth": 1, "latent_dim": 4, "batch_norm": True,
        "activation": "tanh", "negative_slope": 0.2, "loss": "bce", "epochs": 2, "batch_size": 32,
        "lr": 1e-3, "schedule": "constant",
        "optimizer": "sgd", "beta2": 0.9, "weight_decay": 0.1, "n_train": 100, "seed": 1, "device": "cuda",
        "precision": "bfloat16", "model": "conv_vae", "residual": True, "hidden": 4, "dropout": 0.5, "beta": 2.0,
        "beta_warmup": 0.5, "free_bits": 1.0, "binarise": True,
        "head": 8, "shift": 1, "flip": True, "label_smoothing": 0.1, "encoder": "0" * 16, "encoder_lr": 0.5,
        "threads": 2, "initialisation": "torch",
    }  # fmt: skip
    model = next(model for model in KINDS if has_field(model, field))
    base = Config(model=model)
    assert run_key(replace(base, **{field: other[field]}), "data") != run_key(base, "data")


def test_other_images_change_the_key():
    assert run_key(TINY, "other data") != run_key(TINY, "data")


def test_a_field_that_config_got_later_renames_no_older_run():
    fields = TINY.to_dict()
    older = {name: value for name, value in fields.items() if name != "threads"}
    made_from = {"data": "data", "code": "code", "torch": "2.15.0"}
    assert hash_of(older, **made_from) == hash_of(fields, **made_from)
    assert hash_of({**fields, "threads": 2}, **made_from) != hash_of(fields, **made_from)
    assert Config.from_dict(older) == TINY


def test_every_file_that_a_run_passes_through_is_part_of_its_name(tmp_path):
    imports = "import sys, labutils.runs; print(*[name for name in sys.modules if name.startswith('labutils.')])"
    output = subprocess.check_output([sys.executable, "-W", "ignore", "-c", imports], text=True).split()
    modules = {name.removeprefix("labutils.").replace(".", "/") for name in output}
    assert modules - {"store", "own", "store/source", "trial"} == set(FILES)
    assert not (ROOT / "labutils" / "store" / "__init__.py").read_text().count("import")
    (tmp_path / "store").mkdir()

    def hash_of_package():
        code_hash.cache_clear()
        return code_hash(tmp_path)

    for name in FILES:  # a package of short files: each of ours takes a moment to read
        (tmp_path / f"{name}.py").write_text(f"name = {name!r}\n")
    expected = hash_of_package()
    for name in FILES:
        file = tmp_path / f"{name}.py"
        source = file.read_text()
        file.write_text(source + "\nlayer = 0\n")
        assert hash_of_package() != expected, name
        file.write_text(source + "\n# a remark\n")
    assert hash_of_package() == expected
    code_hash.cache_clear()


def test_the_code_is_known():
    proved = json.loads(RECIPES.read_text())["code"]
    assert proved == code_hash(), "numbers may have changed: `make same` (a minute) shows which kinds, then commit it"


def test_every_field_is_turned_by_a_golden_run():
    elsewhere = {"dataset", "image_size", "channels", "classes", "model", "device", "precision"}
    assert TURNED.keys() | elsewhere == {f.name for f in fields(Config)}
    for name, values in TURNED.items():
        assert {getattr(Config(), name), SMALL.get(name)}.isdisjoint(values)


def test_the_manifest_names_the_revision(stored):
    manifest = json.loads((stored.path / "MANIFEST.json").read_text())
    assert re.fullmatch("([0-9a-f]{12}(-dirty)?)?", manifest["revision"])


def test_comments_and_docstrings_are_not_code_and_numbers_are():
    source = 'def f(x):\n    """Doc."""\n    # why\n\n    return x + 1  # one\n'
    assert code_lines(source) == {1: "def f(x):", 5: "    return x + 1"}
    assert code_lines('x = "# not a comment"\n') == {1: 'x = "# not a comment"'}


KEYS = """
import json, sys
from labutils import Config
from labutils.store.key import run_key
print(*(run_key(Config.from_dict(values), "data") for values in json.load(sys.stdin)))
"""


@settings(max_examples=1)
@given(st.lists(configs(), min_size=50, max_size=50))
def test_keys_are_the_same_in_another_process_with_another_hash_seed(some):
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    text = json.dumps([config.to_dict() for config in some])
    out = subprocess.run([sys.executable, "-c", KEYS], input=text, env=env, capture_output=True, text=True, check=True)
    assert out.stdout.split() == [run_key(config, "data") for config in some]
    assert len({*out.stdout.split()}) == len({*some})


def test_a_key_is_the_same_in_every_version_of_python_and_on_every_platform():
    # the SHA-256 sum of sorted JSON, whose numbers are their shortest text
    assert hash_of(Config().to_dict(), "data", "code", "torch") == "d688a6160e8dd215"


def damage(kind, path):
    if kind == "no manifest":
        (path / "MANIFEST.json").unlink()
    else:
        weights = path / "model.safetensors"
        weights.write_bytes(damaged(weights.read_bytes(), kind, zeros=100))


@pytest.mark.parametrize("kind", ["bit flip", "truncated", "zero tail", "empty", "no manifest"])
def test_a_damaged_run_is_set_aside_and_trained_again(store, kind):
    first = run(TINY, progress=False)
    damage(kind, first.path)
    with pytest.raises(RunError, match=first.path.name):
        load_run(first.path)
    with pytest.warns(UserWarning, match="set aside"):
        again = run(TINY, progress=False)
    assert equal(first.model, again.model)  # training is repeatable
    assert len(list(store.glob(f"damaged-{first.path.name}-*"))) == 1


def test_another_runs_folder_under_this_name_is_noticed(store):
    first, other = run(TINY, progress=False), run(replace(TINY, seed=1), progress=False)
    manifest = json.loads((other.path / "MANIFEST.json").read_text())
    for name in folder.FILES:
        (first.path / name).write_bytes((other.path / name).read_bytes())
    (first.path / "MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.warns(UserWarning, match="holds another run"):
        assert equal(run(TINY, progress=False).model, first.model)


def test_a_failed_run_leaves_nothing_behind(store, monkeypatch):
    monkeypatch.setattr(runs, "build_objective", lambda config: lambda m, x, y, _: {"loss": m(x).sum() * torch.nan})
    with pytest.raises(TrainingDiverged, match="learning rate"):
        run(TINY, progress=False)
    assert [path.name for path in store.rglob("*")] == ["unfinished"]


def test_ablate_changes_one_field_and_pairs_the_seeds(store):
    df = ablate("latent_dim", [2, 3], base=TINY, seeds=2)
    assert df[["latent_dim", "seed"]].to_numpy().tolist() == [[2, 0], [2, 1], [3, 0], [3, 1]]
    constant = [f.name for f in fields(Config) if f.name not in ("latent_dim", "seed")]
    assert (df[constant].astype(str).nunique() == 1).all()
    assert (df["dataset"] == "mnist5k").all()


def test_threads_of_one_process_train_what_processes_train(store, tmp_path, monkeypatch):
    # torch's generators belong to the process: two runs at once would share their weights' and their noise's streams
    config = Config(model="mlp_vae", hidden=8, latent_dim=2, dataset="mnist5k", n_train=500, epochs=3, device="cpu")
    configs = [replace(config, seed=seed) for seed in range(4)]
    alone = [run(config, progress=False).model for config in configs]
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path / "threads"))
    with ThreadPoolExecutor(4) as executor:
        sweep(configs, executor)
    assert all(equal(run(config, progress=False).model, model) for config, model in zip(configs, alone, strict=True))


@pytest.mark.parametrize(
    ("factor", "values", "seeds"),
    [("width", [1], 1), ("seed", [1], 1), ("depth", [], 1), ("depth", [1], 0), ("lr", [0.1, -1], 1)],
)
def test_ablate_refuses_before_anything_runs(store, factor, values, seeds):
    with pytest.raises(ValueError, match=factor):
        ablate(factor, values, base=TINY, seeds=seeds)
    assert not store.exists()


def test_ablate_takes_the_digits_that_are_found_where_mnist_is_not(store, digits, monkeypatch):
    monkeypatch.setattr(sweeps, "data_of", lambda config: digits)
    df = ablate("latent_dim", [2, 3], base=replace(TINY, dataset="mnist"), seeds=1)
    assert (df["dataset"] == "mnist5k").all()


def test_ablate_shrinks_at_smoke_scale(store, monkeypatch):
    monkeypatch.setenv("LABUTILS_SCALE", "smoke")
    df = ablate("latent_dim", [2, 3, 4], base=replace(TINY, epochs=50), seeds=5)
    assert df["latent_dim"].unique().tolist() == [3, 4]  # the base's value stays: it is what others are compared with
    assert df["seed"].unique().tolist() == [0, 1]
    assert (df["epochs"] == 2).all()
    assert (df["scale"] == "smoke").all()


def test_a_row_of_a_published_table_is_run_again_bit_by_bit(store, tmp_path, monkeypatch):
    configs = [replace(TINY, batch_norm=True), Config(model="mlp_vae", hidden=8, dataset="mnist5k", n_train=100)]
    sweep([replace(config, device="cpu") for config in configs]).to_csv(tmp_path / "results.csv", index=False)
    table = pd.read_csv(tmp_path / "results.csv")
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path / "elsewhere"))
    for _, row in table.iterrows():
        again = run(sweeps.config_of(row), progress=False)
        assert again.metrics["test_mse"] == pytest.approx(row["test_mse"], rel=1e-12)
        assert again.path.name == row["run"]


def test_a_row_of_a_run_that_failed_beside_others_is_a_config(store):
    config = replace(TINY, n_train=None)
    rows = [{**config.to_dict(), "filters": str(config.filters), "n_train": n} for n in (4000, None)]
    good, failed = (row for _, row in pd.DataFrame(rows).iterrows())
    assert sweeps.config_of(good) == replace(config, n_train=4000)
    assert sweeps.config_of(failed) == config
    with pytest.raises(ValueError, match="not that of a run"):  # of a probe, say, in a table that has runs as well
        sweeps.config_of(good.where(good.index != "filters"))


def test_ablate_takes_an_array(store):
    assert ablate("lr", np.geomspace(1e-3, 1e-2, 2), base=TINY, seeds=1)["lr"].tolist() == pytest.approx([1e-3, 1e-2])


def test_stored_runs_are_the_rows_of_their_sweeps(store, monkeypatch):
    assert stored_runs().empty
    df = ablate("latent_dim", [2, 3], base=TINY, seeds=2)
    board = stored_runs()
    rows = df.drop(columns=["pca_mse", "mean_image_mse"])  # which belong to a table
    pd.testing.assert_frame_equal(board, rows.sort_values("run", ignore_index=True))
    leaderboard = summarize(board)
    assert leaderboard.index.names == ["latent_dim"], "what differs, not the seed"
    assert leaderboard["n"].tolist() == [2, 2]
    assert summarize(board[board["latent_dim"] == 2])["n"].tolist() == [2], "one configuration"
    damage("bit flip", store / df["run"][0])  # of the weights, which a leaderboard does not read
    (store / df["run"][1] / "metrics.json").write_text("{}")
    assert len(stored_runs()) == 3
    with pytest.warns(UserWarning, match="set aside"):
        run(replace(TINY, latent_dim=2, seed=0), progress=False)
    assert len(stored_runs()) == 3  # what was set aside does not count a seed twice
    monkeypatch.setattr("labutils.store.folder.of_today", lambda *_: False)
    assert stored_runs().empty


def test_on_one_core_a_sweep_needs_no_processes(store, monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    monkeypatch.setattr("labutils.workers.get_reusable_executor", lambda *_, **__: pytest.fail("started processes"))
    assert len(ablate("latent_dim", [2, 3], base=replace(TINY, device="cpu"), seeds=1)) == 2


SEVERAL_CORES = pytest.mark.skipif(cpu_count() < 2, reason="on one core a sweep starts no processes")


@SEVERAL_CORES
def test_the_next_sweep_has_the_same_workers_and_its_own_surroundings(store, tmp_path, monkeypatch):
    configs = [replace(TINY, device="cpu", seed=seed) for seed in (0, 1)]
    sweep(configs)
    workers = {child.pid for child in psutil.Process().children()}
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("LABUTILS_SCALE", "smoke")
    assert (sweep([replace(config, epochs=9) for config in configs])["epochs"] == 2).all()
    assert len(list((tmp_path / "elsewhere" / "runs").glob("*/MANIFEST.json"))) == 2
    assert workers
    assert workers == {child.pid for child in psutil.Process().children()}
    monkeypatch.delenv("LABUTILS_SCALE")
    assert (sweep([replace(config, epochs=4) for config in configs])["scale"] == "full").all()


SWEEP = """
import signal
from dataclasses import replace
from labutils import BASELINE, sweep
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started to ignore it
if __name__ == "__main__":
    small = replace(BASELINE, dataset="mnist5k", filters=(4, 4), depth=2, latent_dim=3, device="cpu", epochs=1)
    sweep([small, replace(small, seed=1)] + [replace(small, seed=i, epochs=1000) for i in range(2, 6)])
"""


@SEVERAL_CORES
@pytest.mark.skipif(os.name != "posix", reason="signals are those of Linux and macOS")
@pytest.mark.parametrize(
    # to this package SIGTERM is what SIGKILL is: an end without a word
    "how",
    [signal.SIGINT, getattr(signal, "SIGKILL", None), pytest.param(signal.SIGTERM, marks=pytest.mark.soak)],
    ids=["SIGINT", "SIGKILL", "SIGTERM"],
)
def test_a_stopped_sweep_keeps_finished_runs_and_leaves_no_process(store, how, request):
    process = subprocess.Popen([sys.executable, "-c", SWEEP], stderr=subprocess.DEVNULL)
    request.addfinalizer(process.kill)
    deadline = time.monotonic() + 120
    while len(list(store.glob("[0-9a-f]*/MANIFEST.json"))) < 2:  # then the long ones are under way
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2
    time.sleep(1)
    process.send_signal(how)
    process.wait(60)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    assert len([load_run(path.parent) for path in store.glob("[0-9a-f]*/MANIFEST.json")]) == 2


def test_a_callback_may_load_a_run(store):
    first, loaded = run(TINY, progress=False), []
    run(replace(TINY, seed=1), progress=False, each_epoch=lambda model, epoch: loaded.append(load_run(first.path)))
    assert equal(loaded[0].model, first.model)
    undisturbed = run(replace(TINY, seed=1), progress=False, each_epoch=lambda model, epoch: None)
    assert equal(undisturbed.model, load_run(undisturbed.path).model)
