"""The run store and damage: of 300 none is believed; what cannot be read, or is older, is no damage."""

import errno
import hashlib
import json
import random
import shutil
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from labutils import BASELINE, Config, run, stored_runs
from labutils.optim import build_optimizers
from labutils.paths import runs_dir
from labutils.store.checkpoint import Checkpoint
from labutils.store.files import json_sum
from labutils.store.folder import FILES, keep_encoder, read_encoder, read_run
from labutils.store.key import hash_of
from labutils.store.weights import RunError, read_model
from labutils.training import Training

TINY = replace(BASELINE, dataset="mnist5k", filters=(4, 4), depth=2, latent_dim=3, epochs=1, n_train=200, device="cpu")
ALL = (*FILES, "MANIFEST.json")


@pytest.fixture(scope="module")
def pair():
    """Two stored runs that differ in nothing but the seed: what is swapped between them has the right size."""
    return [run(replace(TINY, seed=seed), progress=False) for seed in (0, 1)]


def damage(content: bytes, how: str, rng: random.Random) -> bytes:
    changed, at = bytearray(content), rng.randrange(len(content))
    if how == "flip":
        changed[at] ^= 1 << rng.randrange(8)
    elif how == "truncate":
        del changed[at:]
    else:
        changed[at:] = bytes(len(changed) - at)
    return bytes(changed)


def beginning():
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 4))
    optimizers = build_optimizers(model, Config(optimizer="muon", device="cpu"))
    schedulers = [LambdaLR(optimizer, lambda step: 1.0) for optimizer in optimizers]
    training = Training(model, optimizers, schedulers, torch.Generator(), torch.device("cpu"))
    model(torch.rand(5, 4)).sum().backward()
    for optimizer in training.optimizers:
        optimizer.step()
    return training


def test_300_damages_and_none_is_silent(pair, tmp_path, counted, monkeypatch):
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path))
    rng, silent, done = random.Random(0), [], 0
    mine, other = (tmp_path / r.path.name for r in pair)
    weights = tmp_path / "pretrained.safetensors"
    checkpoints = [Checkpoint(tmp_path / f"state-{i}", f"{i}" * 16) for i in range(2)]
    training = beginning()

    def whole():
        for r, path in zip(pair, (mine, other), strict=True):
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(r.path, path)
            keep_encoder(r.path / "model.safetensors")
        shutil.copyfile(mine / "model.safetensors", weights)
        for checkpoint in checkpoints:
            checkpoint.save(training)

    def noticed(target, path):
        try:
            if target == "weights file":
                read_model(path)
            elif target == "encoder":
                read_encoder(path.stem)
            elif target == "checkpoint":
                with warnings.catch_warnings(record=True) as said:
                    warnings.simplefilter("always")
                    checkpoints[0].restore(beginning())
                    return any("begins again" in str(warning.message) for warning in said)
            else:
                read_run(mine, mine.name)
        except (RunError, ValueError):
            return True
        return False

    whole()
    encoders = sorted((runs_dir() / "encoders").iterdir())
    assert not any(noticed(*undamaged) for undamaged in (
        ("run", mine), ("weights file", weights), ("encoder", encoders[0]), ("checkpoint", checkpoints[0].file)
    ))  # fmt: skip
    while done < 300:
        target = rng.choice(["run"] * 5 + ["weights file", "encoder", "checkpoint"])
        how = rng.choice(["flip", "truncate", "zero tail", "swap"])
        if target == "run" and how == "swap" and rng.random() < 0.3:  # the whole folder
            shutil.rmtree(mine)
            file = other.rename(mine)
        else:
            file, twin = {
                "run": (mine / (name := rng.choice(ALL)), other / name),
                "weights file": (weights, None),  # another whole weights file is a whole weights file
                "encoder": tuple(encoders),
                "checkpoint": (checkpoints[0].file, checkpoints[1].file),
            }[target]
            before = file.read_bytes()
            if how != "swap":
                after = damage(before, how, rng)
            elif twin is None:
                continue
            else:
                after = twin.read_bytes()
            if after == before:  # the zero at the end of a file
                continue
            file.write_bytes(after)
        done += 1
        if not noticed(target, file):
            silent.append(f"{how} of {target} {file.name}")
        whole()
    counted(f"{done} random damages (flip, truncate, zero tail, swap), {len(silent)} silent")
    assert silent == []


