"""A few small weights that come with the repository, so that exploring starts in seconds.

`outputs/pretrained/NAME.safetensors`, and pretrained.json with the config, checksum and test metrics of each. Of a
config only what differs from the defaults is written: a field that a later Config gets does not make the file foreign.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from labutils.config import BASELINE, CLASSIFIER, COMPACT, CONV_VAE, ROOT, Config
from labutils.data import load_dataset
from labutils.files import json_sum, pack, read, read_model
from labutils.files import replace as replace_file
from labutils.runs import run
from labutils.store import UNREADABLE, Run, RunError
from labutils.sweeps import sweep

# what `python -m labutils pretrain` trains
PRETRAINED = {
    "ae12": COMPACT,
    "ae32": replace(BASELINE, epochs=10),
    "vae2": replace(CONV_VAE, latent_dim=2),
    "vae16": replace(CONV_VAE, latent_dim=16),
    "vae32": CONV_VAE,
    "conditional_vae": replace(CONV_VAE, model="conditional_vae", latent_dim=16),
    "classifier": replace(CLASSIFIER, label_smoothing=0.0),  # hard labels: its confidence is shown, and judged by
}
REMEDY = "`git checkout -- outputs/pretrained` brings it back"
KEPT = ("test_mse", "test_neg_elbo", "test_kl", "test_active_units", "test_accuracy", "n_params")


def pretrained_dir() -> Path:
    """Where the committed weights lie: in the repository, whatever the scale and wherever results go."""
    return ROOT / "outputs" / "pretrained"


def load_pretrained(name: str) -> Run:
    """The committed weights of that name, verified; `.history` is empty, `.metrics` those that were published.

    Raises:
        RunError: there is no such name, or the file is missing, damaged, or does not fit today's models.
    """
    index = _index()
    if name not in index:
        raise RunError(f"there are no weights {name!r}; there are {', '.join(index) or 'none'}")
    path = pretrained_dir() / f"{name}.safetensors"
    if not path.is_file():
        raise RunError(f"{path} is missing: {REMEDY}")
    try:
        config, model = read_model(path, index[name]["sha256"])
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is not the published file ({error}): {REMEDY}") from error
    return Run(config, model, index[name]["metrics"], pd.DataFrame(), path)


def load_weights(path: Path) -> Run:
    """A weights file that says what it is, as `--checkpoint-path` writes it; `.history` and `.metrics` are empty.

    Raises:
        RunError: there is no such file, it is damaged, or no weights of ours.
    """
    try:
        config, model = read_model(path)
    except FileNotFoundError as error:
        raise RunError(f"there is no weights file {path}: `train --checkpoint-path` writes one") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{path} holds no weights of today's labutils ({error})") from error
    return Run(config, model, {}, pd.DataFrame(), path)


def load_or_train(name: str, dataset: str = "mnist") -> Run:
    """The committed weights where the images are MNIST's; for another data set the same config, trained once by `run`.

    Args:
        dataset: as in Config, or as `Dataset.name` says what was really loaded.
    """
    if dataset in ("mnist", "mnist5k"):
        return load_pretrained(name)
    return run(replace(PRETRAINED[name], dataset=dataset))


def pretrain(names: Sequence[str] = ()) -> list[Path]:
    """Train the named weights (none means all; finished runs are read from the store) and replace the committed files.

    Raises:
        ValueError: an unknown name, or the full MNIST is not there; nothing has been trained then.
    """
    if unknown := [name for name in names if name not in PRETRAINED]:
        raise ValueError(f"unknown weights {', '.join(unknown)}: there are {', '.join(PRETRAINED)}")
    if (found := load_dataset("mnist")).name != "mnist" or len(found.train) < 50_000:
        raise ValueError(
            "published weights are trained on the full MNIST at full scale, which is not what there is here"
        )
    pretrained_dir().mkdir(parents=True, exist_ok=True)
    configs = {name: replace(PRETRAINED[name], device="cpu") for name in names or PRETRAINED}
    sweep(configs.values())
    paths = []
    for name, config in configs.items():
        index = _index()
        path = pretrained_dir() / f"{name}.safetensors"
        index[name] = _stored(path, run(config))
        _write_index({n: index[n] for n in PRETRAINED if n in index})
        paths.append(path)
    return paths


def _stored(path: Path, r: Run) -> dict[str, Any]:
    """Write the weights; what pretrained.json says of them."""
    defaults = Config()
    values = {
        name: value for name, value in r.config.to_dict().items() if getattr(r.config, name) != getattr(defaults, name)
    }
    config = {name: value for name, value in values.items() if name not in ("device", "precision")}
    content = pack(r.model.state_dict(), {"config": json.dumps(config)})
    replace_file(path, content)
    metrics = {name: r.metrics[name] for name in KEPT if name in r.metrics}
    return {"sha256": hashlib.sha256(content).hexdigest(), "config": config, "metrics": metrics}


def _index() -> dict[str, Any]:
    """What pretrained.json says of each name: sha256, config, metrics; nothing where there is no such file."""
    path = pretrained_dir() / "pretrained.json"
    try:
        index = json.loads(read(path, 2**20))
        if index.pop("sha256") != json_sum(index):
            raise ValueError("it was altered")
    except FileNotFoundError:
        return {}
    except UNREADABLE as error:
        raise RunError(f"{path} is not the published file ({error}): {REMEDY}") from error
    return index


def _write_index(index: dict[str, Any]) -> None:
    text = json.dumps({**index, "sha256": json_sum(index)}, indent=1)
    replace_file(pretrained_dir() / "pretrained.json", f"{text}\n".encode())
