"""Codes of images: encode and decode whole sets, interpolate, project to two dimensions, sample."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from labutils.config import stream_seed
from labutils.data import Split, subset, to_float
from labutils.device import eval_mode
from labutils.models import as_labels


def encode_images(model: nn.Module, images: torch.Tensor, y: object = None) -> torch.Tensor:
    """Return codes (N,latent_dim) of images (N,1,28,28), uint8 or floats in [0,1]; `y` are labels as `models.as_labels`
    takes them, which only a conditional_vae reads."""
    return _in_batches(model, model.encode, images, y if getattr(model, "conditional", False) else None)


def decode_codes(model: nn.Module, z: torch.Tensor, y: object = None) -> torch.Tensor:
    """Return images (N,1,28,28) in [0,1] of codes (N,latent_dim) and labels as in `encode_images`."""
    return _in_batches(model, model.decode, z, y if getattr(model, "conditional", False) else None)


def _in_batches(model: nn.Module, method: Any, inputs: torch.Tensor, y: object) -> torch.Tensor:
    """Return a model's method of (N,…) and labels, in evaluation mode and without gradients: (N,…) on the CPU."""
    sets = [inputs]
    if y is not None:
        sets.append(as_labels(y, len(inputs), getattr(model, "classes", 10)))
    outputs = []
    with eval_mode(model) as device:
        for batch in zip(*(whole.split(1000) for whole in sets), strict=True):
            x, *labels_of_x = (part.to(device) for part in batch)
            outputs.append(method(to_float(x), *labels_of_x).cpu())
    return torch.cat(outputs)  # out here: what is made in inference mode could never be trained on


def reconstruct(model: nn.Module, images: torch.Tensor, y: object = None) -> torch.Tensor:
    """Return reconstructions (N,1,28,28) in [0,1] of images and labels as in `encode_images`."""
    return decode_codes(model, encode_images(model, images, y), y)


def interpolate(start: torch.Tensor, end: torch.Tensor, steps: int = 11, *, spherical: bool = False) -> torch.Tensor:
    """Return (steps,latent_dim) codes from `start` (latent_dim,) to `end`, at least two, ends included.

    `spherical` follows the arc (Shoemake 1985; White 2016): in many dimensions the straight line leaves the shell where
    a normal distribution has its mass.
    """
    if steps < 2:
        raise ValueError(f"steps={steps} must be at least 2: both ends are among them")
    t = torch.linspace(0, 1, steps)[:, None]
    angle = torch.arccos(F.cosine_similarity(start, end, dim=0).clamp(-1, 1))
    if not spherical or angle.sin() < 1e-6:  # of one direction the arc is the line
        return start + t * (end - start)
    return (((1 - t) * angle).sin() * start + (t * angle).sin() * end) / angle.sin()


def traverse(z: torch.Tensor, unit: int, values: torch.Tensor) -> torch.Tensor:
    """Return (n,latent_dim): the code z (latent_dim,) with one unit set to each of n values."""
    codes = z.repeat(len(values), 1)
    codes[:, unit] = values
    return codes


SAMPLERS = ("prior", "gaussian", "gaussian per class", "mixture")


