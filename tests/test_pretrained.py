"""The weights that come along: verified, small, and still what today's models are."""

import hashlib
import json
import shutil
from dataclasses import fields, replace

import pytest
import torch
from test_runs import TINY, equal

from labutils import load_run, run
from labutils.codes import reconstruct
from labutils.config import Config
from labutils.evaluation import confidence
from labutils.publish import pretrained
from labutils.publish.pretrained import PRETRAINED, load_or_train, pretrain
from labutils.store import weights
from labutils.store.files import json_sum
from labutils.store.weights import RunError, pack, pretrained_dir, pretrained_index, read_weights

COMMITTED = pretrained_dir()


def keep_in(folder, monkeypatch):
    for module in (pretrained, weights):
        monkeypatch.setattr(module, "pretrained_dir", lambda: folder)


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A folder with weights of one tiny model under the name vae2."""
    keep_in(tmp_path, monkeypatch)
    full = type("Full", (), {"name": "mnist", "train": range(54_000)})
    monkeypatch.setattr(pretrained, "load_dataset", lambda name: full)
    monkeypatch.setitem(PRETRAINED, "vae2", TINY)
    assert pretrain(["vae2"]) == [tmp_path / "vae2.safetensors"]
    assert torch.get_num_threads() == 1
    return run(TINY, progress=False)


@pytest.mark.parametrize("name", PRETRAINED)
def test_published_weights_are_small_and_good(name, digits):
    r = load_run(name)
    assert r.path.stat().st_size < 1_000_000
    assert r.name == name
    assert not r.model.training
    x, y = digits.test.images, digits.test.labels
    if name == "classifier":
        assert (confidence(r.model, x)[0] == y.numpy()).mean() > 0.95
    else:
        mse = (reconstruct(r.model, x, y) - x / 255.0).square().mean()
        assert mse < (0.045 if r.config.latent_dim == 2 else 0.02), "it has learned something"


def test_the_folder_holds_what_the_index_says():
    index = pretrained_index()
    assert set(index) == set(PRETRAINED)
    assert {path.stem for path in COMMITTED.glob("*.safetensors")} == set(index)
    for name, entry in index.items():
        config = Config(**entry["config"])
        assert config.model == PRETRAINED[name].model
        assert all(getattr(config, key) != getattr(Config(), key) for key in entry["config"])


def test_stored_weights_are_the_run(stored):
    r = load_run("vae2")
    assert equal(r.model, stored.model)
    assert r.config == replace(stored.config, device="auto", precision="auto")
    assert r.metrics["test_mse"] == stored.metrics["test_mse"]


def test_every_damage_is_one_clear_error(stored, tmp_path):
    path = tmp_path / "vae2.safetensors"
    good = path.read_bytes()
    for bad in (good[:-1], good[:100] + bytes([good[100] ^ 1]) + good[101:], b"", good + b"x"):
        path.write_bytes(bad)
        with pytest.raises(RunError, match="not the published file"):
            load_run("vae2")
    path.unlink()
    with pytest.raises(RunError, match="missing"):
        load_run("vae2")
    with pytest.raises(RunError, match="weights: vae2"):
        load_run("ae12")  # a name that is known, and not there


def test_an_altered_index_is_refused(stored, tmp_path):
    file = tmp_path / "pretrained.json"
    good = file.read_text()
    for bad in (good.replace('"test_mse": 0.', '"test_mse": 1.'), good[:-20], "[]", '{"vae2": {}}', '{"sha256": 5}'):
        assert bad != good
        file.write_text(bad)
        with pytest.raises(RunError, match=r"pretrained\.json is .*damaged.*git checkout"):
            load_run("vae2")


def test_fields_of_the_future_are_named_and_those_of_the_past_enough(stored, tmp_path):
    index = pretrained_index()
    tensors, values = read_weights(tmp_path / "vae2.safetensors")
    assert len(values) < len(fields(Config)) / 2  # what it does not name has today's default
    content = pack(tensors, {"config": json.dumps(values | {"warp": 9})})
    (tmp_path / "vae2.safetensors").write_bytes(content)
    index["vae2"]["sha256"] = hashlib.sha256(content).hexdigest()
    (tmp_path / "pretrained.json").write_text(json.dumps({**index, "sha256": json_sum(index)}))
    with pytest.raises(RunError, match="warp"):
        load_run("vae2")


def test_a_checkpoint_file_is_a_run(stored, tmp_path):
    shutil.copy(stored.path / "model.safetensors", tmp_path / "mine.safetensors")
    r = load_run(tmp_path / "mine.safetensors")
    assert equal(r.model, stored.model)
    assert (r.config, r.name) == (stored.config, "mine")
    (tmp_path / "mine.safetensors").write_bytes(b"no weights")
    with pytest.raises(RunError, match="mine"):
        load_run(tmp_path / "mine.safetensors")
    with pytest.raises(RunError, match="nowhere"):
        load_run("nowhere.safetensors")


def test_other_images_are_trained_on(monkeypatch):
    asked = []
    monkeypatch.setattr(pretrained, "run", lambda config: asked.append(config))
    load_or_train("vae16", "fashion_mnist")
    assert asked == [replace(PRETRAINED["vae16"], dataset="fashion_mnist")]
    assert load_or_train("vae16", "mnist5k").name == "vae16"


def test_weights_are_published_only_from_the_full_mnist(digits, monkeypatch):
    monkeypatch.setattr(pretrained, "load_dataset", lambda name: digits)
    with pytest.raises(ValueError, match="full MNIST"):
        pretrain(["vae2"])
    with pytest.raises(ValueError, match="vae99"):
        pretrain(["vae99"])
