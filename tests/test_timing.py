"""Turns are taken, and the times have the units they claim."""

from types import SimpleNamespace

import pytest
import torch

from labutils import timing
from labutils.config import BASELINE, Config
from labutils.timing import in_turns, time_models


def test_contenders_take_turns_and_the_first_call_does_not_count(monkeypatch):
    calls, clock = [], SimpleNamespace(now=0.0)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def taking(name, seconds, first):
        def f():
            clock.now += first if name not in calls else seconds
            calls.append(name)

        return f

    seconds = in_turns({"a": taking("a", 1, first=9), "b": taking("b", 2, first=9)}, rounds=3)
    assert "".join(calls) == "ab" * 4
    assert seconds.to_dict("list") == {"a": [1, 1, 1], "b": [2, 2, 2]}


def test_models_are_timed_in_the_units_of_their_columns(digits, monkeypatch):
    wide = {"narrow": Config(filters=(2, 2), depth=2), "wide": Config(filters=(64, 64), depth=1)}
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    table = time_models(wide, digits.test.images[:50], digits.test.labels[:50], rounds=5)
    assert list(table.columns) == ["train_us", "latency_ms", "batch_latency_ms"]
    assert (table.loc["wide"] > table.loc["narrow"]).all()
    # forward and backward of a batch take about three times its forward pass; another unit would be off by a thousand
    ratio = table["train_us"] * 50 / 1000 / table["batch_latency_ms"]
    assert ((ratio > 0.2) & (ratio < 100)).all()
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("model", ["conv_vae", "classifier"])
def test_other_models_are_timed_too(digits, model):
    config = Config(model=model, filters=BASELINE.filters)
    assert (time_models({model: config}, digits.test.images[:5], digits.test.labels[:5], rounds=2) > 0).all().all()
