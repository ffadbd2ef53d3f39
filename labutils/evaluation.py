"""Reference errors, and measures of codes and of generated images (those of every run: metrics.py)."""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from labutils.data import Dataset, Split, batches, subset, to_float
from labutils.device import cpu_threads, eval_mode, private_noise
from labutils.objectives import kl_to_standard_normal


class PCA(NamedTuple):
    """Principal components of images: their mean (784,) and the directions (k,784), the most variance first."""

    mean: torch.Tensor
    components: torch.Tensor

    def reconstruct(self, images: torch.Tensor, k: int) -> torch.Tensor:
        """Images (N,1,28,28) → their reconstructions from k components, what lies outside [0,1] cut off."""
        components = self.components[:k]
        centred = to_float(images).flatten(1) - self.mean
        return (self.mean + centred @ components.T @ components).clamp(0, 1).view(images.shape)


def fit_pca(images: torch.Tensor) -> PCA:
    """Return the principal components of images (N,1,28,28); N images span N − 1 directions around their mean."""
    from sklearn import decomposition  # only here: importing labutils stays quick

    # the covariance of large pictures' pixels costs minutes, where few pictures are a small matrix
    solver = "covariance_eigh" if len(images) >= images[0].numel() else "full"
    with np.errstate(invalid="ignore"):  # equal images have no variance to take shares of
        fit = decomposition.PCA(svd_solver=solver).fit(to_float(images).flatten(1).numpy())
    mean, components = (torch.as_tensor(a, dtype=torch.float32) for a in (fit.mean_, fit.components_))
    return PCA(mean, components[: len(images) - 1])


_pca: dict[tuple[str, int], PCA] = {}  # by checksum of the data set and number of training images
_errors: dict[tuple[str, int, int], float] = {}


def pca_of(data: Dataset, n_train: int | None = None) -> PCA:
    """Return the principal components of the training images, or of so many of them; computed once a process."""
    key = (data.checksum, n_train or len(data.train))
    if key not in _pca:
        with cpu_threads(1):  # the same bits in every process
            _pca[key] = fit_pca(subset(data.train, n_train).images)
    return _pca[key]


def pca_error(data: Dataset, k: int, n_train: int | None = None) -> float:
    """Return the test MSE per pixel of PCA with k components, see `PCA.reconstruct`; k = 0 is the mean image."""
    key = (data.checksum, n_train or len(data.train), k)
    if key not in _errors:
        with cpu_threads(1):
            x_hat = pca_of(data, n_train).reconstruct(data.test.images, k)
            _errors[key] = float(F.mse_loss(x_hat, to_float(data.test.images)))
    return _errors[key]


def references(data: Dataset, latent_dim: int, n_train: int | None = None) -> dict[str, float]:
    """Return reference test errors per pixel: pca_mse, of PCA with `latent_dim` components, and mean_image_mse."""
    return {"pca_mse": pca_error(data, latent_dim, n_train), "mean_image_mse": pca_error(data, 0, n_train)}


def probe(z: torch.Tensor, y: torch.Tensor, z_test: torch.Tensor, y_test: torch.Tensor) -> float:
    """Return a linear probe's test accuracy in [0,1]: logistic regression on standardised codes (N,d), labels (N,)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    return float(model.fit(z.numpy(), y.numpy()).score(z_test.numpy(), y_test.numpy()))


def knn(z: torch.Tensor, y: torch.Tensor, z_test: torch.Tensor, y_test: torch.Tensor, k: int = 5) -> float:
    """Return the test accuracy in [0,1] of a vote among the k nearest codes."""
    from sklearn.neighbors import KNeighborsClassifier

    return float(KNeighborsClassifier(k).fit(z.numpy(), y.numpy()).score(z_test.numpy(), y_test.numpy()))


def unit_kl(model: nn.Module, split: Split) -> np.ndarray:
    """Return (latent_dim,) KL in nats of each unit of a VAE, averaged over the images. A unit at zero is unused."""
    with eval_mode(model) as device:
        posteriors = (model.posterior(x, y) for x, y in batches(split.to(device), 1000))  # type: ignore[operator]
        return torch.cat([kl_to_standard_normal(*posterior) for posterior in posteriors]).mean(0).cpu().numpy()


def importance_nll(model: nn.Module, split: Split, k: int = 200, *, seed: int = 0, at_once: int = 500) -> np.ndarray:
    """Return (N,) −log p(x) of each image in nats, of a conditional_vae −log p(x|y), estimated with k codes from q(z|x)
    (Burda et al. 2016, eq. 8). On average it lies between the negative ELBO (k = 1) and the truth.

    Args:
        split: images with pixels 0 or 1; of grey ones the result compares models but is no likelihood.
        at_once: how many codes to decode together, at least k; more are slower: they leave the caches.
    """
    parts = []
    with eval_mode(model) as device, private_noise(seed, "importance", device):
        for x, y in batches(split.to(device), max(1, at_once // k)):
            mu, logvar = model.posterior(x, y)  # type: ignore[operator]
            noise = torch.randn(k, *mu.shape, device=device)
            z = mu + (0.5 * logvar).exp() * noise  # (k,B,latent_dim)
            logits = model.decode_logits(z.flatten(0, 1), y.repeat(k)).view(k, *x.shape)  # type: ignore[operator]
            bce = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").flatten(2).sum(2)
            # log p(z) − log q(z|x): the constants of the two normal densities cancel
            log_ratio = 0.5 * (noise.square() + logvar - z.square()).sum(2)
            parts.append(math.log(k) - torch.logsumexp(log_ratio - bce, dim=0))
    return torch.cat(parts).cpu().numpy()


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Fréchet distance of normal distributions fitted to features (N,d) and (M,d) (Heusel et al. 2017). It
    is biased upwards, less with more samples: compare equal sizes only, and with that of real from real images."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # the trace of the product's square root; in exact arithmetic its eigenvalues are real and not negative
    mixed = np.sqrt(np.maximum(np.linalg.eigvals(cov_a @ cov_b).real, 0)).sum()
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * mixed)


def confidence(classifier: nn.Module, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return a classifier's labels (N,) for images (N,1,28,28) and its confidence in each, (N,) in [0,1]."""
    with eval_mode(classifier) as device:
        logits = torch.cat([classifier(to_float(x.to(device))).cpu() for x in images.split(1000)])
    sure, label = logits.softmax(1).max(1)
    return label.numpy(), sure.numpy()


def nearest(images: torch.Tensor, among: torch.Tensor) -> np.ndarray:
    """Return (N,) for each of `images` (N,1,28,28) the index of the nearest in `among` (M,1,28,28) by squared error."""
    queries = to_float(images).flatten(1)
    distances = [torch.cdist(queries, to_float(part).flatten(1)) for part in among.split(10_000)]
    return torch.cat(distances, dim=1).argmin(1).numpy()
