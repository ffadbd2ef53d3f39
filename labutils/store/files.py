"""Files that are whole or not there."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# what reading damaged JSON or CSV can raise
PARSE_ERRORS = (ValueError, KeyError, TypeError, AttributeError)


def write(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file; a durable one survives a power cut."""
    with path.open("wb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def write_atomically(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file, or give it other content, at once: a reader finds the old content or the new, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}-{os.urandom(4).hex()}.new")
    try:
        write(scratch, content, durable=durable)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def writable(folder: Path) -> Path:
    """Return a folder, created if need be; an OSError (of the same kind) says that no file can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        remedy = ": change its permissions" if isinstance(error, PermissionError) else ""
        raise type(error)(f"{folder} cannot be written ({error.strerror}){remedy}") from error
    return folder


def sha256(content: bytes) -> str:
    """Return the SHA-256 sum in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def json_sum(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 sum of what can be written as JSON, whatever the order of its keys."""
    return sha256(json.dumps(values, sort_keys=True).encode())
