"""Space: a model and the codes of real images. Sliders, panels, maps and pages are made of one."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from labutils.codes import encode_images, sample_any_scale, sample_normal
from labutils.config import Config
from labutils.data import Dataset, Split, data_of, is_pinned, subset, to_float
from labutils.device import eval_mode
from labutils.evaluation import unit_kl
from labutils.pictures import as_images
from labutils.runs import Run, load_run

Model = Run | nn.Module | str | Path  # what a latent space can be made of
RANDOM = ("prior", "uniform", "gaussian", "mixture", "of a class")
POOL = 256  # codes drawn at once: a mixture takes a second to fit


@dataclass(frozen=True)
class Space:
    """A model, a data set, and the codes of some of its training images.

    Attributes:
        train: training images and labels; z (N,latent_dim) their codes.
        low, high: (latent_dim,) the range of each unit, the middle 99 % of the codes.
        importance: (latent_dim,) KL in nats of a VAE's units, of other models' the variance of the codes.
        order: the units, most important first.
        measure: what importance is, for labels.
    """

    name: str
    model: nn.Module
    data: Dataset
    train: Split
    z: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    importance: np.ndarray
    order: tuple[int, ...]
    measure: str
    _pools: dict[tuple[str, int | None], torch.Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes, by label; "picture" alone where there are none."""
        return self.data.class_names

    def images(self, source: object) -> torch.Tensor:
        """Return images as the model knows them of pictures or arrays, see `Run.images`."""
        data = self.data
        return as_images(source, data.image_size, data.channels, whole=not is_pinned(data.name))

    @property
    def latent_dim(self) -> int:
        return self.z.shape[1]

    @property
    def conditional(self) -> bool:
        """Whether the decoder reads a label."""
        return getattr(self.model, "conditional", False)

    def decode(self, z: torch.Tensor, y: int | torch.Tensor | None = None) -> torch.Tensor:
        """Return images (N,1,28,28) in [0,1] of codes (N,latent_dim) and one label or (N,), which only a
        conditional_vae reads."""
        device = next(self.model.parameters()).device
        labels = None if y is None or not self.conditional else torch.as_tensor(y, device=device).expand(len(z))
        # setting the mode of every layer takes as long as decoding one code
        with eval_mode(self.model) if self.model.training else torch.inference_mode():
            return self.model.decode(z.to(device), labels).cpu()  # type: ignore[operator]

    def encode(self, images: torch.Tensor, y: int | torch.Tensor | None = None) -> torch.Tensor:
        """Return codes (N,latent_dim) of images (N,1,28,28) and labels as in `decode`."""
        return encode_images(self.model, images, y)

    @cached_property
    def test_z(self) -> torch.Tensor:
        """(N,latent_dim) codes of the test images."""
        return encode_images(self.model, self.data.test.images, self.data.test.labels)

    def mean_code(self, label: int) -> torch.Tensor:
        """Return the mean code (latent_dim,) of a class."""
        return self.z[self.train.labels == label].mean(0)

    def pool(self, method: str, label: int = 0) -> torch.Tensor:
        """Return (POOL,latent_dim) random codes, fitted once: "prior" N(0, I); "uniform" within the units' ranges;
        "gaussian" or "mixture" fitted to the training codes; "of a class" a Gaussian fitted to those with the label."""
        key = method, label if method == "of a class" else None
        if key not in self._pools:
            self._pools[key] = self._sampled(*key)
        return self._pools[key]

    def _sampled(self, method: str, label: int | None) -> torch.Tensor:
        if method == "prior":
            return sample_normal(POOL, self.latent_dim)
        if method == "uniform":
            share = torch.rand(POOL, self.latent_dim, generator=torch.Generator().manual_seed(0))
            return self.low + share * (self.high - self.low)
        chosen = slice(None) if label is None else self.train.labels == label
        sampler = "gaussian" if method == "of a class" else method
        return sample_any_scale(sampler, POOL, self.z[chosen], self.train.labels[chosen])

    def nearest(self, images: torch.Tensor, k: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the indices and squared errors per pixel, (M,k) each, of the k training images (or all, if
        fewer) nearest to each of `images` (M,1,28,28)."""
        x = to_float(images).flatten(1)
        distances = torch.cdist(x, self._pixels, compute_mode="use_mm_for_euclid_dist")
        nearest = distances.topk(min(k, len(self._pixels)), largest=False)
        return nearest.indices, nearest.values.square() / x.shape[1]

    @cached_property
    def _pixels(self) -> torch.Tensor:
        return to_float(self.train.images).flatten(1)

    def error_rank(self, error: float) -> float:
        """Return the share in [0,1] of test images that lie nearer to a training image than `error`."""
        return float((self._usual_errors < error).float().mean())

    @cached_property
    def _usual_errors(self) -> torch.Tensor:
        return self.nearest(subset(self.data.test, min(200, len(self.data.test))).images, 1)[1]

    def code_rank(self, z: torch.Tensor) -> float:
        """Return the share in [0,1] of training codes nearer to their mean than z (latent_dim,), by the Mahalanobis
        distance over the units that vary: the decoder ignores the others."""
        awake, mean, root, distances = self._spread
        distance = torch.linalg.solve_triangular(root, (z[awake].double() - mean)[:, None], upper=False).norm()
        return float((distances < distance).float().mean())

    @cached_property
    def _spread(self) -> tuple[torch.Tensor, ...]:
        variance = self.z.var(0)
        awake = variance > 0.01 * variance.max()
        codes, mean = self.z[:, awake].double(), self.z[:, awake].double().mean(0)
        covariance = torch.atleast_2d(codes.T.cov())
        root = torch.linalg.cholesky(covariance + 1e-4 * covariance.diagonal().mean() * torch.eye(len(mean)))
        return awake, mean, root, torch.linalg.solve_triangular(root, (codes - mean).T, upper=False).norm(dim=0)


def latent_space(model: Model | Space, data: Dataset | None = None, n: int = 5000) -> Space:
    """Return the Space of a model; one that decodes nothing (a classifier) is a ValueError.

    Args:
        model: a Run, a name or path that `load_run` takes, or a model (then `data` is needed); a Space is returned.
        data: the images; None means the data set that the run was trained on.
        n: how many training images to encode, evenly spaced.
    """
    if isinstance(model, Space):
        return model
    name, network, config = named_model(model)
    if not hasattr(network, "decode"):
        raise ValueError(f"a {type(network).__name__} decodes nothing: take an autoencoder or a VAE")
    if data is None:
        if config is None:
            raise ValueError("a model alone does not say which images it knows: pass data=load_dataset(…)")
        data = data_of(config)
    train = subset(data.train, min(n, len(data.train)))
    z = encode_images(network, train.images, train.labels)
    low, high = torch.quantile(z, torch.tensor([0.005, 0.995]), dim=0)
    # a unit that hardly varies gets a wider slider: that it changes nothing should be seen
    missing = (0.1 * (high - low).max() - (high - low)).clamp_min(0) / 2
    variational = hasattr(network, "posterior")
    importance = unit_kl(network, train) if variational else z.var(0).numpy()
    order = tuple(int(unit) for unit in np.argsort(-importance))
    measure = "KL in nats" if variational else "variance"
    return Space(name, network, data, train, z, low - missing, high + missing, importance, order, measure)


def classifier_for(space: Space, classifier: Model | None) -> nn.Module | None:
    """Return the network of a classifier of a space's images, tried on one of them; None for None. One that decodes,
    that takes other images, or that tells other classes is a ValueError."""
    if classifier is None:
        return None
    name, network, _ = named_model(classifier)
    if hasattr(network, "decode"):
        raise ValueError(f"classifier={name!r} decodes codes and tells no classes: name a classifier")
    x = to_float(space.train.images[:1])
    try:
        with eval_mode(network) as device:
            logits = network(x.to(device))
    except RuntimeError as error:
        wrong = f"classifier={name!r} takes other images than those of {space.name}, {tuple(x[0].shape)}"
        raise ValueError(f"{wrong}: train one on {space.data.name}, or leave it out") from error
    classes = logits.shape[1] if getattr(logits, "ndim", 0) == 2 else 0
    if classes != len(space.data.classes):
        wrong = f"classifier={name!r} tells {classes} classes, and {space.data.name} has {len(space.data.classes)}"
        raise ValueError(f"{wrong}: train one on it, or leave it out")
    return network


def named_model(model: Model) -> tuple[str, nn.Module, Config | None]:
    """Return a name to show, the model, and the config it was made from, if known."""
    if isinstance(model, nn.Module):
        return type(model).__name__, model, None
    run = load_run(model) if isinstance(model, (str, Path)) else model
    return run.name, run.model, run.config
