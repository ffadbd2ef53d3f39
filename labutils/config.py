"""Config: one frozen description of a run, and the named recipes."""

import hashlib
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields, make_dataclass
from difflib import get_close_matches
from functools import cache, partial
from pathlib import PurePath
from typing import Any

import numpy as np

from labutils.kinds import AUTOENCODER_MEASURES, BUILT_IN, COLUMNS, KINDS, Kind, OwnField, has_field

IMAGE_SIZE = 28
ACTIVATIONS = ("relu", "leaky_relu", "silu", "gelu", "elu", "tanh")
SCHEDULES = ("one_cycle", "constant")
INITIALISATIONS = ("auto", "he", "torch")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "bfloat16")


def option(default: Any, help: str, *, choices: Collection[Any] = (), low: float = -math.inf, high: float = math.inf,
           above: float = -math.inf, neutral: Any = None) -> Any:  # fmt: skip
    """A Config field with its meaning and its allowed values: `choices`, or low <= value <= high and value > above.

    Args:
        neutral: of a field that Config got later, the value that runs had before it: they keep their names.
    """
    return field(default=default, metadata={"help": help, "choices": choices, "low": low, "high": high, "above": above,
                                            "neutral": neutral})  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Everything that decides a run's result. Frozen: `dataclasses.replace(BASELINE, latent_dim=2)` makes a variant.

    A field that a kind of model does not have (see kinds.py) keeps its default.

    Raises:
        ValueError: a field is outside its allowed values; the message names the field, the value and the range.
    """

    # images and kind of model
    dataset: str = option("mnist", "which images: mnist, fashion_mnist, mnist5k, digits or your own, see load_dataset")
    image_size: int = option(IMAGE_SIZE, "height and width that a folder's pictures are framed to; others have their "
                             "own", low=8, high=64, neutral=IMAGE_SIZE)  # fmt: skip
    channels: int = option(1, "1 makes a folder's pictures grey, 3 keeps red, green and blue; others have their own",
                           choices=(1, 3), neutral=1)  # fmt: skip
    classes: int = option(10, "number of classes, always that of the images", low=1, high=1000, neutral=10)
    model: str = option(
        "cae", "autoencoder: convolutional (cae) or linear; variational ones; or a classifier", choices=KINDS
    )
    # network
    filters: tuple[int, ...] = option((32, 32, 64), "width of each convolution, first to last", low=1, high=4096)
    depth: int = option(3, "how many of the convolutions halve the resolution; the others keep it", low=1, high=4)
    latent_dim: int = option(32, "number of units in the code z", low=1, high=4096)
    residual: bool = option(False, "a residual block after every convolution but the last")
    hidden: int = option(512, "units in the hidden layer of mlp_vae's encoder, and decoder", low=1, high=65_536)
    batch_norm: bool = option(False, "batch normalisation after every convolution but the last")
    activation: str = option("relu", "non-linearity after every convolution but the last", choices=ACTIVATIONS)
    negative_slope: float = option(0.1, "slope of leaky_relu below zero", low=0, high=1)
    initialisation: str = option("auto", "first weights: he (scaled for ReLU), torch (its default); auto: torch with "
                                 "batch norm, he without", choices=INITIALISATIONS, neutral="auto")  # fmt: skip
    # a classifier's
    head: int = option(0, "units of a hidden layer between a classifier's code and output; 0: none", low=0, high=65_536)
    dropout: float = option(0.0, "share of the units below a classifier's output that it does not see", low=0, high=0.9)
    shift: int = option(0, "pixels by which a classifier's training images move at random", low=0, high=IMAGE_SIZE)
    flip: bool = option(False, "a classifier's training images are mirrored at random")
    label_smoothing: float = option(0.0, "share of a label that is spread over all classes", low=0, high=0.9)
    encoder: str = option("", "stored run whose encoder a classifier starts from")
    encoder_lr: float = option(1.0, "factor of lr for a classifier's encoder; 0 freezes it", low=0, high=100)
    # objective
    loss: str = option("mse", "an autoencoder's: squared error or binary cross-entropy", choices=("mse", "bce"))
    beta: float = option(1.0, "weight of a VAE's KL term; 1 is the ELBO", low=0, high=1000)
    beta_warmup: float = option(0.0, "share of the steps in which beta rises from 0 to its value", low=0, high=1)
    free_bits: float = option(0.0, "nats of KL that each latent unit has for free", low=0, high=100)
    binarise: bool = option(False, "draw a VAE's pixels as 0 or 1 each time; the grey value is the probability of 1")
    # optimisation
    epochs: int = option(3, "passes over the training images", low=1, high=100_000)
    batch_size: int = option(64, "images in one gradient step", low=1, high=1_000_000)
    lr: float = option(1e-2, "learning rate; with one_cycle the peak", above=0, high=100)
    schedule: str = option("one_cycle", "one_cycle: linear rise in a tenth of the steps, then to 0", choices=SCHEDULES)
    optimizer: str = option("adamw", "gradient method; sgd has momentum 0.9", choices=("adamw", "adam", "sgd", "muon"))
    beta2: float = option(0.99, "decay of the running squared gradient of adam and adamw, also where muon leaves "
                          "parameters to adamw", low=0, high=0.999999)  # fmt: skip
    weight_decay: float = option(0.0, "adamw, muon: a step multiplies all parameters by 1 − lr · this; adam, sgd: an "
                                 "L2 term", low=0, high=100)  # fmt: skip
    n_train: int | None = option(None, "train on so many images, evenly spaced (a classifier's: drawn by the seed, as "
                                 "many of each class); none means all", low=1, high=10_000_000)  # fmt: skip
    seed: int = option(0, "decides initialisation, shuffling and noise, a separate stream each", low=0, high=2**31)
    # where it runs: decides the last bits of a result
    device: str = option("auto", "where to compute; auto takes cuda, then mps, then cpu", choices=DEVICES)
    precision: str = option("auto", "auto: bfloat16 on CUDA cards that have it, else float32", choices=PRECISIONS)
    threads: int = option(1, "threads of the processor", low=1, high=1024, neutral=1)  # in a sweep one each is quickest

    def __post_init__(self) -> None:
        if self.model in KINDS and type(self) is not (wanted := config_class(self.model)):
            raise ValueError(f"model={self.model!r} has other fields: make its configs by {wanted.__name__}(…)")
        for f in fields(self):
            value = _checked(f, getattr(self, f.name))
            if value != f.default and not has_field(self.model, f.name):
                raise ValueError(f"{f.name}={value!r} means nothing to model={self.model!r}: leave it at {f.default!r}")
            object.__setattr__(self, f.name, value)
        if self.depth > len(self.filters):
            raise ValueError(f"depth={self.depth} exceeds the number of convolutions in filters={self.filters}")
        if self.encoder_lr == 0 and (self.shift or self.flip):
            moves = f"shift={self.shift}, flip={self.flip}"
            raise ValueError(f"encoder_lr=0 freezes the encoder, which sees no {moves}: leave them at 0 and False")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict, a key for every field."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"filters": list(self.filters)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """The inverse of `to_dict`; a field that Config got later may be missing. Another that is missing, one that is
        unknown, or a value out of range is a ValueError."""
        cls, values = config_class(values.get("model", "")), {**NEUTRAL, **values}
        names = {f.name for f in fields(cls)}
        unknown, missing = sorted(set(values) - names), sorted(names - set(values))
        if unknown or missing:
            wrong = f"unknown fields {unknown}, missing fields {missing}"
            raise ValueError(f"this is no Config of today's labutils: {wrong}")
        return cls(**values)


NEUTRAL = {f.name: f.metadata["neutral"] for f in fields(Config) if f.metadata["neutral"] is not None}


def _checked(f: Field, value: Any) -> Any:
    """`value` as the field's plain Python type, or one ValueError that names the field and what it may be."""
    if f.name == "filters":
        if not isinstance(value, (tuple, list)) or not value:
            raise ValueError(f"filters={value!r} must be a sequence of widths such as (32, 32, 64)")
        return tuple(_number(f, width, int) for width in value)
    if value is None and f.default is None:
        return None
    if f.metadata["choices"]:
        if value not in f.metadata["choices"]:
            raise ValueError(f"{f.name}={value!r} must be one of {', '.join(map(str, f.metadata['choices']))}")
        return (
            int(value) if isinstance(f.default, int) else str(value)
        )  # a numpy string, too, is stored and hashed as text
    if f.name == "dataset":
        if not isinstance(value, (str, PurePath)) or not str(value):
            raise ValueError(f"{f.name}={value!r} must be the name of a data set, or the path of your own")
        return str(value)
    if isinstance(f.default, bool):
        if value not in (False, True):
            raise ValueError(f"{f.name}={value!r} must be True or False")
        return bool(value)
    if isinstance(f.default, str):
        if not isinstance(value, str):
            raise ValueError(f"{f.name}={value!r} must be a text")
        if f.name == "encoder" and not re.fullmatch("([0-9a-f]{16})?", value):
            raise ValueError(f"{f.name}={value!r} must be the name of a stored run, 16 hexadecimal digits, or empty")
        return str(value)
    return _number(f, value, float if isinstance(f.default, float) else int)


