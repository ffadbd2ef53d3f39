"""The name of a run: a hash of all that decides its result, so that today's code never returns what other code made."""

import ast
import hashlib
import io
import json
import tokenize
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from labutils.config import Config
from labutils.data import Dataset
from labutils.device import resolve_device, resolve_precision
from labutils.paths import scale

# every file that a run passes through; an edit that changes no number costs seconds, not a training (see golden.py)
DECIDES = ("config", "data", "models", "objectives", "training", "transfer", "metrics", "runs",
           "store/key", "store/checkpoint", "store/files", "store/folder")  # fmt: skip
RECIPES = Path(__file__).with_name("recipes.json")


def run_key(config: Config, checksum: str) -> str:
    """The name of a run in the store: 16 hex digits, the same in every process on every platform."""
    return hash_of(config, checksum, recipe(config.model), torch_version())


def hash_of(config: Config, data: str, code: str, torch: str) -> str:
    """`run_key` for images, code and a version of torch that need not be today's."""
    ingredients = {"config": config.to_dict(), "data": data, "code": code, "torch": torch}
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()[:16]


def resolved(config: Config, data: Dataset) -> Config:
    """What really runs: the data set that was found, the device there is, the epochs of the present scale. To train on
    as many images as there are is to train on all."""
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


def recipe(model: str) -> str:
    """The name of today's recipe for a kind of model: that of older code which golden.py has shown to give the same
    numbers bit by bit; the hash of today's code where nobody has shown that."""
    return _KNOWN.get(_CODE_HASH, {}).get(model, _CODE_HASH)


def of_today(made_from: Mapping[str, str], model: str) -> bool:
    """Whether today's recipe and torch are those that a stored run was made from."""
    return made_from["code"] == recipe(model) and made_from["torch"] == torch_version()


def torch_version() -> str:
    """Without the build: CPU and CUDA wheels of one version are one code."""
    return torch.__version__.split("+")[0]


def code_hash() -> str:
    """A hash of the modules that decide a result, as imported, without comments, docstrings and blank lines."""
    return _CODE_HASH


def _code(source: str) -> str:
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] = lines[token.start[0] - 1][: token.start[1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            doc = node.body[0]
            lines[doc.lineno - 1 : doc.end_lineno] = [""] * (doc.end_lineno - doc.lineno + 1)  # type: ignore[operator]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _hash_code() -> str:
    sources = [(Path(__file__).parent.parent / f"{name}.py").read_text(encoding="utf-8") for name in DECIDES]
    return hashlib.sha256("".join(map(_code, sources)).encode()).hexdigest()


_CODE_HASH = _hash_code()  # now: a file edited under a running kernel is not the code that runs
_KNOWN: dict[str, dict[str, str]] = json.loads(RECIPES.read_text()) if RECIPES.exists() else {}
