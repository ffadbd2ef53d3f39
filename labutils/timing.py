"""Times that compare. Seconds of runs that had different neighbours do not: here all contenders take turns."""

import time
import timeit
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
import torch

from labutils.config import Config
from labutils.data import Split, to_float
from labutils.device import cpu_threads
from labutils.models import build_model, eval_mode
from labutils.objectives import build_objective
from labutils.stats import effects

COSTS = ["n_params", "macs", "code_bytes", "train_us", "latency_ms", "batch_latency_ms"]


def in_turns(contenders: Mapping[Hashable, Callable[[], object]], rounds: int) -> pd.DataFrame:
    """Seconds of each contender, a column each, a row a round, so that a slow minute of the machine hits all of them.
    Each is called once before, which does not count."""
    for warm_up in contenders.values():
        warm_up()
    seconds = partial(timeit.timeit, number=1, timer=time.perf_counter)
    return pd.DataFrame([{name: seconds(f) for name, f in contenders.items()} for _ in range(rounds)])


def time_models(
    configs: Mapping[Hashable, Config], images: torch.Tensor, labels: torch.Tensor, rounds: int = 15
) -> pd.DataFrame:
    """What each config's model takes on one thread of this machine, medians of `rounds` turns; a row a config.

    Args:
        images, labels: a batch, (B,1,28,28) and (B,).

    Returns:
        train_us, µs an image for a forward and a backward pass (the optimiser's step is not in it); latency_ms, ms for
        one image through the whole model; batch_latency_ms, the same for the batch.
    """
    x = to_float(images)
    ways: dict[Hashable, Callable[[], object]]
    ways = {(name, unit): way for name, config in configs.items() for unit, way in _ways(config, x, labels).items()}
    with cpu_threads(1):
        seconds = in_turns(ways, rounds).median().to_dict()
    scale = {"train_us": 1e6 / len(x), "latency_ms": 1e3, "batch_latency_ms": 1e3}
    columns = {unit: [seconds[name, unit] * factor for name in configs] for unit, factor in scale.items()}
    return pd.DataFrame(columns, index=[*configs])


def _ways(config: Config, x: torch.Tensor, labels: torch.Tensor) -> dict[str, Callable[[], object]]:
    """What is timed of a config's model, by the column that it fills."""
    model, objective = build_model(config), build_objective(config)

    def forward(batch: torch.Tensor) -> torch.Tensor:
        with eval_mode(model):
            return model(batch)

    return {
        "train_us": lambda: objective(model, x, labels, 1.0)["loss"].backward(),
        "latency_ms": lambda: forward(x[:1]),
        "batch_latency_ms": lambda: forward(x),
    }


def effects_and_times(
    df: pd.DataFrame, factor: str, values: Iterable[Any], *, base: Config, split: Split
) -> pd.DataFrame:
    """The table of an ablation: `stats.effects` against the base's value, and what `time_models` measures of each
    value's model with 128 images of a split."""
    table = effects(df, factor, baseline=getattr(base, factor))
    value_of = {str(value): value for value in values}
    variants = {row: replace(base, **{factor: value_of[str(row)]}) for row in table.index}
    return table.join(time_models(variants, split.images[:128], split.labels[:128]))