def _number(f: Field, value: Any, kind: type) -> Any:
    low, high, above = f.metadata["low"], f.metadata["high"], f.metadata["above"]
    try:
        number = None if isinstance(value, (str, bool, np.bool_)) else kind(value)
        allowed = number is not None and number == value and low <= number <= high and number > above
    except (TypeError, ValueError, OverflowError):
        allowed = False  # unproved: leads to an error
    if not allowed:
        noun = "an integer" if kind is int else "a number"
        lower = f"above {above:,}" if above > -math.inf else f"from {low:,}"
        raise ValueError(f"{f.name}={value!r} must be {noun} {lower} to {high:,}")
    return number


def config_class(model: str) -> type[Config]:
    """The class of a kind's configs: Config, or for a kind of your own with more fields the one made from them."""
    own = KINDS[model].own if model in KINDS else ()
    return _class_with(model, own) if own else Config


def field_names(models: Iterable[str]) -> list[str]:
    """The names of Config's fields, and then of those that these kinds of model have of their own."""
    kinds = map(config_class, ("", *models))  # unproved: tables are made of runs, not runs of tables
    return list(dict.fromkeys(f.name for kind in kinds for f in fields(kind)))  # unproved: nor this


@cache
def _class_with(model: str, own: tuple[OwnField, ...]) -> type[Config]:
    more = [(f.name, type(f.default), field(default=f.default, metadata=dict(f.metadata))) for f in own]
    return make_dataclass(model, more, bases=(Config,), frozen=True)


