"""What the store holds: listed, chosen, verified, and pruned of what is of no use, and of nothing else."""

import os
import time
from dataclasses import replace

import pytest

from labutils import BASELINE, keys, load_run, run, stored_runs
from labutils.__main__ import main
from labutils.store import keep_encoder, run_folders
from labutils.upkeep import ABANDONED, select, survey

TINY = replace(BASELINE, dataset="mnist5k", filters=(4, 4), depth=2, latent_dim=3, epochs=1, n_train=200, device="cpu")


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A good run, one of other code, a damaged one, one set aside, a kept encoder, a checkpoint, and scratch."""
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path))
    store = tmp_path / "runs"
    with monkeypatch.context() as patch:
        patch.setattr(keys, "code_hash", lambda: "other code")
        patch.setattr("labutils.store.code_hash", lambda: "other code")
        run(replace(TINY, latent_dim=2), progress=False)
    good = run(TINY, progress=False)
    damaged = run(replace(TINY, seed=1), progress=False).path / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\1")
    run(replace(TINY, seed=2), progress=False).path.rename(store / "damaged-0123456789abcdef-01234567")
    keep_encoder(good.path / "model.safetensors")
    for name, age in (("0123456789abcdef.safetensors", 0), ("fedcba9876543210.safetensors", ABANDONED + 60)):
        (store / "unfinished" / name).write_text("state")
        os.utime(store / "unfinished" / name, (time.time() - age,) * 2)
    return store


def states(**options):
    return survey(**options)["state"].value_counts().to_dict()


def test_everything_in_the_store_is_listed_by_its_state(store):
    others = {"other code": 1, "set aside": 1, "encoder": 1, "unfinished": 1, "abandoned": 1}
    assert states() == {"ok": 2, **others}  # without its weights, the damaged one looks well
    assert states(verify=True) == {"ok": 1, "damaged": 1, **others}
    table = survey()
    assert table["bytes"].sum() == sum(f.stat().st_size for f in store.rglob("*") if f.is_file())
    assert table["days"].max() > 7


def test_rows_are_chosen_by_any_field(store):
    table = survey()
    assert len(select(table, {"latent_dim": "2"})) == 1
    assert len(select(table, {"latent_dim": "3.0", "filters": "4,4", "seed": "1"})) == 1
    assert len(select(table, {"batch_norm": "false", "state": "ok"})) == 2
    assert len(select(table, {"lr": "0.010"})) == 3
    assert select(table, {"latent_dim": "9"}).empty
    with pytest.raises(ValueError, match="'width' is no field"):
        select(table, {"width": "2"})


def test_the_shell_lists_verifies_and_prunes(store, capsys):
    assert main(["runs", "state=ok"]) == 0
    assert "2 in" in capsys.readouterr().out
    assert main(["runs", "--verify"]) == 1
    out = capsys.readouterr().out
    assert "model.safetensors is not the file that was stored" in out
    assert f"7 in {store}" in out
    good, before = [path.name for path in run_folders()], sorted(store.rglob("*"))
    assert main(["runs", "--verify", "--prune"]) == 0
    assert "4 in" in (out := capsys.readouterr().out)
    assert "--prune --yes deletes them" in out
    assert sorted(store.rglob("*")) == before
    assert main(["runs", "--verify", "--prune", "--yes"]) == 0
    assert "deleted" in capsys.readouterr().out
    assert states(verify=True) == {"ok": 1, "encoder": 1, "unfinished": 1}
    (left,) = [path.name for path in run_folders()]
    assert left in good
    assert load_run(left).config.latent_dim == 3
    assert len(stored_runs()) == 1


def test_a_filter_narrows_what_is_pruned(store, capsys):
    assert main(["runs", "latent_dim=2", "--prune", "--yes"]) == 0
    assert states() == {"ok": 2, "set aside": 1, "encoder": 1, "unfinished": 1, "abandoned": 1}


def test_an_empty_store_and_a_wrong_filter_are_no_crash(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path / "nowhere"))
    assert main(["runs"]) == 0
    assert "0 in" in capsys.readouterr().out
    assert main(["runs", "latent_dim"]) == 2
    assert "must be FIELD=VALUE" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(SystemExit):
        main(["runs", "--prune", "--no"])
