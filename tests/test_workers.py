"""A sweep in any executor: what fails is a row, what dies is done elsewhere, what kills everyone is left alone."""

import os
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace

import pandas as pd
import psutil
import pytest
from processes import LETHAL, context, run_row_or_die

from labutils import BASELINE, load_run, run, stored_runs, sweep, sweeps, workers
from labutils.runs import run_row
from labutils.store.weights import RunError
from labutils.workers import Task, rows

TINY = replace(BASELINE, dataset="mnist5k", filters=(4, 4), depth=2, latent_dim=3, epochs=1, n_train=200, device="cpu")


class Inline(Executor):
    """Does a task when it is handed out. Under the lethal one it breaks, as a pool of processes does: with whatever
    else it had, and for good."""

    def __init__(self):
        self.broken, self.done = False, []

    def submit(self, function, *arguments):
        future = Future()
        *_, fields, key = arguments
        if self.broken:
            raise BrokenExecutor("broken before")
        self.broken = fields["seed"] == LETHAL
        if not self.broken:
            self.done.append(fields["seed"])
            future.set_result({"run": key, "error": "", "seed": fields["seed"]})
        else:
            future.set_exception(BrokenExecutor("a process died"))
        return future


def tasks(*seeds):
    return [Task(replace(TINY, seed=seed), f"{seed:016x}") for seed in seeds]


@pytest.mark.parametrize(("device", "processes"), [("cpu", 6), ("cuda", 4), ("mps", 1)])
def test_how_many_processes_share_a_device(store, monkeypatch, device, processes):
    asked = []

    def no_rows(tasks, executor, processes):
        asked.append(processes)
        yield from ({"run": task.key, "error": ""} for task in tasks)

    monkeypatch.setattr(sweeps, "rows", no_rows)
    monkeypatch.setattr(sweeps, "cpu_count", lambda: 16)
    monkeypatch.setattr(sweeps, "resolved", lambda config, data: replace(config, device=device))
    sweep([replace(TINY, seed=seed) for seed in range(6)])
    assert asked == [processes]


def test_a_task_that_kills_every_pool_is_one_failed_row(monkeypatch):
    pools = []
    monkeypatch.setattr(workers, "get_reusable_executor", lambda *_, **__: pools.append(Inline()) or pools[-1])
    found = pd.DataFrame(rows(tasks(1, LETHAL, 2, 3, 4), None, 2)).set_index("seed")
    assert set(found.index) == {1, 2, 3, 4, LETHAL}
    assert found["error"][LETHAL].startswith("RunError: every process that began this run died")
    assert (found["error"].drop(LETHAL) == "").all()
    assert [pool.broken for pool in pools].count(True) == 3  # once among others, twice alone


def test_where_an_executor_breaks_processes_of_this_machine_do_the_rest(monkeypatch):
    monkeypatch.setattr(workers, "get_reusable_executor", lambda *_, **__: Inline())
    with pytest.warns(UserWarning, match="the executor broke"):
        found = {row["run"]: row["error"] for row in rows(tasks(1, 2, LETHAL, 3), Inline(), 1)}
    assert [bool(found[task.key]) for task in tasks(1, 2, LETHAL, 3)] == [False, False, True, False]


def test_a_sweep_goes_on_past_failed_runs_and_says_so(store):
    configs = [TINY, replace(TINY, n_train=9999), replace(TINY, seed=1), replace(TINY, n_train=9999, seed=1)]
    with ThreadPoolExecutor(2) as executor, pytest.warns(UserWarning, match="2 of 4 runs failed.*n_train=9999"):
        table = sweep(configs, executor)
    assert [bool(error) for error in table["error"]] == [False, True, False, True]
    assert "n_train=9999 exceeds the 4000" in table["error"][1]
    assert table["test_mse"].isna().tolist() == [False, True, False, True]
    assert table["seed"].tolist() == [0, 0, 1, 1]
    assert len(stored_runs()) == 2
    with pytest.warns(UserWarning, match="1 of 1 runs failed"):
        assert sweep([configs[1]])["error"][0]  # without a pool