def add_kind(
    name: str,
    network: Callable[[Any], Any],
    objective: Callable[[Any], Any],
    *,
    measures: Callable[..., dict[str, float]] | None = None,
    fields: Collection[str] = (),
    own: Mapping[str, Any] | None = None,
    labelled: bool = False,
) -> Callable[..., Any]:
    """Define a kind of model, or define it anew, and return what makes its configs: a function that takes the fields of
    Config and the kind's own.

        Noisy = add_kind("noisy", network, objective, fields=CONVOLUTIONS, own={"noise": option(0.3, "its strength")})
        ablate("noise", [0.0, 0.3, 1.0], base=Noisy(dataset="digits", latent_dim=8))

    Runs are stored under the source of these functions and of all that they use outside of installed packages: after an
    edit they are made anew. Processes and clusters get the definition with each run. One batch is tried before the
    first epoch: what is not as asked for below is a ValueError that names it.

    Args:
        network: config → nn.Module with forward(x, y=None) → x_hat, encode(x) → z (B,config.latent_dim),
            decode(z, y=None) → x_hat, and the attribute latent_dim; models.Autoencoder(config, encoder, decoder) makes
            one of two modules, whose layers get new first weights by config.initialisation, and it alone goes into an
            exported page. x is (B,config.channels,config.image_size,config.image_size) in [0,1], and so has x_hat to
            be. Other shapes need measures of their own.
        objective: config → function (model, x, y, progress) → dict of batch means, of which "loss" is minimised.
        measures: (model, config, data) → dict of metrics, a number each; None takes metrics.autoencoder_measures.
        fields: fields of Config that network and objective read, such as those in kinds.CONVOLUTIONS; what all kinds
            have (latent_dim, epochs, lr, …) need not be named.
        own: further fields, each an `option`.
        labelled: whether it learns labels.

    A name that is taken, also by a column of tables (kinds.COLUMNS), or no identifier, or a field that is none, is a
    ValueError.
    """
    known = Config.__dataclass_fields__
    if not name.isidentifier() or name in BUILT_IN:
        raise ValueError(f"{name!r} must be a name of letters, digits and _ other than {', '.join(BUILT_IN)}")
    if wrong := [f for f in fields if f not in known]:
        raise ValueError(f"fields={wrong} are none of Config: name those of your own in own={{…}}")
    taken = {*known, *COLUMNS}
    if wrong := [f for f, value in (own or {}).items() if f in taken or not f.isidentifier() or not _is_option(value)]:
        raise ValueError(
            f"own={wrong} must be new names, no field of Config and no column of a table such as scale, "
            "each with an option(default, its meaning), the default a number, a text, True or False"
        )
    own_fields = tuple(OwnField(f, value.default, tuple(value.metadata.items())) for f, value in (own or {}).items())
    KINDS[name] = Kind(network, objective, measures or AUTOENCODER_MEASURES, tuple(fields), labelled, own_fields)
    return partial(_config_of_kind, name, config_class(name))


