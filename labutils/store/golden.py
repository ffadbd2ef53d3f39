"""Does today's code give the same numbers as older code? Tiny runs that turn every knob, compared bit by bit.

`python -m labutils.golden REVISION` trains them with both, side by side on this machine, and enters what is equal into
store/recipes.json: stored and published runs of those kinds of model stay valid. What differs is trained anew.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import fields
from pathlib import Path

OTHER = {"filters": (4, 5, 6), "depth": 1, "latent_dim": 5, "residual": True, "hidden": 24, "batch_norm": True,
         "activation": "leaky_relu", "negative_slope": 0.3, "head": 8, "dropout": 0.3, "shift": 2, "flip": True,
         "label_smoothing": 0.1, "encoder_lr": 0.5, "loss": "bce", "beta": 3.0, "beta_warmup": 0.5, "free_bits": 0.3,
         "binarise": True, "epochs": 3, "batch_size": 43, "lr": 0.03, "schedule": "constant", "optimizer": "muon",
         "beta2": 0.9, "weight_decay": 0.1, "n_train": 70, "seed": 3}  # fmt: skip
TIMES = {"seconds", "threads", "latency_ms", "batch_latency_ms", "images_per_second"}


def golden() -> dict[str, str]:
    """Kind of model → SHA-256 of the weights, histories and metrics of its tiny runs."""
    import torch

    from labutils import runs
    from labutils.config import MODELS, Config
    from labutils.data import Dataset, Split

    torch.set_num_threads(1)
    generator, digests, kept = torch.Generator().manual_seed(7), {}, {}

    def images(n: int) -> Split:
        pixels = torch.rand(n, 1, 28, 28, generator=generator) ** 4
        return Split((255 * pixels).to(torch.uint8), torch.arange(n) % 10)

    data = Dataset("mnist5k", "golden", "golden", images(130), images(40), images(40))
    runs.load_dataset = lambda name: data
    small = {"filters": (4, 6), "depth": 2, "hidden": 16, "latent_dim": 3, "epochs": 2, "batch_size": 32}
    for kind in MODELS:
        known = {f.name for f in fields(Config) if kind in f.metadata["models"]}
        variants = [{}, {"optimizer": "sgd", "lr": 1e-3}, {"optimizer": "adam", "weight_decay": 0.01}]
        variants += [{"activation": name} for name in ("silu", "gelu", "elu", "tanh")]
        variants += [{name: value} for name, value in OTHER.items() if name in known]
        if kind == "classifier":  # on an autoencoder's encoder, and on a VAE's
            variants += [
                {"encoder": kept[other], **more} for other in ("cae", "conv_vae") for more in ({}, {"encoder_lr": 0.0})
            ]
        digest = hashlib.sha256()
        for variant in variants:
            values = {name: value for name, value in {**small, **variant}.items() if name in known}
            config = Config(model=kind, dataset="mnist5k", device="cpu", precision="float32", **values)
            r = runs.run(config, progress=False)  # all the way: trained, measured, stored and read back
            kept.setdefault(kind, r.path.name)
            for tensor in r.model.state_dict().values():
                digest.update(tensor.contiguous().numpy().tobytes())
            metrics = {name: value for name, value in r.metrics.items() if name not in TIMES}
            numbers = r.history.drop(columns=[*TIMES & {*r.history}]).to_dict("list"), metrics
            digest.update(json.dumps(numbers).encode())
        digests[kind] = digest.hexdigest()
    return digests


def golden_of(folder: Path) -> dict[str, str]:
    """`golden` of the labutils in a folder, in a process of its own."""
    code = f"import runpy, json; print(json.dumps(runpy.run_path({__file__!r})['golden']()))"
    with tempfile.TemporaryDirectory() as outputs:
        env = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "LABUTILS_OUTPUTS": outputs}
        command = [sys.executable, "-W", "ignore", "-c", code]
        return json.loads(subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout)