def sample_codes(method: str, n: int, z: torch.Tensor, y: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Return (n,latent_dim) random codes, n at least 1, from a distribution fitted to codes z (N,latent_dim).

    Args:
        method: "prior" is N(0, I) whatever the codes; "gaussian" one normal distribution with full covariance,
            "gaussian per class" one for each of the labels y (N,); "mixture" a Gaussian mixture with 50 components,
            of fewer than 1,000 codes fewer.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    _check_sampler(method, n)
    if method == "prior":
        return sample_normal(n, z.shape[1], seed)
    groups = [z[y == label] for label in y.unique()] if method == "gaussian per class" else [z]
    components = min(50, max(1, len(z) // 20)) if method == "mixture" else 1
    parts = []
    for i, group in enumerate(groups[:n]):
        start = {"init_params": "k-means++", "random_state": seed + i}
        mixture = GaussianMixture(components, reg_covar=1e-4, max_iter=50, **start)
        size = n // len(groups) + (i < n % len(groups))
        # matrices this small gain nothing from threads, and a mixture need not have converged to be sampled
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            parts.append(torch.from_numpy(mixture.fit(group.double().numpy()).sample(size)[0]).float())
    # a mixture hands its samples out component by component
    return torch.cat(parts)[torch.randperm(n, generator=torch.Generator().manual_seed(seed))]


def _check_sampler(method: str, n: int) -> None:
    if method not in SAMPLERS:
        raise ValueError(f"method={method!r} must be one of {', '.join(SAMPLERS)}")
    if n < 1:
        raise ValueError(f"n={n} must be at least 1")


def sample_normal(n: int, latent_dim: int, seed: int = 0) -> torch.Tensor:
    """Return (n,latent_dim) standard normal codes, from a random stream of their own."""
    generator = torch.Generator().manual_seed(stream_seed(seed, "sampling"))
    return torch.randn(n, latent_dim, generator=generator)


def covariance_root(z: torch.Tensor) -> torch.Tensor:
    """Return L (latent_dim,latent_dim) with L·Lᵀ the covariance, regularised, of codes (N,latent_dim) of any size: L
    times a standard normal vector has that covariance."""
    size = z.std().clamp_min(1e-12)
    covariance = (z / size).double().T.cov() + 1e-6 * torch.eye(z.shape[1], dtype=torch.float64)
    return (size * torch.linalg.cholesky(covariance)).float()


def project(z: torch.Tensor, method: str, seed: int = 0) -> np.ndarray:  # unproved: no run asks for it
    """Return (N,2) of codes (N,latent_dim) by "pca", "tsne" or "umap". The last two keep neighbours, not geometry:
    distances between far groups mean little."""
    codes = z.numpy()
    if method == "pca":
        centred = z.double() - z.double().mean(0)
        directions = torch.linalg.svd(centred, full_matrices=False).Vh[:2]
        signs = directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()  # as scikit-learn chooses them
        return (centred @ (signs * directions).T).numpy()
    if method == "tsne":
        from sklearn.manifold import TSNE

        return TSNE(2, perplexity=min(30, (len(codes) - 1) / 3), random_state=seed).fit_transform(codes)
    if method == "umap":
        threads = torch.get_num_threads()
        from umap import UMAP  # only here: it takes seconds to import

        try:
            return UMAP(n_neighbors=min(15, len(codes) - 1), random_state=seed, n_jobs=1).fit_transform(codes)
        finally:
            torch.set_num_threads(threads)  # numba's OpenMP is torch's: it starts with a thread a core
    raise ValueError(f"method={method!r} must be one of pca, tsne, umap")


def as_codes(z: object, model: nn.Module) -> torch.Tensor:
    """Return codes (N,latent_dim) of a tensor, array or list of that shape or (latent_dim,), finite or a ValueError."""
    if not hasattr(model, "decode"):
        raise ValueError(f"a {type(model).__name__} decodes nothing: take an autoencoder or a VAE")
    codes = torch.atleast_2d(torch.as_tensor(z, dtype=torch.float32))
    if codes.ndim != 2 or codes.shape[1] != model.latent_dim or not codes.isfinite().all():
        raise ValueError(f"codes have shape {tuple(codes.shape)}, expected (N, {model.latent_dim}) of finite numbers")
    return codes


def sample_any_scale(method: str, n: int, z: torch.Tensor, y: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """`sample_codes` fitted at unit size in double precision: an autoencoder's codes may be of any size."""
    size = z.std().clamp_min(1e-12)
    return size * sample_codes(method, n, z.double() / size, y, seed)


def invent(model: nn.Module, images: Callable[[], Split], n: int, method: str, seed: int = 0) -> torch.Tensor:
    """Return (n,latent_dim) random codes; a method other than "prior" is fitted to the codes of up to 5,000 images."""
    _check_sampler(method, n)  # before images are loaded and encoded
    if method == "prior":
        return sample_normal(n, model.latent_dim, seed)  # type: ignore[arg-type]
    train = images()
    split = subset(train, min(5000, len(train)))
    z = encode_images(model, split.images, split.labels)
    return sample_any_scale(method, n, z, split.labels, seed)