def test_a_leaderboard_does_not_believe_what_is_damaged(pair, tmp_path, monkeypatch):
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path))
    runs = tmp_path / "runs"
    mine, other = (shutil.copytree(r.path, runs / r.path.name) for r in pair)
    assert set(stored_runs()["run"]) == {mine.name, other.name}
    rng = random.Random(1)
    for name in ("MANIFEST.json", "config.json", "metrics.json"):
        content = (mine / name).read_bytes()
        for how in ("flip", "truncate", "zero tail"):
            (mine / name).write_bytes(damage(content, how, rng))
            assert list(stored_runs()["run"]) == [other.name], (name, how)
        (mine / name).write_bytes(content)
    mine.rename(runs / "aside")
    other.rename(mine)
    (runs / "aside").rename(other)
    assert stored_runs().empty


def test_what_cannot_be_read_now_is_not_set_aside(pair, tmp_path, monkeypatch):
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path))
    path = tmp_path / "runs" / pair[0].path.name
    shutil.copytree(pair[0].path, path)

    def no_more_files(path):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", no_more_files)
        with pytest.raises(OSError, match="Too many open files"):
            run(TINY, progress=False)
    assert run(TINY, progress=False).cached


def test_a_run_of_the_first_edition_is_read_and_one_of_two_threads_is_not(pair, tmp_path, monkeypatch):
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path))
    path = tmp_path / "runs" / pair[0].path.name
    for threads in (1, 2):
        shutil.copytree(pair[0].path, path, dirs_exist_ok=True)
        config = json.loads((path / "config.json").read_bytes())
        del config["threads"]
        metrics = json.loads((path / "metrics.json").read_bytes()) | {"threads": threads}
        rewrite(path, {"config.json": config, "metrics.json": metrics})
        if threads == 1:
            assert run(TINY, progress=False).metrics == pair[0].metrics
        else:
            with pytest.warns(UserWarning, match="trained with 2 threads.*trained again"):
                assert run(TINY, progress=False).metrics["test_mse"] == pair[0].metrics["test_mse"]


def rewrite(path, changes, **manifest_changes):
    """Give JSON files of a run other values, and the manifest that goes with them; it loses its revision."""
    manifest = json.loads((path / "MANIFEST.json").read_bytes()) | manifest_changes
    for name, values in changes.items():
        content = json.dumps(values).encode()
        (path / name).write_bytes(content)
        manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    del manifest["sha256"], manifest["revision"]
    manifest["sha256"] = json_sum(manifest)
    (path / "MANIFEST.json").write_text(json.dumps(manifest))


@pytest.mark.soak
def test_a_leaderboard_of_10_000_runs(pair, tmp_path, monkeypatch, counted):
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path))
    template = pair[0].path
    manifest = json.loads((template / "MANIFEST.json").read_bytes())
    metrics = (template / "metrics.json").read_bytes()
    for seed in range(10_000):
        config = replace(pair[0].config, seed=seed)
        path = tmp_path / "runs" / hash_of(config.to_dict(), **manifest["made_from"])
        path.mkdir(parents=True)
        (path / "metrics.json").write_bytes(metrics)
        (path / "MANIFEST.json").write_bytes((template / "MANIFEST.json").read_bytes())
        rewrite(path, {"config.json": config.to_dict()}, key=path.name)
    start = time.perf_counter()
    table = stored_runs()
    seconds = time.perf_counter() - start
    assert len(table) == 10_000
    assert table["seed"].nunique() == 10_000
    counted(f"a leaderboard of 10,000 stored runs, every small file verified: {seconds:.1f} s")
