"""Where files live, and the scale of the work."""

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Scale(NamedTuple):
    """Upper limits of a scale; None is no limit."""

    name: str
    images: tuple[int, int, int] | None = None  # train, validation, test
    epochs: int | None = None
    seeds: int | None = None
    values: int | None = None


SCALES = {"full": Scale("full"), "smoke": Scale("smoke", images=(1024, 256, 256), epochs=2, seeds=2, values=2)}


def scale() -> Scale:
    """The scale that `LABUTILS_SCALE` names: "full" (the default) or "smoke", which only shows that everything runs.
    `LABUTILS_SEEDS`, 2 or 3, is the number of seeds of each setting: a quicker series with wider intervals."""
    name = os.environ.get("LABUTILS_SCALE") or "full"
    if name not in SCALES:
        raise ValueError(f"LABUTILS_SCALE={name!r} must be one of {', '.join(SCALES)}")
    limits, seeds = SCALES[name], os.environ.get("LABUTILS_SEEDS", "")
    if not seeds:
        return limits
    if seeds not in ("2", "3"):  # unproved: no seed is chosen within a run. More than 3 is not fewer everywhere
        raise ValueError(f"LABUTILS_SEEDS={seeds!r} must be 2 or 3: one run has no spread, and all is the default")
    return limits._replace(seeds=min(int(seeds), limits.seeds or int(seeds)))  # unproved: nor a number of them


def environment_path(text: str) -> Path:
    """A folder named by an environment variable. A relative one counts from the repository's root, not from the
    working directory: that is `notebooks/` inside a kernel and something else for the shell that set the variable."""
    return (ROOT / Path(text).expanduser()).resolve()


def data_dir() -> Path:
    """Where downloads are kept."""
    return ROOT / "data"


def outputs_dir() -> Path:
    """`LABUTILS_OUTPUTS`; at smoke scale a folder among the temporary files, never the published results."""
    if folder := os.environ.get("LABUTILS_OUTPUTS"):
        return environment_path(folder)
    if scale().name == "smoke":
        return Path(tempfile.gettempdir()) / f"labutils-smoke-{os.environ.get('USER', 'user')}"
    return ROOT / "outputs"


def runs_dir() -> Path:
    """The run store."""
    return outputs_dir() / "runs"


def local_dir(dataset: str) -> Path:  # unproved: no run asks for it
    """A reader's own tables, figures and executed notebooks for one data set, by its name or path, at the present scale
    (git-ignored)."""
    seeds = f"-{scale().seeds}-seeds" if scale() != SCALES[scale().name] else ""  # unproved: no run asks for it
    return outputs_dir() / "local" / f"{Path(dataset).stem}-{scale().name}{seeds}"
