"""Intervals and comparisons against cases done by hand, and their promise kept in a simulation."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from labutils import compare, summarize
from labutils.stats import _dunnett_critical, log_error, pareto, verdicts


def table(values):
    return pd.DataFrame([{"f": f, "seed": s, "test_mse": v} for f, vs in values.items() for s, v in enumerate(vs)])


def test_summarize_by_hand():
    row = summarize(table({"a": [1.0, 2.0, 3.0], "b": [5.0]}), by="f")
    # mean 2, std 1, t(0.975, 2) = 4.302653, half width 4.302653 / √3
    assert row.loc["a"].tolist() == pytest.approx([2, 1, 2 - 2.484138, 2 + 2.484138, 3], abs=1e-6)
    assert row.loc["b", "n"] == 1
    assert np.isnan(row.loc["b", "low"])


def test_compare_is_dunnett_s_test_on_logarithms():
    df = table({"a": [1.0, 2.0, 3.0], "b": [1.5, 2.6, 3.4, 2.0], "c": [9.0, 11.0, 10.0]})
    result = compare(df, "f", baseline="a")
    logs = {f: np.log(group["test_mse"].to_numpy()) for f, group in df.groupby("f")}
    oracle = stats.dunnett(logs["b"], logs["c"], control=logs["a"], rng=1).confidence_interval(0.95)
    assert result["ratio"].tolist() == pytest.approx([np.exp(logs[f].mean() - logs["a"].mean()) for f in "bc"])
    # scipy integrates by quasi-random numbers: to about a thousandth
    assert np.log(result["ratio_low"]).tolist() == pytest.approx(oracle.low, abs=5e-3)
    assert np.log(result["ratio_high"]).tolist() == pytest.approx(oracle.high, abs=5e-3)
    assert result["verdict"].to_dict() == {"b": "not resolved", "c": "worse"}
    assert result["n"].tolist() == [4, 3]


def test_compare_for_each_kind_of_metric():
    df = table({"a": [0.90, 0.91, 0.92], "b": [0.96, 0.95, 0.97], "c": [0.90, 0.92, 0.91]})
    accuracy = compare(df.rename(columns={"test_mse": "test_accuracy"}), "f", "test_accuracy").loc["b"]
    assert accuracy.verdict == "better"  # 0.04 errors instead of 0.09
    assert accuracy.ratio == pytest.approx((0.04 * 0.05 * 0.03 / (0.10 * 0.09 * 0.08)) ** (1 / 3))
    # ten dB are a tenth of the squared error, twice the images in a second are half the time
    assert np.exp(log_error(pd.Series([10.0, 20.0], name="psnr"))).tolist() == pytest.approx([0.1, 0.01])
    assert np.exp(log_error(pd.Series([2.0], name="images_per_second"))).tolist() == [0.5]
    assert np.exp(log_error(pd.Series([1.0], name="test_accuracy"))).tolist() == pytest.approx([5e-5])  # finite


def test_compare_refuses_what_is_not_in_the_table():
    df = table({"(4, 4)": [1.0, 2.0, 3.0], "(8, 8)": [11.0, 12.0, 13.0]})  # as tables hold filters
    with pytest.raises(ValueError, match="baseline"):
        compare(df, "f", baseline="z")
    with pytest.raises(ValueError, match="factor='g' is no column"):
        compare(df, "g")
    assert compare(df[df["f"] == "(4, 4)"], "f").empty
    assert compare(df, "f", baseline=(4, 4)).loc["(8, 8)", "verdict"] == "worse"


def test_compare_takes_booleans_for_values_and_says_nothing_of_single_runs():
    df = table({False: [1.0, 1.1, 1.2], True: [0.1, 0.11, 0.12]})
    assert compare(df, "f", baseline=False).loc[True, "verdict"] == "better"
    single = compare(df[df["seed"] == 0], "f", baseline=False).loc[True]
    assert (single.verdict, single.ratio) == ("not resolved", pytest.approx(0.1))
    assert np.isnan(single.ratio_low)


def test_a_mean_s_interval_covers_it_in_95_of_100_experiments():
    # 2,000 experiments of five seeds; the binomial error of a coverage of 0.95 is 0.005
    rng, n = np.random.default_rng(0), 2000
    summary = summarize(table(dict(enumerate(rng.normal(0, 1, (n, 5))))), by="f")
    assert abs(((summary["low"] <= 0) & (summary["high"] >= 0)).mean() - 0.95) < 0.015


@pytest.mark.parametrize("sizes", [(5, 5, 5), (3, 5, 4)])
def test_intervals_of_ratios_cover_all_of_them_together(sizes):
    # 2,000 experiments; the binomial error of a coverage of 0.95 is 0.005. Written for arrays: 2,000 tables take long
    rng, n, true = np.random.default_rng(0), 2000, {"a": 1.0, "b": 1.2, "c": 0.5}
    logs = [rng.normal(np.log(ratio), 0.1, (n, k)) for ratio, k in zip(true.values(), sizes, strict=True)]
    squares = sum(x.var(1) * k for x, k in zip(logs, sizes, strict=True))
    unit = _dunnett_critical(*sizes) * np.sqrt(squares / (sum(sizes) - len(sizes)))
    effects = {f: x.mean(1) - logs[0].mean(1) for f, x in zip(true, logs, strict=True)}
    halves = {f: unit * np.sqrt(1 / k + 1 / sizes[0]) for f, k in zip(true, sizes, strict=True)}
    covered = np.all([abs(effects[f] - np.log(true[f])) <= halves[f] for f in ("b", "c")], axis=0)
    assert abs(covered.mean() - 0.95) < 0.015
    for i in range(20):  # and these are the intervals of `compare`
        result = compare(table({f: np.exp(x[i]) for f, x in zip(true, logs, strict=True)}), "f", baseline="a")
        for f, row in result.iterrows():
            ends = np.exp([effects[f][i] - halves[f][i], effects[f][i] + halves[f][i]])
            np.testing.assert_allclose([row.ratio_low, row.ratio_high], ends)


def test_verdicts_take_each_arm_at_its_best_rate_and_each_budget():
    rows = [{"arm": arm, "epochs": epochs, "lr": lr, "seed": seed, "best": lr == best, "error": "",
             "test_mse": level * (1 + seed / 100) * (1 if lr == best else 9) / epochs,
             "n_params": 1, "macs": 2, "code_bytes": 4}
            for epochs in (2, 8) for arm, level, best in (("relu", 1.0, 0.1), ("tanh", 1.5, 0.2))
            for lr in (0.1, 0.2) for seed in range(3)]  # fmt: skip
    table = verdicts(pd.DataFrame(rows))
    assert table.index.tolist() == [(2, "relu"), (2, "tanh"), (8, "relu"), (8, "tanh")]
    assert table["verdict"].tolist() == ["baseline", "worse"] * 2
    assert table["lr"].tolist() == [0.1, 0.2] * 2
    assert table["ratio"].tolist()[1::2] == pytest.approx([1.5, 1.5])
    assert table["mean"].tolist() == pytest.approx([0.505, 0.7575, 0.12625, 0.189375])


def test_a_leaderboard_has_the_best_first_and_no_row_without_the_metric():
    df = pd.DataFrame({
        "model": ["cae", "cae", "cae", "classifier", "cae"],
        "latent_dim": [2, 2, 8, 8, 8], "n_train": [9, 9, 9, 9, np.nan],
        "test_mse": [3.0, 4.0, 1.0, np.nan, np.nan], "test_accuracy": [np.nan] * 3 + [0.9, np.nan],
        "error": ["", "", "", "", "failed"],
    })  # fmt: skip
    with pytest.warns(UserWarning, match="1 of 5"):
        board = summarize(df)
    assert board.index.tolist() == [8, 2]
    assert board["n"].tolist() == [1, 2]
    with pytest.warns(UserWarning, match="1 of 5"):
        assert summarize(df, metric="test_accuracy").index.tolist() == ["classifier"]
    assert summarize(pd.DataFrame()).empty


def test_pareto_front_by_hand():
    points = pd.DataFrame({"cost": [1, 2, 3, 2, 1, 4], "mean": [5, 3, 3, 4, 5, 1]}, index=list("abcdef"))
    # c costs more than b for the same error, d is worse than b at the same cost; a and e are twins
    assert pareto(points, "cost").to_dict() == {"a": True, "b": True, "c": False, "d": False, "e": True, "f": True}
