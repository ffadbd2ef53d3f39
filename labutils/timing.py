"""Parameters, MACs and latencies of models, and times measured in turns so that they compare."""

import statistics
import time
import timeit
from collections.abc import Callable, Hashable, Mapping
from functools import partial

import pandas as pd
import torch
from torch import nn

from labutils.config import Config
from labutils.data import to_float
from labutils.device import cpu_threads, eval_mode
from labutils.models import build_model
from labutils.objectives import build_objective


def costs(model: nn.Module, x: torch.Tensor) -> dict[str, float]:
    """Return n_params, macs of one image through the model, and median latency_ms of one image and batch_latency_ms of
    all of x (B,1,28,28), floats. A MAC is a multiplication with its addition in a convolution or matrix product;
    biases, normalisation and activations are left out, as is customary."""
    from torch.utils.flop_counter import FlopCounterMode  # only here: it brings a compiler along

    with eval_mode(model):
        with FlopCounterMode(display=False) as counter:
            model(x[:1])
        latency = [_median_ms(model, x[:1], 50), _median_ms(model, x, 10)]
    n_params = sum(p.numel() for p in model.parameters())
    return {"n_params": n_params, "macs": counter.get_total_flops() // 2, "latency_ms": latency[0],
            "batch_latency_ms": latency[1]}  # fmt: skip


def _median_ms(model: nn.Module, x: torch.Tensor, repeats: int) -> float:
    seconds = timeit.repeat(lambda: model(x).cpu(), number=1, repeat=repeats + 5)  # .cpu() waits for an accelerator
    return 1000 * statistics.median(seconds[5:])


def in_turns(  # unproved: no run asks for it
    functions: Mapping[Hashable, Callable[[], object]], rounds: int
) -> pd.DataFrame:
    """Return the seconds of each function, a column each, a row a round: a slow minute of the machine hits all of them.
    A first call of each does not count."""
    for warm_up in functions.values():
        warm_up()
    seconds = partial(timeit.timeit, number=1, timer=time.perf_counter)
    return pd.DataFrame([{name: seconds(f) for name, f in functions.items()} for _ in range(rounds)])


def time_models(  # unproved: no run asks for it
    configs: Mapping[Hashable, Config], images: torch.Tensor, labels: torch.Tensor, rounds: int = 15
) -> pd.DataFrame:
    """Return a row a config, medians of `rounds` turns on one thread: train_us, µs an image for a forward and a
    backward pass (without the optimizer step); latency_ms of one image; batch_latency_ms of the batch (B,1,28,28)."""
    x = to_float(images)
    ways: dict[Hashable, Callable[[], object]]
    ways = {(name, unit): way for name, config in configs.items() for unit, way in _ways(config, x, labels).items()}
    with cpu_threads(1):
        seconds = in_turns(ways, rounds).median().to_dict()
    scale = {"train_us": 1e6 / len(x), "latency_ms": 1e3, "batch_latency_ms": 1e3}
    columns = {unit: [seconds[name, unit] * factor for name in configs] for unit, factor in scale.items()}
    return pd.DataFrame(columns, index=[*configs])


def _ways(  # unproved: no run asks for it
    config: Config, x: torch.Tensor, labels: torch.Tensor
) -> dict[str, Callable[[], object]]:
    """Return what to time of a config's model, by the column that it fills."""
    model, objective = build_model(config), build_objective(config)

    def forward(batch: torch.Tensor) -> torch.Tensor:
        with eval_mode(model):
            return model(batch)

    return {
        "train_us": lambda: objective(model, x, labels, 1.0)["loss"].backward(),
        "latency_ms": lambda: forward(x[:1]),
        "batch_latency_ms": lambda: forward(x),
    }
