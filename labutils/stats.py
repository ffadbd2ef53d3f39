"""Statistics of tables of runs: intervals, paired comparisons, effects beside costs, Pareto fronts."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pandas as pd

from labutils.config import Config
from labutils.data import Split
from labutils.timing import time_models

COSTS = ["n_params", "macs", "code_bytes", "train_us", "latency_ms", "batch_latency_ms"]


def _without_failed(df: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The table with NaN for what failed runs should have measured (column error, see `sweep`), and a warning: so each
    setting keeps its row, and n counts the runs that count."""
    # in a table read back from CSV "" is NaN
    failed = df["error"].notna() & (df["error"] != "") if "error" in df else pd.Series(False, index=df.index)
    if failed.any():
        warnings.warn(f"{failed.sum()} of {len(df)} runs failed and are left out, see column error", stacklevel=3)
        df = df.assign(**{metric: df[metric].where(~failed) if metric in df else np.nan})
    return df


def _half_width(std: Any, n: Any, comparisons: int = 1) -> Any:
    """Half the 95 % t-interval of a mean, corrected for the number of comparisons (Bonferroni); NaN for n = 1."""
    from scipy import stats

    return stats.t.ppf(1 - 0.025 / comparisons, n - 1) * std / np.sqrt(n)


def summarize(df: pd.DataFrame, by: str | Sequence[str] | None = None, metric: str = "test_mse") -> pd.DataFrame:
    """Mean, standard deviation, 95 % t-interval of the mean, and n of a metric for each value of a column (or columns).

    Without `by` it is a leaderboard: a row for each configuration that has the metric, told apart by every field of
    Config in which they differ, the seed apart; the best first.
    With one run the interval is NaN: one run says nothing about the next. Failed runs are left out, with a warning.
    """
    df = _without_failed(df, metric)
    leaderboard = by is None
    if by is None:
        df = df[df[metric].notna()] if metric in df else pd.DataFrame(columns=["model", metric], dtype=float)
        names = [field.name for field in fields(Config) if field.name != "seed" and field.name in df]
        by = [name for name in names if df[name].astype(str).nunique() > 1] or ["model"]
    by = by if isinstance(by, str) else list(by)
    groups = df.groupby(by, sort=False, dropna=False)[metric]
    table = groups.agg(["mean", "std", "count"]).rename(columns={"count": "n"})
    half = _half_width(table["std"], table["n"])
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

    A factor or baseline that is not in the table, or two runs of a value with one seed, are a ValueError.
    """
    if factor not in df:
        raise ValueError(f"factor={factor!r} is no column of this table")
    if isinstance(baseline, (tuple, list)):
        baseline = str(tuple(baseline))  # as tables hold filters
    values = list(dict.fromkeys(df[factor]))
    baseline = values[0] if baseline is None else baseline
    if baseline not in values:
        raise ValueError(f"baseline={baseline!r} is not among the values of {factor}: {values}")
    wide = _without_failed(df, metric).pivot(index="seed", columns=factor, values=metric)
    by_seed = {value: wide.iloc[:, i] for i, value in enumerate(wide.columns)}  # a list of booleans would be a mask
    rows = []
    for value in (value for value in values if value != baseline):
        pairs = (by_seed[value] - by_seed[baseline]).dropna()
        half = _half_width(pairs.std(), len(pairs), len(values) - 1)
        ends = {"": pairs.mean(), "_low": pairs.mean() - half, "_high": pairs.mean() + half}
        verdict = f"not resolved at n = {len(pairs)}"
        if ends["_low"] > 0 or ends["_high"] < 0:
            verdict = "better" if (ends["_low"] > 0) == _higher_is_better(metric) else "worse"
        percent = {f"percent{end}": 100 / by_seed[baseline].mean() * difference for end, difference in ends.items()}
        rows.append([value, *ends.values(), *percent.values(), len(pairs), verdict])
    columns = [factor, "difference", "low", "high", "percent", "percent_low", "percent_high", "n", "verdict"]
    return pd.DataFrame(rows, columns=columns).set_index(factor)


def effects(df: pd.DataFrame, factor: str, metric: str = "test_mse", baseline: Any = None) -> pd.DataFrame:
    """The table of an ablation: of `summarize` mean, low, high, n; of `compare` percent (of the baseline's mean) with
    percent_low and percent_high, verdict; and the costs that no machine decides: n_params, macs, code_bytes."""
    df = _without_failed(df, metric).drop(columns="error", errors="ignore")  # said once is enough
    table = summarize(df, factor, metric).drop(columns="std")
    paired = ["percent", "percent_low", "percent_high", "verdict"]
    table = table.join(compare(df, factor, metric, baseline)[paired])
    table["verdict"] = table["verdict"].fillna("baseline")
    return table.join(df.groupby(factor)[["n_params", "macs", "code_bytes"]].median())


def effects_and_times(
    df: pd.DataFrame, factor: str, values: Iterable[Any], *, base: Config, split: Split
) -> pd.DataFrame:
    """The table of an ablation: `stats.effects` against the base's value, and what `time_models` measures of each
    value's model with 128 images of a split."""
    table = effects(df, factor, baseline=getattr(base, factor))
    value_of = {str(value): value for value in values}
    variants = {row: replace(base, **{factor: value_of[str(row)]}) for row in table.index}
    return table.join(time_models(variants, split.images[:128], split.labels[:128]))


def pareto(table: pd.DataFrame, cost: str, quality: str = "mean") -> pd.Series:
    """True where no other row is at most as costly and at most as wrong, and better in one of the two columns `cost`
    and `quality`, in which less is better; False where one of them was not measured."""
    a = table[[cost, quality]].to_numpy(dtype=float)
    no_worse = np.all(a[None] <= a[:, None], axis=2)
    better = np.any(a[None] < a[:, None], axis=2)
    return pd.Series(~np.any(no_worse & better, axis=1) & np.isfinite(a).all(1), index=table.index)
