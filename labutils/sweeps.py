"""Tables of runs: `sweep` makes one of any configs, `ablate` varies one field, `tuned_sweep` is fair to each arm."""

import ast
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import fields, replace
from difflib import get_close_matches
from functools import cache
from typing import Any

import pandas as pd
from joblib import cpu_count
from tqdm.auto import tqdm

from labutils.config import BASELINE, Config, config_class
from labutils.data import Dataset, data_of
from labutils.evaluation import references
from labutils.paths import runs_dir, scale
from labutils.runs import Run, run
from labutils.stats import log_error
from labutils.store.key import recipe, resolved, run_key
from labutils.store.listing import tidy
from labutils.workers import Task, rows

# the validation error of each kind of model: the first that a table has
VALIDATION = ("val_neg_elbo", "val_accuracy", "val_mse")
# A card that computes one small network waits for Python between steps and measurements, and has room for others;
# from four on, they wait for it. MPS: not tried.
PROCESSES = {"cuda": 4, "mps": 1}
BEYOND = 6  # rates beyond those asked for that an arm tries at most
SHOWN = ("val_mse", "val_neg_elbo", "val_accuracy", "seconds")


def sweep(configs: Iterable[Config], executor: Executor | None = None) -> pd.DataFrame:
    """Run every config; a row a run with all Config fields, the metrics, the references that a reconstruction has to
    beat (pca_mse, mean_image_mse) and the run's key, in the order given.

    A run that fails leaves its metrics empty and says why in the column `error`, which of all others is ""; a warning
    counts them. Run the sweep again and it tries those alone.

    Args:
        executor: any `concurrent.futures.Executor`, also of another machine that sees the same folders (see
            outputs/README.md); None starts one process a core for what is not yet stored (fewer where configs ask for
            more threads than one), on a CUDA card at most four; on one core, and on other accelerators, one run follows
            the other. (More threads than free cores are the trap: beside a busy process an epoch takes 15 times as
            long.)

    A DataError or ValueError says that images or a device are not to be had; nothing has run then.
    """
    tidy()  # once here: a thousand workers that all look through the unfinished would be the store's main load
    datasets: dict[tuple[object, ...], Dataset] = {}
    tasks, data_for = [], {}
    code_of = cache(recipe)
    for config in configs:
        wanted = config.dataset, config.image_size, config.channels
        data = datasets[wanted] = datasets[wanted] if wanted in datasets else data_of(config)
        config = resolved(config, data)
        tasks.append(Task(config, run_key(config, data.checksum, code_of(config.model))))
        data_for[tasks[-1].key] = data
    distinct = {task.key: task for task in tasks}
    pending = [key for key in distinct if not (runs_dir() / key).exists()]
    places = {task.config.device for task in tasks}
    cores = cpu_count() // max([1, *(task.config.threads for task in tasks)])
    processes = min([len(pending) or 1, max(1, cores), *(PROCESSES[place] for place in places & PROCESSES.keys())])
    row_of: dict[str, dict[str, Any]] = {}
    with (
        tqdm(total=len(distinct), unit="run", disable=len(pending) < 2) as bar,
        closing(rows(distinct.values(), executor, processes)) as coming,
        warnings.catch_warnings(),
    ):
        # loky replaces a worker whose memory grew: its business, no news
        warnings.filterwarnings("ignore", "A worker stopped", UserWarning)
        for row in coming:
            if "test_mse" in row:  # neither a classifier's nor that of a run that failed
                row |= references(data_for[row["run"]], row["latent_dim"], row["n_train"])
            row_of[row["run"]] = row | {"dataset": data_for[row["run"]].name}  # where images of your own are now
            bar.set_postfix({name: f"{row[name]:.4g}" for name in SHOWN if name in row}, refresh=False)
            bar.update()
    if errors := [row["error"] for row in row_of.values() if row["error"]]:
        warnings.warn(f"{len(errors)} of {len(row_of)} runs failed, see column error: {errors[0][:300]}", stacklevel=2)
    return pd.DataFrame([row_of[task.key] for task in tasks])


