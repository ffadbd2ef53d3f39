"""The run store: `run` trains a Config once and afterwards returns the stored run; `ablate` and `sweep` make tables.

A run is a folder `outputs/runs/<key>/`. Its key is a hash of the config, the images' checksum, the code that decides
the result and torch's version, so today's code never returns what other code computed. A run is written under another
name and renamed when it is complete: a folder with a manifest is a whole run, whatever happened to the process.
"""

import ast
import hashlib
import io
import json
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
import tokenize
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn
from tqdm.auto import tqdm

from labutils.config import BASELINE, Config, runs_dir, scale
from labutils.data import Dataset, load_dataset, subset
from labutils.metrics import floors, known_floors, run_metrics
from labutils.models import build_model
from labutils.objectives import build_objective
from labutils.training import fit, resolve_device, resolve_precision

DECIDES_THE_RESULT = ("config", "data", "models", "objectives", "training", "metrics")
SHOWN = ("val_mse", "val_neg_elbo", "val_accuracy", "seconds")
FILES = ("config.json", "history.csv", "metrics.json", "model.safetensors")

# torch's random generators belong to the process: of two runs in threads of one, neither would be its seed's
ONE_AT_A_TIME = threading.Lock()


class RunError(RuntimeError):
    """A stored run is missing, damaged or made by something else; the message names it."""


@dataclass(frozen=True)
class Run:
    """A finished run: the model in evaluation mode on the CPU, its metrics, and its history, a row an epoch."""

    config: Config
    model: nn.Module
    metrics: dict[str, float]
    history: pd.DataFrame
    path: Path

    @property
    def name(self) -> str:
        """What to call it: "vae16" for published weights, else the kind of model, its units and the run's key."""
        if self.path.suffix == ".safetensors":
            return self.path.stem
        return f"{self.config.model}-{self.config.latent_dim}-{self.path.name[:6]}"

    def encode(self, images: object) -> torch.Tensor:
        """Images (N,1,28,28) as tensor, array or paths of pictures → codes (N,latent_dim); see inference.py."""
        return _inference().encode(self.model, images)

    def decode(self, z: object, y: torch.Tensor | None = None) -> torch.Tensor:
        """Codes (N,latent_dim) → images (N,1,28,28) in [0,1]."""
        return _inference().decode(self.model, z, y)

    def reconstruct(self, images: object, y: torch.Tensor | None = None) -> torch.Tensor:
        """Images as in `encode` → their reconstructions (N,1,28,28)."""
        return _inference().reconstruct(self.model, images, y)

    def interpolate(self, start: object, end: object, steps: int = 11, *, spherical: bool = False) -> torch.Tensor:
        """Two images as in `encode` → (steps,1,28,28) from one to the other by way of their codes."""
        return _inference().interpolate(self.model, start, end, steps, spherical=spherical)

    def sample(self, n: int, method: str = "prior", *, y: int | None = None, seed: int = 0) -> torch.Tensor:
        """n invented images (n,1,28,28); the methods are latent.SAMPLERS, fitted to codes of this run's data."""
        data = None if method == "prior" else load_dataset(self.config.dataset)
        return _inference().sample(self.model, n, method, data, y=y, seed=seed)


def _inference() -> Any:
    from labutils import inference  # only here: it stands on this module

    return inference


def run(
    config: Config,
    *,
    progress: bool = True,
    tensorboard: str | Path | None = None,
    each_epoch: Callable[[nn.Module, int], None] | None = None,
) -> Run:
    """Train a config and store the run, or return the stored run of exactly this config, data and code.

    Whoever asks for the epochs (`tensorboard`, `each_epoch`: see `fit`) gets them: the config is trained again then,
    which gives the stored run's numbers.

    `Run.config` says what really ran: the data set that was found, the device, and fewer epochs at smoke scale.

    Raises:
        DataError, TrainingDiverged, TrainingInterrupted, ValueError: see `load_dataset` and `fit`.
    """
    data = load_dataset(config.dataset)
    config = _resolved(config, data)
    key = run_key(config, data.checksum)
    path = runs_dir() / key
    if path.exists():
        try:
            stored = _load(path, key)
            if not tensorboard and not each_epoch:
                return stored
        except RunError as error:
            aside = path.with_name(f"damaged-{key}-{os.urandom(4).hex()}")
            path.rename(aside)
            warnings.warn(f"{error}. It was set aside as {aside.name} and is trained again.", stacklevel=2)
    with ONE_AT_A_TIME:
        model = build_model(config)
        train = subset(data.train, config.n_train)
        objective = build_objective(config)
        history = fit(
            model, objective, train, data.val, config, progress=progress, tensorboard=tensorboard, each_epoch=each_epoch
        )  # fmt: skip
        metrics = run_metrics(model, config, data, history, objective)
    _store(path, config, data, model, metrics, history)
    return _load(path, key)


