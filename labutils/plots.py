"""plot_*: arrays in, a matplotlib Figure out. Nothing here runs a model or shows a figure."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from labutils.pictures import tile

# Ten colours that stay apart for most kinds of colour vision (Okabe and Ito's eight, and two of Tol's)
DIGIT_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9",
                 "#8C6D00", "#332288", "#882255", "#777777")  # fmt: skip
BLUE, ORANGE, GREY = DIGIT_COLOURS[0], DIGIT_COLOURS[3], "#555555"
FASHION = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot")


def class_names(dataset: str) -> tuple[str, ...]:
    """What the ten labels of a data set stand for."""
    return FASHION if dataset == "fashion_mnist" else tuple("0123456789")


def figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, np.ndarray]:
    """A figure that a notebook shows once, as the value of a cell, and its axes, always (rows, columns)."""
    fig, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained")
    plt.close(fig)  # pyplot would show it a second time
    return fig, axes


def _panel(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, open at the top and the right."""
    fig, axes = figure(width, height)
    axes[0, 0].spines[["top", "right"]].set_visible(False)
    return fig, axes[0, 0]


def plot_images(rows: Mapping[str, torch.Tensor], columns: Sequence[str] | None = None) -> Figure:
    """A labelled row of images for each entry.

    Args:
        rows: label → (n,1,28,28), uint8 or floats in [0,1]; the rows may differ in length.
        columns: text above each column.
    """
    n = max(map(len, rows.values()))
    label = max(map(len, rows))
    fig, axes = figure(0.62 * n + 0.08 * label, 0.62 * len(rows) + (0.2 if columns else 0), len(rows), n)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for ax in line:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        for ax, image in zip(line, images, strict=False):
            # the range is fixed: an image of one grey shows as that grey
            ax.imshow(image[0].numpy(), cmap="gray_r", vmin=0, vmax=255 if image.dtype == torch.uint8 else 1)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for ax, text in zip(axes[0], columns or (), strict=False):
        ax.set_title(text, fontsize=8)
    return fig


def plot_grids(grids: Mapping[str, torch.Tensor], columns: int = 8, size: float = 2.8) -> Figure:
    """Grids of images side by side, each under its name.

    Args:
        grids: title → (N,1,28,28), uint8 or floats in [0,1].
        columns: images in a row of a grid.
        size: of a grid in inches.
    """
    fig, axes = figure(size * len(grids), size + 0.3, 1, len(grids))
    for ax, (title, images) in zip(axes[0], grids.items(), strict=True):
        ax.imshow(tile(images, columns), cmap="gray_r", vmin=0, vmax=1)
        ax.set_title(title, fontsize=9)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_color("#cccccc")  # a grid of empty images is to be seen as one
    return fig


def plot_latent_statistics(z: np.ndarray, importance: np.ndarray, measure: str) -> Figure:
    """What codes look like: the importance of each unit, its mean and spread, how units correlate, and how normal they
    are (the quantiles of the standardised units against those of N(0, 1)).

    Args:
        z: (N,d) codes.
        importance: (d,) of each unit; `measure` says what it is.
    """
    from scipy import stats

    order = np.argsort(-importance)
    z, rank = z[:, order], np.arange(1, z.shape[1] + 1)
    fig, axes = figure(11, 3, 1, 4)
    bars, spread, correlation, normal = axes[0]
    bars.bar(rank, importance[order], color=BLUE)
    bars.set(title="importance", xlabel="unit, most important first", ylabel=measure)
    spread.errorbar(rank, z.mean(0), z.std(0), fmt="o", ms=3, color=BLUE)
    spread.axhline(0, color=GREY, linestyle=":", linewidth=1)
    spread.set(title="mean ± standard deviation", xlabel="unit")
    varies = z.std(0) > 1e-6
    matrix = np.atleast_2d(np.corrcoef(z[:, varies], rowvar=False))
    shown = correlation.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    fig.colorbar(shown, ax=correlation, shrink=0.8)
    correlation.set(title="correlation of units", xticks=[], yticks=[])
    standard = np.sort((z[:, varies] - z[:, varies].mean(0)) / z[:, varies].std(0), axis=0)
    at = np.linspace(0.005, 0.995, 99)
    ideal, real = stats.norm.ppf(at), np.quantile(standard, at, axis=0)
    normal.plot(ideal, real, color=BLUE, alpha=0.35, linewidth=0.8)
    normal.plot(ideal, ideal, color="black", linestyle=":", linewidth=2)
    normal.set(title="normality", xlabel="quantile of N(0, 1)", ylabel="of the unit, standardised")
    for ax in (bars, spread, normal):
        ax.spines[["top", "right"]].set_visible(False)
    return fig