def _config_of_kind(  # unproved: what it makes is named by its fields
    model: str, cls: type[Config], **values: Any
) -> Config:
    if wrong := [name for name in values if name not in cls.__dataclass_fields__]:
        near = get_close_matches(wrong[0], cls.__dataclass_fields__)
        hint = (
            f"did you mean {' or '.join(near)}?" if near else f"whose fields are {', '.join(cls.__dataclass_fields__)}"
        )
        raise ValueError(f"{wrong[0]!r} is no field of model={model!r}, {hint}")
    return cls(**{"model": model, **values})


def _is_option(value: Any) -> bool:
    return isinstance(value, Field) and "help" in value.metadata and isinstance(value.default, (bool, int, float, str))


BASELINE = Config()  # the fixed point of the series: every ablation changes exactly one of its fields
# The smallest useful size with the best recipe on validation.
COMPACT = Config(filters=(16, 32, 64), latent_dim=12, batch_norm=True, activation="silu", optimizer="muon", lr=5e-2,
                 batch_size=128, epochs=10)  # fmt: skip
# The combination that the one-factor ablations suggest.
TRADEOFF = Config(filters=(16, 32, 32), depth=2, latent_dim=16, activation="leaky_relu", batch_norm=True)
# Variational autoencoders with the best recipes on validation: the widespread 784-512-32, and convolutions.
MLP_VAE = Config(model="mlp_vae", activation="silu", lr=1.6e-2, batch_size=256, epochs=7)
CONV_VAE = Config(model="conv_vae", filters=(16, 32, 64), residual=True, batch_norm=True, activation="silu",
                  optimizer="muon", lr=2e-2, batch_size=128, epochs=7)  # fmt: skip
# A classifier of digits with the best recipe on validation for its few seconds.
CLASSIFIER = Config(model="classifier", filters=(16, 32, 64), batch_norm=True, activation="silu", optimizer="muon",
                    lr=2e-2, batch_size=128, epochs=2, label_smoothing=0.05)  # fmt: skip


def stream_seed(seed: int, purpose: str) -> int:
    """The seed of one random stream of a run: initialisation, shuffling and noise never share a generator."""
    return int.from_bytes(hashlib.sha256(f"{purpose} {seed}".encode()).digest()[:7])
