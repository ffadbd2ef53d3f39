"""The run store and damage, accidental and meant: 300 of the one and 12 kinds of the other, none believed."""

import hashlib
import json
import os
import random
import shutil
import time
import warnings
from dataclasses import replace

import pytest
import torch

from labutils import BASELINE, Config, load_run, run, stored_runs
from labutils.paths import runs_dir
from labutils.store.checkpoint import Checkpoint
from labutils.store.files import read_model
from labutils.store.folder import FILES, RunError, encoder_file, keep_encoder, read_run, stored_row
from labutils.store.key import hash_of
from labutils.store.listing import differences, survey
from labutils.training import _beginning

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
    training = _beginning(model, Config(optimizer="muon", device="cpu"), 10, torch.device("cpu"))
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
                encoder_file(path.stem)
            elif target == "checkpoint":
                with warnings.catch_warnings(record=True) as said:
                    warnings.simplefilter("always")
                    return checkpoints[0].restore(beginning()) is None and "begins again" in str(said[0].message)
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


# --- files that mean harm ---------------------------------------------------------------------------------------------


def forge(path, changes, manifest_changes=()):
    """Change files of a run and have its manifest agree, as whoever means harm can."""
    for name, content in changes.items():
        (path / name).write_bytes(content)
    manifest = json.loads((path / "MANIFEST.json").read_bytes())
    for name in changes:
        content = (path / name).read_bytes()
        manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest.update(manifest_changes)
    manifest.pop("sha256")
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (path / "MANIFEST.json").write_text(json.dumps(manifest))


def a_way_out(path):
    manifest = json.loads((path / "MANIFEST.json").read_bytes())
    forge(path, {}, {"files": {**manifest["files"], "../../../../etc/passwd": {"size": 0, "sha256": ""}}})


def a_link_that_leads_out(path):
    (path / "metrics.json").rename(path.parent / "outside")
    (path / "metrics.json").symlink_to(path.parent / "outside")


def unknown_fields(path):
    config = json.loads((path / "config.json").read_bytes())
    forge(path, {"config.json": json.dumps({**config, "run_me": "rm -r"}).encode()})


def missing_fields(path):
    forge(path, {"config.json": b'{"model": "cae"}'})


def a_size_of_a_terabyte(path):
    manifest = json.loads((path / "MANIFEST.json").read_bytes())
    os.truncate(path / "model.safetensors", 2**40)
    sizes = {**manifest["files"], "model.safetensors": {"size": 2**40, "sha256": "0" * 64}}
    forge(path, {}, {"files": sizes})


def a_pickle(path):
    forge(path, {"model.safetensors": b"\x80\x04cos\nsystem\n(X\x04\x00\x00\x00true\x85R."})


def lists_without_end(path):
    forge(path, {"metrics.json": b"[" * 200_000})


def text_for_numbers(path):
    forge(path, {"metrics.json": b'{"test_mse": "<script>alert(1)</script>"}'})


def a_number_beyond_all(path):
    forge(path, {"metrics.json": f'{{"test_accuracy": {10**400}}}'.encode()})


def an_empty_origin(path):
    forge(path, {}, {"made_from": {}})


def numbers_for_files(path):
    forge(path, {}, {"files": dict.fromkeys(FILES, 5)})


def no_sum(path):
    manifest = json.loads((path / "MANIFEST.json").read_bytes())
    forge(path, {}, {"files": {**manifest["files"], "model.safetensors": {}}})


def a_list_of_versions(path):
    forge(path, {}, {"versions": ["torch", 3], "scale": {"deep": [1]}})


def a_list_for_an_encoder(path):
    config = json.loads((path / "config.json").read_bytes())
    forge(path, {"config.json": json.dumps({**config, "encoder": ["a"]}).encode()})


HOSTILE = [a_way_out, a_link_that_leads_out, unknown_fields, missing_fields, a_size_of_a_terabyte, a_pickle,
           lists_without_end, text_for_numbers, a_number_beyond_all, an_empty_origin, numbers_for_files,
           a_list_of_versions, a_list_for_an_encoder, no_sum]  # fmt: skip

OF_THE_WEIGHTS = (a_size_of_a_terabyte, a_pickle, no_sum)


def test_hostile_runs_are_refused(pair, tmp_path, monkeypatch, counted):
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path / "outputs"))
    refused = 0
    for i, make in enumerate(HOSTILE):
        path = tmp_path / f"{i}" / pair[0].path.name
        shutil.copytree(pair[0].path, path)
        assert load_run(path).metrics == pair[0].metrics
        make(path)
        before = sorted(str(p) for p in tmp_path.rglob("*"))
        with pytest.raises(RunError, match=path.name) as error:
            load_run(path)
        assert len(str(error.value)) < 1000
        assert sorted(str(p) for p in tmp_path.rglob("*")) == before  # nothing is written
        if make not in OF_THE_WEIGHTS:  # a leaderboard reads no weights
            with pytest.raises(RunError):
                stored_row(path)
        (tmp_path / "outputs" / "runs").mkdir(parents=True)
        path.rename(tmp_path / "outputs" / "runs" / path.name)
        assert len(differences(survey(verify=True))) == 1  # and no table stumbles over it
        assert stored_runs().empty == (make not in OF_THE_WEIGHTS)
        shutil.rmtree(tmp_path / "outputs")
        refused += 1
    counted(f"{refused} of {len(HOSTILE)} hostile runs refused")


@pytest.mark.parametrize("name", ["../../somewhere", "/etc/passwd", "0123", "..", "0123456789abcdeF"])
def test_an_encoders_name_leads_nowhere_else(name):
    with pytest.raises(RunError, match="hex digits"):
        encoder_file(name)


def test_a_good_run_is_not_set_aside_for_a_damaged_one_before_it(pair, tmp_path, monkeypatch):
    # another process set the damaged run aside and trained again, between our look and our rename
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path))
    path = tmp_path / "runs" / pair[0].path.name
    shutil.copytree(pair[0].path, path)
    read = read_run

    def read_before_it_was_mended(where, key=None):
        monkeypatch.setattr("labutils.store.read_run", read)
        raise RunError("damaged")

    monkeypatch.setattr("labutils.store.read_run", read_before_it_was_mended)
    assert run(TINY, progress=False).metrics == pair[0].metrics
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.soak
def test_a_leaderboard_of_10_000_runs(pair, tmp_path, monkeypatch, counted):
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path))
    template = pair[0].path
    manifest = json.loads((template / "MANIFEST.json").read_bytes())
    metrics = (template / "metrics.json").read_bytes()
    for seed in range(10_000):
        config = replace(pair[0].config, seed=seed)
        path = tmp_path / "runs" / hash_of(config, **manifest["made_from"])
        path.mkdir(parents=True)
        (path / "config.json").write_bytes(json.dumps(config.to_dict()).encode())
        (path / "metrics.json").write_bytes(metrics)
        (path / "MANIFEST.json").write_bytes((template / "MANIFEST.json").read_bytes())
        forge(path, {"config.json": (path / "config.json").read_bytes()}, {"key": path.name})
    start = time.perf_counter()
    table = stored_runs()
    seconds = time.perf_counter() - start
    assert len(table) == 10_000
    assert table["seed"].nunique() == 10_000
    counted(f"a leaderboard of 10,000 stored runs, every small file verified: {seconds:.1f} s")