def _draw_floors(ax: Axes, floors: Mapping[str, float], side: str = "right") -> None:
    for name, value in floors.items():
        ax.axhline(value, color=GREY, linestyle=":", linewidth=1)
        ax.annotate(
            f"{name}: {value:.3g}", (side == "right", value), xycoords=("axes fraction", "data"), ha=side, va="bottom",
            fontsize=8, color=GREY,
        )  # fmt: skip


def _plain_log(axis: Axis) -> None:
    """Numbers, not powers of ten, on a logarithmic axis that often spans less than one."""
    low, high = axis.get_view_interval()
    between = "23468" if high < 30 * low else "25" if high < 300 * low else ""
    axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axis.set_minor_formatter(lambda value, _: f"{value:,.10g}" if f"{value:e}"[0] in between else "")
    if high < 2 * low:  # where a logarithmic axis has one tick of its own, or none
        axis.set_major_locator(MaxNLocator(4))
        axis.set_minor_locator(NullLocator())
    axis.set_tick_params(which="both", labelsize=8)


def _colour(i: int) -> str:
    return DIGIT_COLOURS[i % len(DIGIT_COLOURS)]


def plot_history(histories: Mapping[str, pd.DataFrame], floors: Mapping[str, float], metric: str = "mse") -> Figure:
    """Training (dashed) and validation error against the epoch for each history, and the floors as lines."""
    fig, ax = _panel(8.5, 3.6)
    for i, (name, history) in enumerate(histories.items()):
        ax.plot(
            history["epoch"], history[f"train_{metric}"], "--", color=_colour(i), alpha=0.6, label=f"{name}, training"
        )
        ax.plot(history["epoch"], history[f"val_{metric}"], "o-", color=_colour(i), ms=3, label=f"{name}, validation")
    _draw_floors(ax, floors)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="epoch", ylabel="mse per pixel" if metric == "mse" else metric, yscale="log")
    _plain_log(ax.yaxis)
    fig.legend(loc="outside right upper", frameon=False, fontsize=8)
    return fig


def plot_curves(
    curves: Mapping[str, pd.DataFrame],
    xlabel: str,
    ylabel: str,
    *,
    lines: Mapping[str, float] | None = None,
    log: str = "",
    width: float = 7,
) -> Figure:
    """A curve for each table: its second column against its first, with an interval where there are `low` and `high`.

    Args:
        lines: labelled horizontal lines, for floors and targets.
        log: the axes with a logarithmic scale: "", "x", "y" or "xy".
        width: in inches.
    """
    fig, ax = _panel(width, 3.8)
    for i, (name, table) in enumerate(curves.items()):
        x, y = table.iloc[:, 0], table.iloc[:, 1]
        bars = [y - table["low"], table["high"] - y] if "low" in table else None
        style = "-" if len(table) > 30 else "o-"
        ax.errorbar(x, y, bars, fmt=style, ms=4, capsize=3, color=_colour(i), label=name)
    _draw_floors(ax, lines or {}, "left")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    for axis in log:
        ax.set(**{f"{axis}scale": "log"})
        _plain_log(ax.xaxis if axis == "x" else ax.yaxis)
    ax.legend(frameon=False, fontsize=8)
    return fig


def plot_roofline(passes: pd.DataFrame, peak: float, bandwidth: float) -> Figure:
    """Speed against arithmetic intensity, a named point a pass, under the roof of memory and arithmetic.

    Args:
        passes: columns layer, pass, intensity in operations on each byte moved, gflops in GFLOP/s.
        peak: of the arithmetic, in FLOP/s.
        bandwidth: of memory, in bytes a second.
    """
    fig, ax = _panel(9, 5)
    x = np.geomspace(passes["intensity"].min() / 4, 3 * passes["intensity"].max(), 200)
    ax.plot(x, np.minimum(peak, bandwidth * x) / 1e9, color=GREY, label="memory's slope, arithmetic's roof")
    for i, (name, group) in enumerate(passes.groupby("pass", sort=False)):
        ax.plot(group["intensity"], group["gflops"], "o", ms=5, color=(ORANGE, BLUE)[i % 2], label=name)
    ax.set(xscale="log", yscale="log", xlabel="operations on each byte moved", ylabel="GFLOP/s, one thread")
    _plain_log(ax.xaxis)
    _plain_log(ax.yaxis)
    from_above = passes.sort_values("gflops", ascending=False)
    _below_each_other(fig, ax, [
        ax.annotate(name, (x, y), xytext=(5, 3), textcoords="offset points", fontsize=7)
        for name, x, y in zip(from_above["layer"], from_above["intensity"], from_above["gflops"], strict=True)
    ])  # fmt: skip
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    return fig


