"""The search for each arm's learning rate, on runs whose best rate is known."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from labutils import BASELINE, Config, ablate, sweeps
from labutils.stats import verdicts
from labutils.sweeps import best_rates, tuned_sweep

OPTIMUM = {"relu": 0.01, "tanh": 0.0013, "silu": 0.07}
RATES = (0.005, 0.01, 0.02, 0.04)


@pytest.fixture
def made(monkeypatch):
    """Stands in for `sweep`: the logarithm of an error is a parabola around the activation's best rate, which halves
    while a training is four times as long; above 16 times it a run fails. Returns the configs that were run."""
    asked: list[Config] = []

    def sweep(configs, executor=None):
        rows = []
        for config in configs:
            asked.append(config)
            best = OPTIMUM[config.activation] / math.sqrt(config.epochs)
            error = np.exp(math.log2(config.lr / best) ** 2) * (1 + config.seed / 1000) / config.epochs
            failed = config.lr > 16 * best
            rows.append(config.to_dict() | {
                "run": str(config), "val_mse": np.nan if failed else error, "test_mse": np.nan if failed else 2 * error,
                "error": "diverged" if failed else "", "n_params": 1, "macs": 1, "code_bytes": 4,
            })  # fmt: skip
        return pd.DataFrame(rows)

    monkeypatch.setattr(sweeps, "sweep", sweep)
    return asked


def test_the_search_ends_and_says_that_the_best_may_lie_beyond(made):
    with pytest.warns(UserWarning, match="still best at the edge of the rates tried, after 6 more: silu"):
        df = tuned_sweep(arms("silu"), (1e-5, 2e-5), {1: 2})
    assert df["lr"].nunique() == 8


def arms(*names):
    return {name: replace(BASELINE, activation=name) for name in names}


def test_every_arm_trains_at_its_own_best_rate_for_each_budget(made):
    df = tuned_sweep(arms("relu", "tanh", "silu"), RATES, {1: 5, 4: 3})
    runs = df[df["best"]].groupby(["epochs", "arm"], sort=False)
    # 0.00125 and 0.08 are outside the grid, which grew; the longer training wants half of each
    expected = {(1, "relu"): 0.01, (1, "tanh"): 0.00125, (1, "silu"): 0.08}
    expected |= {(4, arm): lr / 2 for (_, arm), lr in expected.items()}
    assert (runs["lr"].nunique() == 1).all()
    assert runs["lr"].first().to_dict() == pytest.approx(expected)
    assert runs["seed"].apply(list).to_dict() == {
        (epochs, arm): list(range(5 if epochs == 1 else 3)) for epochs, arm in expected
    }
    tried = df.groupby(["epochs", "arm"])["lr"].agg(lambda lrs: sorted({*lrs}))
    assert all(lrs[0] < expected[key] for key, lrs in tried.items()), "no best rate is the smallest tried"
    assert all(lrs[-1] > expected[key] for key, lrs in tried.items()), "or the largest"
    assert tried.loc[1].map(len).min() >= 4
    table = verdicts(df)
    assert table["n"].tolist() == [5, 5, 5, 3, 3, 3]
    assert table.index[0] == (1, "relu")
    assert len(set(map(str, made))) == len(df), "each run is one row"


def test_a_rate_at_which_a_seed_fails_is_not_the_best(made):
    df = pd.DataFrame({"arm": "a", "lr": [0.1, 0.1, 0.2, 0.2], "val_mse": [1.0, 1.1, 0.5, np.nan], "error": ""})
    assert best_rates(df) == {"a": 0.1}
    with pytest.raises(ValueError, match="no run of 'a' ended well: it diverged"):
        best_rates(df.assign(val_mse=np.nan, error="it diverged"))
    accuracies = df.assign(val_accuracy=[0.8, 0.8, 0.9, 0.9]).drop(columns="val_mse")
    assert best_rates(accuracies) == {"a": 0.2}


def test_ablate_tunes_each_value(made):
    df = ablate("activation", ["relu", "tanh"], tune=RATES, budgets={1: 2})
    assert df.groupby("arm")["activation"].unique().map(list).to_dict() == {"relu": ["relu"], "tanh": ["tanh"]}
    assert (df["epochs"] == 1).all()
    with pytest.raises(ValueError, match="factor='lr'"):
        ablate("lr", [0.1], tune=RATES)
    with pytest.raises(ValueError, match=r"needs values and at least one seed, not values=0\.1"):
        ablate("weight_decay", 0.1, tune=RATES)
    with pytest.raises(ValueError, match="budgets say how long"):
        ablate("weight_decay", [0.0, 0.1], budgets={1: 2})


NOTHING = [({}, RATES, {1: 2}), (["relu"], RATES, {1: 2}), ({"a": BASELINE}, (), {1: 2}),
           ({"a": BASELINE}, 0.01, {1: 2}), ({"a": BASELINE}, RATES, {}), ({"a": BASELINE}, RATES, 6)]  # fmt: skip


@pytest.mark.parametrize("wrong", NOTHING)
def test_a_sweep_of_nothing_is_refused_before_any_run(made, wrong):
    with pytest.raises(ValueError, match="a tuned sweep needs arms"):
        tuned_sweep(*wrong)
    assert made == []


def test_an_arm_has_the_same_name_at_either_scale(made, monkeypatch):
    monkeypatch.setenv("LABUTILS_SCALE", "smoke")
    df = ablate("weight_decay", [0, 0.01, 0.1])
    assert df["weight_decay"].unique().tolist() == [0, 0.1]
    assert [*ablate("weight_decay", [0, 0.01, 0.1], tune=RATES, budgets={1: 2})["arm"].unique()] == ["0", "0.1"]


def test_smoke_scale_tries_two_rates_and_two_arms_without_widening(made, monkeypatch):
    monkeypatch.setenv("LABUTILS_SCALE", "smoke")
    df = tuned_sweep(arms("relu", "tanh", "silu"), RATES, {3: 5, 12: 3})
    assert df["arm"].unique().tolist() == ["relu", "tanh"]
    assert sorted(df["epochs"].unique()) == [1, 2]
    assert df[df["epochs"] == 1].groupby("arm")["lr"].nunique().tolist() == [2, 2]
    assert len(df) < 20
