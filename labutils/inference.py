"""Models at work on digits from anywhere: tensors, arrays, pictures drawn elsewhere. And the commands that do so.

r = load_run("vae16")
reconstruct(r, "my_seven.png")       # (1,1,28,28)
interpolate(r, "my_seven.png", x)    # (11,1,28,28)
sample(r, 16, seed=0)                # (16,1,28,28)
"""

import argparse
import webbrowser
from pathlib import Path

import torch
from torch import nn

from labutils import latent
from labutils.data import Dataset, load_dataset
from labutils.models import CLASSES
from labutils.pictures import as_images
from labutils.plots import plot_images
from labutils.space import latent_space
from labutils.store import Run, load_run

Model = Run | nn.Module | str | Path


def model_of(model: Model) -> nn.Module:
    """The model of a Run, or of what `load_run` finds under a name or path."""
    found = _found(model)
    return found.model if isinstance(found, Run) else found


def _found(model: Model) -> Run | nn.Module:
    return load_run(model) if isinstance(model, (str, Path)) else model


def encode(model: Model, source: object, y: object = None) -> torch.Tensor:
    """Images, as `pictures.as_images` takes them, and for a conditional_vae labels, as `models.as_labels` takes them →
    codes (N,latent_dim)."""
    return latent.encode_images(model_of(model), as_images(source), y)


def decode(model: Model, z: object, y: object = None) -> torch.Tensor:
    """Codes (N,latent_dim) or (latent_dim,), tensor, array or lists; labels as in `encode` → images (N,1,28,28) in
    [0,1].

    Raises:
        ValueError: a model that decodes nothing, another number of units than it has, or a number that is not finite.
    """
    network = model_of(model)
    if not hasattr(network, "decode"):
        raise ValueError(f"a {type(network).__name__} decodes nothing: take an autoencoder or a VAE")
    codes = torch.atleast_2d(torch.as_tensor(z, dtype=torch.float32))
    if codes.ndim != 2 or codes.shape[1] != network.latent_dim or not codes.isfinite().all():
        raise ValueError(f"codes have shape {tuple(codes.shape)}, expected (N, {network.latent_dim}) of finite numbers")
    return latent.decode_codes(network, codes, y)


def reconstruct(model: Model, source: object, y: object = None) -> torch.Tensor:
    """Images, and labels, as in `encode` → their reconstructions (N,1,28,28) in [0,1]."""
    return decode(model, encode(model, source, y), y)


def interpolate(model: Model, start: object, end: object, steps: int = 11, *, spherical: bool = False) -> torch.Tensor:
    """From one image to another by way of their codes: (steps,1,28,28), the reconstructions of both included. A
    conditional_vae is told no label: the two may have different ones."""
    a, b = (encode(model, source)[0] for source in (start, end))
    return decode(model, latent.interpolate(a, b, steps, spherical=spherical))


def sample(
    model: Model, n: int, method: str = "prior", data: Dataset | None = None, *, y: object = None, seed: int = 0
) -> torch.Tensor:
    """n invented images (n,1,28,28).

    Args:
        method: "prior" N(0, I), which only a VAE was trained for; or one of latent.SAMPLERS, fitted to the codes of
            up to 5,000 training images of `data` (None: of a Run's data set, else of MNIST).
        y: what a conditional_vae is told, labels as in `encode`; None means each class in turn.

    Raises:
        ValueError: an unknown method, or n below 1.
    """
    found = _found(model)
    network = model_of(found)
    if n < 1:
        raise ValueError(f"n={n} must be at least 1")
    if method not in latent.SAMPLERS:  # before images are looked for and encoded
        raise ValueError(f"method={method!r} must be one of {', '.join(latent.SAMPLERS)}")
    if y is not None and not getattr(network, "conditional", False):
        raise ValueError(f"y={y!r} means nothing to this model: only a conditional_vae is told labels")
    if method == "prior":
        z = latent.sample_normal(n, network.latent_dim, seed)  # type: ignore[arg-type]
    else:
        data = data or (load_dataset() if isinstance(found, nn.Module) else None)  # a Run names its own
        z = latent_space(found, data).fitted(method, n, seed)
    return decode(network, z, torch.arange(n) % CLASSES if y is None else y)


# The commands: what __main__ parses


def _images(names: list[str], data: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Test images by index, or picture files, and their labels, −1 where nobody knows."""
    images, labels = [], []
    for name in names:
        if name.isdigit() and int(name) >= len(data.test):
            raise ValueError(f"test image {name} must be from 0 to {len(data.test) - 1}")
        if not name.isdigit() and not Path(name).exists():
            raise ValueError(f"no picture {name!r}: a file, or the number of a test image, is expected")
        images.append(as_images(data.test.images[int(name)] if name.isdigit() else name))
        labels.append(int(data.test.labels[int(name)]) if name.isdigit() else -1)
    return torch.cat(images), torch.tensor(labels)


def reconstruct_command(options: argparse.Namespace) -> int:
    """inference_results.png: digits above, what a model makes of them below."""
    run = load_run(options.model)
    data = load_dataset(run.config.dataset)
    labels = data.test.labels.tolist()
    x, y = _images(options.images or [str(labels.index(label)) for label in sorted(set(labels))], data)
    return _write(options.output, "inference_results", {"image": x, run.name: reconstruct(run, x, y)})


def interpolate_command(options: argparse.Namespace) -> int:
    """latent_interpolation.png: from one digit to another, along the line and along the arc."""
    run = load_run(options.model)
    ends = [options.start, options.end]
    x, labels = _images(ends, load_dataset(run.config.dataset))
    names = [f"test image {end}, a {label}," if end.isdigit() else end for end, label in zip(ends, labels, strict=True)]
    print(f"{'from':<18} {names[0]} to {names[1].rstrip(',')}")
    ways = {"line": False, "arc": True}
    rows = {name: interpolate(run, x[:1], x[1:], options.steps, spherical=arc) for name, arc in ways.items()}
    return _write(options.output, "latent_interpolation", rows)


def generate_command(options: argparse.Namespace) -> int:
    """generated_digits.png: digits that nobody wrote."""
    run = load_run(options.model)
    if options.label is not None and run.config.model != "conditional_vae":
        raise ValueError(f"--label {options.label} means nothing to {run.name}: only a conditional_vae is told labels")
    x = run.sample(options.n, options.method, y=options.label, seed=options.seed)
    rows = {options.method if i == 0 else " " * i: row for i, row in enumerate(x.split(15))}
    return _write(options.output, "generated_digits", rows)


def explore_command(options: argparse.Namespace) -> int:
    """latent_explorer_NAME.html: a page with sliders and a map, opened in the browser."""
    from labutils.export import export_html

    run = load_run(options.model)
    path = export_html(run, options.output / f"latent_explorer_{run.name}.html").resolve()
    print(f"Open {path.as_uri()}")
    if options.open:
        webbrowser.open(path.as_uri())
    return 0


def _write(folder: Path, name: str, rows: dict[str, torch.Tensor]) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    plot_images(rows).savefig(folder / f"{name}.png", dpi=120)
    print(f"{'picture':<18} {folder / name}.png")
    return 0
