"""What a notebook shows and saves: formatted tables, and a folder with its results."""

import inspect
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import Markdown, display
from matplotlib.figure import Figure

from labutils.config import BASELINE, IMAGE_SIZE, Config
from labutils.data import Dataset, load_dataset
from labutils.kinds import has_field
from labutils.paths import local_dir, scale
from labutils.publish.summary import write_summary
from labutils.store.key import code_hash, torch_version

ERRORS = ("mean", "std", "low", "high", "test_mse", "val_mse", "pca_mse")
FORMATS: dict[Any, Any] = {
    **dict.fromkeys(ERRORS, "{:.4f}"),
    **dict.fromkeys(("n_params", "macs"), "{:,.0f}"),
    **dict.fromkeys(("seconds", "code_bytes", "epochs", "train_us"), "{:.0f}"),
    "lr": "{:g}",
    **dict.fromkeys(("latency_ms", "batch_latency_ms"), "{:.2f}"),
}


def show(thing: Any) -> Markdown:
    """Return the source of a function or class, highlighted in a notebook and on its page, below its place."""
    place = f"{thing.__module__.replace('.', '/')}.py"
    return Markdown(f"`{thing.__qualname__}`, in `{place}`:\n\n```python\n{inspect.getsource(thing)}```")


def show_figure(fig: Figure, caption: str, alt: str) -> None:
    """Show a figure, with a description for those who cannot see it, and below it a caption in Markdown."""
    display(fig, metadata={"image/png": {"alt": alt}})
    display(Markdown(caption))


class UnsuitableImages(ValueError):
    """Images that a notebook is not written for."""


def prepare(dataset: str, classes: int = 10, *, any_size: bool = False) -> tuple[Dataset, Config, dict[int, int]]:
    """Return a notebook's images, BASELINE for them, and its budgets for `tuned_sweep`: epochs → seeds. Say which
    images these are, with the series' one proviso where they are few.

    UnsuitableImages is raised where the notebook is not written for them: they have fewer classes than `classes` (0: it
    needs no labels; 10: exactly ten, and at full scale 2,500 training images) or, unless any_size, are not 28 × 28 grey
    pixels.
    """
    data = load_dataset(dataset)
    found, n_classes = f"the images of {data.name!r}", len(data.classes)
    exactly = "exactly " if classes == 10 else ""
    if n_classes < classes or (exactly and n_classes != classes):
        has = f"{n_classes} classes" if n_classes else "no labels"
        raise UnsuitableImages(f"this notebook needs {exactly}{classes} classes of labels, and {found} have {has}; "
                               "README says which notebooks take any")  # fmt: skip
    if classes == 10 and len(data.train) < 2500 and scale().name == "full":
        raise UnsuitableImages(f"this notebook needs 2,500 training images, and {found} are {len(data.train):,}")
    if not any_size and (data.channels, data.image_size) != (1, IMAGE_SIZE):
        shape = f"{data.image_size} × {data.image_size} {'grey' if data.channels == 1 else 'RGB'} pixels"
        raise UnsuitableImages(f"this notebook is written for {IMAGE_SIZE} × {IMAGE_SIZE} grey pixels, and {found} "
                               f"have {shape}; pictures in a folder are framed to fit, and 15 takes any")  # fmt: skip
    sizes = f"{len(data.train):,} training, {len(data.val):,} validation and {len(data.test):,} test images"
    display(Markdown(f"**{data.name}**: {sizes}."))
    few = len(data.train) < 10_000
    if few:
        display(Markdown("> **Few images.** The text below was written about the full MNIST. With so few images expect "
                         "larger errors, wider intervals, and now and then another sign."))  # fmt: skip
    baseline = replace(BASELINE, dataset=data.name, image_size=data.image_size, channels=data.channels)
    more = max(1, round(4000 / len(data.train)))  # about as many steps as with the 5,000 digits, of which 4,000 train
    return data, baseline, {2 * more: 3, 8 * more: 2} if few else {1: 5, 6: 3}


def judged(guess: float | None, value: float) -> str:
    """Return a sentence about a reader's prediction; "" where there is none."""
    if guess is None:
        return ""
    if guess <= 0 or value <= 0:
        return f" You predicted {guess:g}."
    return f" You predicted {guess:g}, off by a factor of {max(guess / value, value / guess):.2g}."


def effect(row: Any) -> str:
    """Return a row of `stats.verdicts` as text: ratio of errors and interval, 1 in it where none is resolved."""
    largest = row.ratio_high if math.isfinite(row.ratio_high) else row.ratio
    digits = max(0, 3 - len(str(int(largest))))
    return f"× {row.ratio:.{digits}f} [{row.ratio_low:.{digits}f}, {row.ratio_high:.{digits}f}]"


def effects(table: pd.DataFrame) -> str:
    """Return a table of `stats.verdicts` as text: each arm's effects, one for each number of epochs."""
    others = table[table["verdict"] != "baseline"]
    arms = dict.fromkeys(others.index.get_level_values("arm"))
    return "; ".join(
        f"{arm} {' / '.join(effect(row) for row in others.xs(arm, level='arm').itertuples())}" for arm in arms
    )


def verdict_table(table: pd.DataFrame, caption: str) -> Any:
    """Return a table of `stats.verdicts` formatted for a notebook."""
    shown = table[["lr", "mean", "n"]].copy()
    shown["ratio [95 %]"] = ["" if row.verdict == "baseline" else effect(row) for row in table.itertuples()]
    shown = shown.join(table[["verdict", "n_params", "macs"]])
    return styled(shown.reset_index(), caption).hide(axis="index")


def styled(table: pd.DataFrame, caption: str = "") -> Any:
    """Return a table formatted for a notebook: digits by column, the baseline's row in bold."""
    formats = {name: form for name, form in FORMATS.items() if name in table}
    style = table.style.format(formats, na_rep="").set_caption(caption)
    style = style.set_table_styles([{"selector": "td, th", "props": "white-space: nowrap"}])
    if "verdict" in table:
        bold = {"baseline": "font-weight: bold"}
        style = style.apply(lambda row: [bold.get(row["verdict"], "")] * len(row), axis=1)
    return style


def settings(**configs: Config) -> Any:
    """Return configs side by side, a row a field that at least one of the models has."""
    names = [f.name for f in fields(Config)]
    table = pd.DataFrame(index=names, columns=[*configs])
    for column, config in configs.items():
        for name in names:
            if has_field(config.model, name):
                table.loc[name, column] = str(getattr(config, name))
    return styled(table.dropna(how="all"))


def save_results(
    stem: str, dataset: str, df: pd.DataFrame, figures: Mapping[str, Figure], *, question: str, answer: str
) -> Path:
    """Write results.csv, <figure>.png and summary.json into `local_dir`/<stem>/ and return it."""
    folder = local_dir(dataset) / stem
    folder.mkdir(parents=True, exist_ok=True)
    df.to_csv(folder / "results.csv", index=False)
    for name, fig in figures.items():
        fig.savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight", facecolor="white")
    made_with = {"code": code_hash(), "torch": torch_version(), "python": platform.python_version()}
    made_with |= {"dataset": dataset, "scale": scale().name, "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    summary = {"question": question, "answer": answer, "figures": list(figures), "made_with": made_with}
    write_summary(folder, summary)
    return folder