def plot_effects(
    table: pd.DataFrame, ylabel: str = "test mse per pixel", floors: Mapping[str, float] | None = None
) -> Figure:
    """What `stats.effects` gives, as a picture: on the left each value's mean with its interval, and the floors; on the
    right the difference to the baseline, paired by seed, in percent of the baseline's mean."""
    fig, axes = figure(9, 0.9 + 0.42 * max(5, len(table)), 1, 2)
    left, right = axes[0]
    at, names = np.arange(len(table)), [str(value) for value in table.index]
    colours = [GREY if verdict == "baseline" else BLUE for verdict in table["verdict"]]
    for i, colour in zip(at, colours, strict=True):
        row = table.iloc[i]
        left.errorbar(i, row["mean"], [[row["mean"] - row["low"]], [row["high"] - row["mean"]]], fmt="o", ms=5,
                      capsize=4, color=colour)  # fmt: skip
        if row["verdict"] != "baseline":
            right.errorbar(row["percent"], i, xerr=[[row["percent"] - row["percent_low"]],
                           [row["percent_high"] - row["percent"]]], fmt="o", ms=5, capsize=4, color=colour)  # fmt: skip
        right.annotate(row["verdict"], (1.02, i), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    _draw_floors(left, floors or {})
    left.set(
        xticks=at,
        xlabel=str(table.index.name or ""),
        ylabel=ylabel,
        yscale="log" if floors else "linear",
        xlim=(-0.5, len(table) - 0.5),
    )
    left.set_xticklabels(names, fontsize=8, rotation=90 if len(table) > 6 else 0)
    right.axvline(0, color=GREY, linewidth=1)
    right.set(yticks=at, xlabel="difference to the baseline, % of its mean", ylim=(len(table) - 0.5, -0.5))
    right.set_yticklabels(names, fontsize=8)
    if floors:
        _plain_log(left.yaxis)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    return fig


def plot_comparisons(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """The same comparisons in several settings, beside each other: percent with percent_low … percent_high, as
    `stats.compare` gives them, a row a comparison and a colour a table."""
    first = next(iter(tables.values()))
    fig, ax = _panel(8, 1 + 0.45 * len(first))
    for i, (name, table) in enumerate(tables.items()):
        at = np.arange(len(table)) + 0.24 * (i - (len(tables) - 1) / 2)
        bars = [table["percent"] - table["percent_low"], table["percent_high"] - table["percent"]]
        ax.errorbar(table["percent"], at, xerr=bars, fmt="o", ms=5, capsize=3, color=_colour(i), label=name)
    ax.axvline(0, color=GREY, linewidth=1)
    ax.set(
        yticks=np.arange(len(first)), ylim=(len(first) - 0.5, -0.5), xlabel="difference to the baseline, % of its mean"
    )
    ax.set_yticklabels([str(value) for value in first.index], fontsize=9)
    ax.legend(frameon=False, fontsize=9)
    return fig


COST_LABELS = {"n_params": ("parameters, thousands", 1e3), "macs": ("MACs an image, millions", 1e6),
               "code_bytes": ("bytes of code", 1), "train_us": ("µs an image in training, one thread", 1)}  # fmt: skip


def plot_pareto(
    table: pd.DataFrame, costs: Sequence[str], highlight: Sequence[str] = (), ylabel: str = "validation mse per pixel"
) -> Figure:
    """Error (column mean, with low … high) against each cost, a panel each; the front is drawn as steps.

    Args:
        table: a row a model, with a column "on front: <cost>" for each cost.
        highlight: rows to draw in colour.
    """
    columns = min(len(costs), 2)
    rows = -(-len(costs) // columns)
    fig, axes = figure({1: 8, 2: 11}[columns], 4.2 * rows, rows, columns)
    for ax in axes.flat[len(costs) :]:
        ax.set_visible(False)
    for ax, cost in zip(axes.flat, costs, strict=False):
        xlabel, unit = COST_LABELS.get(cost, (cost, 1))
        front = table[table[f"on front: {cost}"]].sort_values(cost)
        ax.step(front[cost] / unit, front["mean"], where="post", color="#bbbbbb", linewidth=1, zorder=0)
        ax.set(xlabel=xlabel, ylabel=ylabel, xscale="log", yscale="log")
        ax.spines[["top", "right"]].set_visible(False)
        ax.margins(x=0.12)
        labels = []
        for name, row in table.sort_values("mean", ascending=False).iterrows():
            colour = ORANGE if name in highlight else BLUE if name in front.index else "#777777"
            bars = [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
            x = row[cost] / unit
            ax.errorbar(x, row["mean"], bars, fmt="o", ms=4, capsize=2, color=colour)
            labels.append(ax.annotate(
                str(name), (x, row["mean"]), xytext=(5, 2), textcoords="offset points", fontsize=7,
                color=colour, path_effects=[withStroke(linewidth=2, foreground="white")],
            ))  # fmt: skip
        _plain_log(ax.yaxis)
        _plain_log(ax.xaxis)
        _below_each_other(fig, ax, labels)
    return fig


def _below_each_other(fig: Figure, ax: Axes, labels: Sequence[Annotation]) -> None:
    """Move each label down until it touches no point and no label before it."""
    fig.draw_without_rendering()  # the axes get their limits and places here
    points = [ax.transData.transform(label.xy) for label in labels]
    taken = [Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in points]
    for label in labels:
        while any(label.get_window_extent().overlaps(box) for box in taken):
            x, y = label.xyann
            label.xyann = (x, y - 1)
        taken.append(label.get_window_extent())


def plot_error_by_class(errors: Mapping[str, np.ndarray], labels: np.ndarray, names: Sequence[str]) -> Figure:
    """Mean error per pixel for each class and model, with the standard error of the mean over the class's images.

    Args:
        errors: model → (N,) error of each image.
        labels: (N,) classes.
    """
    fig, ax = _panel(7, 3.2)
    width = 0.8 / len(errors)
    for i, (model, error) in enumerate(errors.items()):
        groups = [error[labels == c] for c in range(len(names))]
        at = np.arange(len(names)) + (i - (len(errors) - 1) / 2) * width
        sem = [g.std(ddof=1) / len(g) ** 0.5 for g in groups]
        ax.bar(
            at, [g.mean() for g in groups], width * 0.92, yerr=sem, label=model, color=_colour(i), error_kw={"lw": 1}
        )
    ax.set_xticks(range(len(names)), names)
    ax.set(xlabel="class", ylabel="test mse per pixel")
    ax.legend(frameon=False, fontsize=8, ncols=len(errors))
    return fig


def plot_confusion(labels: np.ndarray, said: np.ndarray, names: Sequence[str]) -> Figure:
    """How often each class (row) was taken for each other (column); the diagonal, right answers, is left white.

    Args:
        labels, said: (N,) true and predicted classes.
    """
    counts = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(counts, (labels, said), 1)
    wrong = np.where(np.eye(len(names), dtype=bool), 0, counts)
    fig, ax = _panel(0.46 * len(names) + 1, 0.42 * len(names) + 0.8)
    ax.imshow(wrong, cmap="Oranges", vmin=0, vmax=max(1, wrong.max()))
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "#999999" if row == column else "white" if count > 0.6 * wrong.max() else "black"
            ax.annotate(f"{count:,}", (column, row), ha="center", va="center", fontsize=7, color=colour)
    turned = 45 if max(map(len, names)) > 2 else 0
    ax.set_xticks(range(len(names)), names, rotation=turned)
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="predicted", ylabel="label")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return fig


def plot_reliability(right: Mapping[str, np.ndarray], sure: Mapping[str, np.ndarray], groups: int = 10) -> Figure:
    """Is a classifier right as often as it is sure? Mean accuracy, with its standard error, against mean confidence in
    `groups` groups of as many images, the least sure first; below the diagonal it promises too much.

    Args:
        right, sure: classifier → (N,) whether each answer was right, and how sure it was in [0,1].
    """
    fig, ax = _panel(5.2, 4.2)
    for i, name in enumerate(right):
        parts = np.array_split(np.argsort(sure[name]), groups)
        x = np.array([sure[name][part].mean() for part in parts])
        y = np.array([right[name][part].mean() for part in parts])
        error = np.array([right[name][part].std() / len(part) ** 0.5 for part in parts])
        ax.errorbar(x, y, error, fmt="o-", ms=4, capsize=2, color=_colour(i), label=name)
    start = min(ax.get_xlim()[0], ax.get_ylim()[0])
    ax.plot([start, 1], [start, 1], color=GREY, linestyle=":", linewidth=1)
    ax.set(xlabel="confidence", ylabel="accuracy")
    ax.legend(frameon=False, fontsize=8)
    return fig


def plot_projections(projections: Mapping[str, np.ndarray], labels: np.ndarray, names: Sequence[str]) -> Figure:
    """Scatter plots side by side, one for each (N,2) projection, coloured by class."""
    fig, axes = figure(4 * len(projections), 4.4, 1, len(projections))
    for ax, (title, xy) in zip(axes[0], projections.items(), strict=True):
        for c, name in enumerate(names):
            ax.scatter(*xy[labels == c].T, s=5, color=_colour(c), alpha=0.6, linewidths=0, label=name)
        ax.set(title=title, xticks=[], yticks=[])
    handles, texts = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, texts, loc="outside lower center", ncols=len(names), frameon=False, markerscale=3, fontsize=8,
               handletextpad=0, columnspacing=1)  # fmt: skip
    return fig
