"""One small batch before the first epoch: does a kind of model of your own keep what `add_kind` asks of it?"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from labutils.config import Config
from labutils.data import Split, batches
from labutils.device import private_noise
from labutils.kinds import AUTOENCODER_MEASURES, KINDS
from labutils.models import build_model, image_shape
from labutils.objectives import Terms, build_objective

IMAGES = 8  # two would do for batch normalisation


def try_batch(config: Config, train: Split) -> None:
    """Put a few training images through the config's network and objective, made for this alone.

    A ValueError says which of the two breaks what `add_kind` asks of it, and how it has to be.
    """
    x, y = next(batches(train.take(torch.arange(min(IMAGES, len(train)))), IMAGES))
    with private_noise(config.seed, "trial", x.device):
        with _part(config, "network(config)", "return an nn.Module that learns"):
            model = build_model(config)
            _require(any(p.requires_grad for p in model.parameters()), "it has no parameters")
        wanted = 'return a function (model, x, y, progress) → dict of batch means, "loss" among them'
        with _part(config, "objective(config)", wanted):
            objective = build_objective(config)
            _check_terms(objective(model.train(), x, y, 0.0))["loss"].backward()
            _require(any(p.grad is not None for p in model.parameters()), "its loss reaches no parameter")
            with torch.no_grad():
                _check_terms(objective(model.eval(), x, y, 1.0))
        if KINDS[config.model].measures == AUTOENCODER_MEASURES:
            with torch.no_grad():
                _check_autoencoder(config, model, x, y)


@contextmanager
def _part(config: Config, name: str, wanted: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a reader's code raises
        problem = str(error) if isinstance(error, _Broken) else f"{type(error).__name__}: {error}"
        raise ValueError(f"model={config.model!r}, tried on a few images: {name} has to {wanted}; {problem}") from error


class _Broken(Exception):
    """What was asked for and is not so."""


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise _Broken(problem)


def _check_terms(terms: Terms) -> Terms:
    _require(isinstance(terms, dict) and "loss" in terms, f"it returned {_shown(terms)}")
    for name, term in terms.items():
        is_scalar = isinstance(term, torch.Tensor) and term.ndim == 0
        _require(is_scalar, f"{name!r} is {_shown(term)}, no tensor of a single number")
    _require(terms["loss"].requires_grad or not torch.is_grad_enabled(), "its loss has no gradient (was it detached?)")
    return terms


def _check_autoencoder(config: Config, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    """Check what the measures of an autoencoder, and everything that shows one, ask for."""
    code, images = (len(x), config.latent_dim), (len(x), *image_shape(config))
    with _part(config, "network.encode(x)", f"give codes of shape (B,latent_dim), here {code}"):
        z = model.encode(x)  # type: ignore[operator]
        _require(_shape(z) == code and getattr(model, "latent_dim", code[1]) == code[1], f"it gave {_shown(z)}")
    with _part(config, "network.decode(z, y=None)", f"give images of shape {images}"):
        for x_hat in (model.decode(z), model.decode(z, y)):  # type: ignore[operator]
            _require(_shape(x_hat) == images, f"it gave {_shown(x_hat)}")
    wanted = f"give images of shape {images} within [0, 1], or else the kind needs measures of its own"
    with _part(config, "network.forward(x, y=None)", wanted):
        for x_hat in (model(x), model(x, y)):
            _require(_shape(x_hat) == images, f"it gave {_shown(x_hat)}")
            low, high = float(x_hat.min()), float(x_hat.max())
            _require(low >= 0 and high <= 1, f"it gave pixels from {low:.3g} to {high:.3g}: is a sigmoid missing?")


def _shape(value: object) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def _shown(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a dict of {', '.join(map(str, value)) or 'nothing'}" if isinstance(value, dict) else type(value).__name__
