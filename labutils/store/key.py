"""The name of a run: a hash of all that decides its result, so that today's code never returns what other code made.

Code counts by its *recipe*: the hash of every file that a run passes through; or, where tests/golden.py has proved that
today's code gives the same bits for a kind of model as older code did, the hash of that older code. So an edit of an
error message costs a minute's proof and no training, and an edit that changes numbers renames the runs at once.
"""

import ast
import hashlib
import io
import json
import subprocess
import tokenize
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from labutils.config import NEUTRAL, Config
from labutils.data import Dataset
from labutils.device import resolve_device, resolve_precision
from labutils.paths import ROOT, scale

# every file that a run passes through: what runs.py imports (a test holds the two together)
FILES = ("config", "kinds", "paths", "download", "data", "device", "models", "objectives", "optim", "training",
         "callbacks", "timing", "metrics", "transfer", "pictures", "codes", "runs", "store/files", "store/key",
         "store/weights", "store/checkpoint", "store/folder")  # fmt: skip
RECIPES = Path(__file__).with_name("recipes.json")


def run_key(config: Config, checksum: str) -> str:
    """Return the name of a run in the store: 16 hex digits, the same in every process on every platform."""
    return hash_of(config.to_dict(), checksum, recipe(config.model), torch_version())


def hash_of(config: Mapping[str, Any], data: str, code: str, torch: str) -> str:
    """Return `run_key` for a config's fields, images, a recipe and a version of torch that need not be today's. A field
    that Config got later is left out while it has its neutral value: older runs keep their names."""
    fields = {name: value for name, value in config.items() if name not in NEUTRAL or NEUTRAL[name] != value}
    ingredients = {"config": fields, "data": data, "code": code, "torch": torch}
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()[:16]


def resolved(config: Config, data: Dataset) -> Config:
    """Return what really runs: the data set that was loaded, this machine's device, the epochs of the present scale.
    To train on as many images as there are is to train on all."""
    device, n_train = resolve_device(config.device), config.n_train
    if n_train and scale().images:
        n_train = min(n_train, len(data.train))
    return replace(
        config,
        dataset=data.name,
        device=device.type,
        precision=resolve_precision(config.precision, device),
        epochs=min(config.epochs, scale().epochs or config.epochs),
        n_train=None if n_train == len(data.train) else n_train,
    )


@cache
def recipe(model: str) -> str:
    """Return the name of today's recipe for a kind of model, 64 hex digits."""
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


def code_lines(source: str) -> dict[int, str]:
    """Return a module's lines by number, without comments, docstrings and blank lines. (ast.unparse would give another
    text with another version of Python.)"""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] = lines[token.start[0] - 1][: token.start[1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            lines[docstring.lineno - 1 : docstring.end_lineno] = [""] * (docstring.end_lineno - docstring.lineno + 1)  # type: ignore[operator]
    return {number: line.rstrip() for number, line in enumerate(lines, 1) if line.strip()}


@cache
def revision() -> str:
    """Return the commit that the working tree stands on, with "-dirty" where it differs; "" where git does not know."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""  # unproved: needs a folder without git


code_hash()  # now: a file edited under a running kernel is not the code that runs
