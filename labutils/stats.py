"""Statistics of tables of runs: intervals, comparisons by ratio, verdicts beside costs, Pareto fronts."""

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from labutils.config import field_names


def _without_failed(df: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The table with NaN for what failed runs should have measured (column error, see `sweep`), and a warning: so each
    setting keeps its row, and n counts the runs that count."""
    # in a table read back from CSV "" is NaN
    failed = df["error"].notna() & (df["error"] != "") if "error" in df else pd.Series(False, index=df.index)
    if failed.any():
        warnings.warn(f"{failed.sum()} of {len(df)} runs failed and are left out, see column error", stacklevel=3)
        df = df.assign(**{metric: df[metric].where(~failed) if metric in df else np.nan})
    return df


def _half_width(std: Any, n: Any) -> Any:
    """Half the 95 % t-interval of a mean; NaN for n = 1."""
    from scipy import stats

    return stats.t.ppf(0.975, n - 1) * std / np.sqrt(n)


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
        names = [name for name in field_names(df["model"].unique()) if name != "seed" and name in df]
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


def log_error(values: pd.Series) -> pd.Series:
    """Return the logarithm of an error, whose differences are ratios: of an accuracy or ssim that of what is missing to
    1 (5e-5 at least), of a psnr in dB that of the squared error, of images_per_second that of the time; else of the
    values."""
    name = str(values.name)
    if name.endswith("psnr"):
        return -values * np.log(10) / 10
    if name.endswith("images_per_second"):
        return -np.log(values)
    # no error at all counts as half an image of MNIST's 10,000: a ratio to nothing says nothing
    return np.log((1 - values).clip(lower=5e-5) if name.endswith(("accuracy", "ssim")) else values)


def compare(df: pd.DataFrame, factor: str, metric: str = "test_mse", baseline: Any = None) -> pd.DataFrame:
    """Compare each value of a factor with the baseline: how many times its error, with simultaneous 95 % intervals.

    Dunnett's test on the logarithms of the errors (Dunnett 1955; see `log_error`): the spread over seeds is pooled over
    all values, and in 95 of 100 experiments *all* intervals of the table hold. Seeds are not paired: in the series'
    ablations a value's errors correlate with the baseline's by about 0.3, which gains nothing over the degrees of
    freedom that pairing costs.

    Args:
        baseline: the value to compare with; None is the first in the table.

    Returns:
        A row a value: ratio of the error to the baseline's (geometric means), ratio_low, ratio_high, n runs, and
        verdict: "better" or "worse" where the interval excludes 1, else "not resolved". Failed runs are left out.

    A factor or baseline that is not in the table is a ValueError.
    """
    if factor not in df:
        raise ValueError(f"factor={factor!r} is no column of this table")
    if isinstance(baseline, (tuple, list)):
        baseline = str(tuple(baseline))  # as tables hold filters
    values = list(dict.fromkeys(df[factor]))
    baseline = values[0] if baseline is None else baseline
    if baseline not in values:
        raise ValueError(f"baseline={baseline!r} is not among the values of {factor}: {values}")
    runs = _without_failed(df, metric).dropna(subset=metric)
    logs = {value: log_error(runs[metric][runs[factor] == value]) for value in values}
    sizes = {value: len(errors) for value, errors in logs.items()}
    freedom = sum(sizes.values()) - sum(n > 0 for n in sizes.values())
    squares = sum(((errors - errors.mean()) ** 2).sum() for errors in logs.values())
    spread = np.sqrt(squares / freedom) if freedom else np.nan
    others = [value for value in values if value != baseline]
    critical = _dunnett_critical(sizes[baseline], *(sizes[value] for value in others if sizes[value]))
    rows = []
    for value in others:
        n = sizes[value]
        effect = logs[value].mean() - logs[baseline].mean()
        half = critical * spread * np.sqrt(1 / n + 1 / sizes[baseline]) if n and sizes[baseline] else np.nan
        ratio, low, high = np.exp([effect, effect - half, effect + half])
        verdict = "worse" if low > 1 else "better" if high < 1 else "not resolved"
        rows.append([value, ratio, low, high, n, verdict])
    return pd.DataFrame(rows, columns=[factor, "ratio", "ratio_low", "ratio_high", "n", "verdict"]).set_index(factor)


@cache
def _dunnett_critical(*sizes: int) -> float:
    """Return how many standard errors Dunnett's simultaneous 95 % intervals reach to each side, for groups of these
    sizes, the baseline's first; NaN where no spread can be estimated. It depends on the sizes alone: taken from scipy's
    intervals for any samples."""
    from scipy import stats

    freedom = sum(sizes) - len(sizes)
    if freedom < 1 or len(sizes) < 2 or not sizes[0]:
        return np.nan
    if len(sizes) == 2:  # one comparison: Student's t
        return float(stats.t.ppf(0.975, freedom))
    samples = [np.random.default_rng(i).normal(size=n) for i, n in enumerate(sizes)]
    interval = stats.dunnett(*samples[1:], control=samples[0], rng=0).confidence_interval(0.95)
    variance = sum(((sample - sample.mean()) ** 2).sum() for sample in samples) / freedom
    return float((interval.high - interval.low)[0] / 2 / np.sqrt(variance * (1 / sizes[0] + 1 / sizes[1])))


def verdicts(df: pd.DataFrame, metric: str = "test_mse", baseline: Any = None) -> pd.DataFrame:
    """Return what a `tuned_sweep` found, a row for each number of epochs and arm: lr, the arm's best rate; of
    `summarize` mean, low, high, n; of `compare` with the baseline ratio, ratio_low, ratio_high, verdict; and the costs
    that no machine decides: n_params, macs, code_bytes. The baseline, by default the first arm, has the verdict
    "baseline". (Seeds are not paired, see `compare`. Of a factor that hardly changes a run look at the ratios seed by
    seed as well.) Another table than that of a `tuned_sweep` is a ValueError."""
    if "best" not in df:
        raise ValueError("this table has no best learning rates: make it by tuned_sweep or ablate(…, tune=…); without "
                         "tuning, summarize and compare tell what was found")  # fmt: skip
    tables = {}
    for epochs, runs in df[df["best"]].groupby("epochs"):
        arms = runs.groupby("arm", sort=False)
        table = summarize(runs, "arm", metric).drop(columns="std")
        table.insert(0, "lr", arms["lr"].first())
        table = table.join(compare(runs, "arm", metric, baseline).drop(columns="n"))
        table["verdict"] = table["verdict"].fillna("baseline")
        tables[epochs] = table.join(arms[["n_params", "macs", "code_bytes"]].median())
    return pd.concat(tables, names=["epochs", "arm"])


def pareto(table: pd.DataFrame, cost: str, quality: str = "mean") -> pd.Series:
    """True where no other row is at most as costly and at most as wrong, and better in one of the two columns `cost`
    and `quality`, in which less is better; False where one of them was not measured."""
    a = table[[cost, quality]].to_numpy(dtype=float)
    no_worse = np.all(a[None] <= a[:, None], axis=2)
    better = np.any(a[None] < a[:, None], axis=2)
    return pd.Series(~np.any(no_worse & better, axis=1) & np.isfinite(a).all(1), index=table.index)
