"""Images of your own as arrays: a folder of pictures, an .npz file, files in MNIST's format, sets that libraries have.

Nothing here is random: the same files give the same images in the same order on every machine.
"""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

from labutils.download import PARTS, DataError, data_folders
from labutils.paths import ROOT, data_dir

PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
SIZES = range(8, 65)  # height and width that a model can have
LEAST = 10  # images: one for each tenth
# names of the parts of a set, of folders and in .npz files (as Keras and MedMNIST write them)
TRAIN, VAL, TEST = ("train",), ("val", "valid", "validation"), ("test",)
# name → class and arguments of torchvision.datasets
TORCHVISION: dict[str, tuple[str, dict[str, Any]]] = {
    "kmnist": ("KMNIST", {}),
    "qmnist": ("QMNIST", {}),
    "emnist_balanced": ("EMNIST", {"split": "balanced"}),
    "emnist_digits": ("EMNIST", {"split": "digits"}),
    "emnist_letters": ("EMNIST", {"split": "letters"}),
}
NAMES = ("digits", *TORCHVISION)
SHIPPED = ("mnist", "fashion_mnist", "mnist5k", *NAMES)


class Part(NamedTuple):
    """images (N,C,H,W) uint8; labels (N,), whatever they are, or None."""

    images: np.ndarray
    labels: np.ndarray | None


@dataclass(frozen=True)
class Images:
    """What was found: where, names of the classes (none: no labels), and as many parts as there were."""

    source: str
    classes: tuple[str, ...]
    train: Part
    val: Part | None = None
    test: Part | None = None


def find_images(name: str) -> Path:
    """Return the folder or file of a data set: in `$LABUTILS_DATA` or `data/` by its name, an .npz file also without
    its ending; or at a path, which counts from the working directory or from the repository. A ValueError where there
    is nothing of that name."""
    places = [*dict.fromkeys([*data_folders(), Path.cwd(), ROOT])]
    if path := next(_named(name, places), None):
        return path.resolve()
    raise ValueError(f"dataset {name!r} must be one of {', '.join(SHIPPED)}, or of your own: there is no folder and no "
                     f".npz file of that name in {' or '.join(map(str, places))}")  # fmt: skip


def _named(name: str, places: Iterable[Path]) -> Iterator[Path]:
    """Yield the folders and .npz files of a name in some places, in order."""
    candidates = (place / f"{Path(name).expanduser()}{ending}" for place in places for ending in ("", ".npz"))
    return (path for path in candidates if (path.is_dir() or path.suffix == ".npz") and path.exists())


def read_images(name: str, size: int, channels: int) -> Images:
    """Return the images of a set by name, or of your own by name or path; read once a process while nothing changes.

    Raises:
        DataError: a file is damaged, empty or of the wrong size; the message names it.
        ValueError: see `find_images`.
    """
    if size not in SIZES:
        raise ValueError(f"size={size!r} must be from 8 to 64")
    if channels not in (1, 3):
        raise ValueError(f"channels={channels!r} must be 1 or 3")
    if name == "digits":
        return _digits()
    if name in TORCHVISION:
        return _torchvision(name)
    path = find_images(name)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]  # folders, too: one may be empty
    stamp = tuple((str(file), *_stamp(file)) for file in files)
    return _read(path, size, channels, stamp)


def _stamp(file: Path) -> tuple[int, int]:
    about = file.stat()
    return about.st_size, about.st_mtime_ns


@lru_cache(maxsize=4)
def _read(path: Path, size: int, channels: int, stamp: object) -> Images:
    if path.suffix == ".npz":
        return _npz(path)
    for raw in (path, path / "raw"):
        if all((raw / part).exists() for part in PARTS):
            return _idx(raw)
    return _folder(path, size, channels)


# A folder of pictures