def load_run(path: str | Path) -> Run:
    """Read a stored run back, every byte verified.

    Args:
        path: the run's folder, or its name in the run store; the name of weights that come with the repository, such
            as "vae16" (see pretrained.py); or a weights file (.safetensors) that `--checkpoint-path` wrote.

    Raises:
        RunError: there is no run, a file differs from the manifest, or the manifest belongs to another run.
    """
    from labutils.pretrained import PRETRAINED, load_pretrained, load_weights  # only here: it stands on this module

    if str(path) in PRETRAINED and not Path(path).is_dir():
        return load_pretrained(str(path))
    if Path(path).suffix == ".safetensors":
        return load_weights(Path(path))
    return _load(Path(path) if Path(path).is_dir() else runs_dir() / path)


def _load(path: Path, key: str | None = None) -> Run:
    """`load_run`, where `key` says which run it has to be."""
    manifest, content = _verified(path, FILES)
    try:
        config = Config.from_dict(json.loads(content["config.json"]))
        if _hash(config, **manifest["made_from"]) != (key or manifest["key"]):
            raise RunError(f"{path} holds another run than its name or its manifest says")
        with ONE_AT_A_TIME:  # a new model draws its first weights, though it is about to get others
            model = build_model(config)
        model.load_state_dict(load_safetensors(content["model.safetensors"]))
    except RunError:
        raise
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _unreadable(path, error) from error
    history = pd.read_csv(io.BytesIO(content["history.csv"]))
    return Run(config, model.eval(), json.loads(content["metrics.json"]), history, path)


def _verified(path: Path, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A run's manifest, and the content of the named files, which are those that the manifest was written for."""
    try:
        manifest = json.loads((path / "MANIFEST.json").read_bytes())
        content = {name: (path / name).read_bytes() for name in names}
        fingerprints = {name: manifest["files"][name] for name in names}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, error) from error
    for name, data in content.items():
        if fingerprints[name] != _fingerprint(data):
            raise RunError(f"{path / name} is not the file that was stored")
    return manifest, content


def _unreadable(path: Path, error: Exception) -> RunError:
    return RunError(f"{path} holds no readable run ({type(error).__name__}: {error})")


def run_key(config: Config, checksum: str) -> str:
    """The name of a run in the store: 16 hex digits, the same in every process on every platform."""
    return _hash(config, checksum, code_hash(), _torch_version())


def sweep(configs: Iterable[Config], executor: Executor | None = None) -> pd.DataFrame:
    """Run every config; a row a run with all Config fields, the metrics and the run's key, in the order given.

    Args:
        executor: any `concurrent.futures.Executor`; None starts one process a core with one thread each for what is
            not yet stored, or on an accelerator, which has no cores to share, does one run after the other. (More
            threads than free cores are the trap: beside a busy process an epoch takes 15 times as long.)
    """
    configs = list(configs)
    # resolved here, so that no worker has to find out again which images there are
    datasets = {name: load_dataset(name) for name in {config.dataset for config in configs}}
    datasets |= {data.name: data for data in datasets.values()}  # what was asked for, and what was found instead
    configs = [_resolved(config, datasets[config.dataset]) for config in configs]
    keys = [run_key(config, datasets[config.dataset].checksum) for config in configs]
    pending = {key for key in keys if not (runs_dir() / key).exists()}
    if executor is not None or len(pending) < 2 or any(config.device != "cpu" for config in configs):
        return _table(configs, executor, run_row)
    for config, key in zip(configs, keys, strict=True):
        if key in pending and config.model != "classifier":
            floors(datasets[config.dataset], config.n_train)  # once here, not once in every worker
    pool = _process_a_core(len(pending))
    try:
        with warnings.catch_warnings():  # loky replaces a worker whose memory grew: its business, no news
            warnings.filterwarnings("ignore", "A worker stopped", UserWarning)
            return _table(configs, pool, partial(_run_row_in_worker, _surroundings(), known_floors))
    except BaseException:
        pool.shutdown(kill_workers=True)  # Ctrl-C ends the workers too
        raise