def ablate(
    factor: str,
    values: Sequence[Any],
    base: Config = BASELINE,
    seeds: int = 5,
    executor: Executor | None = None,
    *,
    tune: Sequence[float] = (),
    budgets: Mapping[int, int] | None = None,
) -> pd.DataFrame:
    """Vary one field of `base` over `values`, each with the seeds 0 … seeds-1: a row a run (see `sweep`).

    Args:
        tune: learning rates; each value then trains at its own best (see `tuned_sweep`, whose columns come with it).
        budgets: for `tune`, number of epochs → number of seeds; None is the base's epochs with `seeds`.

    At smoke scale only two values (the base's among them) and two seeds run. A factor that is no field of Config, or a
    value outside its range, is a ValueError before any run.
    """
    if factor not in type(base).__dataclass_fields__ or factor in ("seed", *(["lr", "epochs"] if tune else [])):
        near = get_close_matches(factor, type(base).__dataclass_fields__)
        hint = f"; did you mean {' or '.join(near)}?" if near and factor not in near else ""
        raise ValueError(f"factor={factor!r} must be a field of the base that the ablation itself does not set{hint}")
    values = list(values) if isinstance(values, Iterable) else values
    tune = list(tune) if isinstance(tune, Iterable) else tune
    if budgets and not tune:
        raise ValueError("budgets say how long tune=[learning rates] trains: name these, too, or set the base's epochs")
    if not isinstance(values, list) or not values or seeds < 1:
        raise ValueError(f"ablating {factor} needs values and at least one seed, not values={values!r}, seeds={seeds}")
    limits = scale()
    if limits.values and len(values) > limits.values:
        first = next((value for value in values if value == getattr(base, factor)), values[0])
        values = [first, next(value for value in reversed(values) if value != first)]
    variants = {str(value): replace(base, **{factor: value}) for value in values}
    if tune:
        return tuned_sweep(variants, tune, budgets or {base.epochs: seeds}, executor)
    seeds = min(seeds, limits.seeds or seeds)
    return sweep([replace(variant, seed=seed) for variant in variants.values() for seed in range(seeds)], executor)