def _folder(path: Path, size: int, channels: int) -> Images:
    """A subfolder a class, or pictures without; both, if wanted, in folders named train, val and test."""
    parts = {key: _subfolder(path, names) for key, names in (("train", TRAIN), ("val", VAL), ("test", TEST))}
    if parts["train"] is None:
        parts = {"train": path, "val": None, "test": None}
    found = {key: _pictures(folder) for key, folder in parts.items() if folder is not None}
    classes = tuple(sorted({name for pictures in found.values() for _, name in pictures if name}))
    read = {}
    for key, pictures in found.items():
        if not pictures:
            raise DataError(f"{parts[key]} holds no pictures ({', '.join(PICTURES)})")
        if classes and (empty := _without_pictures(parts[key], pictures)):
            raise DataError(f"{empty} holds no pictures, and would be a class without images: fill or delete it")
        images = np.stack([framed_picture(file, size, channels) for file, _ in pictures])
        if classes and not pictures[0][1]:
            raise DataError(f"{parts[key]} holds pictures without subfolders, and another part has a subfolder a class")
        read[key] = Part(images, np.array([name for _, name in pictures]) if classes else None)
    return Images(str(path), classes, **read)


def _subfolder(path: Path, names: Sequence[str]) -> Path | None:
    return next((folder for folder in sorted(path.iterdir()) if folder.is_dir() and folder.name.lower() in names), None)


def _pictures(folder: Path) -> list[tuple[Path, str]]:
    """Return the pictures of a folder with the names of their classes, "" without, in the order of their paths."""
    files = [file for file in folder.rglob("*") if file.suffix.lower() in PICTURES and not _is_hidden(file, folder)]
    named = [(file, file.relative_to(folder).parts[0] if file.parent != folder else "") for file in files]
    loose = [file for file, name in named if not name]
    if loose and len(loose) < len(named):
        raise DataError(f"{loose[0]} lies beside subfolders: either a subfolder a class holds all pictures, or none is")
    return sorted(named, key=lambda item: item[0].relative_to(folder).as_posix())


def _without_pictures(folder: Path | None, pictures: Sequence[tuple[Path, str]]) -> Path | None:
    """Return a subfolder that holds no picture, if there is one."""
    named = {name for _, name in pictures}
    folders = sorted(folder.iterdir()) if folder else []
    return next((p for p in folders if p.is_dir() and p.name not in named and not _is_hidden(p, p.parent)), None)


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)


