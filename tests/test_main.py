"""The command line, as a user types it."""

import subprocess
import sys
from dataclasses import fields
from types import SimpleNamespace

import pytest

from labutils import CLASSIFIER, Config
from labutils.cli.commands import in_words
from labutils.cli.main import main
from labutils.store.weights import pretrained_dir

SMALL = [
    *("--dataset", "mnist5k", "--filters", "4,4", "--depth", "2", "--latent-dim", "3"),
    *("--epochs", "1", "--n-train", "200", "--device", "cpu"),
]


def test_train_writes_what_is_asked_for(tmp_path, capsys):
    checkpoint = tmp_path / "weights" / "ae.safetensors"
    extra = ["--save-plots", "--plot-dir", str(tmp_path / "plots"), "--checkpoint-path", str(checkpoint)]
    assert main(["train", *SMALL, "--batch-size", "64", "--lr", "0.0005", "--seed", "42", *extra]) == 0
    out = capsys.readouterr().out.splitlines()
    assert any(line.startswith("test_mse ") for line in out)
    assert out[-1].startswith("mnist5k: test MSE 0.")  # the last line says what to make of it
    assert "PCA's 0." in out[-1]
    assert checkpoint.stat().st_size > 1000
    assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == ["history.png", "reconstructions.png"]
    assert not any("read from the store" in line for line in out)
    assert main(["train", *SMALL, "--batch-size", "64", "--lr", "0.0005", "--seed", "42"]) == 0
    assert "read from the store" in capsys.readouterr().out
    log = ["--tensorboard", str(tmp_path / "log")]  # of epochs, for which it is trained again
    assert main(["train", *SMALL, "--batch-size", "64", "--lr", "0.0005", "--seed", "42", *log]) == 0
    assert "read from the store" not in capsys.readouterr().out


@pytest.mark.parametrize("model", ["conv_vae", "classifier"])
def test_other_models_train_and_draw_as_well(model, tmp_path, capsys):
    extra = ["--save-plots", "--plot-dir", str(tmp_path / "plots")]
    assert main(["train", *SMALL, "--model", model, *extra]) == 0
    said = {"conv_vae": "negative ELBO", "classifier": "of the test images are recognised"}
    assert said[model] in capsys.readouterr().out.splitlines()[-1]
    pictures = {"history.png", {"conv_vae": "reconstructions.png", "classifier": "confusion.png"}[model]}
    assert {p.name for p in (tmp_path / "plots").iterdir()} == pictures


@pytest.mark.parametrize(("pca", "said"), [(0.04, "2.0 times below PCA's 0.04"), (0.01, "2.0 times above"), (0.0, "")])
def test_an_error_is_said_beside_pca_where_that_says_something(pca, said, monkeypatch):
    monkeypatch.setattr("labutils.cli.commands.references", lambda *_: {"pca_mse": pca})
    sentence = in_words(SimpleNamespace(config=Config(dataset="mnist5k"), metrics={"test_mse": 0.02}), data=None)
    assert sentence.startswith("mnist5k: test MSE 0.0200")
    assert said in sentence
    assert ("PCA" in sentence) == bool(said)


def test_a_gallery_is_drawn_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("labutils.codes.project", lambda z, method: z[:, :2].numpy())  # not umap
    assert main(["train", *SMALL, "--gallery", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("mnist5k/cae/*/epoch_001.*"))) == 7


def test_help_shows_every_field_with_its_meaning(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split()).replace("- ", "-")
    for f in [f for f in fields(Config) if f.name != "classes"]:  # which the images alone decide
        assert "--" + f.name.replace("_", "-") in text
        assert f.metadata["help"].split(":")[0].split(" (")[0][:25] in text


