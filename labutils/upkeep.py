"""What the run store holds, what of it is of no use any more, and how that leaves."""

import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from labutils.config import runs_dir
from labutils.store import unfinished_dir

ABANDONED = 7 * 24 * 3600  # seconds after which nobody will go on with what is unfinished


def abandoned() -> list[Path]:
    """What lies among the unfinished and is of no use: checkpoints of finished runs, and what nobody touched for a
    week."""
    found = []
    for path in (runs_dir() / "unfinished").glob("*"):
        with suppress(FileNotFoundError):  # finished just now
            if time.time() - path.stat().st_mtime > ABANDONED or (runs_dir() / path.stem / "MANIFEST.json").exists():
                found.append(path)
    return found


def remove(paths: Iterable[Path]) -> None:
    """Delete files and folders of the store, each out of sight first: nobody reads half a run."""
    for path in paths:
        gone = unfinished_dir() / f"writing-{os.urandom(4).hex()}"
        with suppress(FileNotFoundError):  # another process was faster
            path.rename(gone)
            if gone.is_dir() and not gone.is_symlink():
                shutil.rmtree(gone)
            else:
                gone.unlink()