def tuned_sweep(
    arms: Mapping[str, Config], lrs: Sequence[float], budgets: Mapping[int, int], executor: Executor | None = None
) -> pd.DataFrame:
    """Run every arm at its own best learning rate, for each number of epochs: a row a run, also of those not best.

    With the fewest epochs every arm trains with every rate, half of the seeds each, at most three; the rate with the
    least validation error is its best, and while that is the smallest or largest tried, half or twice of it is tried as
    well, six times at most: a warning then says that the best may lie beyond. With more epochs an arm begins with the
    best rate of the budget before and half of it, one seed each, and goes on in the same way. At smoke scale two arms
    and two rates run.

    Args:
        arms: name → config; the first is what `stats.verdicts` compares with.
        lrs: learning rates, about a factor of two apart.
        budgets: number of epochs → number of seeds that train at the best rate.

    Returns:
        The table of `sweep` with two more columns: arm, its name, and best, whether a run has its arm's best rate.

    An arm of which every run fails is a ValueError, and so is a sweep without arms, rates or budgets.
    """
    lrs = list(lrs) if isinstance(lrs, Iterable) else lrs
    given = isinstance(arms, Mapping), isinstance(lrs, list), isinstance(budgets, Mapping)
    if not all(given) or not all(map(len, (arms, lrs, budgets))):
        raise ValueError("a tuned sweep needs arms (name → config), learning rates, and budgets (epochs → seeds), not "
                         f"{arms!r:.80}, {lrs!r}, {budgets!r}")  # fmt: skip
    limits, tables = scale(), []
    arms = dict(list(arms.items())[: limits.values])
    rates = dict.fromkeys(arms, lrs[: limits.values])

    def table(rates: Mapping[str, Sequence[float]], epochs: int, seeds: int) -> pd.DataFrame:
        keys = [(name, lr, seed) for name in rates for lr in rates[name] for seed in range(seeds)]
        df = sweep([replace(arms[name], lr=lr, seed=seed, epochs=epochs) for name, lr, seed in keys], executor)
        return df.assign(arm=[name for name, *_ in keys])

    for i, (epochs, seeds) in enumerate(sorted(budgets.items())):
        epochs = i + 1 if limits.epochs else epochs  # at smoke scale, too, budgets differ
        seeds = min(seeds, limits.seeds or seeds)
        tuning_seeds = 1 if i else min(3, max(1, seeds // 2))
        df = table(rates, epochs, tuning_seeds)
        more = 0
        while not limits.values and (untried := _beyond_the_edge(best_rates(df), rates)):
            if more == BEYOND:
                warnings.warn(f"still best at the edge of the rates tried, after {BEYOND} more: {', '.join(untried)}; "
                              "look at their errors before you believe a verdict", stacklevel=2)  # fmt: skip
                break
            more += 1
            df = pd.concat([df, table({name: [lr] for name, lr in untried.items()}, epochs, tuning_seeds)])
            rates = {name: [*tried, *([untried[name]] if name in untried else [])] for name, tried in rates.items()}
        best = best_rates(df)
        df = pd.concat([df, table({name: [lr] for name, lr in best.items()}, epochs, seeds)])
        # the last: a run that failed may have been tried again
        df = df.drop_duplicates(["arm", "run"], keep="last").sort_values(["lr", "seed"])
        df = df.sort_values("arm", key=lambda names: names.map([*arms].index), kind="stable")
        tables.append(df.assign(best=df["lr"] == df["arm"].map(best)))
        rates = {name: [lr, lr / 2] for name, lr in best.items()}
    return pd.concat(tables, ignore_index=True)


def _beyond_the_edge(best: Mapping[str, float], tried: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """For each arm whose best rate is the smallest or largest tried, half or twice of it."""
    smaller = {name: lr / 2 for name, lr in best.items() if lr == min(tried[name])}
    return smaller | {name: 2 * lr for name, lr in best.items() if lr == max(tried[name])}


def best_rates(df: pd.DataFrame) -> dict[str, float]:
    """Return each arm's learning rate with the least validation error (geometric mean over seeds; a run that failed
    counts as infinitely wrong), of a table with the column arm and one number of epochs."""
    best = {}
    for arm, runs in df.groupby("arm", sort=False):
        measured = [name for name in VALIDATION if name in runs and runs[name].notna().any()]
        if not measured:
            raise ValueError(f"no run of {arm!r} ended well: {runs['error'].iloc[0]}")
        errors = log_error(runs[measured[0]]).fillna(math.inf)
        best[str(arm)] = float(errors.groupby(runs["lr"]).mean().sort_values().index[0])
    return best


def best_runs(df: pd.DataFrame) -> dict[str, Run]:
    """Return each arm's run with its best rate, the most epochs and the first seed, of a table of `tuned_sweep`."""
    longest = df[df["best"] & (df["epochs"] == df["epochs"].max()) & (df["seed"] == df["seed"].min())]
    return {row["arm"]: run(config_of(row), progress=False) for _, row in longest.iterrows()}


def config_of(row: Mapping[str, Any]) -> Config:
    """The Config of a row of a table, from `sweep` or read back from a published results.csv: `run` it to get the row
    again, bit by bit on the same kind of machine. A field that the table is too old for has its default. A row that is
    not that of a run is a ValueError."""
    values = {f.name: row[f.name] for f in fields(config_class(row.get("model", ""))) if f.name in row}
    # NaN is how a table holds "" and None
    values = {name: value for name, value in values.items() if not (isinstance(value, float) and math.isnan(value))}
    if not {"model", "filters", "dataset"} <= set(values):
        raise ValueError("this row is not that of a run: it lacks fields of Config such as model and filters")
    return config_class(values["model"])(**{**values, "filters": ast.literal_eval(str(values["filters"]))})