def test_help_shows_the_defaults_of_the_command_itself(capsys):
    with pytest.raises(SystemExit):
        main(["classify", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"({CLASSIFIER.batch_size})" in text
    assert f"({CLASSIFIER.label_smoothing})" in text
    assert f"({','.join(map(str, CLASSIFIER.filters))})" in text
    assert "(None)" not in text


@pytest.mark.parametrize(
    ("flag", "value"), [("--lr", "0"), ("--depth", "7"), ("--latent-dim", "-3"), ("--device", "cuda")]
)
def test_a_bad_value_is_one_line_that_names_the_field(flag, value, capsys):
    import torch

    if value == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    assert main(["train", *SMALL, flag, value]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert flag[2:].replace("-", "_") in lines[0]


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["train", "--latnet-dim=8"], "there is no --latnet-dim=8, did you mean --latent-dim? (python -m"),
        (["classify", "--beta", "2"], "there is no --beta"),
        (["train", "16"], "'16' was not expected"),
        (["runs", "--prun"], "there is no --prun, did you mean --prune?"),
        (["trian"], "'trian'"),
        (["train", "--activation", "rleu"], "'rleu'"),
        (["train", "--model", "VAE"], "'cae', 'linear', 'mlp_vae'"),
        (["train", "--model", "edgy"], "a kind of your own: --define FILE"),
        (["train", "--filters", "16,x"], "--filters: invalid widths value: '16,x'"),
        ([], "COMMAND"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_slip_is_answered_in_one_line(words, answer, capsys):
    with pytest.raises(SystemExit) as status:
        main(words)
    assert status.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert answer in line


def test_a_flag_may_have_underscores(capsys):
    assert main(["train", *SMALL, "--latent_dim", "4", "--batch_size=100", "--n_train", "100"]) == 0
    assert "with 4 numbers" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--save-plots", "--plot-dir", "{}"], ["--checkpoint-path", "{}/ae.safetensors"]])
def test_a_folder_that_cannot_be_written_is_found_before_training(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("labutils.cli.commands.run", lambda *_, **__: pytest.fail("it was trained"))
    (tmp_path / "file").touch()
    assert main(["train", *SMALL, *(flag.format(tmp_path / "file" / "folder") for flag in flags)]) == 2
    assert f"{tmp_path / 'file' / 'folder'} cannot be written (" in capsys.readouterr().err


def test_an_environment_that_makes_no_sense_is_one_line(capsys, monkeypatch):
    monkeypatch.setenv("LABUTILS_SCALE", "ful")
    monkeypatch.delenv("LABUTILS_OUTPUTS")
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err == "error: LABUTILS_SCALE='ful' must be one of full, smoke\n"


def test_doctor_is_content_here_and_names_what_is_wrong(capsys, monkeypatch, tmp_path):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("OK") for line in lines)
    assert len(lines) == 8
    monkeypatch.setenv("LABUTILS_DATA", str(tmp_path / "nowhere"))
    assert main(["doctor"]) == 1
    assert "LABUTILS_DATA" in capsys.readouterr().out


def in_a_fresh_process(script):
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout


def test_doctor_names_a_missing_package_and_the_remedy():
    # None in sys.modules is what Python makes of a package that is not there
    script = "import sys; sys.modules['torch'] = None; from labutils.cli.main import main; main(['doctor'])"
    lines = in_a_fresh_process(script).splitlines()
    (line,) = [line for line in lines if line.split()[1] == "torch"]
    assert line.startswith("REMEDY")
    assert "pip install -r requirements.txt" in line
    assert any(line.startswith("OK") for line in lines)


def test_doctor_names_a_folder_that_cannot_be_written(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path / "file" / "outputs"))
    assert main(["doctor"]) == 1
    assert f"{tmp_path / 'file' / 'outputs'} cannot be written (" in capsys.readouterr().out


def test_packages_load_where_they_are_used():
    loaded = "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    light = in_a_fresh_process(f"import sys, labutils; {loaded}").split()
    assert not {"torch", "numpy", "pandas"} & set(light)
    names = in_a_fresh_process(f"import sys; from labutils import *; assert callable(run); {loaded}").split()
    assert {"torch", "pandas"} <= set(names)
    assert not {"sklearn", "umap", "matplotlib", "scipy", "torchvision", "triton", "IPython"} & set(names)


def test_a_name_that_labutils_lacks_is_an_attribute_error():
    import labutils

    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = labutils.nothing
    assert {"run", "sweep", "COMPACT"} <= set(dir(labutils))  # what completion offers


def test_the_module_runs_as_a_program():
    command = [sys.executable, "-m", "labutils", "run", "99_nothing"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "01_baseline" in done.stderr


def test_classify_takes_an_encoder_from_a_checkpoint(tmp_path, capsys):
    checkpoint, plots = tmp_path / "ae.safetensors", tmp_path / "plots"
    assert main(["train", *SMALL, "--batch-norm", "--checkpoint-path", str(checkpoint)]) == 0
    few = ["--dataset", "mnist5k", "--epochs", "1", "--n-train", "200", "--device", "cpu"]
    for mode in ("frozen", "finetune"):
        extra = ["--save-plots", "--plot-dir", str(plots)]
        assert main(["classify", *few, "--mode", mode, "--encoder-checkpoint", str(checkpoint), *extra]) == 0
        assert "test_accuracy" in capsys.readouterr().out
    assert sorted(p.name for p in plots.iterdir()) == ["confusion.png", "history.png"]
    encoder = ["--encoder-checkpoint", str(checkpoint)]
    for wrong, message in (
        ([*few, "--mode", "frozen", *encoder, "--latent-dim", "16"], "latent_dim is 3 there, 16 here"),
        ([*few, "--mode", "frozen", *encoder, "--encoder-lr", "0.5"], "leave --encoder-lr out"),
        ([*few, "--mode", "frozen"], "--mode frozen needs --encoder-checkpoint"),
        ([*few, *encoder], "--mode scratch takes no --encoder-checkpoint"),
        ([*few, "--mode", "finetune", "--encoder-checkpoint", str(tmp_path / "gone")], "gone is missing"),
    ):
        assert main(["classify", *wrong]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1


def test_classify_takes_an_encoder_from_published_weights(capsys):
    few = ["--dataset", "mnist5k", "--epochs", "1", "--n-train", "200", "--device", "cpu"]
    weights = ["--encoder-checkpoint", str(pretrained_dir() / "ae12.safetensors")]
    assert main(["classify", *few, "--mode", "frozen", *weights]) == 0
    assert "test_accuracy" in capsys.readouterr().out


def test_classify_from_scratch_changes_any_field(capsys):
    assert main(["classify", *SMALL, "--mode", "scratch", "--dropout", "0.2", "--no-batch-norm", "--shift", "1"]) == 0
    assert "test_accuracy" in capsys.readouterr().out