def framed_picture(file: str | Path, size: int, channels: int) -> np.ndarray:
    """Return a picture file as (C,size,size) uint8: turned as the camera was held, transparent parts white, the whole
    of it fitted into a square, what is missing filled with the colour of its edge. A grey one whose edge is light is
    inverted: ink is light on dark, as in MNIST. A DataError names a file that is no picture."""
    try:
        with Image.open(file) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I"):  # 16 bits, which `convert` would cut off at 255
                picture = Image.fromarray((np.asarray(picture, dtype=np.float32) / 257).clip(0, 255).astype(np.uint8))
            picture = picture.convert("RGBA")
    except (FileNotFoundError, PermissionError):
        raise
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} is not a picture that can be read ({error}): mend or delete it") from error
    paper = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(paper, picture).convert("L" if channels == 1 else "RGB")
    pixels = np.atleast_3d(np.asarray(picture))
    edge = np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]), axis=0)
    if channels == 1 and edge[0] > 127:
        picture, edge = ImageOps.invert(picture), 255 - edge
    inside = ImageOps.contain(picture, (size, size), Image.Resampling.LANCZOS)
    ground = int(edge[0]) if channels == 1 else tuple(int(value) for value in edge)
    canvas = Image.new(picture.mode, (size, size), ground)
    canvas.paste(inside, ((size - inside.width) // 2, (size - inside.height) // 2))
    return np.atleast_3d(np.array(canvas)).transpose(2, 0, 1).copy()


# Arrays


def save_images(
    name: str,
    images: object,
    labels: object = None,
    *,
    test_images: object = None,
    test_labels: object = None,
) -> Path:
    """Write arrays as data/<name>.npz: a data set of that name. Return the file.

    Args:
        images: (N,H,W) or (N,H,W,C), grey or RGB, squares of 8 to 64 pixels, uint8 or floats in [0,1].
        labels: (N,), integers or texts; None for none.
        test_images, test_labels: the same for testing; without them every tenth image tests.

    Images that no model could take, the name of a set that comes with the lab, or one that a folder of pictures or
    another place in LABUTILS_DATA has, are a ValueError, and nothing is written.
    """
    if not name.replace("-", "_").isidentifier() or name in SHIPPED:
        raise ValueError(f"name={name!r} must be of letters, digits, - and _, and none of {', '.join(SHIPPED)}")
    given = {"images": images, "labels": labels, "test_images": test_images, "test_labels": test_labels}
    arrays = {key: np.asarray(value) for key, value in given.items() if value is not None}
    try:
        _from_arrays(arrays, name)
    except DataError as error:
        raise ValueError(str(error)) from error
    path = data_dir() / f"{name}.npz"
    with suppress(DataError):  # a LABUTILS_DATA that is no folder hides nothing
        if (other := next(_named(name, data_folders()), path)).resolve() != path.resolve():
            raise ValueError(f"name={name!r} is that of {other}, which would be read in its place: choose another")
    data_dir().mkdir(exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    with scratch.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    scratch.replace(path)
    return path


def _npz(path: Path) -> Images:
    """images and labels; or with train_, val_, test_ before them; or x_train, y_train, x_test, y_test."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:  # numpy leaves a bad one open
            arrays = {key: file[key] for key in file.files}
    except Exception as error:  # zipfile, zlib and numpy raise whatever a damage makes them
        raise DataError(f"{path} cannot be read as .npz ({error}): mend or delete it") from error
    return _from_arrays(arrays, str(path))


def _from_arrays(arrays: dict[str, np.ndarray], source: str) -> Images:
    parts = {}
    for key, names in (("train", ("", *TRAIN)), ("val", VAL), ("test", TEST)):
        x, y = (_first(arrays, names, *what) for what in (("images", "x"), ("labels", "y")))
        if x is not None:
            parts[key] = Part(_as_pixels(x, source), None if y is None else _as_labels(y, len(x), source))
    if "train" not in parts:
        raise DataError(f"{source} holds {', '.join(arrays) or 'nothing'}: images, or train_images, are expected")
    labelled = [part.labels is not None for part in parts.values()]
    if any(labelled) and not all(labelled):
        raise DataError(f"{source} has labels for one part of its images and none for another")
    if len({part.images.shape[1:] for part in parts.values()}) > 1:
        raise DataError(f"{source} has images of several sizes: {[part.images.shape for part in parts.values()]}")
    labels = np.concatenate([part.labels for part in parts.values()]) if all(labelled) else np.array([])
    return Images(source, tuple(str(label) for label in np.unique(labels)), **parts)


def _first(arrays: dict[str, np.ndarray], parts: Sequence[str], what: str, letter: str) -> np.ndarray | None:
    """Return the array that is named train_images or x_train, say; without a part's name, images."""
    names = [name for part in parts for name in (f"{part}_{what}".lstrip("_"), f"{letter}_{part}")]
    return next((arrays[name] for name in names if name in arrays), None)


def _as_pixels(x: np.ndarray, source: str) -> np.ndarray:
    """Return (N,C,H,W) uint8 of (N,H,W) or (N,H,W,C), uint8 or floats in [0,1]."""
    x = x[..., None] if x.ndim == 3 else x
    if x.ndim != 4 or x.shape[1] != x.shape[2] or x.shape[1] not in SIZES or x.shape[3] not in (1, 3) or not len(x):
        raise DataError(f"{source} has images of shape {x.shape}: (N,H,W) or (N,H,W,C) are expected, squares of 8 to "
                        "64 pixels, 1 or 3 channels; other pictures can be framed from a folder")  # fmt: skip
    if x.dtype != np.uint8:
        if x.dtype.kind != "f" or not ((x >= 0) & (x <= 1)).all():
            raise DataError(f"{source} has pixels of type {x.dtype}: uint8, or floats within [0, 1], are expected")
        x = (255 * x).round().astype(np.uint8)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def _as_labels(y: np.ndarray, n: int, source: str) -> np.ndarray:
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.shape != (n,) or y.dtype.kind not in "iuUSb":
        raise DataError(
            f"{source} has labels of shape {y.shape} and type {y.dtype}: ({n},) integers or texts are expected"
        )
    return np.char.decode(y, "utf-8") if y.dtype.kind == "S" else y


# What libraries have


@lru_cache(maxsize=1)
def _digits() -> Images:
    """scikit-learn's 1,797 digits of 8 × 8 pixels (Alpaydin and Kaynak 1998), which need no network."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = (images * (255 / 16)).round().astype(np.uint8).reshape(-1, 1, 8, 8)
    return Images("scikit-learn", tuple("0123456789"), Part(pixels, labels))


def _idx(raw: Path) -> Images:
    """Four files in MNIST's format."""
    from torchvision.datasets import mnist

    arrays = {}
    for part, key in zip(PARTS, ("train_images", "train_labels", "test_images", "test_labels"), strict=True):
        try:
            read = mnist.read_image_file if "images" in key else mnist.read_label_file
            arrays[key] = read(str(raw / part)).numpy()
        except Exception as error:  # torchvision asserts, and indexes what is not there
            raise DataError(f"{raw / part} is not a file in MNIST's format ({error}): mend or delete it") from error
    return _from_arrays(arrays, str(raw.parent if raw.name == "raw" else raw))


@lru_cache(maxsize=2)
def _torchvision(name: str) -> Images:
    """A set that torchvision knows: in one of the data folders, or downloaded into data/."""
    from torchvision import datasets

    kind, arguments = TORCHVISION[name]
    root = next((folder for folder in data_folders() if (folder / kind).exists()), data_dir())
    try:  # into data/ only, and there also what an interrupted download lacks
        train, test = (
            getattr(datasets, kind)(root, train=part, download=root == data_dir(), **arguments)
            for part in (True, False)
        )
    except Exception as error:  # a network's, an archive's, an assertion
        remedy = "if that folder is incomplete, delete it"
        raise DataError(f"{name} is neither in {root / kind} nor could it be downloaded ({error}): {remedy}") from error
    parts = []
    for part in (train, test):
        images = part.data.transpose(1, 2) if kind == "EMNIST" else part.data  # whose pictures are stored turned
        labels = part.targets[:, 0] if part.targets.ndim == 2 else part.targets
        parts.append(Part(images.numpy()[:, None].copy(), labels.numpy()))
    names = [str(train.classes[label]) for label in np.unique(parts[0].labels)]  # type: ignore[arg-type]
    return Images(str(root / kind), tuple(names), parts[0], test=parts[1])


def split(images: Images) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """Return images (N,C,H,W) uint8 and labels (N,) int64 for training, validation and testing.

    What was not given is taken from what is for training: of its images, sorted by class and otherwise in their order,
    every tenth for validation and every tenth for testing. Without labels all are 0. Fewer than ten images are a
    DataError.
    """
    if len(images.train.images) < LEAST:
        raise DataError(f"{images.source} has {len(images.train.images)} images: at least {LEAST} are needed")
    values = np.unique(np.concatenate([part.labels for part in (images.train, images.val, images.test)
                                       if part is not None and part.labels is not None] or [np.zeros(1)]))  # fmt: skip
    x, y = _tensors(images.train, values)
    order = torch.from_numpy(np.argsort(y.numpy(), kind="stable"))
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order)) % 10
    missing = [tenth for part, tenth in ((images.val, 8), (images.test, 9)) if part is None]
    keep = ~torch.isin(rank, torch.tensor(missing, dtype=torch.long))
    taken = {tenth: (x[rank == tenth], y[rank == tenth]) for tenth in missing}
    val = taken[8] if images.val is None else _tensors(images.val, values)
    test = taken[9] if images.test is None else _tensors(images.test, values)
    for part, given_part, (_, labels) in (("validation", images.val, val), ("testing", images.test, test)):
        present = labels.unique()
        if lacking := [name for label, name in enumerate(images.classes) if label not in present]:
            why = "" if given_part else ": every tenth of a class is taken, ten of each are enough"
            warnings.warn(f"{images.source}: {', '.join(lacking)} without an image for {part}{why}", stacklevel=2)
    return (x[keep], y[keep]), val, test


def _tensors(part: Part, values: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    labels = np.zeros(len(part.images)) if part.labels is None else np.searchsorted(values, part.labels)
    with warnings.catch_warnings():  # an array of a memory map may not be written, and is not
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(part.images), torch.from_numpy(labels.astype(np.int64))
