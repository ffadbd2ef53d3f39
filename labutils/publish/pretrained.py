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

from labutils.config import BASELINE, CLASSIFIER, COMPACT, CONV_VAE, Config
from labutils.data import load_dataset
from labutils.runs import Run, load_run, run
from labutils.store.files import json_sum, write_atomically
from labutils.store.weights import pack, pretrained_dir, pretrained_index
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
KEPT = ("test_mse", "test_neg_elbo", "test_kl", "test_active_units", "test_accuracy", "n_params")


def load_or_train(name: str, dataset: str = "mnist") -> Run:
    """The committed weights where the images are MNIST's; for another data set the same config, trained once by `run`.

    Args:
        dataset: as in Config, or as `Dataset.name` says what was really loaded.
    """
    if dataset in ("mnist", "mnist5k"):
        return load_run(name)
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
        index = pretrained_index()
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
    write_atomically(path, content)
    metrics = {name: r.metrics[name] for name in KEPT if name in r.metrics}
    return {"sha256": hashlib.sha256(content).hexdigest(), "config": config, "metrics": metrics}


def _write_index(index: dict[str, Any]) -> None:
    text = json.dumps({**index, "sha256": json_sum(index)}, indent=1)
    write_atomically(pretrained_dir() / "pretrained.json", f"{text}\n".encode())
