"""Images as PNG bytes, without matplotlib, which takes tens of milliseconds a figure; images from picture
files; names and colours of classes."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from labutils.config import IMAGE_SIZE
from labutils.data import CLASSES, check_images, load_dataset, to_float
from labutils.own import framed_picture

INK_SIZE = 20  # MNIST's digits fill 20 × 20 pixels of their 28 × 28 (LeCun et al. 1998)

# Ten colours that stay apart for most kinds of colour vision (Okabe and Ito's eight, and two of Tol's)
DIGIT_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9",
                 "#8C6D00", "#332288", "#882255", "#777777")  # fmt: skip


def class_names(dataset: str) -> tuple[str, ...]:  # unproved: no run asks for it
    """Return the names of a data set's classes, by label; "picture" alone where there are none."""
    return CLASSES.get(dataset) or load_dataset(dataset).class_names


def png(images: torch.Tensor, columns: int = 0) -> bytes:  # unproved: no run asks for it
    """Return images (N,C,H,H), uint8 or floats in [0,1], as a PNG file, `columns` a row (0: all): grey ones dark on
    white, as ink on paper."""
    buffer = io.BytesIO()
    picture = tile(images, columns or len(images))
    picture = (255 * (1 - picture if picture.ndim == 2 else picture)).round().astype(np.uint8)
    Image.fromarray(picture).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def tile(images: torch.Tensor, columns: int = 8) -> np.ndarray:  # unproved: no run asks for it
    """Return images (N,C,H,W) as one picture (rows·H, columns·W), of RGB (rows·H, columns·W, 3), floats in [0,1], the
    last row filled with paper: grey ones are drawn dark on white."""
    x = to_float(images)
    rows = -(-len(x) // columns)
    if len(x) < rows * columns:
        x = torch.cat([x, x.new_full((rows * columns - len(x), *x.shape[1:]), paper(x))])
    x = x.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    return (x[..., 0] if x.shape[-1] == 1 else x).numpy()


def paper(images: torch.Tensor) -> float:  # unproved: no run asks for it
    """Return the value of a pixel that is drawn white: 0 of grey images (N,1,H,W), which are drawn as ink, 1 of RGB."""
    return 0.0 if images.shape[1] == 1 else 1.0


def as_images(source: object, size: int = IMAGE_SIZE, channels: int = 1, *, whole: bool = False) -> torch.Tensor:
    """Return images as (N,channels,size,size) floats in [0,1].

    Args:
        source: a tensor or array (N,C,H,H), (N,H,H) or (H,H), uint8 or floats in [0,1], of that size, taken as it is
            (where digits are expected dark ink on a light ground is a ValueError); an array (H,W) of another size; the
            path of a picture, or several. The last two may be of either polarity.
        whole: frame pictures as those of a folder, see `own.framed_picture`. Otherwise they are digits, framed as
            MNIST's were: light ink on black, 20 × 20 pixels, centre of mass in the middle; a picture without a digit is
            a ValueError that names the file.
    """
    if isinstance(source, (str, Path)):
        source = [source]  # unproved: a picture file, here and below
    if isinstance(source, Sequence) and source and all(isinstance(item, (str, Path)) for item in source):
        if whole:  # unproved: picture files
            return _whole(source, size, channels)  # unproved: a picture file
        return torch.cat([read_picture(item) for item in source])
    images = torch.as_tensor(np.asarray(source)) if not isinstance(source, torch.Tensor) else source.detach().cpu()
    if images.dtype not in (torch.uint8, torch.bool) and not images.is_floating_point():
        raise ValueError(f"images of type {images.dtype}: uint8 from 0 to 255, or floats from 0 to 1, are expected")
    if images.ndim == 2 and images.shape != (size, size) and not whole:
        grey = to_float(images)
        if not ((grey >= 0) & (grey <= 1)).all():
            raise ValueError("float images must be finite and within [0, 1]")
        return framed(grey.numpy(), f"an array of shape {tuple(images.shape)}")
    if images.ndim == 2 or (images.ndim == 3 and channels in (1, len(images))):
        images = images.reshape(-1, channels, *images.shape[-2:])  # unproved: an array without channels
    check_images(images)
    if images.shape[1:] != (channels, size, size):
        raise ValueError(f"images have shape {tuple(images.shape)}, this model knows (N, {channels}, {size}, {size})")
    x = to_float(images)
    edges = torch.cat([x[:, 0, 0], x[:, 0, -1], x[:, 0, :, 0], x[:, 0, :, -1]], dim=1)
    # of MNIST and Fashion-MNIST no image is
    if not whole and (light := (edges.median(1).values > 0.8).nonzero()).numel():
        raise ValueError(f"image {int(light[0])} has a light ground: models know light ink on black, so pass 1 - x")
    return x


def _whole(paths: Sequence[str | Path], size: int, channels: int) -> torch.Tensor:  # unproved: picture files
    """Return picture files as those of a folder are framed."""
    return torch.stack([to_float(torch.from_numpy(framed_picture(path, size, channels))) for path in paths])


def read_picture(path: str | Path) -> torch.Tensor:
    """Return a picture file of one digit as (1,1,28,28), see `as_images`."""
    try:
        with Image.open(path) as file:
            grey = _grey(ImageOps.exif_transpose(file))  # a phone stores which way is up
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # all that Pillow raises
        raise ValueError(f"{path} is not a picture that can be read ({error}): a PNG of a digit is expected") from error
    return framed(grey, str(path))


def _grey(file: Image.Image) -> np.ndarray:
    """Return (H,W) float32 in [0,1]; transparent pixels are paper."""
    if file.mode.startswith("I"):  # 16 bits, which `convert` would cut off at 255
        return np.asarray(file, dtype=np.float32) / 65535
    picture = file.convert("RGBA")
    paper = Image.new("RGBA", picture.size, "white" if _is_dark(picture) else "black")
    return np.asarray(Image.alpha_composite(paper, picture).convert("L"), dtype=np.float32) / 255


def _is_dark(picture: Image.Image) -> bool:
    """Return whether the opaque part of a partly transparent picture is dark: ink, not paper."""
    pixels = np.asarray(picture, dtype=np.float32)
    alpha = pixels[..., 3]
    return bool(alpha.min() < 255 and alpha.max() > 0 and np.average(pixels[..., :3].mean(-1), weights=alpha) < 128)


def framed(grey: np.ndarray, name: str) -> torch.Tensor:
    """Return a grey picture (H,W) in [0,1], of either polarity, as (1,1,28,28); `name` is for error messages."""
    if min(grey.shape) < 8:
        raise ValueError(f"{name} has {grey.shape[1]} × {grey.shape[0]} pixels: too few for a digit")
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    ground = float(np.median(edge))
    if 0.35 < ground < 0.65 or np.abs(edge - ground).mean() > 0.2:
        raise ValueError(f"{name}: its edge is neither dark nor light, so ink and paper cannot be told apart")
    if ground > 0.5:
        grey, ground = 1 - grey, 1 - ground
    ink = np.clip((grey - ground) / (1 - ground), 0, 1)
    if ink.max() < 0.2:
        raise ValueError(f"{name} shows nothing: its contrast is {ink.max():.2f}")
    if grey.shape != (IMAGE_SIZE, IMAGE_SIZE):
        ink = _centred(ink / ink.max())
    return torch.from_numpy(ink.astype(np.float32)).view(1, 1, IMAGE_SIZE, IMAGE_SIZE)


def _centred(ink: np.ndarray) -> np.ndarray:
    """Return (H,W) in [0,1] as (28,28): cropped to its ink, fitted into 20 × 20, its centre of mass at the centre."""
    rows, columns = np.flatnonzero((ink > 0.2).any(1)), np.flatnonzero((ink > 0.2).any(0))
    crop = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = INK_SIZE / max(crop.shape)
    size = max(1, round(crop.shape[1] * scale)), max(1, round(crop.shape[0] * scale))
    small = np.asarray(
        Image.fromarray(crop).resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)
    )
    small = np.clip(small, 0, 1)
    at = [np.average(np.arange(n), weights=small.sum(1 - axis)) for axis, n in enumerate(small.shape)]
    corner = [
        int(np.clip(round(IMAGE_SIZE / 2 - centre), 0, IMAGE_SIZE - n))
        for centre, n in zip(at, small.shape, strict=True)
    ]
    canvas = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.float32)
    canvas[corner[0] : corner[0] + small.shape[0], corner[1] : corner[1] + small.shape[1]] = small
    return canvas
