"""Where a sweep's runs are made: in any `concurrent.futures.Executor`, by default in one process a core.

A task is a config and the key of its run. Its worker writes the run to the store and returns the row of the table. A
worker that dies costs nothing but time: its task is begun again, from the last checkpoint.
"""

import os
import platform
import threading
import time
import warnings
from collections.abc import Callable, Collection, Generator, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, as_completed
from functools import partial
from typing import Any, NamedTuple

from joblib.externals.loky import cpu_count, get_reusable_executor

from labutils.config import Config
from labutils.paths import environment_path, outputs_dir, scale
from labutils.runs import run_row
from labutils.store.folder import failed_row
from labutils.store.weights import RunError

Row = dict[str, Any]


class Task(NamedTuple):
    config: Config
    key: str


def rows(tasks: Collection[Task], executor: Executor | None, *, own_processes: bool) -> Generator[Row]:
    """The rows of the tasks, as they come. A run that fails becomes a row with an error, and the others go on.

    Args:
        executor: any; when it breaks, processes of this machine do the rest.
        own_processes: without an executor, take one process a core; else one run follows the other.
    """
    pending = {task.key: task for task in tasks}

    def done(row: Row) -> Row:
        del pending[row["run"]]
        return row

    if executor is not None:
        try:
            yield from map(done, run_on_executor(tasks, executor))
        except BrokenExecutor as error:
            warnings.warn(f"the executor broke ({error}): processes of this machine do the rest", stacklevel=2)
            own_processes = True
    suspects: list[Task] = []
    while own_processes and (queue := [task for task in pending.values() if task not in suspects]):
        try:
            yield from map(done, run_on_pool(queue))
        except BrokenExecutor:  # a process died, and nobody says under which task: it was one of the first
            suspects += [task for task in queue if task.key in pending][: cpu_count()]
    for task in suspects:
        yield done(_alone(task))
    for task in [*pending.values()]:
        yield done(_row_of(task, partial(run_row, *task)))


def _row_of(task: Task, result: Callable[[], Row]) -> Row:
    try:
        return result()
    except BrokenExecutor:  # says nothing about this task
        raise
    except Exception as error:
        return failed_row(*task, error)


def run_on_executor(tasks: Collection[Task], executor: Any) -> Iterator[Row]:
    """The rows of the tasks from an executor.

    Raises:
        BrokenExecutor: it cannot go on.
    """
    futures = {executor.submit(_run_row_in_worker, *task_environment(), task): task for task in tasks}
    try:
        for future in _as_done(futures):
            yield _row_of(futures[future], future.result)
    finally:
        for future in futures:
            if not future.done():  # Ctrl-C: what has not begun need not
                future.cancel()


def _as_done(futures: Collection[Any]) -> Iterator[Any]:
    """Futures as they are done. submitit's jobs are like futures, yet none: they have to be asked."""
    if all(isinstance(future, Future) for future in futures):
        yield from as_completed(futures)
        return
    waiting = set(futures)
    while waiting:
        done = {future for future in waiting if future.done()}
        yield from done
        waiting -= done
        time.sleep(0 if done else 1)


def run_on_pool(tasks: Collection[Task], processes: int | None = None) -> Iterator[Row]:
    """The rows of the tasks from processes of this machine, one a core. They stay for the next sweep (five idle minutes
    at most): a worker takes four seconds to start.

    Raises:
        BrokenExecutor: a process died.
    """
    # loky, unlike the standard pool, needs no `if __name__ == "__main__"` in a user's script and kills its workers
    pool = get_reusable_executor(
        processes or min(cpu_count(), len(tasks)),  # of the cores that a container may use
        timeout=300,
        env={"OMP_NUM_THREADS": "1"},
        initializer=exit_with_parent,
        initargs=(os.getpid(),),
    )
    try:
        yield from run_on_executor(tasks, pool)
    except BaseException:
        pool.shutdown(kill_workers=True)  # Ctrl-C ends the workers too
        raise


def _alone(task: Task) -> Row:
    """The row of a task that has a pool to itself; it has failed when that breaks twice."""
    for _ in range(2):
        try:
            return next(run_on_pool([task], processes=1))
        except BrokenExecutor as error:
            last = error
    return failed_row(*task, RunError(f"every process that began this run died ({last})"))


def exit_with_parent(parent: int) -> None:
    """In a worker: end when the driver is gone. A killed kernel would leave workers behind."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    if os.name == "posix":  # elsewhere a process keeps its parent's number after the parent's end
        threading.Thread(target=watch, daemon=True).start()


def task_environment() -> tuple[str, dict[str, str]]:
    """What a worker, started elsewhere or for an earlier sweep perhaps, has to know: who sent it; where the store is,
    the scale, and where images are if the driver was told."""
    folder = os.environ.get("LABUTILS_DATA")
    variables = {"LABUTILS_OUTPUTS": str(outputs_dir()), "LABUTILS_SCALE": scale().name,
                 "LABUTILS_DATA": str(environment_path(folder)) if folder else ""}  # fmt: skip
    return _this_process(), variables


def _this_process() -> str:
    return f"{platform.node()} {os.getpid()}"


def _run_row_in_worker(driver: str, variables: dict[str, str], task: Task) -> Row:
    if driver != _this_process():  # a thread of the driver knows it all
        os.environ.update(variables)
    return run_row(*task)
