"""Killed, out of disk, locked out, eight at once: finished runs stay as they are, nothing half written is read."""

import errno
import os
import random
import shutil
import signal
import stat
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from processes import at_event, context, seconds_of, start, train_and_die, train_on_a_small_disk, train_together

from labutils import BASELINE, load_run, run, stored_runs
from labutils.store.folder import FILES, run_folders

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and permissions are those of Linux and macOS")

TINY = replace(BASELINE, dataset="mnist5k", filters=(4, 4), depth=2, latent_dim=3, epochs=3, n_train=200, device="cpu")
LONG = replace(TINY, batch_norm=True, optimizer="muon", n_train=1000, epochs=15)
EVENTS = 12  # of saving in a run of three epochs: 2 for each checkpoint, 5 files and the name of the run


def assert_equal(a, b):
    assert a.path.name == b.path.name
    for (name, x), y in zip(a.model.state_dict().items(), b.model.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


def whole_runs():
    """Every folder that has the name of a run, read back: a half one would raise."""
    return {path.name for path in run_folders() if load_run(path)}


def killed(store, monkeypatch, times, events, seed):
    """Kill trainings `times` times at random moments and `events` times while they save; the counts of what happened.
    Between two kills all that was finished is read, and a run that got through is compared with an undisturbed one."""
    rng, counts = random.Random(seed), {"kills": 0, "gone on": 0}
    with monkeypatch.context() as patch:
        patch.setenv("LABUTILS_OUTPUTS", str(store / "undisturbed"))
        whole = {config: run(config, progress=False) for config in (TINY, LONG)}
        shutil.rmtree(whole[LONG].path)
        takes = seconds_of(start(LONG, store / "undisturbed"))
    bystander = run(replace(TINY, seed=1), progress=False)
    moments = [("time", rng.uniform(0, 0.8 * takes)) for _ in range(times)]
    moments += [("event", event) for event in rng.sample(range(EVENTS), events)]
    for kind, moment in moments:
        config = LONG if kind == "time" else TINY
        checkpoint = store / "unfinished" / f"{whole[config].path.name}.safetensors"
        if kind == "event":  # from the beginning, so that the event comes
            checkpoint.unlink(missing_ok=True)
            shutil.rmtree(store / whole[config].path.name, ignore_errors=True)
            process = start(config, store.parent, train_and_die, moment)
            process.join()
        else:
            counts["gone on"] += checkpoint.exists()
            process = start(config, store.parent)
            time.sleep(moment)
            process.kill()
            process.join()
        counts["kills"] += process.exitcode == -signal.SIGKILL
        assert bystander.path.name in whole_runs()
        for name in whole_runs() - {bystander.path.name}:
            assert_equal(load_run(name), whole[TINY if name == whole[TINY].path.name else LONG])
            shutil.rmtree(store / name)
    for config in (TINY, LONG):
        assert_equal(run(config, progress=False), whole[config])
    return counts


def test_killed_while_training_and_saving(store, monkeypatch, counted):
    counts = killed(store, monkeypatch, times=2, events=2, seed=0)
    counted(f"{counts['kills']} SIGKILLs while training and saving: 0 lost, {counts['gone on']} met a "
            "checkpoint, all ended bit-equal to an undisturbed run")  # fmt: skip
    assert counts["kills"] >= 2  # a process may have got through before its moment came, but not past an event


@pytest.mark.soak
def test_20_kills_while_training_and_saving(tmp_path, monkeypatch, counted):
    counts = {"kills": 0, "gone on": 0}
    for seed in range(9):  # a process may have got through before its moment came
        if counts["kills"] < 20:
            monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path / f"{seed}"))
            more = killed(tmp_path / f"{seed}" / "runs", monkeypatch, times=8, events=4, seed=seed)
            counts = {name: counts[name] + more[name] for name in counts}
    counted(f"{counts['kills']} SIGKILLs while training and saving: 0 lost, {counts['gone on']} met a "
            "checkpoint, all ended bit-equal to an undisturbed run")  # fmt: skip
    assert counts["kills"] >= 20
    assert counts["gone on"] > 0


