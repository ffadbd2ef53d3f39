"""A sweep in any executor: what fails is a row, what dies is done elsewhere, what kills everyone is left alone."""

import signal
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from dataclasses import replace

import pandas as pd
import psutil
import pytest

from labutils import BASELINE, load_run, run, stored_runs, sweep, workers
from labutils.runs import run_row
from labutils.store import RunError
from labutils.workers import Task, rows

TINY = replace(BASELINE, dataset="mnist5k", filters=(4, 4), depth=2, latent_dim=3, epochs=1, n_train=200, device="cpu")
LETHAL = 13


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path))
    return tmp_path / "runs"


class Inline(Executor):
    """Does a task when it is handed out. Under the lethal one it breaks, as a pool of processes does: with whatever
    else it had, and for good."""

    _max_workers = 2

    def __init__(self):
        self.broken, self.done, self.killed = False, [], False

    def submit(self, function, *arguments):
        future = Future()
        config = arguments[-1].config
        if self.broken:
            raise BrokenExecutor("broken before")
        self.broken = config.seed == LETHAL
        if not self.broken:
            self.done.append(config.seed)
            future.set_result({"run": arguments[-1].key, "error": "", "seed": config.seed})
        else:
            future.set_exception(BrokenExecutor("a process died"))
        return future

    def shutdown(self, wait=True, *, cancel_futures=False, kill_workers=False):
        self.killed = kill_workers


def tasks(*seeds):
    return [Task(replace(TINY, seed=seed), f"{seed:016x}") for seed in seeds]


def test_a_task_that_kills_every_pool_is_one_failed_row(monkeypatch):
    pools = []
    monkeypatch.setattr(workers, "_process_a_core", lambda runs: pools.append(Inline()) or pools[-1])
    found = pd.DataFrame(rows(tasks(1, LETHAL, 2, 3, 4), None, own_processes=True)).set_index("seed")
    assert set(found.index) == {1, 2, 3, 4, LETHAL}
    assert found["error"][LETHAL].startswith("RunError: every process that began this run died")
    assert (found["error"].drop(LETHAL) == "").all()
    assert [pool.broken for pool in pools].count(True) == 3  # once among others, twice alone
    assert all(pool.killed for pool in pools if pool.broken)


def test_where_an_executor_breaks_processes_of_this_machine_do_the_rest(monkeypatch):
    monkeypatch.setattr(workers, "_process_a_core", lambda runs: Inline())
    with pytest.warns(UserWarning, match="the executor broke"):
        found = {row["run"]: row["error"] for row in rows(tasks(1, 2, LETHAL, 3), Inline(), own_processes=False)}
    assert [bool(found[task.key]) for task in tasks(1, 2, LETHAL, 3)] == [False, False, True, False]


def test_jobs_that_are_no_futures_are_asked(monkeypatch):
    class Job:
        def __init__(self, result):
            self.asked, self.result = 0, lambda: result

        def done(self):
            self.asked += 1
            return self.asked > 2

    class Submitit:
        def submit(self, function, surroundings, floors, task):
            return Job({"run": task.key, "error": ""})

    monkeypatch.setattr(workers, "time", type("", (), {"sleep": lambda seconds: None}))
    assert len(list(rows(tasks(1, 2, 3), Submitit(), own_processes=False))) == 3


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


def kill_one_at_work(store, of):
    """Wait until a process below this one trains, then kill it as the kernel does when memory runs out."""
    deadline = time.monotonic() + 60
    while not list(store.glob("unfinished/*.safetensors")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    at_work = [p for p in psutil.Process().children(recursive=True) if of(p)]
    max(at_work, key=lambda p: sum(p.cpu_times()[:2])).send_signal(signal.SIGKILL)


def is_dask_worker(process):
    try:
        return "multiprocessing.spawn" in " ".join(process.cmdline()) and process.memory_info().rss > 2e8
    except psutil.Error:
        return False


@pytest.fixture
def dask_client():
    distributed = pytest.importorskip("distributed", reason="needs the extra `cluster`")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


# what distributed leaves behind when its workers die is its own affair
@pytest.mark.filterwarnings("ignore")
def test_a_dask_worker_is_killed_and_its_run_is_done_elsewhere(store, dask_client, counted):
    configs = [replace(TINY, n_train=1000, epochs=8, seed=seed) for seed in range(3)]
    killer = threading.Thread(target=kill_one_at_work, args=(store, is_dask_worker))
    killer.start()
    table = sweep(configs, dask_client.get_executor())
    killer.join()
    assert (table["error"] == "").all()
    alone = run(configs[0], progress=False)
    assert alone.path.name == table["run"][0]
    assert all(
        load_run(name).metrics["test_mse"] == mse for name, mse in zip(table["run"], table["test_mse"], strict=True)
    )
    counted("1 Dask worker of 2 killed under a sweep of 3 runs: 3 rows, 0 lost")