def _table(
    configs: Sequence[Config], executor: Executor | None, row_of: Callable[[Config], dict[str, Any]]
) -> pd.DataFrame:
    """The rows of all configs in their order, with a bar that moves as they come."""
    rows: list[dict[str, Any]] = [{}] * len(configs)
    with tqdm(total=len(configs), unit="run", disable=len(configs) < 2) as bar:
        for i, row in _finished(configs, executor, row_of):
            rows[i] = row
            bar.set_postfix({name: f"{row[name]:.4g}" for name in SHOWN if name in row}, refresh=False)
            bar.update()
    return pd.DataFrame(rows)


def _finished(
    configs: Sequence[Config], executor: Executor | None, row_of: Callable[[Config], dict[str, Any]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    if executor is None:
        yield from ((i, row_of(config)) for i, config in enumerate(configs))
    else:
        futures = {executor.submit(row_of, config): i for i, config in enumerate(configs)}
        yield from ((futures[future], future.result()) for future in as_completed(futures))


def _process_a_core(runs: int) -> Any:
    """A pool that stays for the next sweep (five idle minutes at most): a worker takes four seconds to start."""
    # loky, unlike the standard pool, needs no `if __name__ == "__main__"` in a user's script and kills its workers
    from joblib.externals.loky import get_reusable_executor
    from joblib.externals.loky.backend.context import cpu_count

    return get_reusable_executor(
        min(cpu_count(), runs),
        timeout=300,
        env={"OMP_NUM_THREADS": "1"},
        initializer=_end_with,
        initargs=(os.getpid(),),
    )


def _end_with(parent: int) -> None:
    """In a worker: end when the driver is gone. A killed kernel would leave workers behind."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    if os.name == "posix":  # elsewhere a process keeps its parent's number after the parent's end
        threading.Thread(target=watch, daemon=True).start()


def _surroundings() -> dict[str, str]:
    """The environment variables that a worker, older than this sweep perhaps, has to share."""
    return {name: value for name, value in os.environ.items() if name.startswith("LABUTILS_")}


def _run_row_in_worker(
    surroundings: dict[str, str], known: dict[tuple[str, int], np.ndarray], config: Config
) -> dict[str, Any]:
    for name in _surroundings().keys() - surroundings.keys():
        del os.environ[name]
    os.environ.update(surroundings)
    known_floors.update(known)
    return run_row(config)


def run_row(config: Config) -> dict[str, Any]:
    """`run` for a worker: returns the row of the table, no tensors."""
    r = run(config, progress=False)
    return _row(r.config, r.metrics, r.path, json.loads((r.path / "MANIFEST.json").read_bytes()))


def ablate(
    factor: str, values: Sequence[Any], base: Config = BASELINE, seeds: int = 5, executor: Executor | None = None
) -> pd.DataFrame:
    """Vary one field of `base` over `values`, each with the seeds 0 … seeds-1: a row a run (see `sweep`).

    At smoke scale only two values (the base's among them) and two seeds run.

    Raises:
        ValueError: `factor` is no field of Config, or a value is outside its range; nothing has run then.
    """
    if factor not in Config.__dataclass_fields__ or factor == "seed":
        raise ValueError(f"factor={factor!r} must be a field of Config other than seed")
    if not values or seeds < 1:
        raise ValueError(f"ablating {factor} needs values and at least one seed, not values={values!r}, seeds={seeds}")
    limits = scale()
    if limits.values and len(values) > limits.values:
        kept = getattr(base, factor) if getattr(base, factor) in values else values[0]
        values = [kept, next(value for value in reversed(values) if value != kept)]
    seeds = min(seeds, limits.seeds or seeds)
    variants: list[dict[str, Any]] = [{factor: value, "seed": seed} for value in values for seed in range(seeds)]
    return sweep([replace(base, **variant) for variant in variants], executor)


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
    sources = [(Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8") for name in DECIDES_THE_RESULT]
    return hashlib.sha256("".join(map(_code, sources)).encode()).hexdigest()


_CODE_HASH = _hash_code()  # now: a file edited under a running kernel is not the code that runs


def _resolved(config: Config, data: Dataset) -> Config:
    """What really runs: the data set that was found, the device there is, the epochs of the present scale."""
    device = resolve_device(config.device)
    return replace(
        config,
        dataset=data.name,
        device=device.type,
        precision=resolve_precision(config.precision, device),
        epochs=min(config.epochs, scale().epochs or config.epochs),
        n_train=min(config.n_train, len(data.train)) if config.n_train and scale().images else config.n_train,
    )


def _hash(config: Config, data: str, code: str, torch: str) -> str:
    ingredients = {"config": config.to_dict(), "data": data, "code": code, "torch": torch}
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()[:16]


def _torch_version() -> str:
    return torch.__version__.split("+")[0]


def stored_runs() -> pd.DataFrame:
    """Every run of the store that today's code would return, as `sweep` returns them; damaged ones are left out.

    `summarize(stored_runs(), by=[…])` is a leaderboard. Only the small files are read and verified, no weights.
    """
    rows = []
    for path in sorted(runs_dir().glob("[0-9a-f]" * 16)):
        try:
            manifest, content = _verified(path, ("config.json", "metrics.json"))
            config = Config.from_dict(json.loads(content["config.json"]))
        except (RunError, ValueError):
            continue
        if manifest["made_from"]["code"] == code_hash() and manifest["made_from"]["torch"] == _torch_version():
            rows.append(_row(config, json.loads(content["metrics.json"]), path, manifest))
    return pd.DataFrame(rows)


def _row(config: Config, metrics: dict[str, float], path: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    made_by = {name: manifest[name] for name in ("scale", "platform")}
    filters = str(config.filters)
    return {**config.to_dict(), "filters": filters, **metrics, **made_by, **manifest["versions"], "run": path.name}


def config_of(row: Mapping[str, Any]) -> Config:
    """The Config of a row of a table, from `sweep` or read back from a published results.csv: `run` it to get the row
    again, bit by bit on the same kind of machine with as many threads (column threads; a sweep's runs have one)."""
    values = {f.name: row[f.name] for f in fields(Config)}
    return Config(**{**values, "filters": ast.literal_eval(str(values["filters"]))})


def weights_file(model: nn.Module, config: Config) -> bytes:
    """A safetensors file with the weights and, so that a copied file says what it is, the config."""
    weights = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    return save_safetensors(weights, metadata={"config": json.dumps(config.to_dict())})


def _store(
    path: Path, config: Config, data: Dataset, model: nn.Module, metrics: dict[str, float], history: pd.DataFrame
) -> None:
    """Write a run under a temporary name, then rename the folder. Where another process was first, its run stays."""
    content = {
        "config.json": json.dumps(config.to_dict(), indent=1).encode(),
        "history.csv": history.to_csv(index=False).encode(),
        "metrics.json": json.dumps(metrics, indent=1).encode(),
        "model.safetensors": weights_file(model, config),
    }
    manifest = {
        "key": path.name,
        "made_from": {"data": data.checksum, "code": code_hash(), "torch": _torch_version()},
        "files": {name: _fingerprint(value) for name, value in content.items()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "scale": scale().name,
        "platform": f"{sys.platform} {platform.machine()}",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=".writing-"))
    try:
        for name, value in (*content.items(), ("MANIFEST.json", json.dumps(manifest, indent=1).encode())):
            _write(scratch / name, value)
        _sync_folder(scratch)
        try:
            scratch.rename(path)
        except OSError:
            if not (path / "MANIFEST.json").exists():
                raise
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power cut, where the system can (Windows cannot)."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _fingerprint(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