def test_a_disk_that_is_full_at_any_write_leaves_no_half_run(store, digits, monkeypatch, counted):
    monkeypatch.setattr("labutils.runs.data_of", lambda config: digits)
    whole = run(TINY, progress=False)
    shutil.rmtree(whole.path)

    def no_room():
        raise OSError(errno.ENOSPC, "No space left on device")

    for event in range(EVENTS):
        said = []
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            at_event(event, no_room, patch.setattr)
            try:
                assert_equal(run(TINY, progress=False), whole)  # a checkpoint is not worth a training
            except OSError as error:
                said = [error]
            said += [warning.message for warning in caught]
        assert "No space left on device" in str(said[0])
        assert whole_runs() <= {whole.path.name}
        assert_equal(run(TINY, progress=False), whole)
        assert {path.name for path in store.iterdir()} == {whole.path.name, "unfinished"}
        assert {path.name for path in whole.path.iterdir()} == {*FILES, "MANIFEST.json"}
        shutil.rmtree(store)
    counted(f"{EVENTS} writes of a run that met a full disk: 0 half runs, 0 silent")


def test_a_real_limit_on_the_length_of_files(store):
    bystander = run(replace(TINY, seed=1), progress=False)
    process = start(TINY, store.parent, train_on_a_small_disk, 3000)
    process.join()
    assert process.exitcode == 0
    assert whole_runs() == {bystander.path.name}
    assert list((store / "unfinished").iterdir()) == []
    assert load_run(run(TINY, progress=False).path)


@pytest.fixture
def locked(monkeypatch, digits):
    """lock(folder) makes a folder read-only for this process, also where it is root's."""
    monkeypatch.setattr("labutils.runs.data_of", lambda config: digits)  # may lie where only root can read
    folder = Path(tempfile.mkdtemp())
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(folder))
    folder.chmod(0o755)

    def lock():
        for path in [folder, *folder.rglob("*")]:
            path.chmod(path.stat().st_mode & ~0o222 | stat.S_IROTH | (stat.S_IXOTH if path.is_dir() else 0))
        if root:
            os.seteuid(65534)
        return folder

    root = os.geteuid() == 0
    yield lock
    if root:
        os.seteuid(0)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    shutil.rmtree(folder)


def test_a_store_that_cannot_be_written_is_read_and_named_before_a_training(locked, monkeypatch):
    stored, damaged = (run(replace(TINY, seed=seed, epochs=1), progress=False) for seed in (0, 1))
    (damaged.path / "metrics.json").write_text("{}")
    locked()
    monkeypatch.setattr("labutils.runs.fit", lambda *_, **__: pytest.fail("trained for nothing"))
    assert run(replace(TINY, epochs=1), progress=False).metrics == stored.metrics
    assert list(stored_runs()["run"]) == [stored.path.name]
    with pytest.raises(PermissionError, match="unfinished"):
        run(replace(TINY, seed=2), progress=False)
    with pytest.raises(PermissionError, match=r"not the file that was stored.*cannot be set aside"):
        run(replace(TINY, seed=1, epochs=1), progress=False)


def race(store, config, n):
    barrier = context.Barrier(n)
    racers = [start(config, store.parent, train_together, barrier) for _ in range(n)]
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0] * n
    assert len(whole_runs()) == 1
    assert list((store / "unfinished").iterdir()) == []
    assert {path.name for path in store.iterdir()} == {*whole_runs(), "unfinished"}
    shutil.rmtree(store)


def test_processes_at_once_make_one_run(store, counted):
    race(store, replace(TINY, epochs=2), 4)
    counted("4 racing processes: one valid run")


@pytest.mark.soak
def test_eight_processes_at_once_make_one_run_five_times(store, counted):
    for seed in range(5):
        race(store, replace(TINY, epochs=2, seed=seed), 8)
    counted("8 racing processes × 5: one valid run each")
