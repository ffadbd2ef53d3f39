"""What the store holds: listed, chosen, verified, and pruned of what is of no use, and of nothing else."""

import errno
import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from labutils import BASELINE, CLASSIFIER, load_run, run, stored_runs
from labutils.cli.commands import SHOWN
from labutils.cli.main import main
from labutils.store.folder import keep_encoder, run_folders
from labutils.store.key import code_hash
from labutils.store.listing import ABANDONED, is_proved, select, survey, tidy

TINY = replace(BASELINE, dataset="mnist5k", filters=(4, 4), depth=2, latent_dim=3, epochs=1, n_train=200, device="cpu")


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """The outputs folder that `store` copies."""
    outputs = tmp_path_factory.mktemp("filled")
    store = outputs / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABUTILS_OUTPUTS", str(outputs))
        fill(store)
    return outputs


@pytest.fixture
def store(filled, tmp_path, monkeypatch):
    """A good run, one of other code, a damaged one, one set aside, a kept encoder, a checkpoint, and scratch."""
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path))
    monkeypatch.setattr("labutils.cli.commands.is_proved", lambda: True)
    shutil.copytree(filled, tmp_path, dirs_exist_ok=True)
    return tmp_path / "runs"


def fill(store):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("labutils.store.key.torch_version", lambda: "another")
        patch.setattr("labutils.store.folder.torch_version", lambda: "another")
        run(replace(TINY, latent_dim=2), progress=False)
    good = run(TINY, progress=False)
    damaged = run(replace(TINY, seed=1), progress=False).path / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\1")
    run(replace(TINY, seed=2), progress=False).path.rename(store / "damaged-0123456789abcdef-01234567")
    keep_encoder(good.path / "model.safetensors")
    for name, age in (("0123456789abcdef.safetensors", 0), ("fedcba9876543210.safetensors", ABANDONED + 60)):
        (store / "unfinished" / name).write_text("state")
        os.utime(store / "unfinished" / name, (time.time() - age,) * 2)


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
    assert len(select(table, {"n_train": "none"})) == 4  # what is no run
    with pytest.raises(ValueError, match="'width' is no field"):
        select(table, {"width": "2"})


def test_the_shell_lists_verifies_and_prunes(store, capsys):
    assert main(["runs", "state=ok"]) == 0
    head, *rows, last = capsys.readouterr().out.splitlines()
    assert head.split() == [*SHOWN, "note"]
    assert all("test_mse 0." in row for row in rows)
    assert sorted(row.split()[-1] for row in rows) == ["0", "1"]  # the seed
    assert "2 in" in last
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


def test_runs_that_differ_in_a_field_show_it(store, capsys):
    run(replace(TINY, activation="tanh", filters=(4, 5)), progress=False)
    assert main(["runs", "state=ok"]) == 0
    head, *rows, _ = capsys.readouterr().out.splitlines()
    assert {"activation", "filters"} <= set(head.split())
    assert sum("tanh" in row and "4,5" in row for row in rows) == 1
    assert "NA" not in "".join(rows)


def test_a_filter_that_nothing_passes_may_stand_before_another(store, capsys):
    assert main(["runs", "latent_dim=999", "seed=0", "result=none"]) == 0
    assert "nothing has latent_dim=999 seed=0" in capsys.readouterr().out


def test_what_cannot_be_read_now_is_not_taken_for_damaged(store, monkeypatch):
    def no_more_files(path):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "read_bytes", no_more_files)
    assert states(verify=True) == {"unreadable": 4, "set aside": 1, "unfinished": 1, "abandoned": 1}
    assert main(["runs", "state=unreadable", "--prune", "--yes"]) == 0
    monkeypatch.undo()
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(store.parent))
    assert states()["ok"] == 2


def test_another_days_encoder_of_a_classifier_of_today_stays(store):
    (old,) = survey().query("state == 'other code'")["name"]
    head = replace(CLASSIFIER, **{name: getattr(TINY, name) for name in ("dataset", "filters", "depth", "n_train")})
    head = replace(head, latent_dim=2, batch_norm=False, activation="relu", epochs=1, device="cpu", encoder=old)
    run(head, progress=False)
    assert states()["encoder"] == 2
    assert "other code" not in states()
    assert main(["runs", "--prune", "--yes"]) == 0
    assert (store / old).is_dir()


def test_what_is_not_ours_is_not_tidied_away(store):
    foreign = store / "unfinished" / "thesis.txt"
    foreign.write_text("years of work")
    os.utime(foreign, (0, 0))
    tidy()
    assert foreign.read_text() == "years of work"
    assert not (store / "unfinished" / "fedcba9876543210.safetensors").exists()


def test_runs_that_may_yet_be_proved_are_not_pruned(store, monkeypatch, capsys):
    monkeypatch.setattr("labutils.cli.commands.is_proved", lambda: False)
    before = sorted(store.rglob("*"))
    assert main(["runs", "--prune", "--yes"]) == 2
    assert "labutils has been edited since `make same`" in capsys.readouterr().err
    assert sorted(store.rglob("*")) == before
    assert main(["runs", "state=set aside", "--prune", "--yes"]) == 0
    assert len(sorted(store.rglob("*"))) < len(before)


@pytest.mark.parametrize(("proved", "code"), [(True, code_hash()), (False, "0" * 64)])
def test_whether_todays_code_is_proved_stands_in_the_recipes(tmp_path, monkeypatch, proved, code):
    monkeypatch.setattr("labutils.store.listing.RECIPES", tmp_path / "recipes.json")
    (tmp_path / "recipes.json").write_text(json.dumps({"code": code, "equal": {}}))
    assert is_proved() is proved


def test_a_filter_narrows_what_is_pruned(store, capsys):
    assert main(["runs", "latent_dim=2", "--prune", "--yes"]) == 0
    assert states() == {"ok": 2, "set aside": 1, "encoder": 1, "unfinished": 1, "abandoned": 1}


def test_an_empty_store_and_a_wrong_filter_are_no_crash(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path / "nowhere"))
    assert main(["runs"]) == 0
    assert "0 in" in capsys.readouterr().out
    assert main(["runs", "activation=rleu"]) == 0
    assert "nothing has activation=rleu\n" in capsys.readouterr().out
    assert main(["runs", "latent_dim"]) == 2
    assert "must be FIELD=VALUE" in capsys.readouterr().err
    assert main(["runs", "--yes"]) == 2
    assert "--yes goes with --prune" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(SystemExit):
        main(["runs", "--prune", "--no"])
