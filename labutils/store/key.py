"""The name of a run: a hash of all that decides its result, so that today's code never returns what other code made.

Code counts by its *recipe*: the hash of every file that a run passes through; or, where tests/golden.py has proved that
today's code gives the same bits for a kind of model as older code did, the hash of that older code. So an edit of an
error message costs a minute's proof and no training, and an edit that changes numbers renames the runs at once. A line
that no proving run executes says behind "# unproved:" why none can.
"""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from labutils.config import NEUTRAL, Config
from labutils.data import Dataset, is_pinned
from labutils.device import resolve_device, resolve_precision
from labutils.kinds import BUILT_IN, KINDS
from labutils.paths import ROOT, scale
from labutils.store.source import code_lines, source_of

# every file that a run passes through: what runs.py imports (a test holds the two together), but for own.py and
# store/source.py, whose results are in the name themselves (the checksum of the images, the source of a kind), and for
# trial.py, which only refuses
FILES = ("config", "kinds", "paths", "download", "data", "device", "models", "objectives", "optim", "graphs",
         "training", "callbacks", "timing", "metrics", "transfer", "pictures", "codes", "runs", "store/files",
         "store/key", "store/weights", "store/checkpoint", "store/folder")  # fmt: skip
RECIPES = Path(__file__).with_name("recipes.json")


def run_key(config: Config, checksum: str, code: str = "") -> str:
    """Return the name of a run in the store: 16 hex digits, the same in every process on every platform. `code` is the
    kind's `recipe` where it is known already: of a kind of your own it takes a walk through all that it uses."""
    return hash_of(config.to_dict(), checksum, code or recipe(config.model), torch_version())


def hash_of(config: Mapping[str, Any], data: str, code: str, torch: str) -> str:
    """Return `run_key` for a config's fields, images, a recipe and a version of torch that need not be today's. A field
    that Config got later is left out while it has its neutral value: older runs keep their names. So is where images of
    your own lie: they may move."""
    fields = {name: value for name, value in config.items() if name not in NEUTRAL or NEUTRAL[name] != value}
    if not is_pinned(fields.get("dataset", "mnist")):
        del fields["dataset"]  # unproved: golden images pass for shipped ones
    ingredients = {"config": fields, "data": data, "code": code, "torch": torch}
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()[:16]


def resolved(config: Config, data: Dataset) -> Config:
    """Return what really runs: the data set that was loaded and its sizes, this machine's device, the epochs of the
    present scale. To train on as many images as there are is to train on all. A kind that learns labels, of images
    without, is a ValueError."""
    device, n_train = resolve_device(config.device), config.n_train
    if KINDS[config.model].labelled and not data.classes:
        raise ValueError(f"model={config.model!r} learns labels, and {data.name} has none: see load_dataset")
    if n_train and scale().images:
        n_train = min(n_train, len(data.train))
    return replace(
        config,
        dataset=data.name,
        image_size=data.image_size,
        channels=data.channels,
        classes=max(1, len(data.classes)),
        device=device.type,
        precision=resolve_precision(config.precision, device),
        epochs=min(config.epochs, scale().epochs or config.epochs),
        n_train=None if n_train == len(data.train) else n_train,
    )


def recipe(model: str) -> str:
    """Return the name of today's recipe for a kind of model, 64 hex digits; of a kind of your own one of labutils' code
    and its own source. It is "" for a kind that is not defined here."""
    if model in BUILT_IN:
        return _recipe(model)
    if model not in KINDS:
        return ""  # unproved: a run of another's kind
    parts = [*map(_recipe, BUILT_IN), source_of(KINDS[model])]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


@cache
def _recipe(model: str) -> str:
    proof = json.loads(RECIPES.read_text(encoding="utf-8"))  # "code": what was proved; "equal": kind → older recipe
    return proof["equal"].get(model, code_hash()) if proof["code"] == code_hash() else code_hash()


def of_today(made_from: Mapping[str, str], model: str) -> bool:
    """Return whether a stored run was made from today's recipe and torch."""
    return made_from["code"] == recipe(model) and made_from["torch"] == torch_version()


def torch_version() -> str:
    """Return torch's version without the build: CPU and CUDA wheels of one version are one code."""
    return torch.__version__.split("+")[0]


@cache
def code_hash(package: Path = Path(__file__).parent.parent) -> str:
    """Return a hash of FILES without comments, docstrings and blank lines."""
    digest = hashlib.sha256()
    for name in FILES:
        source = (package / f"{name}.py").read_text(encoding="utf-8")
        digest.update("\n".join([name, *code_lines(source).values()]).encode())
    return digest.hexdigest()


@cache
def revision() -> str:
    """Return the commit that the working tree stands on, with "-dirty" where it differs; "" where git does not know."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""  # unproved: needs a folder without git


code_hash()  # now: a file edited under a running kernel is not the code that runs
