"""Intervals and comparisons against cases done by hand, and their promise kept in a simulation."""

import numpy as np
import pandas as pd
import pytest

from labutils import compare, summarize
from labutils.stats import effects, pareto


def table(values):
    return pd.DataFrame([{"f": f, "seed": s, "test_mse": v} for f, vs in values.items() for s, v in enumerate(vs)])


def test_summarize_by_hand():
    row = summarize(table({"a": [1.0, 2.0, 3.0], "b": [5.0]}), by="f")
    # mean 2, std 1, t(0.975, 2) = 4.302653, half width 4.302653 / √3
    assert row.loc["a"].tolist() == pytest.approx([2, 1, 2 - 2.484138, 2 + 2.484138, 3], abs=1e-6)
    assert row.loc["b", "n"] == 1
    assert np.isnan(row.loc["b", "low"])


def test_compare_by_hand():
    df = table({"a": [1.0, 2.0, 3.0], "b": [1.5, 2.6, 3.4], "c": [1.0, 3.0, 2.0]})
    result = compare(df, "f", baseline="a")
    # b - a = .5 .6 .4: mean .5, std .1, and with two comparisons t(1 - .05/4, 2) = 6.205347
    b = result.loc["b"]
    assert [b.difference, b.low, b.high, b.percent] == pytest.approx([0.5, 0.141734, 0.858266, 25.0], abs=1e-5)
    assert (b.verdict, b.n) == ("worse", 3)
    assert result.loc["c", "verdict"] == "not resolved at n = 3"
    assert compare(df.rename(columns={"test_mse": "psnr"}), "f", "psnr", "a").loc["b", "verdict"] == "better"
    with pytest.raises(ValueError, match="baseline"):
        compare(df, "f", baseline="z")
    with pytest.raises(ValueError, match="factor='g' is no column"):
        compare(df, "g")
    assert compare(df[df["f"] == "a"], "f").empty
    widths = df.assign(f=df["f"].map({"a": "(4, 4)", "b": "(8, 8)", "c": "(2, 2)"}))  # as tables hold filters
    assert compare(widths, "f", baseline=(4, 4)).loc["(8, 8)", "verdict"] == "worse"


def test_compare_takes_booleans_for_values():
    df = table({False: [1.0, 2.0, 3.0], True: [0.5, 1.4, 2.6]})  # differences -.5, -.6, -.4
    assert compare(df, "f", baseline=False).loc[True, "verdict"] == "better"


def test_a_mean_s_interval_covers_it_in_95_of_100_experiments():
    # 2,000 experiments of five seeds; the binomial error of a coverage of 0.95 is 0.005
    rng, n = np.random.default_rng(0), 2000
    summary = summarize(table(dict(enumerate(rng.normal(0, 1, (n, 5))))), by="f")
    assert abs(((summary["low"] <= 0) & (summary["high"] >= 0)).mean() - 0.95) < 0.015


def test_intervals_of_differences_cover_all_of_them_together():
    # seeds have a common part, as paired runs have; three values, two comparisons
    rng, n = np.random.default_rng(0), 300
    both_covered = 0
    for _ in range(n):
        seeds = rng.normal(0, 1, 5)
        df = table({value: seeds + shift + rng.normal(0, 0.3, 5) for value, shift in (("a", 0), ("b", 0.2), ("c", 0))})
        result = compare(df, "f", baseline="a")
        b, c = result.loc["b"], result.loc["c"]
        both_covered += (b.low <= 0.2 <= b.high) and (c.low <= 0 <= c.high)
    assert 0.94 < both_covered / n < 0.985  # Bonferroni: at least 0.95, and little more for two comparisons


@pytest.mark.parametrize(("a", "b"), [("a", "b"), (False, True), (3, 2)])
def test_effects_put_costs_beside_intervals(a, b):
    df = table({a: [1.0, 2.0, 3.0], b: [1.5, 2.6, 3.4]})
    for i, name in enumerate(("n_params", "macs", "code_bytes")):
        df[name] = np.where(df["f"] == a, i, 2 * i)
    result = effects(df, "f", baseline=a)
    assert result["verdict"].tolist()[0] == "baseline"
    row = result.loc[b]
    assert [row["mean"], row.percent, row.macs] == pytest.approx([2.5, 25.0, 2])
    paired = compare(df, "f", baseline=a).loc[b]
    assert [row.percent_low, row.percent_high] == pytest.approx([100 * paired.low / 2, 100 * paired.high / 2])


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
