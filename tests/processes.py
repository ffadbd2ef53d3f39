"""Processes that train a config and end badly. A server that has torch loaded forks them: each starts at once."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
if os.name == "posix":
    context.set_forkserver_preload(["labutils.runs", "sklearn.decomposition", "torch.utils.flop_counter"])


def start(config, outputs, target=None, *arguments):
    """A process that trains a config (or does as `target` says) with `outputs` as its outputs folder."""
    process = context.Process(target=target or train, args=(str(outputs), config.to_dict(), *arguments))
    process.start()
    return process


def train(outputs, values):
    import torch

    from labutils import Config, run

    os.environ["LABUTILS_OUTPUTS"] = outputs
    torch.set_num_threads(1)
    run(Config.from_dict(values), progress=False)


def train_together(outputs, values, barrier):
    barrier.wait()
    train(outputs, values)


def train_and_die(outputs, values, event):
    """As `train`, and die of SIGKILL at an event of saving (see `at_event`), half of what it writes written."""
    at_event(event, lambda: os.kill(os.getpid(), signal.SIGKILL), setattr)
    train(outputs, values)


def at_event(event, what, patch):
    """Do `what` at the event number `event` of saving, counted from 0: a file half written, or one or a folder about to
    get its name."""
    from labutils.store import files, folder

    seen = iter(range(1_000_000))

    def spoilt(do, half):
        def done(path, *arguments, **options):
            if next(seen) == event:
                if half:
                    write_bytes(path, arguments[0][: len(arguments[0]) // 2])
                what()
            return do(path, *arguments, **options)

        return done

    write_bytes = Path.write_bytes
    for module in (files, folder):
        patch(module, "write", spoilt(module.write, half=True))
    for name in ("rename", "replace"):
        patch(Path, name, spoilt(getattr(Path, name), half=False))


def train_on_a_small_disk(outputs, values, limit):
    """As `train`, where no file can be longer than `limit` bytes; ends with 0 where that is an OSError."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        train(outputs, values)
    except OSError:
        return
    raise AssertionError("the disk was not full")


def seconds_of(process):
    begin = time.monotonic()
    process.join()
    return time.monotonic() - begin


LETHAL = 13


def run_row_or_die(driver, variables, kind, fields, key):
    """`workers._run_row_in_worker`, where a config with the lethal seed takes the process along."""
    from labutils.workers import _run_row_in_worker

    if fields["seed"] == LETHAL:
        os.kill(os.getpid(), signal.SIGKILL)
    return _run_row_in_worker(driver, variables, kind, fields, key)
