"""An interrupted training goes on as if nothing had happened; what is not whole, or another's, is not gone on with."""

import os
import time
from dataclasses import replace

import pandas as pd
import pytest
import torch
from damages import damaged

from labutils import CLASSIFIER, COMPACT, Config, run, runs, sweep
from labutils.data import subset
from labutils.models import build_model
from labutils.objectives import squared_error
from labutils.store.checkpoint import Checkpoint
from labutils.store.listing import ABANDONED
from labutils.store.weights import pack
from labutils.training import TrainingDiverged, TrainingInterrupted, fit

FEW = {"dataset": "mnist5k", "device": "cpu", "n_train": 100, "epochs": 4, "batch_size": 32, "latent_dim": 3,
       "filters": (4, 4), "depth": 2}  # fmt: skip
TINY = replace(COMPACT, **FEW)
# whatever keeps a state: both optimisers of Muon, momentum, batch norm, warm-up, and every source of noise
KINDS = {
    "muon": TINY,
    "sgd": replace(TINY, optimizer="sgd", lr=1e-3),
    "adam": replace(TINY, optimizer="adam", weight_decay=0.01, batch_norm=False),
    "vae": Config(model="conv_vae", binarise=True, beta_warmup=0.5, **FEW),
    "conditional vae": Config(model="conditional_vae", batch_norm=True, **FEW),
    "classifier": replace(CLASSIFIER, **FEW, dropout=0.3, shift=2, flip=True, encoder_lr=0.3, head=8),
    "frozen encoder": replace(CLASSIFIER, **FEW, encoder_lr=0.0, head=8),
}


@pytest.fixture
def interrupt(monkeypatch):
    """interrupt(after=2) has the next trainings end with Ctrl-C once so many epochs are kept; None: no more."""
    save = Checkpoint.save

    def interrupt(after: int | None) -> None:
        def save_and_stop(self, training):
            save(self, training)
            if len(training.rows) == after:
                raise KeyboardInterrupt

        monkeypatch.setattr(Checkpoint, "save", save_and_stop)

    return interrupt


def assert_equal(a, b):
    for (name, x), y in zip(a.model.state_dict().items(), b.model.state_dict().values(), strict=True):
        assert torch.equal(x, y), name
    pd.testing.assert_frame_equal(a.history.drop(columns="seconds"), b.history.drop(columns="seconds"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_bit_by_bit(store, tmp_path, monkeypatch, interrupt, kind):
    config = KINDS[kind]
    whole = run(config, progress=False)
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path / "again"))
    for after in (1, 3):
        interrupt(after)
        with pytest.raises(TrainingInterrupted, match=f"after {after} of 4 epochs"):
            run(config, progress=False)
    interrupt(None)
    torch.rand(3)  # another process has other random numbers behind it
    saved = []
    save = Checkpoint.save
    monkeypatch.setattr(Checkpoint, "save", lambda self, training: saved.append(save(self, training)))
    assert_equal(run(config, progress=False), whole)
    assert len(saved) == 1
    assert list((tmp_path / "again" / "runs" / "unfinished").iterdir()) == []


def test_a_run_that_was_killed_while_it_was_measured_trains_no_more(store, monkeypatch, interrupt):
    with monkeypatch.context() as patch:
        patch.setattr(runs, "run_metrics", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(TINY, progress=False)
    interrupt(1)  # would end a training
    assert list(run(TINY, progress=False).history["epoch"]) == [1, 2, 3, 4]


def test_one_epoch_keeps_no_checkpoint(store, interrupt):
    interrupt(1)
    run(replace(TINY, epochs=1), progress=False)


def test_who_asks_for_the_epochs_gets_them_all_after_an_interruption_too(store, interrupt):
    interrupt(2)
    with pytest.raises(TrainingInterrupted):
        run(TINY, progress=False)
    epochs = []
    first = run(TINY, progress=False, each_epoch=lambda model, epoch: epochs.append(epoch))
    assert epochs == [1, 2, 3, 4]
    assert list((store / "unfinished").iterdir()) == []
    assert first.history["epoch"].tolist() == epochs


@pytest.mark.parametrize("kind", ["bit flip", "truncated", "zero tail", "empty", "another's", "older than the key"])
def test_a_checkpoint_that_is_not_whole_or_anothers_is_not_used(store, interrupt, kind):
    whole = run(TINY, progress=False)
    whole.path.rename(store / "aside")
    other = replace(TINY, seed=1) if kind == "another's" else TINY
    interrupt(2)
    with pytest.raises(TrainingInterrupted):
        run(other, progress=False)
    (file,) = (store / "unfinished").iterdir()
    if kind == "older than the key":
        file.write_bytes(pack({"model.x": torch.zeros(2)}, {}))
    elif kind == "another's":
        file.rename(file.with_name(f"{whole.path.name}.safetensors"))
    else:
        file.write_bytes(damaged(file.read_bytes(), kind, zeros=3000))
    interrupt(None)
    with pytest.warns(UserWarning, match=r"is no (checkpoint of this run|state of a training) .*begins again"):
        again = run(TINY, progress=False)
    assert_equal(again, whole)


def test_a_diverged_run_leaves_no_checkpoint(store, monkeypatch):
    def late(model, x, y, progress):  # well for two epochs
        return {"loss": squared_error(model, x, y)["loss"] * (float("nan") if 0.5 < progress < 1 else 1)}

    monkeypatch.setattr(runs, "build_objective", lambda config: late)
    with pytest.raises(TrainingDiverged, match="epoch 3"):
        run(TINY, progress=False)
    assert list((store / "unfinished").iterdir()) == []


def test_a_full_disk_costs_the_checkpoint_not_the_training(digits, tmp_path, monkeypatch):
    few = subset(digits.train, 40), subset(digits.val, 24)
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="left no checkpoint") as caught:
        history = fit(build_model(TINY), squared_error, *few, TINY, [Checkpoint(tmp_path / "file" / "nowhere", "key")])
    assert len(history) == len(caught) == 4


def test_what_nobody_goes_on_with_is_tidied(store):
    unfinished = store / "unfinished"
    unfinished.mkdir(parents=True)
    old, young = unfinished / "0123456789abcdef.safetensors", unfinished / "fedcba9876543210.safetensors"
    scratch = unfinished / "writing-01234567"
    scratch.mkdir()
    for path in (old, young, scratch / "config.json"):
        path.write_text("")
    for path in (old, scratch):
        os.utime(path, (time.time() - ABANDONED - 60,) * 2)
    sweep([replace(TINY, epochs=1)])
    assert list(unfinished.iterdir()) == [young]