def test_equal_configs_run_once(store):
    with ThreadPoolExecutor(2) as executor:
        table = sweep([TINY, TINY, replace(TINY, seed=1)], executor)
    assert table["run"].nunique() == 2
    assert table["run"][0] == table["run"][1]


def test_a_worker_with_other_images_or_other_code_refuses(store):
    with pytest.raises(RunError, match="another run than 0123"):
        run_row(TINY, "0123")
    assert stored_runs().empty


# --- real processes ---------------------------------------------------------------------------------------------------


def at_work():
    """The processes below this one that can be training: those without children, but for Python's own helpers."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            helper = ("resource_tracker", "forkserver")[: 1 + (process.ppid() == os.getpid())]
            if not process.children() and not any(name in " ".join(process.cmdline()) for name in helper):
                found.append(process)
    return found


def kill(store, how_many, killed, spared):
    """Once a run is on its way, kill who does most, or everyone, as the kernel does when memory runs out."""
    deadline = time.monotonic() + 120
    while not list(store.glob("unfinished/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = [process for process in at_work() if process not in spared]
    for process in sorted(workers, key=lambda p: -sum(p.cpu_times()[:2]))[:how_many]:
        process.kill()
        killed.append(process.pid)


@contextmanager
def dask():
    distributed = pytest.importorskip("distributed", reason="needs the extra `cluster`")
    import dask

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client.get_executor()


EXECUTORS = {"default": nullcontext, "processes": lambda: ProcessPoolExecutor(2, mp_context=context), "dask": dask}


def lose(executor, loss, store):
    """A sweep of four runs whose workers are lost; its table."""
    configs = [replace(TINY, n_train=1000, epochs=8, seed=seed) for seed in range(3)]
    configs += [replace(TINY, seed=LETHAL if loss == "a lethal run" else 3)]
    how_many, killed = {"one": 1, "all": 99}.get(loss, 0), []
    spared = [] if executor == "default" else at_work()  # the default pool may be there already, idle
    killer = threading.Thread(target=kill, args=(store, how_many, killed, spared))
    with EXECUTORS[executor]() as pool:
        killer.start()
        table = sweep(configs, pool)
        killer.join()
    assert len(killed) >= min(how_many, 2)
    whole = table[table["seed"] != LETHAL]
    assert (whole["error"] == "").all()
    assert [load_run(name).metrics["test_mse"] for name in whole["run"]] == whole["test_mse"].tolist()
    assert len(stored_runs()) == len(whole)
    return table


# what distributed leaves behind when its workers die is its own affair
@pytest.mark.filterwarnings("ignore")
def test_a_dask_worker_is_killed_and_its_run_is_done_elsewhere(store, counted):
    table = lose("dask", "one", store)
    again = run(replace(TINY, n_train=1000, epochs=8), progress=False)
    assert again.path.name == table["run"][0]
    counted("1 Dask worker of 2 killed under a sweep: 4 of 4 rows")


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("loss", ["one", "all", "a lethal run"])
@pytest.mark.parametrize("executor", EXECUTORS)
def test_lost_workers_lose_no_other_run(store, monkeypatch, counted, executor, loss):
    monkeypatch.setattr(workers, "_run_row_in_worker", run_row_or_die)
    table = lose(executor, loss, store)
    failed = table[table["error"] != ""]
    assert failed["seed"].tolist() == ([LETHAL] if loss == "a lethal run" else [])
    counted(f"workers of executor {executor} lost ({loss}): {len(table) - len(failed)} of {len(table)} rows, "
            f"{len(failed)} failed as it must")  # fmt: skip


def test_a_thread_of_the_driver_leaves_its_environment_alone(store, monkeypatch):
    monkeypatch.delenv("LABUTILS_SCALE", raising=False)
    with ThreadPoolExecutor(2) as executor:
        assert (sweep([replace(TINY, seed=seed) for seed in range(2)], executor=executor)["error"] == "").all()
    assert "LABUTILS_SCALE" not in os.environ
