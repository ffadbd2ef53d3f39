"""Statistics of tables of runs: intervals, paired comparisons, effects beside costs, Pareto fronts."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from labutils.config import Config


def _without_failed(df: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Where runs have failed (column error, see `sweep`): a warning, and NaN for what they should have measured, so
    that each setting keeps its row and n counts the runs that count."""
    # in a table read back from CSV "" is NaN
    failed = df["error"].notna() & (df["error"] != "") if "error" in df else pd.Series(False, index=df.index)
    if failed.any():
        warnings.warn(f"{failed.sum()} of {len(df)} runs failed and are left out, see column error", stacklevel=3)
        df = df.assign(**{metric: df[metric].where(~failed) if metric in df else np.nan})
    return df


def summarize(df: pd.DataFrame, by: str | Sequence[str] | None = None, metric: str = "test_mse") -> pd.DataFrame:
    """Mean, standard deviation, 95 % t-interval of the mean, and n of a metric for each value of a column (or columns).

    Without `by` it is a leaderboard: a row for each configuration that has the metric, told apart by every field of
    Config in which they differ, the seed apart; the best first.
    With one run the interval is NaN: one run says nothing about the next. Failed runs are left out, with a warning.
    """
    from scipy import stats

    df = _without_failed(df, metric)
    leaderboard = by is None
    if by is None:
        df = df[df[metric].notna()] if metric in df else pd.DataFrame(columns=["model", metric], dtype=float)
        fields = [field.name for field in dataclasses.fields(Config) if field.name != "seed" and field.name in df]
        by = [name for name in fields if df[name].astype(str).nunique() > 1] or ["model"]
    by = by if isinstance(by, str) else list(by)
    table = (
        df.groupby(by, sort=False, dropna=False)[metric].agg(["mean", "std", "count"]).rename(columns={"count": "n"})
    )
    half = stats.t.ppf(0.975, (table["n"] - 1).where(table["n"] > 1)) * table["std"] / np.sqrt(table["n"])
    table.insert(2, "low", table["mean"] - half)
    table.insert(3, "high", table["mean"] + half)
    return table.sort_values("mean", ascending=not _higher_is_better(metric)) if leaderboard else table


def _higher_is_better(metric: str) -> bool:
    return metric.endswith(("psnr", "ssim", "accuracy", "images_per_second"))


def compare(df: pd.DataFrame, factor: str, metric: str = "test_mse", baseline: Any = None) -> pd.DataFrame:
    """Each value of a factor against the baseline, paired by seed.

    Args:
        baseline: the value to compare with; None is the first in the table.

    Returns:
        A row a value: difference (value - baseline), its 95 % t-interval low … high, corrected for the number of
        comparisons (Bonferroni), the same as percent_low … percent … percent_high of the baseline's mean, n pairs, and
        verdict: "better" or "worse" where the interval excludes zero, else "not resolved at n = …". Lower is better for
        errors and costs, higher for psnr, ssim, accuracies and images_per_second. A failed run's seed is left out.

    Raises:
        ValueError: the factor or the baseline is not in the table, or a value was run twice with one seed.
    """
    from scipy import stats

    if factor not in df:
        raise ValueError(f"factor={factor!r} is no column of this table")
    if isinstance(baseline, (tuple, list)):
        baseline = str(tuple(baseline))  # as tables hold filters
    wide = _without_failed(df, metric).pivot(index="seed", columns=factor, values=metric)
    by_seed = {value: wide.iloc[:, i] for i, value in enumerate(wide.columns)}  # a list of booleans would be a mask
    values = list(dict.fromkeys(df[factor]))
    baseline = values[0] if baseline is None else baseline
    if baseline not in values:
        raise ValueError(f"baseline={baseline!r} is not among the values of {factor}: {values}")
    others = [value for value in values if value != baseline]
    rows = []
    for value in others:
        d = (by_seed[value] - by_seed[baseline]).dropna()
        half = np.nan
        if len(d) > 1:
            half = stats.t.ppf(1 - 0.025 / len(others), len(d) - 1) * d.std() / np.sqrt(len(d))
        low, high = d.mean() - half, d.mean() + half
        verdict = f"not resolved at n = {len(d)}"
        if low > 0 or high < 0:
            verdict = "better" if (low > 0) == _higher_is_better(metric) else "worse"
        percent = 100 / by_seed[baseline].mean()
        rows.append({factor: value, "difference": d.mean(), "low": low, "high": high, "percent": percent * d.mean(),
                     "percent_low": percent * low, "percent_high": percent * high,
                     "n": len(d), "verdict": verdict})  # fmt: skip
    columns = [factor, "difference", "low", "high", "percent", "percent_low", "percent_high", "n", "verdict"]
    return pd.DataFrame(rows, columns=columns).set_index(factor)


def effects(df: pd.DataFrame, factor: str, metric: str = "test_mse", baseline: Any = None) -> pd.DataFrame:
    """The table of an ablation: `summarize`, what `compare` says, and the costs that no machine decides.

    Columns mean, low, high, n; percent (of the baseline's mean) with percent_low and percent_high, verdict; n_params,
    macs, code_bytes. (Times of runs that had different neighbours do not compare: see timing.time_models.)
    """
    df = _without_failed(df, metric).drop(columns="error", errors="ignore")  # said once is enough
    table = summarize(df, factor, metric).drop(columns="std")
    paired = ["percent", "percent_low", "percent_high", "verdict"]
    table = table.join(compare(df, factor, metric, baseline)[paired])
    table["verdict"] = table["verdict"].fillna("baseline")
    return table.join(df.groupby(factor)[["n_params", "macs", "code_bytes"]].median())


def pareto(table: pd.DataFrame, cost: str, quality: str = "mean") -> pd.Series:
    """True where no other row is at most as costly and at most as wrong, and better in one of the two; False where
    one of the two was not measured.

    Args:
        cost, quality: columns in which less is better.
    """
    a = table[[cost, quality]].to_numpy(dtype=float)
    no_worse = np.all(a[None] <= a[:, None], axis=2)
    better = np.any(a[None] < a[:, None], axis=2)
    return pd.Series(~np.any(no_worse & better, axis=1) & np.isfinite(a).all(1), index=table.index)
