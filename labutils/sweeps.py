"""Tables of runs: `sweep` makes one of any configs, `ablate` varies one field over several seeds."""

import ast
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import fields, replace
from typing import Any

import pandas as pd
from joblib import cpu_count
from tqdm.auto import tqdm

from labutils.config import BASELINE, Config
from labutils.data import load_dataset
from labutils.evaluation import references
from labutils.paths import runs_dir, scale
from labutils.store.key import resolved, run_key
from labutils.store.listing import tidy
from labutils.workers import Task, rows

SHOWN = ("val_mse", "val_neg_elbo", "val_accuracy", "seconds")


def sweep(configs: Iterable[Config], executor: Executor | None = None) -> pd.DataFrame:
    """Run every config; a row a run with all Config fields, the metrics, the references that a reconstruction has to
    beat (pca_mse, mean_image_mse) and the run's key, in the order given.

    A run that fails leaves its metrics empty and says why in the column `error`, which of all others is ""; a warning
    counts them. Run the sweep again and it tries those alone.

    Args:
        executor: any `concurrent.futures.Executor`, also of another machine that sees the same folders (see
            outputs/README.md); None starts one process a core with one thread each for what is not yet stored, or on
            one core or an accelerator, which has none to share, does one run after the other. (More threads than free
            cores are the trap: beside a busy process an epoch takes 15 times as long.)

    A DataError or ValueError says that images or a device are not to be had; nothing has run then.
    """
    tidy()  # once here: a thousand workers that all look through the unfinished would be the store's main load
    configs = list(configs)
    datasets = {name: load_dataset(name) for name in {config.dataset for config in configs}}
    datasets |= {data.name: data for data in datasets.values()}  # what was asked for, and what was loaded instead
    configs = [resolved(config, datasets[config.dataset]) for config in configs]
    tasks = [Task(config, run_key(config, datasets[config.dataset].checksum)) for config in configs]
    distinct = {task.key: task for task in tasks}
    pending = [key for key in distinct if not (runs_dir() / key).exists()]
    several = min(len(pending), cpu_count()) > 1 and all(config.device == "cpu" for config in configs)
    row_of: dict[str, dict[str, Any]] = {}
    with (
        tqdm(total=len(distinct), unit="run", disable=len(distinct) < 2) as bar,
        closing(rows(distinct.values(), executor, own_processes=several)) as coming,
        warnings.catch_warnings(),
    ):
        # loky replaces a worker whose memory grew: its business, no news
        warnings.filterwarnings("ignore", "A worker stopped", UserWarning)
        for row in coming:
            if "test_mse" in row:  # neither a classifier's nor that of a run that failed
                row |= references(datasets[row["dataset"]], row["latent_dim"], row["n_train"])
            row_of[row["run"]] = row
            bar.set_postfix({name: f"{row[name]:.4g}" for name in SHOWN if name in row}, refresh=False)
            bar.update()
    if errors := [row["error"] for row in row_of.values() if row["error"]]:
        warnings.warn(f"{len(errors)} of {len(row_of)} runs failed, see column error: {errors[0][:300]}", stacklevel=2)
    return pd.DataFrame([row_of[task.key] for task in tasks])


def ablate(
    factor: str, values: Sequence[Any], base: Config = BASELINE, seeds: int = 5, executor: Executor | None = None
) -> pd.DataFrame:
    """Vary one field of `base` over `values`, each with the seeds 0 … seeds-1: a row a run (see `sweep`).

    At smoke scale only two values (the base's among them) and two seeds run. A factor that is no field of Config, or a
    value outside its range, is a ValueError before any run.
    """
    if factor not in Config.__dataclass_fields__ or factor == "seed":
        raise ValueError(f"factor={factor!r} must be a field of Config other than seed")
    values = list(values)
    if not values or seeds < 1:
        raise ValueError(f"ablating {factor} needs values and at least one seed, not values={values!r}, seeds={seeds}")
    limits = scale()
    if limits.values and len(values) > limits.values:
        first = getattr(base, factor) if getattr(base, factor) in values else values[0]
        values = [first, next(value for value in reversed(values) if value != first)]
    seeds = min(seeds, limits.seeds or seeds)
    variants: list[dict[str, Any]] = [{factor: value, "seed": seed} for value in values for seed in range(seeds)]
    return sweep([replace(base, **variant) for variant in variants], executor)


def config_of(row: Mapping[str, Any]) -> Config:
    """The Config of a row of a table, from `sweep` or read back from a published results.csv: `run` it to get the row
    again, bit by bit on the same kind of machine. A field that the table is too old for has its default. A row that is
    not that of a run is a ValueError."""
    values = {f.name: row[f.name] for f in fields(Config) if f.name in row}
    # NaN is how a table holds "" and None
    values = {name: value for name, value in values.items() if not (isinstance(value, float) and math.isnan(value))}
    if not {"model", "filters", "dataset"} <= set(values):
        raise ValueError("this row is not that of a run: it lacks fields of Config such as model and filters")
    return Config(**{**values, "filters": ast.literal_eval(str(values["filters"]))})
