"""Turns are taken, and the times have the units they claim."""

import time

import pytest
import torch

from labutils.config import BASELINE, Config
from labutils.timing import in_turns, time_models


def test_contenders_take_turns_and_the_first_call_does_not_count():
    calls = []
    contenders = {
        "a": lambda: (calls.append("a"), time.sleep(0.2 if len(calls) == 1 else 0)),
        "b": lambda: (calls.append("b"), time.sleep(0.02)),
    }
    seconds = in_turns(contenders, rounds=3)
    assert "".join(calls) == "ab" * 4
    assert seconds.shape == (3, 2)
    assert seconds["a"].max() < 0.02 <= seconds["b"].min()


def test_models_are_timed_in_the_units_of_their_columns(digits, monkeypatch):
    wide = {"narrow": Config(filters=(2, 2), depth=2), "wide": Config(filters=(64, 64), depth=1)}
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    table = time_models(wide, digits.test.images[:50], digits.test.labels[:50], rounds=5)
    assert list(table.columns) == ["train_us", "latency_ms", "batch_latency_ms"]
    assert (table.loc["wide"] > table.loc["narrow"]).all()
    # a batch of 50 forward takes about a third of the same batch forward and backward
    ratio = table["train_us"] * 50 / 1000 / table["batch_latency_ms"]
    assert ((ratio > 1) & (ratio < 30)).all()
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("model", ["conv_vae", "classifier"])
def test_other_models_are_timed_too(digits, model):
    config = Config(model=model, filters=BASELINE.filters)
    assert (time_models({model: config}, digits.test.images[:5], digits.test.labels[:5], rounds=2) > 0).all().all()
