"""The kinds of model: for each its network, its objective, its measures and the fields of Config that it alone has."""

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

NONLINEAR = ("batch_norm", "activation", "negative_slope")
CONVOLUTIONS = ("filters", "depth", "residual", *NONLINEAR)
ELBO = ("beta", "beta_warmup", "free_bits", "binarise")


@dataclass(frozen=True)
class Kind:
    """A kind of model. Each part is a callable or its place, "module:name": a Config is made without loading torch.

    Attributes:
        network: Config → nn.Module.
        objective: Config → Objective (see objectives.py).
        measures: (model, config, data) → dict of the metrics that tell its quality.
        fields: fields of Config for this kind; one that no kind names belongs to all.
        labelled: whether it learns labels: `n_train` images are then drawn by the seed, balanced over the classes.
    """

    network: str | Callable[..., Any]
    objective: str | Callable[..., Any]
    measures: str | Callable[..., Any]
    fields: tuple[str, ...] = ()
    labelled: bool = False

    def part(self, name: str) -> Callable[..., Any]:
        """The callable that an attribute holds or names."""
        value = getattr(self, name)
        return resolve_name(value) if isinstance(value, str) else value


def _vae(network: str, *fields: str) -> Kind:
    return Kind(network, "labutils.objectives:elbo_objective", "labutils.metrics:vae_measures", (*fields, *ELBO))


KINDS = {
    "cae": Kind(
        network="labutils.models:conv_autoencoder",
        objective="labutils.objectives:reconstruction_objective",
        measures="labutils.metrics:autoencoder_measures",
        fields=(*CONVOLUTIONS, "loss"),
    ),
    "linear": Kind(
        network="labutils.models:linear_autoencoder",
        objective="labutils.objectives:reconstruction_objective",
        measures="labutils.metrics:autoencoder_measures",
        fields=("loss",),
    ),
    "mlp_vae": _vae("labutils.models:mlp_vae", "hidden", *NONLINEAR),
    "conv_vae": _vae("labutils.models:conv_vae", *CONVOLUTIONS),
    "conditional_vae": _vae("labutils.models:conditional_vae", *CONVOLUTIONS),
    "classifier": Kind(
        network="labutils.models:Classifier",
        objective="labutils.objectives:label_objective",
        measures="labutils.metrics:classifier_measures",
        fields=(*CONVOLUTIONS, "head", "dropout", "shift", "flip", "label_smoothing", "encoder", "encoder_lr"),
        labelled=True,
    ),
}


def has_field(model: str, field: str) -> bool:
    """Whether a kind of model has a field of Config."""
    return field in KINDS[model].fields or not any(field in kind.fields for kind in KINDS.values())
