"""Config: what it refuses, what it coerces, and that it survives JSON."""

import json
import tempfile
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labutils import config, paths
from labutils.config import BASELINE, COMPACT, TRADEOFF, Config
from labutils.kinds import KINDS, has_field

OPTIONS = {f.name: f for f in fields(Config)}

BAD = [
    ("dataset", ""), ("dataset", None), ("dataset", 5), ("image_size", 7), ("image_size", 65), ("image_size", "28"),
    ("channels", 2), ("channels", None), ("classes", 0), ("classes", 1001), ("model", "vae"), ("activation", "swish"),
    ("activation", ["relu"]),
    ("loss", "l1"), ("schedule", "cosine"), ("optimizer", "rmsprop"), ("device", "cuda:0"), ("precision", "float16"),
    ("filters", ()), ("filters", (32, 0, 64)), ("filters", (32, 1.5)), ("filters", (32, True)), ("filters", (32, "8")),
    ("filters", 32), ("filters", "323264"), ("filters", None), ("filters", (4097,)),
    ("residual", 2), ("hidden", 0), ("dropout", 1.0), ("beta", -1), ("beta_warmup", 1.5),
    ("free_bits", -0.1), ("binarise", "no"), ("head", -1), ("shift", -1), ("flip", 2), ("label_smoothing", 1),
    ("encoder", "../../etc"), ("encoder", "0123"), ("encoder", None), ("encoder_lr", -1),
    ("depth", 0), ("depth", 4), ("depth", 5), ("depth", 1.5), ("latent_dim", -1), ("latent_dim", 0),
    ("latent_dim", "32"), ("latent_dim", True), ("latent_dim", np.True_), ("latent_dim", np.inf), ("latent_dim", 4097),
    ("batch_norm", "False"), ("batch_norm", 2), ("batch_norm", None), ("negative_slope", -0.1), ("negative_slope", 1.1),
    ("epochs", 0), ("epochs", True), ("epochs", 2.5), ("epochs", None), ("batch_size", 0), ("batch_size", "128"),
    ("lr", 0), ("lr", -1e-3), ("lr", np.nan), ("lr", np.inf), ("lr", "1e-3"), ("lr", True), ("lr", None),
    ("beta2", 1), ("beta2", -0.1), ("weight_decay", -1e-4), ("weight_decay", np.nan), ("n_train", 0),
    ("n_train", "all"), ("n_train", False), ("seed", -1), ("seed", 2**31 + 1), ("seed", None), ("seed", 0.5),
    ("threads", 0), ("threads", 1.5), ("initialisation", "xavier"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_refused_by_the_name_of_its_field(name, value):
    with pytest.raises(ValueError, match=rf"^{name}="):
        Config(**{name: value})


@pytest.mark.parametrize("model", KINDS)
def test_a_field_that_a_model_does_not_have_is_refused(model):
    # ignoring it would make an ablation a comparison of equal things
    foreign = [name for name in OPTIONS if not has_field(model, name)]
    assert foreign
    for name in foreign:
        other = {"filters": (8, 8, 8), "loss": "bce", "activation": "silu"}.get(name, 1 if name != "depth" else 2)
        other = 0.5 if isinstance(OPTIONS[name].default, float) else "ab" * 8 if name == "encoder" else other
        with pytest.raises(ValueError, match=rf"^{name}=.* means nothing to model='{model}'"):
            Config(model=model, **{name: other})


def test_a_bound_is_named_to_its_last_digit():
    with pytest.raises(ValueError, match=r"^seed=-1 must be an integer from 0 to 2,147,483,648$"):
        Config(seed=-1)
    with pytest.raises(ValueError, match=r"^beta2=1 must be a number from 0 to 0\.999999$"):
        Config(beta2=1)


def test_every_field_has_a_bad_value_above():
    # a field added without a check would otherwise go unnoticed
    assert {name for name, _ in BAD} == OPTIONS.keys()


@pytest.mark.parametrize("name", OPTIONS)
def test_every_field_explains_itself_and_allows_its_default(name):
    field = OPTIONS[name]
    assert len(field.metadata["help"]) > 10
    model = next(model for model in KINDS if has_field(model, name))
    assert getattr(Config(**{"model": model, name: field.default}), name) == field.default


@pytest.mark.parametrize(
    ("name", "value", "plain"),
    [
        ("latent_dim", np.int64(8), 8),
        ("n_train", np.uint8(200), 200),
        ("epochs", 3.0, 3),
        ("lr", np.float32(0.5), 0.5),
        ("lr", 1, 1.0),
        ("batch_norm", np.True_, True),
        ("filters", [np.int32(8), 16, 16.0], (8, 16, 16)),
        ("activation", np.str_("tanh"), "tanh"),  # what a sweep over np.array([...]) passes
    ],
)
def test_values_become_plain_python(name, value, plain):
    # a numpy scalar would break json.dumps, show in the repr or hash a stored run to another name
    made = getattr(Config(**{name: value}), name)
    assert made == plain
    assert type(made) is type(plain)
    if name == "filters":
        assert {type(width) for width in made} == {int}


def test_numbers_may_lie_on_their_bounds():
    Config(negative_slope=0, beta2=0, weight_decay=0, seed=2**31, n_train=None, filters=(1, 4096, 1, 1, 1), depth=4)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Any valid Config: the ranges come from the fields, so that a new field joins by itself."""
    values = {}
    for name, f in OPTIONS.items():
        low, high = f.metadata["low"], f.metadata["high"]
        if not has_field(values.get("model", "cae"), name):
            values[name] = f.default
        elif f.metadata["choices"]:
            values[name] = draw(st.sampled_from(tuple(f.metadata["choices"])))
        elif name == "filters":
            values[name] = draw(st.lists(st.integers(low, high), min_size=1, max_size=6).map(tuple))
        elif name == "depth":
            values[name] = draw(st.integers(low, min(high, len(values["filters"]))))
        elif isinstance(f.default, bool):
            values[name] = draw(st.booleans())
        elif name == "dataset":
            values[name] = draw(
                st.sampled_from(["mnist", "fashion_mnist", "mnist5k", "digits", "/home/me/my pictures"])
            )
        elif name == "encoder":
            values[name] = draw(st.just("") | st.text("0123456789abcdef", min_size=16, max_size=16))
        elif isinstance(f.default, float):
            above = f.metadata["above"]
            values[name] = draw(st.floats(max(low, above), high, exclude_min=above >= low))
        else:
            number = st.integers(low, high)
            values[name] = draw(st.none() | number if f.default is None else number)
    if values["encoder_lr"] == 0:  # a frozen encoder sees every image once
        values |= {"shift": 0, "flip": False}
    return Config(**values)


@given(configs())
def test_a_config_survives_json(c):
    back = Config.from_dict(json.loads(json.dumps(c.to_dict())))
    assert back == c
    assert hash(back) == hash(c)


def test_to_dict_has_every_field():
    assert BASELINE.to_dict().keys() == OPTIONS.keys()


def test_from_dict_refuses_unknown_and_missing_fields():
    values = BASELINE.to_dict()
    with pytest.raises(ValueError, match=r"unknown fields \['momentum'\], missing fields \[\]"):
        Config.from_dict({**values, "momentum": 0.9})
    # a default filled in silently would give an old run a setting it never had
    with pytest.raises(ValueError, match=r"unknown fields \[\], missing fields \['beta2'\]"):
        Config.from_dict({name: value for name, value in values.items() if name != "beta2"})
    with pytest.raises(ValueError, match="latent_dim="):
        Config.from_dict({**values, "latent_dim": 0})


def test_a_config_is_frozen():
    with pytest.raises(FrozenInstanceError):
        BASELINE.lr = 1.0
    assert replace(BASELINE, latent_dim=2) != BASELINE
    assert BASELINE.latent_dim == 32


def test_a_variant_is_checked_too():
    with pytest.raises(ValueError, match="depth=3"):
        replace(BASELINE, filters=(32, 64))


def test_the_named_configs_differ():
    assert len({BASELINE, COMPACT, TRADEOFF}) == 3


def test_stream_seeds_never_meet():
    # equal seeds would couple, say, initialisation and shuffling; torch takes a seed of up to 63 bits
    seeds = {config.stream_seed(s, p) for s in range(100) for p in ("initialisation", "shuffling", "training")}
    assert len(seeds) == 300
    assert 0 <= min(seeds) <= max(seeds) < 2**63


def test_scale_is_full_unless_named(monkeypatch):
    assert paths.scale().name == "full"
    monkeypatch.setenv("LABUTILS_SCALE", "")  # how a Makefile passes "not set"
    assert paths.scale().name == "full"
    monkeypatch.setenv("LABUTILS_SCALE", "smoke")
    assert paths.scale().name == "smoke"


@pytest.mark.parametrize("name", ["Smoke", "tiny", " full"])
def test_an_unknown_scale_is_refused(monkeypatch, name):
    # read as "full" it would start hours of work that nobody asked for
    monkeypatch.setenv("LABUTILS_SCALE", name)
    with pytest.raises(ValueError, match="LABUTILS_SCALE"):
        paths.scale()


def test_fewer_seeds_make_a_series_of_its_own(monkeypatch):
    monkeypatch.setenv("LABUTILS_SEEDS", "3")
    assert paths.scale()._replace(seeds=None) == paths.SCALES["full"]
    assert paths.scale().seeds == 3
    assert paths.local_dir("mnist").name == "mnist-full-3-seeds", "never taken for a full run's results"
    monkeypatch.setenv("LABUTILS_SCALE", "smoke")
    assert paths.scale() == paths.SCALES["smoke"], "which has fewer already"
    assert paths.local_dir("mnist").name == "mnist-smoke"
    for wrong in ("1", "0", "two", "-2", "2.5", "20"):
        monkeypatch.setenv("LABUTILS_SEEDS", wrong)
        with pytest.raises(ValueError, match=f"^LABUTILS_SEEDS='{wrong}' must be 2 or 3"):
            paths.scale()


def test_outputs_go_where_they_are_told_and_smoke_never_among_the_results(monkeypatch, tmp_path):
    monkeypatch.setenv("LABUTILS_OUTPUTS", str(tmp_path))
    assert paths.outputs_dir() == tmp_path.resolve()
    assert paths.runs_dir().parent == tmp_path.resolve()
    monkeypatch.delenv("LABUTILS_OUTPUTS")
    assert paths.outputs_dir() == paths.ROOT / "outputs"
    monkeypatch.setenv("LABUTILS_SCALE", "smoke")
    assert paths.outputs_dir().is_relative_to(Path(tempfile.gettempdir()))
    assert not paths.outputs_dir().is_relative_to(paths.ROOT)
