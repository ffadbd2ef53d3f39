"""Digits from anywhere through a model, from Python and from the shell."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_main import SMALL
from test_runs import TINY
from test_widgets import trained_like

from labutils import Config, codes, run
from labutils.cli import inference
from labutils.cli.main import main
from labutils.models import build_model
from labutils.runs import Run


@pytest.fixture(scope="module")
def trained():
    return run(TINY, progress=False)


@pytest.fixture
def drawn(tmp_path, digits):
    """A 7 on paper, five times the size."""
    ink = Image.fromarray(digits.test.images[digits.test.labels == 7][0, 0].numpy()).resize((140, 140))
    Image.fromarray(255 - np.asarray(ink)).save(tmp_path / "seven.png")
    return tmp_path / "seven.png"


def test_a_run_takes_tensors_arrays_and_files(trained, digits, drawn):
    x = digits.test.images[:3]
    z = codes.encode_images(trained.model, x)
    for source in (x, x.numpy(), x.float() / 255, x[:, 0]):
        torch.testing.assert_close(trained.encode(source), z)
    torch.testing.assert_close(trained.decode(z.tolist()), codes.decode_codes(trained.model, z))
    torch.testing.assert_close(trained.decode(z[0]), trained.decode(z)[:1])
    torch.testing.assert_close(trained.reconstruct(x.numpy()), codes.reconstruct(trained.model, x))
    assert trained.reconstruct(drawn).shape == (1, 1, 28, 28)
    between = trained.interpolate(x[:1], drawn, steps=5)
    torch.testing.assert_close(between[0], trained.reconstruct(x[:1])[0])
    torch.testing.assert_close(between[-1], trained.reconstruct(drawn)[0])
    arc = trained.interpolate(x[:1], drawn, steps=5, spherical=True)
    torch.testing.assert_close(arc[[0, -1]], between[[0, -1]])


def test_samples_repeat(trained):
    for method in codes.SAMPLERS:
        x = trained.sample(4, method, seed=1)
        assert x.shape == (4, 1, 28, 28)
        assert torch.equal(x, trained.sample(4, method, seed=1))
    with pytest.raises(ValueError, match="vamp"):
        trained.sample(1, "vamp")


def test_a_conditional_model_is_told_what_is_known(digits, tmp_path, monkeypatch):
    model = trained_like(replace(TINY, model="conditional_vae"))
    told = Run(replace(TINY, model="conditional_vae"), model, {}, pd.DataFrame(), Path("told.safetensors"))
    x, y = digits.test.images[:20], digits.test.labels[:20]
    torch.testing.assert_close(told.reconstruct(x, y), model(x / 255, y), rtol=1e-3, atol=1e-4)
    z = codes.sample_normal(12, 3, seed=4)
    in_turn = told.sample(12, seed=4)
    torch.testing.assert_close(in_turn, codes.decode_codes(model, z, torch.arange(12) % 10))
    torch.testing.assert_close(told.sample(12, y=7, seed=4), codes.decode_codes(model, z, 7))
    for wrong in ([1, 2], 10, 1.5):
        with pytest.raises(ValueError, match="0 to 9"):
            told.sample(12, y=wrong)
    written = {}
    monkeypatch.setattr(inference, "load_run", lambda name: told)
    monkeypatch.setattr(inference, "_write", lambda folder, name, rows: written.update(rows) or 0)
    inference.reconstruct_command(SimpleNamespace(model="told", images=["3", "7"], output=tmp_path))
    torch.testing.assert_close(
        written["told"], told.reconstruct(digits.test.images[[3, 7]], digits.test.labels[[3, 7]])
    )
    inference.generate_command(SimpleNamespace(model="told", n=2, method="prior", label=6, seed=0, output=tmp_path))
    torch.testing.assert_close(written["prior"], told.sample(2, y=6))


def test_what_decodes_nothing_and_nothing_to_decode_are_refused(trained, digits):
    config = Config(model="classifier", filters=(4, 4), depth=2, latent_dim=3)
    classifier = Run(config, build_model(config), {}, pd.DataFrame(), Path("classifier.safetensors"))
    with pytest.raises(ValueError, match="Classifier decodes nothing"):
        classifier.reconstruct(digits.test.images[:1])
    with pytest.raises(ValueError, match="y=3 means nothing"):
        trained.sample(2, y=3)
    for method in codes.SAMPLERS:
        with pytest.raises(ValueError, match="n=0"):
            trained.sample(0, method)
    with pytest.raises(ValueError, match="steps=1"):
        trained.interpolate(digits.test.images[:1], digits.test.images[1:2], 1)


@pytest.mark.parametrize("z", [torch.zeros(2, 5), [1.0, 2.0], [[np.nan, 0, 0]], torch.zeros(1, 1, 3)])
def test_what_is_no_code_is_refused(trained, z):
    with pytest.raises(ValueError, match="codes have shape"):
        trained.decode(z)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    assert main(["train", *SMALL, "--checkpoint-path", str(path)]) == 0
    return path


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (["reconstruct"], "inference_results.png"),
        (["reconstruct", "3", "DRAWN"], "inference_results.png"),
        (["interpolate", "0", "DRAWN", "--steps", "4"], "latent_interpolation.png"),
        (["generate", "--n", "20", "--method", "gaussian"], "generated_digits.png"),
        (["explore", "--no-open"], "latent_explorer_mine.html"),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else "",
)
def test_commands_write_what_they_are_named_for(command, file, checkpoint, drawn, tmp_path, capsys):
    command = [str(drawn) if word == "DRAWN" else word for word in command]
    assert main([*command, "--model", str(checkpoint), "--output", str(tmp_path / "out")]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == [file]
    out = capsys.readouterr().out
    assert file in out
    if command[0] == "interpolate":  # a number is an image's, not a digit
        assert f"from               test image 0, a 0, to {drawn}\n" in out


def test_the_page_is_opened_when_asked_for(checkpoint, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(inference.webbrowser, "open", opened.append)
    assert main(["explore", "--model", str(checkpoint), "--output", str(tmp_path)]) == 0
    assert opened == [(tmp_path / "latent_explorer_mine.html").resolve().as_uri()]


def test_who_generates_from_the_prior_needs_no_images(tmp_path, monkeypatch):
    for module in ("cli.inference", "runs"):
        monkeypatch.setattr(f"labutils.{module}.data_of", lambda config: pytest.fail("images were looked for"))
    assert main(["generate", "--model", "vae2", "--output", str(tmp_path)]) == 0
    assert main(["generate", "--model", "vae2", "--method", "vamp", "--output", str(tmp_path)]) == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["reconstruct", "--model", "vae99"], "vae99"),
        (["reconstruct", "--model", "nowhere.safetensors"], "nowhere.safetensors is missing"),
        (["reconstruct", "99999", "--model", "CHECKPOINT"], "99999"),
        (["interpolate", "1", "nowhere.png", "--model", "CHECKPOINT"], "nowhere.png"),
        (["generate", "--method", "vamp", "--model", "CHECKPOINT"], "vamp"),
        (["generate", "--method", "of a class", "--model", "CHECKPOINT"], "of a class"),
        (["generate", "--label", "3", "--model", "CHECKPOINT"], "y=3 means nothing"),
        (["interpolate", "three", "1", "--model", "CHECKPOINT"], "no picture 'three'"),
    ],
)
def test_what_cannot_be_done_is_one_line(words, reason, checkpoint, tmp_path, capsys):
    words = [str(checkpoint) if word == "CHECKPOINT" else word for word in words]
    assert main([*words, "--output", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert reason in lines[0]
