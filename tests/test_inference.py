"""Digits from anywhere through a model, from Python and from the shell."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_main import SMALL
from test_runs import TINY

from labutils import inference, latent, run
from labutils.__main__ import main


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
    z = latent.encode_images(trained.model, x)
    for source in (x, x.numpy(), x.float() / 255, x[:, 0]):
        torch.testing.assert_close(trained.encode(source), z)
    torch.testing.assert_close(trained.decode(z.tolist()), latent.decode_codes(trained.model, z))
    torch.testing.assert_close(trained.decode(z[0]), trained.decode(z)[:1])
    torch.testing.assert_close(trained.reconstruct(x.numpy()), latent.reconstruct(trained.model, x))
    assert trained.reconstruct(drawn).shape == (1, 1, 28, 28)
    between = trained.interpolate(x[:1], drawn, steps=5)
    torch.testing.assert_close(between[0], trained.reconstruct(x[:1])[0])
    torch.testing.assert_close(between[-1], trained.reconstruct(drawn)[0])
    arc = trained.interpolate(x[:1], drawn, steps=5, spherical=True)
    torch.testing.assert_close(arc[[0, -1]], between[[0, -1]])


def test_samples_repeat(trained):
    for method in latent.SAMPLERS:
        x = trained.sample(4, method, seed=1)
        assert x.shape == (4, 1, 28, 28)
        assert torch.equal(x, trained.sample(4, method, seed=1))
    with pytest.raises(ValueError, match="vamp"):
        trained.sample(1, "vamp")


@pytest.mark.parametrize("z", [torch.zeros(2, 5), [1.0, 2.0], [[np.nan, 0, 0]], torch.zeros(1, 1, 3)])
def test_what_is_no_code_is_refused(trained, z):
    with pytest.raises(ValueError, match="codes have shape"):
        trained.decode(z)


def test_functions_take_names_and_models_alike(trained, digits):
    x = digits.test.images[:2]
    by_path = inference.encode(trained.path, x)
    torch.testing.assert_close(by_path, inference.encode(trained.model, x))
    torch.testing.assert_close(by_path, inference.encode(trained, x))


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
    assert file in capsys.readouterr().out


def test_the_page_is_opened_when_asked_for(checkpoint, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(inference.webbrowser, "open", opened.append)
    assert main(["explore", "--model", str(checkpoint), "--output", str(tmp_path)]) == 0
    assert opened == [(tmp_path / "latent_explorer_mine.html").resolve().as_uri()]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["reconstruct", "--model", "vae99"], "vae99"),
        (["reconstruct", "99999", "--model", "CHECKPOINT"], "99999"),
        (["interpolate", "1", "nowhere.png", "--model", "CHECKPOINT"], "nowhere.png"),
        (["generate", "--method", "vamp", "--model", "CHECKPOINT"], "vamp"),
    ],
)
def test_what_cannot_be_done_is_one_line(words, reason, checkpoint, tmp_path, capsys):
    words = [str(checkpoint) if word == "CHECKPOINT" else word for word in words]
    assert main([*words, "--output", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert reason in lines[0]
