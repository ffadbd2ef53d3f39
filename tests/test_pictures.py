"""Digits from elsewhere become what the models know, or are refused with a reason."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from labutils.pictures import as_images, framed, png


@pytest.fixture
def seven(digits):
    return digits.test.images[digits.test.labels == 7][:1]


def saved(path, grey, mode="L"):
    Image.fromarray(grey).convert(mode).save(path)
    return path


def test_a_png_is_read_back_as_it_was_written(seven):
    grid = np.asarray(Image.open(io.BytesIO(png(torch.cat([seven] * 3), 2))))
    assert grid.shape == (56, 56)
    np.testing.assert_array_equal(255 - grid[:28, 28:], seven[0, 0])
    assert (grid[28:, 28:] == 255).all()  # nothing there: paper


def test_tensors_and_arrays_are_taken_as_they_are(seven):
    x = seven.float() / 255
    for source in (seven, x, seven[0], seven[0, 0], seven.numpy(), x.numpy()[0, 0], x.double()):
        torch.testing.assert_close(as_images(source), x)


@pytest.mark.parametrize("dark_on_white", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
def test_a_picture_of_28_by_28_keeps_its_pixels_whatever_its_colours(seven, tmp_path, dark_on_white, mode):
    grey = seven[0, 0].numpy()
    if mode == "1":
        grey = np.where(grey > 127, 255, 0).astype(np.uint8)
    path = saved(tmp_path / "seven.png", 255 - grey if dark_on_white else grey, mode)
    got = as_images(path)
    assert got.shape == (1, 1, 28, 28)
    np.testing.assert_allclose(got[0, 0], grey / 255, atol=0.02)


def test_other_sizes_are_framed_as_mnist_frames_its_digits(seven, tmp_path):
    big = Image.fromarray(seven[0, 0].numpy()).resize((140, 140), Image.Resampling.BICUBIC)
    canvas = Image.new("L", (300, 400), 0)
    canvas.paste(big, (20, 200))  # far from the middle
    got = as_images(saved(tmp_path / "drawn.png", 255 - np.asarray(canvas)))[0, 0].numpy()
    original = seven[0, 0].numpy() / 255
    assert np.square(got - original).mean() < 0.25 * np.square(np.roll(original, 3, 1) - original).mean()
    assert np.corrcoef(got.ravel(), original.ravel())[0, 1] > 0.95


def test_ink_on_a_transparent_ground_is_seen(seven, tmp_path):
    for ink in (0, 255):
        pixels = np.full((28, 28, 4), ink, np.uint8)
        pixels[..., 3] = seven[0, 0]
        Image.fromarray(pixels).save(tmp_path / "t.png")
        np.testing.assert_allclose(as_images(tmp_path / "t.png")[0, 0], seven[0, 0] / 255.0, atol=0.02)


def test_sixteen_bits_and_a_telephone_held_upright_are_understood(seven, tmp_path):
    grey = seven[0, 0].numpy()
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    np.testing.assert_allclose(as_images(tmp_path / "deep.png")[0, 0], grey / 255, atol=0.01)
    picture = Image.fromarray(grey)
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees for looking at
    picture.rotate(90).save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_allclose(as_images(tmp_path / "photo.png")[0, 0], grey / 255, atol=0.02)


def test_a_broken_file_is_named(seven, tmp_path, monkeypatch):
    whole = saved(tmp_path / "whole.png", seven[0, 0].numpy()).read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "noise.png").write_bytes(whole[:60] + bytes(40) + whole[100:])
    for name in ("half.png", "noise.png"):
        with pytest.raises(ValueError, match=name):
            as_images(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.raises(ValueError, match=r"whole\.png.*bomb"):
        as_images(tmp_path / "whole.png")


def test_dark_ink_in_an_array_is_refused(seven, digits):
    for wrong in (255 - seven, 1 - seven.float() / 255, torch.cat([digits.test.images[:3], 255 - seven])):
        with pytest.raises(ValueError, match=r"image \d has a light ground.*1 - x"):
            as_images(wrong)
    assert as_images(torch.rand(50, 1, 28, 28)).shape == (50, 1, 28, 28)  # noise is somebody's experiment


def test_an_array_without_a_last_dimension_is_one_colour_picture_or_grey_ones():
    grey = torch.rand(6, 16, 16) / 2
    assert as_images(grey, 16, 1).shape == (6, 1, 16, 16)
    assert as_images(grey[:3], 16, 3, whole=True).shape == (1, 3, 16, 16)
    with pytest.raises(ValueError, match="shape"):
        as_images(grey, 16, 3, whole=True)


def test_several_paths_and_a_foreign_array(seven, tmp_path):
    paths = [saved(tmp_path / f"{i}.png", seven[0, 0].numpy()) for i in range(2)]
    assert as_images(paths).shape == (2, 1, 28, 28)
    assert as_images([str(p) for p in paths]).shape == (2, 1, 28, 28)
    wide = np.zeros((40, 60), np.uint8)
    wide[10:30, 25:30] = 200
    assert as_images(wide).shape == (1, 1, 28, 28)
    assert as_images(wide).max() == 1  # pale ink is ink


def test_every_digit_of_the_set_would_survive_a_file(digits):
    """Light ink on black is never mistaken for dark ink on white."""
    for image in digits.test.images[:, 0].numpy():
        np.testing.assert_allclose(framed(image / np.float32(255), "")[0, 0], image / 255, atol=0.02)


@pytest.mark.parametrize(
    ("grey", "reason"),
    [
        (np.full((28, 28), 128), "neither dark nor light"),
        (np.zeros((28, 28)), "shows nothing"),
        (np.full((50, 50), 255), "shows nothing"),
        (np.zeros((5, 5)), "too few"),
        (np.random.default_rng(0).integers(0, 255, (40, 40)), "neither dark nor light"),
    ],
)
def test_what_shows_no_digit_is_refused_by_name(grey, reason, tmp_path):
    path = saved(tmp_path / "what.png", grey.astype(np.uint8))
    with pytest.raises(ValueError, match=reason) as error:
        as_images(path)
    assert "what.png" in str(error.value)


def test_other_things_are_refused(tmp_path):
    for kind in (np.uint16, np.int64):
        with pytest.raises(ValueError, match="uint8 from 0 to 255"):
            as_images(np.zeros((28, 28), kind))
    (tmp_path / "note.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"note\.png is not a picture"):
        as_images(tmp_path / "note.png")
    with pytest.raises(FileNotFoundError):
        as_images(tmp_path / "nowhere.png")
    for wrong in (torch.full((1, 1, 28, 28), 2.0), torch.zeros(2, 3, 28, 28), np.full((40, 40), 7.0), torch.zeros(28)):
        with pytest.raises(ValueError, match=r"shape|within"):
            as_images(wrong)
