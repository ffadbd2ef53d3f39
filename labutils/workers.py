"""Where a sweep's runs are made: in any `concurrent.futures.Executor`, by default in one process a core.

A task is a config and the key of its run. Its worker writes the run to the store and returns the row of the table. A
worker that dies costs nothing but time: another begins its task again, from the last checkpoint.
"""

import os
import platform
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, as_completed, wait
from functools import partial
from typing import Any, NamedTuple

from labutils.config import Config
from labutils.metrics import known_floors
from labutils.paths import environment_path, outputs_dir, scale
from labutils.runs import run_row
from labutils.store.folder import RunError, failed_row

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
    left = {task.key: task for task in tasks}
    if executor is not None:
        try:
            for row in _elsewhere(tasks, executor):
                del left[row["run"]]
                yield row
        except BrokenExecutor as error:
            warnings.warn(f"the executor broke ({error}): processes of this machine do the rest", stacklevel=2)
            own_processes = True
    if own_processes:
        yield from _in_own_processes(left.values())
    else:
        yield from (_row_of(task, partial(run_row, *task)) for task in left.values())


def _row_of(task: Task, result: Callable[[], Row]) -> Row:
    try:
        return result()
    except BrokenExecutor:  # says nothing about this task
        raise
    except Exception as error:
        return failed_row(*task, error)


def _elsewhere(tasks: Collection[Task], executor: Executor) -> Generator[Row]:
    futures = {executor.submit(_run_row_in_worker, *_luggage(task)): task for task in tasks}
    try:
        for future in _as_done(futures):
            yield _row_of(futures[future], future.result)
    finally:
        for future in futures:
            if not future.done():  # Ctrl-C: what has not begun need not
                future.cancel()


def _as_done(futures: Collection[Future]) -> Iterator[Future]:
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


def _in_own_processes(tasks: Collection[Task]) -> Generator[Row]:
    """When a process dies its pool breaks, and nobody says under which task. So the pool gets only as many tasks as it
    has processes. Those that it had are tried again after the others, one at a time; what then breaks the pool twice
    has failed."""
    from joblib.externals.loky import cpu_count  # knows what a container may use

    queue, out = deque(tasks), dict[Future, Task]()
    suspects: list[Task] = []
    processes = min(cpu_count(), len(tasks))
    while queue:
        try:
            yield from _pooled(queue, out, processes, at_once=processes)
        except BrokenExecutor:
            suspects += out.values() or [queue.popleft()]
            out.clear()
    for task in suspects:
        for _ in range(2):
            try:
                yield from _pooled(deque([task]), {}, processes, at_once=1)
                break
            except BrokenExecutor as error:
                last = error
        else:
            yield failed_row(*task, RunError(f"every process that began this run died ({last})"))


def _pooled(queue: deque[Task], out: dict[Future, Task], processes: int, at_once: int) -> Generator[Row]:
    """Rows of the tasks in `queue`, of which up to `at_once` are in the pool's hands; those are in `out`.

    Raises:
        BrokenExecutor: a process died; `queue` has the tasks that had not begun.
    """
    pool = _pool(processes)
    try:
        while queue or out:
            while queue and len(out) < at_once:
                future = pool.submit(_run_row_in_worker, *_luggage(queue[0]))
                out[future] = queue.popleft()
            for future in wait(out, return_when=FIRST_COMPLETED).done:
                row = _row_of(out[future], future.result)
                del out[future]
                yield row
    except BaseException:
        pool.shutdown(kill_workers=True)  # Ctrl-C ends the workers too
        raise


def _pool(processes: int) -> Any:
    """A pool that stays for the next sweep (five idle minutes at most): a worker takes four seconds to start."""
    # loky, unlike the standard pool, needs no `if __name__ == "__main__"` in a user's script and kills its workers
    from joblib.externals.loky import get_reusable_executor

    return get_reusable_executor(
        processes,
        timeout=300,
        env={"OMP_NUM_THREADS": "1"},
        initializer=_end_with,
        initargs=(os.getpid(),),
    )


def _end_with(parent: int) -> None:
    """In a worker: end when the driver is gone. A killed kernel would leave workers behind."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    if os.name == "posix":  # elsewhere a process keeps its parent's number after the parent's end
        threading.Thread(target=watch, daemon=True).start()


def _luggage(task: Task) -> tuple[str, dict[str, str], dict[tuple[str, int], Any], Task]:
    """What a worker, started elsewhere or for an earlier sweep perhaps, has to know: who sent it, where the store is,
    the scale, where images are if the driver was told, and the PCA line of its run, which takes seconds."""
    folder = os.environ.get("LABUTILS_DATA")
    surroundings = {"LABUTILS_OUTPUTS": str(outputs_dir()), "LABUTILS_SCALE": scale().name,
                    "LABUTILS_DATA": str(environment_path(folder)) if folder else ""}  # fmt: skip
    lines = {(images, n): line for (images, n), line in known_floors.items() if task.config.n_train in (None, n)}
    return _this_process(), surroundings, lines, task


def _this_process() -> str:
    return f"{platform.node()} {os.getpid()}"


def _run_row_in_worker(
    driver: str, surroundings: dict[str, str], floors: dict[tuple[str, int], Any], task: Task
) -> Row:
    if driver != _this_process():  # a thread of the driver knows it all
        os.environ.update(surroundings)
    known_floors.update(floors)
    return run_row(*task)
