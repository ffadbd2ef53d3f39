"""Codes of images: encode and decode whole sets, interpolate, project to two dimensions, sample."""

import numpy as np
import torch
from torch import nn

from labutils.config import stream_seed
from labutils.data import to_float
from labutils.models import inference


def encode_images(model: nn.Module, images: torch.Tensor, batch_size: int = 1000) -> torch.Tensor:
    """images (N,1,28,28), uint8 or floats in [0,1] → codes (N,latent_dim)."""
    with inference(model) as device:
        return torch.cat([model.encode(to_float(x.to(device))).cpu() for x in images.split(batch_size)])  # type: ignore[operator]


def decode_codes(model: nn.Module, z: torch.Tensor, batch_size: int = 1000) -> torch.Tensor:
    """codes (N,latent_dim) → images (N,1,28,28), floats in [0,1]."""
    with inference(model) as device:
        return torch.cat([model.decode(part.to(device)).cpu() for part in z.split(batch_size)])  # type: ignore[operator]


def reconstruct(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """images (N,1,28,28) → their reconstructions (N,1,28,28), floats in [0,1]."""
    return decode_codes(model, encode_images(model, images))


def interpolate(start: torch.Tensor, end: torch.Tensor, steps: int = 11) -> torch.Tensor:
    """Two codes (latent_dim,) → (steps,latent_dim) on the straight line between them, ends included."""
    return start + torch.linspace(0, 1, steps)[:, None] * (end - start)


def sample_normal(n: int, latent_dim: int, seed: int = 0) -> torch.Tensor:
    """(n,latent_dim) standard normal codes, from a stream of their own."""
    generator = torch.Generator().manual_seed(stream_seed(seed, "sampling"))
    return torch.randn(n, latent_dim, generator=generator)


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
        from umap import UMAP  # only here: it takes seconds to import

        return UMAP(n_neighbors=min(15, len(codes) - 1), random_state=seed, n_jobs=1).fit_transform(codes)
    raise ValueError(f"method={method!r} must be one of pca, tsne, umap")
