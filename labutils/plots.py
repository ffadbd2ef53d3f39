"""plot_*: arrays in, a matplotlib Figure out, which a notebook shows as the value of a cell."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from cycler import cycler
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator
from matplotlib.transforms import Bbox

from labutils.data import to_float
from labutils.pictures import DIGIT_COLOURS, paper, tile
from labutils.pictures import class_names as class_names  # 01, 03 and others take it from here
from labutils.stats import log_error

BLUE, ORANGE, GREY, PALE = DIGIT_COLOURS[0], DIGIT_COLOURS[3], "#555555", "#cccccc"
BUDGETS = (BLUE, ORANGE, GREY, *DIGIT_COLOURS[1:3], *DIGIT_COLOURS[4:])  # colours of numbers of epochs
STYLE: Any = {"axes.spines.top": False, "axes.spines.right": False, "axes.prop_cycle": cycler(color=DIGIT_COLOURS)}
GREYS: Any = {"cmap": "gray_r", "vmin": 0, "vmax": 1}  # the range is fixed: an image of one grey shows as that grey

Tables = Mapping[str, pd.DataFrame]
Floors = Mapping[str, float]  # name → value of a labelled horizontal line
NO_FLOORS: Floors = {}


def figure(
    width: float, height: float, rows: int = 1, columns: int = 1, *, sharey: bool = False
) -> tuple[Figure, np.ndarray]:
    """Return a closed figure, `width` × `height` inches, and its axes as an array (rows, columns)."""
    with plt.rc_context(STYLE):
        fig, axes = plt.subplots(
            rows, columns, figsize=(width, height), squeeze=False, layout="constrained", sharey=sharey
        )
    plt.close(fig)  # pyplot would show it a second time
    return fig, axes


def _chart(width: float, height: float) -> tuple[Figure, Axes]:
    fig, axes = figure(width, height)
    return fig, axes[0, 0]


def _finish(ax: Axes, xlabel: str, ylabel: str, *, log: str = "", legend: bool = True) -> None:
    """Name the axes, make those in `log` ("", "x", "y" or "xy") logarithmic, add the legend."""
    ax.set(xlabel=xlabel, ylabel=ylabel)
    for name in log:
        ax.set(**{f"{name}scale": "log"})
        axis = ax.xaxis if name == "x" else ax.yaxis
        low, high = axis.get_view_interval()
        digits = (1, 2, 3, 4, 6, 8) if high < 30 * low else (1, 2, 5) if high < 300 * low else (1,)
        axis.set_major_locator(LogLocator(subs=digits))
        if high < 3 * low:  # where that has one tick, or none
            axis.set_major_locator(MaxNLocator(4))
            axis.set_minor_locator(NullLocator())
        axis.set_major_formatter("{x:,.10g}")  # numbers, not powers of ten
        axis.set_minor_formatter(NullFormatter())
    if legend:
        ax.legend(frameon=False, fontsize=8)


def _bare(ax: Axes, frame: str = PALE) -> None:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(True)
    ax.spines[:].set_color(frame)


def _bars(table: pd.DataFrame, middle: str = "mean", prefix: str = "") -> list[pd.Series]:
    """Return the lengths of error bars below and above the middle, as `errorbar` takes them."""
    return [table[middle] - table[f"{prefix}low"], table[f"{prefix}high"] - table[middle]]


def _draw_floors(ax: Axes, floors: Floors, side: str = "right") -> None:
    for name, value in floors.items():
        ax.axhline(value, color=GREY, linestyle=":", linewidth=1)
        at = (1 if side == "right" else 0.01, value)
        ax.annotate(
            f"{name}: {value:.3g}", at, xycoords=ax.get_yaxis_transform(), ha=side, va="bottom", fontsize=8, color=GREY
        )


def plot_images(rows: Mapping[str, torch.Tensor], columns: Sequence[str] = ()) -> Figure:
    """Draw a row of images for each label → (n,C,H,H), uint8 or floats in [0,1]; the rows may differ in length.
    `columns` are texts above the columns."""
    n, label = max(map(len, rows.values())), max(map(len, rows))
    fig, ax = _chart(0.62 * n + 0.08 * label, 0.62 * len(rows) + (0.2 if columns else 0))
    # two white pixels around each image, and as many blank images as a row lacks
    frame = [(2, 2, 2, 2, 0, 0, 0, n - len(x)) for x in rows.values()]
    images = torch.cat([F.pad(to_float(x), pad, value=paper(x)) for x, pad in zip(rows.values(), frame, strict=True)])
    side = images.shape[-1]
    ax.imshow(tile(images, n), **GREYS)
    _bare(ax, "none")
    ax.set_yticks(side * (np.arange(len(rows)) + 0.5), rows)
    ax.set_xticks(side * (np.arange(len(columns)) + 0.5), columns, fontsize=8)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    return fig


def plot_grids(grids: Mapping[str, torch.Tensor], columns: int = 8, size: float = 2.8) -> Figure:
    """Draw a grid for each title → (N,C,H,H), uint8 or floats in [0,1], side by side, each `size` inches wide."""
    fig, axes = figure(size * len(grids), size + 0.3, 1, len(grids))
    for ax, (title, images) in zip(axes[0], grids.items(), strict=True):
        ax.imshow(tile(images, columns), **GREYS)
        ax.set_title(title, fontsize=9)
        _bare(ax)
    return fig


def plot_history(histories: Tables, floors: Floors, metric: str = "mse") -> Figure:
    """Draw the training (dashed) and validation error of each history against the epoch, and the floors as lines."""
    fig, ax = _chart(8.5, 3.6)
    for name, history in histories.items():
        epoch, train, val = (history[column] for column in ("epoch", f"train_{metric}", f"val_{metric}"))
        (line,) = ax.plot(epoch, train, "--", alpha=0.6, label=f"{name}, training")
        ax.plot(epoch, val, "o-", ms=3, color=line.get_color(), label=f"{name}, validation")
    _draw_floors(ax, floors)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(ax, "epoch", "MSE per pixel" if metric == "mse" else metric, log="y", legend=False)
    fig.legend(loc="outside right upper", frameon=False, fontsize=8)
    return fig


def plot_curves(
    curves: Tables, xlabel: str, ylabel: str, *, lines: Floors = NO_FLOORS, log: str = "", width: float = 7
) -> Figure:
    """Draw each table's second column against its first, with an interval where there are columns low and high.

    Args:
        lines: labelled horizontal lines.
        log: the axes with a logarithmic scale: "", "x", "y" or "xy".
        width: in inches.
    """
    fig, ax = _chart(width, 3.8)
    for name, table in curves.items():
        bars = _bars(table, table.columns[1]) if "low" in table else None
        style = "-" if len(table) > 30 else "o-"
        ax.errorbar(table.iloc[:, 0], table.iloc[:, 1], bars, fmt=style, ms=4, capsize=3, label=name)
    _draw_floors(ax, lines, "left")
    _finish(ax, xlabel, ylabel, log=log)
    return fig


def plot_roofline(passes: pd.DataFrame, peak: float, bandwidths: Mapping[str, float]) -> Figure:
    """Draw the roofline of a machine with `peak` FLOP/s and `bandwidths` of its memories in bytes a second, and a point
    for each of `passes` (columns layer, pass, intensity in FLOP per byte moved, gflops in GFLOP/s)."""
    fig, ax = _chart(9, 5)
    x = np.geomspace(passes["intensity"].min() / 4, 3 * passes["intensity"].max(), 200)
    for (memory, bandwidth), style in zip(bandwidths.items(), cycle(("-", "--", ":")), strict=False):
        ax.plot(x, np.minimum(peak, bandwidth * x) / 1e9, style, color=GREY, label=f"roof, {memory}'s slope")
    for name, group in passes.groupby("pass", sort=False):
        ax.plot(group["intensity"], group["gflops"], "o", ms=5, label=name)
    _finish(ax, "arithmetic intensity, FLOP per byte moved", "GFLOP/s, one thread", log="xy")
    _label_points(fig, ax, passes.set_index("layer")[["intensity", "gflops"]].assign(colour="black"))
    return fig


def plot_rates(df: pd.DataFrame, metric: str = "val_mse", ylabel: str = "validation MSE per pixel") -> Figure:
    """Draw a table of `tuned_sweep`: error (of an accuracy, what is missing to 1) against learning rate, a panel for
    each number of epochs, a curve for each arm (geometric mean over seeds; small points are the runs), a ring around
    its best rate. A rate at which a run failed is marked at the top."""
    budgets = sorted(df["epochs"].unique())
    fig, axes = figure(4.6 * len(budgets) + 0.8, 3.9, 1, len(budgets), sharey=True)
    for ax, epochs in zip(axes[0], budgets, strict=True):
        by_arm = df[df["epochs"] == epochs].groupby("arm", sort=False)
        for (arm, runs), colour in zip(by_arm, cycle(DIGIT_COLOURS), strict=False):
            good = runs.dropna(subset=metric)
            logs = log_error(good[metric])
            curve = logs.groupby(good["lr"]).mean().transform(np.exp)
            best = runs["lr"][runs["best"]].iloc[0]
            ax.plot(curve.index, curve, "-", color=colour, linewidth=1.5, label=arm)
            ax.plot(good["lr"], np.exp(logs), "o", ms=2.5, color=colour, alpha=0.6)
            ax.plot(best, curve[best], "o", ms=9, markerfacecolor="none", markeredgewidth=1.5, color=colour)
            for lr in runs["lr"][runs[metric].isna()].unique():
                ax.annotate("×", (lr, 1), xycoords=ax.get_xaxis_transform(), ha="center", color=colour)
        ax.set_title(_epochs(epochs), fontsize=10)
        _finish(ax, "learning rate", ylabel if ax is axes[0, 0] else "", log="xy", legend=False)
        tried = sorted(df["lr"][df["epochs"] == epochs].unique())
        ax.set_xticks(tried, [f"{lr:g}" for lr in tried], fontsize=8, rotation=45)
        ax.xaxis.set_minor_locator(NullLocator())
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    return fig


def _epochs(n: int) -> str:
    return "1 epoch" if n == 1 else f"{n} epochs"


def plot_verdicts(table: pd.DataFrame) -> Figure:
    """Draw a table of `stats.verdicts`: each arm's error as a multiple of the baseline's, with its interval, a colour
    for each number of epochs; the verdicts are written beside."""
    others = table[table["verdict"] != "baseline"]
    arms, budgets = list(dict.fromkeys(others.index.get_level_values("arm"))), list(others.index.unique("epochs"))
    fig, ax = _chart(8, 1.1 + 0.26 * len(arms) * len(budgets))
    for i, epochs in enumerate(budgets):
        rows, colour = others.loc[epochs], BUDGETS[i % len(BUDGETS)]
        at = np.array([arms.index(arm) for arm in rows.index]) + 0.3 * (i - (len(budgets) - 1) / 2)
        bars = _bars(rows, "ratio", "ratio_")
        ax.errorbar(rows["ratio"], at, xerr=bars, fmt="o", ms=5, capsize=3, color=colour, label=_epochs(epochs))
        for y, verdict in zip(at, rows["verdict"], strict=True):
            ax.annotate(verdict, (1.02, y), xycoords=ax.get_yaxis_transform(), va="center", fontsize=8, color=colour)
    ax.axvline(1, color=GREY, linewidth=1)
    ax.set(ylim=(len(arms) - 0.5, -0.5))
    ax.set_yticks(range(len(arms)), map(str, arms), fontsize=9)
    baseline = table.index[table["verdict"] == "baseline"][0][1]
    xlabel = f"test error, as a multiple of that of “{baseline}” (each at its best learning rate)"
    _finish(ax, xlabel, "", log="x", legend=False)
    ax.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(budgets))
    return fig


COST_LABELS = {"n_params": ("parameters, thousands", 1e3), "macs": ("MACs an image, millions", 1e6),
               "code_bytes": ("bytes of code", 1), "train_us": ("µs an image in training, one thread", 1)}  # fmt: skip


def plot_pareto(
    table: pd.DataFrame, costs: Sequence[str], highlight: Sequence[str] = (), ylabel: str = "validation MSE per pixel"
) -> Figure:
    """Draw error (columns mean, low, high) against each cost, a panel each, and the Pareto front (columns
    "on front: <cost>") as steps. Rows on the front have their names beside them, and those that `highlight` names."""
    columns = min(len(costs), 2)
    rows = -(-len(costs) // columns)
    fig, axes = figure(11 if columns == 2 else 8, 4.2 * rows, rows, columns)
    for ax in axes.flat[len(costs) :]:
        ax.set_visible(False)
    for ax, cost in zip(axes.flat, costs, strict=False):
        xlabel, unit = COST_LABELS.get(cost, (cost, 1))
        points, on_front = table.assign(x=table[cost] / unit), table[f"on front: {cost}"].astype(bool)
        front = points[on_front].sort_values("x")
        ax.step(front["x"], front["mean"], where="post", color="#bbbbbb", linewidth=1, zorder=0)
        points["colour"] = np.where(table.index.isin(highlight), ORANGE, np.where(on_front, BLUE, "#777777"))
        for colour, group in points.groupby("colour"):
            ax.errorbar(group["x"], group["mean"], _bars(group), fmt="o", ms=4, capsize=2, color=colour)
        ax.margins(x=0.12)
        _finish(ax, xlabel, ylabel, log="xy", legend=False)
        named = on_front | table.index.isin(highlight)
        _label_points(fig, ax, points.loc[named, ["x", "mean", "colour"]])
    return fig


def _label_points(fig: Figure, ax: Axes, points: pd.DataFrame) -> None:
    """Write each row's name beside its point (columns x, y, colour), on the left where it would leave the axes on the
    right, and moved down until no labels overlap."""
    points = points.sort_values(points.columns[1], ascending=False)
    labels = []
    for name, x, y, colour in points.itertuples():
        label = ax.annotate(str(name), (x, y), (5, 3), textcoords="offset points", fontsize=7, color=colour)
        label.set_path_effects([withStroke(linewidth=2, foreground="white")])
        labels.append(label)
    fig.draw_without_rendering()  # the axes get their limits and places here
    for label in labels:
        if label.get_window_extent().x1 > ax.bbox.x1:
            label.set(ha="right", x=label.xyann[0] - 10)
    taken = [Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in ax.transData.transform(points.iloc[:, :2])]
    for label in labels:
        while any(label.get_window_extent().overlaps(box) for box in taken):
            right, up = label.xyann
            label.xyann = (right, up - 1)
        taken.append(label.get_window_extent())


def plot_confusion(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> Figure:
    """Draw how often each class (row) was taken for each other (column), of (N,) labels and predicted labels."""
    counts = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(counts, (labels, predicted), 1)
    wrong = np.where(np.eye(len(names), dtype=bool), 0, counts)
    fig, ax = _chart(0.46 * len(names) + 1, 0.42 * len(names) + 0.8)
    ax.imshow(wrong, cmap="Oranges", vmin=0, vmax=max(1, wrong.max()))
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "#999999" if row == column else "white" if count > 0.6 * wrong.max() else "black"
            ax.annotate(f"{count:,}", (column, row), ha="center", va="center", fontsize=7, color=colour)
    ax.set_xticks(range(len(names)), names, rotation=45 if max(map(len, names)) > 2 else 0)
    ax.set_yticks(range(len(names)), names)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    _finish(ax, "predicted", "label", legend=False)
    return fig


def plot_projections(projections: Mapping[str, np.ndarray], labels: np.ndarray, names: Sequence[str]) -> Figure:
    """Draw a scatter plot, coloured by class, for each title → (N,2)."""
    fig, axes = figure(4 * len(projections), 4.4, 1, len(projections))
    for ax, (title, xy) in zip(axes[0], projections.items(), strict=True):
        for c, name in enumerate(names):
            ax.scatter(*xy[labels == c].T, s=5, alpha=0.6, linewidths=0, label=name)
        ax.set_title(title)
        _bare(ax)
    fig.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names), frameon=False,
        markerscale=3, fontsize=8, handletextpad=0, columnspacing=1,
    )  # fmt: skip
    return fig
