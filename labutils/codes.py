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
    """images (N,1,28,28), uint8 or floats in [0,1] → codes (N,latent_dim).

    Args:
        y: labels that only a conditional_vae looks at, as `models.as_labels` takes them.

    Raises:
        ValueError: labels that are none.
    """
    return _in_batches(model, model.encode, images, y if getattr(model, "conditional", False) else None)


def decode_codes(model: nn.Module, z: torch.Tensor, y: object = None) -> torch.Tensor:
    """codes (N,latent_dim), and labels as in `encode_images` → images (N,1,28,28) in [0,1]."""
    return _in_batches(model, model.decode, z, y)


def _in_batches(model: nn.Module, method: Any, inputs: torch.Tensor, y: object) -> torch.Tensor:
    """The model's method on (N,…) and labels, without gradients and in evaluation mode → (N,…) on the CPU."""
    sets = [inputs]
    if y is not None:
        labels = torch.as_tensor(y)
        labels = labels if labels.is_floating_point() else labels.long()  # files hold them as bytes
        sets.append(as_labels(labels, len(inputs)))
    outputs = []
    with eval_mode(model) as device:
        for batch in zip(*(whole.split(1000) for whole in sets), strict=True):
            x, *labels_of_x = (part.to(device) for part in batch)
            outputs.append(method(to_float(x), *labels_of_x).cpu())
        return torch.cat(outputs)


def reconstruct(model: nn.Module, images: torch.Tensor, y: object = None) -> torch.Tensor:
    """images (N,1,28,28), labels as in `encode_images` → their reconstructions (N,1,28,28) in [0,1]."""
    return decode_codes(model, encode_images(model, images, y), y)


def interpolate(start: torch.Tensor, end: torch.Tensor, steps: int = 11, *, spherical: bool = False) -> torch.Tensor:
    """Two codes (latent_dim,) → (steps,latent_dim) from one to the other, ends included.

    Args:
        spherical: along the arc instead of the straight line, which in many dimensions leaves the shell where a normal
            distribution has its mass (Shoemake 1985; White 2016).

    Raises:
        ValueError: fewer than two steps.
    """
    if steps < 2:
        raise ValueError(f"steps={steps} must be at least 2: both ends are among them")
    t = torch.linspace(0, 1, steps)[:, None]
    angle = torch.arccos(F.cosine_similarity(start, end, dim=0).clamp(-1, 1))
    if not spherical or angle.sin() < 1e-6:  # of one direction the arc is the line
        return start + t * (end - start)
    return (((1 - t) * angle).sin() * start + (t * angle).sin() * end) / angle.sin()


def traverse(z: torch.Tensor, unit: int, values: torch.Tensor) -> torch.Tensor:
    """A code (latent_dim,) → (n,latent_dim): the same code with one unit set to each of the n values."""
    codes = z.repeat(len(values), 1)
    codes[:, unit] = values
    return codes


def manifold(n: int, mass: float = 0.98) -> torch.Tensor:
    """(n²,2) codes on a grid that divides the middle `mass` of each axis of N(0, I) evenly; rows from top to bottom."""
    edge = (1 - mass) / 2
    at = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(edge, 1 - edge, n))
    return torch.cartesian_prod(at.flip(0), at).flip(1)


SAMPLERS = ("prior", "gaussian", "gaussian per class", "mixture")


def sample_codes(method: str, n: int, z: torch.Tensor, y: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """n codes (n,latent_dim) to decode into new images, drawn from what a method makes of the codes of known images.

    Args:
        method: "prior" is N(0, I) and looks at no code; "gaussian" one normal distribution with full covariance,
            "gaussian per class" one for each label; "mixture" a Gaussian mixture with 50 components.
        z, y: (N,latent_dim) codes and (N,) labels.

    Raises:
        ValueError: an unknown method, or n below 1.
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
        # matrices this small gain nothing from threads, which wait beside a busy process; and to draw from a mixture it
        # need not have converged
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
    """(n,latent_dim) standard normal codes, from a stream of their own."""
    generator = torch.Generator().manual_seed(stream_seed(seed, "sampling"))
    return torch.randn(n, latent_dim, generator=generator)


def covariance_root(z: torch.Tensor) -> torch.Tensor:
    """Codes (N,latent_dim) → L (latent_dim,latent_dim) with L·Lᵀ their covariance: L times a standard normal vector is
    distributed as they are. Sound for codes of any size, and where units depend on each other."""
    size = z.std().clamp_min(1e-12)
    covariance = (z / size).double().T.cov() + 1e-6 * torch.eye(z.shape[1], dtype=torch.float64)
    return (size * torch.linalg.cholesky(covariance)).float()


def project(z: torch.Tensor, method: str, seed: int = 0) -> np.ndarray:
    """Codes (N,latent_dim) → (N,2) by "pca", "tsne" or "umap".

    Distances between far groups mean little in t-SNE and UMAP: both keep neighbours, not geometry.

    Raises:
        ValueError: an unknown method.
    """
    codes = z.numpy()
    if method == "pca":
        from sklearn.decomposition import PCA

        return PCA(2, random_state=seed).fit_transform(codes)
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
    """Codes as tensor, array or lists, (N,latent_dim) or (latent_dim,) → (N,latent_dim), checked."""
    if not hasattr(model, "decode"):
        raise ValueError(f"a {type(model).__name__} decodes nothing: take an autoencoder or a VAE")
    codes = torch.atleast_2d(torch.as_tensor(z, dtype=torch.float32))
    if codes.ndim != 2 or codes.shape[1] != model.latent_dim or not codes.isfinite().all():
        raise ValueError(f"codes have shape {tuple(codes.shape)}, expected (N, {model.latent_dim}) of finite numbers")
    return codes


def invent(model: nn.Module, images: Callable[[], Split], n: int, method: str, seed: int = 0) -> torch.Tensor:
    """(n,latent_dim) random codes by one of SAMPLERS; all but "prior" are fitted to the codes of up to 5,000 images."""
    _check_sampler(method, n)  # before images are looked for and encoded
    if method == "prior":
        return sample_normal(n, model.latent_dim, seed)  # type: ignore[arg-type]
    train = images()
    split = subset(train, min(5000, len(train)))
    z = encode_images(model, split.images, split.labels)
    size = z.std()  # an autoencoder's codes may be of any size: fitted at unit size they are safe
    return size * sample_codes(method, n, z.double() / size, split.labels, seed)
