"""One small batch before the first epoch: does a kind of model of your own keep what `add_kind` asks of it?"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from labutils.config import Config
from labutils.data import Split, batches, rank_in_class
from labutils.device import eval_mode, private_noise, resolve_device, resolve_precision
from labutils.kinds import AUTOENCODER_MEASURES, KINDS
from labutils.models import build_model, image_shape
from labutils.objectives import Terms, build_objective, reconstruction_objective

IMAGES = 8  # or two of each class, if that is more: a loss may compare them


def try_batch(config: Config, train: Split) -> None:
    """Put a few training images through the config's network and objective, made for this alone, as `fit` and the
    measures will: on the config's device, in its precision.

    A ValueError says what breaks what `add_kind` asks for, and how it has to be. One image alone is not tried: whether
    it can train a network, `fit` says.
    """
    n = min(len(train), config.batch_size, max(IMAGES, 2 * config.classes))
    if n < 2:
        return
    device = resolve_device(config.device)
    few = train.take((rank_in_class(train.labels) // 2).argsort(stable=True)[:n]).to(device)  # two of each class
    bfloat16 = resolve_precision(config.precision, device) == "bfloat16"
    with private_noise(config.seed, "trial", device):
        with _part(config, "network(config) has to return an nn.Module"):
            model = build_model(config).to(device)
            _require(any(p.requires_grad for p in model.parameters()), "it has no parameters")
        if KINDS[config.model].measures == AUTOENCODER_MEASURES:  # first: a loss stumbles over the same
            with eval_mode(model):
                _check_autoencoder(config, model, *next(batches(few, n)))
        with _part(config, "objective(config) has to return a function (model, x, y, progress)"):
            objective = build_objective(config)
            _require(callable(objective), f"it returned {_shown(objective)}")
        with _part(config, 'the objective has to return a dict of batch means, "loss" among them'):
            model.train()
            x, y = next(batches(few, n))
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                terms = _checked(objective(model, x, y, 0.0))
            _require(terms["loss"].requires_grad, "its loss has no gradient (was it detached?)")
            terms["loss"].backward()
            _require(any(p.grad is not None for p in model.parameters()), "its loss reaches no parameter")
        with eval_mode(model):
            x, y = next(batches(few, n))
            with _part(config, "in evaluation, without gradients, the objective has to return the same terms"):
                _checked(objective(model, x, y, 1.0))


@contextmanager
def _part(config: Config, wanted: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a reader's code raises
        problem = str(error) if isinstance(error, _Broken) else f"{type(error).__name__}: {error}"
        raise ValueError(f"model={config.model!r}, tried on a few images: {wanted}; {problem}") from error


class _Broken(Exception):
    """What was asked for and is not so."""


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise _Broken(problem)


def _checked(terms: Terms) -> Terms:
    _require(isinstance(terms, dict) and "loss" in terms, f"it returned {_shown(terms)}")
    for name, term in terms.items():
        is_scalar = isinstance(term, torch.Tensor) and term.ndim == 0
        _require(is_scalar, f"{name!r} is {_shown(term)}, no tensor of a single number")
    return terms


def _check_autoencoder(config: Config, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    """Check what the measures of an autoencoder, and everything that shows one, ask for."""
    code, images = (len(x), config.latent_dim), (len(x), *image_shape(config))
    with _part(config, f"network.latent_dim has to be the config's, {config.latent_dim}"):
        _require(bool(model.latent_dim == config.latent_dim), f"it is {model.latent_dim}")
    with _part(config, f"network.encode(x) has to give codes of shape (B,latent_dim), here {code}"):
        z = model.encode(x)  # type: ignore[operator]
        _require(_shape(z) == code, f"it gave {_shown(z)}")
    with _part(config, f"network.decode(z, y=None) has to give images of shape {images}"):
        for x_hat in (model.decode(z), model.decode(z, y)):  # type: ignore[operator]
            _require(_shape(x_hat) == images, f"it gave {_shown(x_hat)}")
    wanted = f"network.forward(x, y=None) has to give images of shape {images} within [0, 1]"
    with _part(config, f"{wanted}, or else the kind needs measures of its own"):
        for x_hat in (model(x), model(x, y)):
            _require(_shape(x_hat) == images, f"it gave {_shown(x_hat)}")
            _require(bool(x_hat.isfinite().all()), "it gave pixels that are not finite")
            low, high = float(x_hat.min()), float(x_hat.max())
            _require(low >= 0 and high <= 1, f"it gave pixels from {low:.3g} to {high:.3g}: is a sigmoid missing?")
    with _part(config, f"the measures compute the config's loss={config.loss!r}"):
        _checked(reconstruction_objective(config)(model, x, y, 1.0))


def _shape(value: object) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def _shown(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a dict of {', '.join(map(str, value)) or 'nothing'}" if isinstance(value, dict) else type(value).__name__
