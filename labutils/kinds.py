"""The kinds of model: for each its network, its objective, its measures and the fields of Config that it alone has."""

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, NamedTuple

NONLINEAR = ("batch_norm", "activation", "negative_slope")
CONVOLUTIONS = ("filters", "depth", "residual", *NONLINEAR)
AUTOENCODER_MEASURES = "labutils.metrics:autoencoder_measures"
ELBO = ("beta", "beta_warmup", "free_bits", "binarise")


class OwnField(NamedTuple):
    """A field that only a kind of your own has: name, default, and the items of `config.option`'s metadata."""

    name: str
    default: Any
    metadata: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Kind:
    """A kind of model. Each part is a callable or its place, "module:name": a Config is made without loading torch.

    Attributes:
        network: Config → nn.Module.
        objective: Config → Objective (see objectives.py).
        measures: (model, config, data) → dict of the metrics that tell its quality.
        fields: fields of Config for this kind; one that no built-in kind names belongs to all.
        labelled: whether it learns labels: `n_train` images are then drawn by the seed, balanced over the classes.
        own: fields that Config itself lacks, of a kind of your own.
        source: in a worker, what `store.source.source_of` gave where the kind is defined.
    """

    network: str | Callable[..., Any]
    objective: str | Callable[..., Any]
    measures: str | Callable[..., Any]
    fields: tuple[str, ...] = ()
    labelled: bool = False
    own: tuple[OwnField, ...] = ()
    source: str = ""

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
        measures=AUTOENCODER_MEASURES,
        fields=(*CONVOLUTIONS, "loss"),
    ),
    "linear": Kind(
        network="labutils.models:linear_autoencoder",
        objective="labutils.objectives:reconstruction_objective",
        measures=AUTOENCODER_MEASURES,
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


BUILT_IN = tuple(KINDS)
# columns that a table of runs, of their means or comparisons, or a list of the store has beside the fields of Config
COLUMNS = ("scale", "platform", "python", "torch", "numpy", "run", "error", "arm", "best", "pca_mse", "mean_image_mse",
           "test_mse", "val_mse", "train_mse", "test_bce", "psnr", "ssim", "test_neg_elbo", "val_neg_elbo", "test_kl",
           "test_bce_sampled", "test_mse_sampled", "test_active_units", "test_accuracy", "val_accuracy",
           "train_accuracy", "test_nll", "val_nll", "train_nll", "n_params", "macs", "latency_ms", "batch_latency_ms",
           "code_bytes", "seconds", "images_per_second", "mean", "std", "low", "high", "n", "ratio", "ratio_low",
           "ratio_high", "verdict", "name", "state", "bytes", "days", "result", "note")  # fmt: skip
_OF_SOME = frozenset(field for kind in KINDS.values() for field in kind.fields)


def has_field(model: str, field: str) -> bool:
    """Whether a kind of model has a field of Config."""
    return field in KINDS[model].fields or field not in _OF_SOME
