"""What notebooks of the first edition use until they are rewritten; then this file goes."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labutils.data import Dataset, Split, subset, to_float
from labutils.device import cpu_threads
from labutils.plots import (
    BLUE,
    GREY,
    NO_FLOORS,
    Floors,
    Tables,
    _bars,
    _chart,
    _draw_floors,
    _finish,
    figure,
)
from labutils.stats import _higher_is_better, _without_failed, summarize


def _half_width(std: Any, n: Any, comparisons: int = 1) -> Any:
    """Half the 95 % t-interval of a mean, corrected for the number of comparisons (Bonferroni); NaN for n = 1."""
    from scipy import stats

    return stats.t.ppf(1 - 0.025 / comparisons, n - 1) * std / np.sqrt(n)


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


def plot_effects(table: pd.DataFrame, ylabel: str = "test mse per pixel", floors: Floors = NO_FLOORS) -> Figure:
    """Draw a table of `stats.effects`: on the left each value's mean with its interval, and the floors; on the right
    the difference to the baseline, paired by seed, in percent of the baseline's mean."""
    fig, axes = figure(9, 0.9 + 0.42 * max(5, len(table)), 1, 2)
    left, right = axes[0]
    at, is_baseline = np.arange(len(table)), (table["verdict"] == "baseline").to_numpy()
    for colour, rows in ((GREY, is_baseline), (BLUE, ~is_baseline)):
        left.errorbar(at[rows], table["mean"][rows], _bars(table[rows]), fmt="o", ms=5, capsize=4, color=colour)
    _draw_floors(left, floors)
    left.set(xlim=(-0.5, len(table) - 0.5))
    left.set_xticks(at, map(str, table.index), fontsize=8, rotation=90 if len(table) > 6 else 0)
    _finish(left, str(table.index.name or ""), ylabel, log="y" if floors else "", legend=False)
    _draw_differences(right, table)
    for i, verdict in enumerate(table["verdict"]):
        right.annotate(verdict, (1.02, i), xycoords=right.get_yaxis_transform(), va="center", fontsize=8)
    return fig


def plot_comparisons(tables: Tables) -> Figure:
    """Draw tables of `stats.compare` with the same rows: percent with its interval, a colour for each table."""
    fig, ax = _chart(8, 1 + 0.45 * len(next(iter(tables.values()))))
    for i, (name, table) in enumerate(tables.items()):
        _draw_differences(ax, table, 0.24 * (i - (len(tables) - 1) / 2), name)
    ax.legend(frameon=False, fontsize=8)
    return fig


def _draw_differences(ax: Axes, table: pd.DataFrame, shift: float = 0, label: str = "") -> None:
    """Draw the column percent with its interval, moved down by `shift` rows."""
    at, bars = np.arange(len(table)), _bars(table, "percent", "percent_")
    ax.errorbar(table["percent"], at + shift, xerr=bars, fmt="o", ms=5, capsize=4, label=label)
    ax.axvline(0, color=GREY, linewidth=1)
    ax.set(xlabel="difference to the baseline, % of its mean", ylim=(len(table) - 0.5, -0.5))
    ax.set_yticks(at, map(str, table.index), fontsize=8)


def pca_errors(train: Split, test: Split) -> np.ndarray:
    """Return (785,) test MSE per pixel of PCA with k = 0 … 784 components, the best linear code of each size, fitted to
    the training images; entry 0 is that of the mean image."""
    from sklearn.decomposition import PCA  # only here: importing labutils stays quick

    with np.errstate(invalid="ignore"):  # equal images have no variance to take shares of
        pca = PCA(svd_solver="covariance_eigh").fit(to_float(train.images).flatten(1).numpy())
    centred = to_float(test.images).flatten(1).numpy() - pca.mean_
    components = pca.components_[: len(train) - 1]  # n images span n - 1 directions around their mean
    energy = np.square(centred @ components.T).mean(0, dtype=np.float64)
    # components are orthonormal: each takes its energy out of the error, so one fit answers for every size
    residual = np.square(centred).mean(0, dtype=np.float64).sum() - np.concatenate([[0.0], np.cumsum(energy)])
    errors = np.maximum(residual, 0) / centred.shape[1]
    return np.pad(errors, (0, centred.shape[1] + 1 - len(errors)), mode="edge")


_floors: dict[tuple[str, int], np.ndarray] = {}  # by checksum of the data set and number of training images


def floors(data: Dataset, n_train: int | None = None) -> np.ndarray:
    """Return `pca_errors` (785,) of a data set, computed once a process."""
    key = (data.checksum, n_train or len(data.train))
    if key not in _floors:
        with cpu_threads(1):  # the same bits in every process
            _floors[key] = pca_errors(subset(data.train, n_train), data.test)
    return _floors[key]


def forget_floors() -> None:
    """Clear the cache of `floors`."""
    _floors.clear()
