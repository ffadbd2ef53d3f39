"""Small weights that are committed: outputs/pretrained/NAME.safetensors, and pretrained.json with the config, checksum
and test metrics of each. Of a config only what differs from the defaults is written: Config may get further fields."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from labutils.config import CLASSIFIER, COMPACT, CONV_VAE, Config
from labutils.data import load_dataset
from labutils.runs import Run, load_run, run
from labutils.store.files import json_sum, sha256, write_atomically
from labutils.store.weights import pack, pretrained_dir, pretrained_index
from labutils.sweeps import sweep

# what `python -m labutils pretrain` trains
PRETRAINED = {
    "ae12": COMPACT,
    "ae32": replace(CONV_VAE, model="cae", loss="bce"),  # vae32 without its noise and its KL term
    "vae2": replace(CONV_VAE, latent_dim=2),
    "vae16": replace(CONV_VAE, latent_dim=16),
    "vae32": CONV_VAE,
    "conditional_vae": replace(CONV_VAE, model="conditional_vae", latent_dim=16),
    "classifier": replace(CLASSIFIER, label_smoothing=0.0),  # hard labels: its confidence is shown
}
METRICS = ("test_mse", "test_neg_elbo", "test_kl", "test_active_units", "test_accuracy", "n_params")


def load_or_train(name: str, dataset: str = "mnist") -> Run:
    """Return the committed weights for "mnist" or "mnist5k"; for another data set the same config trained by `run`."""
    if dataset in ("mnist", "mnist5k"):
        return load_run(name)
    return run(replace(PRETRAINED[name], dataset=dataset))


def pretrain(names: Sequence[str] = ()) -> list[Path]:
    """Train the named weights (all by default; finished runs are read from the store), replace the committed files and
    return their paths. An unknown name, or a missing full MNIST, is a ValueError before any training."""
    if unknown := [name for name in names if name not in PRETRAINED]:
        raise ValueError(f"unknown weights {', '.join(unknown)}: there are {', '.join(PRETRAINED)}")
    data = load_dataset("mnist")
    if data.name != "mnist" or len(data.train) < 50_000:
        raise ValueError("published weights need the full MNIST at full scale, which is not what there is here")
    configs = {name: replace(PRETRAINED[name], device="cpu") for name in names or PRETRAINED}
    sweep(configs.values())
    index, defaults = pretrained_index(), Config().to_dict()
    for name, config in configs.items():
        r = run(config)
        asked_for = replace(r.config, device="auto", precision="auto").to_dict()
        values = {key: value for key, value in asked_for.items() if value != defaults[key]}
        content = pack(r.model.state_dict(), {"config": json.dumps(values)})
        write_atomically(pretrained_dir() / f"{name}.safetensors", content)
        metrics = {key: r.metrics[key] for key in METRICS if key in r.metrics}
        index[name] = {"sha256": sha256(content), "config": values, "metrics": metrics}
    index = {name: index[name] for name in PRETRAINED if name in index}
    text = json.dumps({**index, "sha256": json_sum(index)}, indent=1)
    write_atomically(pretrained_dir() / "pretrained.json", f"{text}\n".encode())
    return [pretrained_dir() / f"{name}.safetensors" for name in configs]
