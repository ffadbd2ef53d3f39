"""reconstruct, interpolate, generate, explore."""

import argparse
import webbrowser
from pathlib import Path

import torch

from labutils.data import Split, data_of
from labutils.runs import Run, load_run


def _images(names: list[str], run: Run, test: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images, test images by index or picture files, and their labels, −1 for files."""
    images, labels = [], []
    for name in names:
        if name.isdigit() and int(name) >= len(test):
            raise ValueError(f"test image {name} must be from 0 to {len(test) - 1}")
        if not name.isdigit() and not Path(name).exists():
            raise ValueError(f"no picture {name!r}: a file, or the number of a test image, is expected")
        images.append(run.images(test.images[int(name)][None] if name.isdigit() else name))
        labels.append(int(test.labels[int(name)]) if name.isdigit() else -1)
    return torch.cat(images), torch.tensor(labels)


def reconstruct_command(options: argparse.Namespace) -> None:
    """Write inference_results.png: digits above, their reconstructions below."""
    run = load_run(options.model)
    test = data_of(run.config).test
    labels = test.labels.tolist()
    x, y = _images(options.images or [str(labels.index(label)) for label in sorted(set(labels))], run, test)
    _write(options.output, "inference_results", {"image": x, run.name: run.reconstruct(x, y)})


def interpolate_command(options: argparse.Namespace) -> None:
    """Write latent_interpolation.png: from one digit to another, along the line and along the arc."""
    run = load_run(options.model)
    ends = [options.start, options.end]
    data = data_of(run.config)
    x, labels = _images(ends, run, data.test)
    names = [
        f"test image {end}, a {data.class_names[label]}," if end.isdigit() else end
        for end, label in zip(ends, labels.tolist(), strict=True)
    ]
    print(f"{'from':<18} {names[0]} to {names[1].rstrip(',')}")
    line, arc = (run.interpolate(x[:1], x[1:], options.steps, spherical=spherical) for spherical in (False, True))
    _write(options.output, "latent_interpolation", {"line": line, "arc": arc})


def generate_command(options: argparse.Namespace) -> None:
    """Write generated_digits.png: digits decoded from random codes."""
    run = load_run(options.model)
    x = run.sample(options.n, options.method, y=options.label, seed=options.seed)
    rows = {"\u200b" * i or options.method: row for i, row in enumerate(x.split(15))}  # names that differ, no width
    _write(options.output, "generated_digits", rows)


def explore_command(options: argparse.Namespace) -> None:
    """Write latent_explorer_NAME.html, a page with sliders and a map, and open it in the browser."""
    from labutils.explore.page import export_html

    run = load_run(options.model)
    classifier = "classifier" if run.config.dataset in ("mnist", "mnist5k") else None  # the published one knows digits
    path = export_html(run, options.output / f"latent_explorer_{run.name}.html", classifier=classifier).resolve()
    print(f"Open {path.as_uri()}")
    if options.open:
        webbrowser.open(path.as_uri())


def _write(folder: Path, name: str, rows: dict[str, torch.Tensor]) -> None:
    from labutils.plots import plot_images  # only here: the explorer opens without matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    plot_images(rows).savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
    print(f"{'picture':<18} {folder / name}.png")
