"""Where a sweep's runs are made: in any `concurrent.futures.Executor`, or in processes of this machine.

A task is a config and the key of its run. Its worker writes the run to the store and returns the table's row. A dead
worker's task is begun again from the last checkpoint.
"""

import os
import pickle
import platform
import threading
import time
import warnings
from collections.abc import Collection, Generator
from concurrent.futures import BrokenExecutor, Executor, as_completed
from dataclasses import replace
from typing import Any, NamedTuple

import cloudpickle
from joblib.externals.loky import get_reusable_executor

from labutils.config import Config
from labutils.kinds import BUILT_IN, KINDS
from labutils.paths import environment_path, outputs_dir, scale
from labutils.runs import run_row
from labutils.store.folder import failed_row
from labutils.store.source import source_and_modules
from labutils.store.weights import RunError

Row = dict[str, Any]


class Task(NamedTuple):
    config: Config
    key: str


def rows(tasks: Collection[Task], executor: Executor | None, processes: int) -> Generator[Row]:
    """Yield the rows of the tasks as they come. A run that fails becomes a row with an error, and the others go on.

    Without an executor, and for the rest when it breaks, so many processes of this machine do them; with one and no
    executor, this process itself, one run after the other.
    """
    if executor is None and processes == 1:
        for task in tasks:
            try:
                yield run_row(*task)
            except Exception as error:
                yield failed_row(*task, error)
        return
    queue = list(tasks)
    if executor is not None:
        queue = yield from _run_on(executor, queue)
        if queue:
            warnings.warn(f"the executor broke: processes of this machine do {len(queue)} runs", stacklevel=2)
    while queue:
        unfinished = yield from _run_on_pool(queue, processes)
        # these lost a process, and nobody says under which task: it was one of the first, each of which runs alone now
        for task in unfinished[:processes]:
            for _ in range(2):
                if not (yield from _run_on_pool([task], 1)):
                    break
            else:
                yield failed_row(*task, RunError("every process that began this run died"))
        queue = unfinished[processes:]


def _run_on(executor: Executor, tasks: Collection[Task]) -> Generator[Row, None, list[Task]]:
    """Yield rows as they come from an executor; return the tasks that it left unfinished when it broke, in order."""
    unfinished, futures, driver, variables = dict.fromkeys(tasks), {}, _this_process(), _variables()
    kinds = {task.config.model: _shipped(task.config.model) for task in tasks if task.config.model not in BUILT_IN}
    try:
        for task in tasks:
            fields, kind = task.config.to_dict(), kinds.get(task.config.model, b"")
            futures[executor.submit(_run_row_in_worker, driver, variables, kind, fields, task.key)] = task
        for future in as_completed(futures):
            task = futures[future]
            try:
                row = future.result()
            except BrokenExecutor:  # says nothing about this task
                raise
            except Exception as error:
                row = failed_row(*task, error)
            del unfinished[task]
            yield row
    except BrokenExecutor:
        pass
    finally:
        for future in futures:  # Ctrl-C: what has not begun need not
            future.cancel()
    return list(unfinished)


def _run_on_pool(tasks: Collection[Task], processes: int) -> Generator[Row, None, list[Task]]:
    """`_run_on` in processes of this machine. They stay five idle minutes: a worker takes four seconds to start."""
    # loky, unlike the standard pool, needs no `if __name__ == "__main__"` in a user's script and kills its workers
    pool = get_reusable_executor(
        min(processes, len(tasks)),
        timeout=300,
        env={"OMP_NUM_THREADS": "1"},
        initializer=_exit_with_parent,
        initargs=(os.getpid(),),
    )
    try:
        return (yield from _run_on(pool, tasks))
    except BaseException:  # Ctrl-C ends the workers too
        pool.shutdown(kill_workers=True)
        raise


def _exit_with_parent(parent: int) -> None:
    """In a worker: end when the driver is gone. A killed kernel would leave workers behind."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    if os.name == "posix":  # elsewhere a process keeps its parent's number after the parent's end
        threading.Thread(target=watch, daemon=True).start()


def _variables() -> dict[str, str]:
    """Return what a worker, started elsewhere or for an earlier sweep, has to know: store, scale and images."""
    folder = os.environ.get("LABUTILS_DATA")
    data = str(environment_path(folder)) if folder else ""
    return {"LABUTILS_OUTPUTS": str(outputs_dir()), "LABUTILS_SCALE": scale().name, "LABUTILS_DATA": data}


def _this_process() -> str:
    return f"{platform.node()} {os.getpid()}"


def _shipped(model: str) -> bytes:
    """Return a kind of your own as bytes: its functions themselves, wherever they are defined, and their source."""
    source, modules = source_and_modules(KINDS[model])
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        return cloudpickle.dumps(replace(KINDS[model], source=source))
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _run_row_in_worker(driver: str, variables: dict[str, str], kind: bytes, fields: dict[str, Any], key: str) -> Row:
    if driver != _this_process():  # a thread of the driver knows it all
        os.environ.update(variables)
        if kind:  # only ever from the driver of the sweep, never from a file
            KINDS[fields["model"]] = pickle.loads(kind)
    return run_row(Config.from_dict(fields), key)
