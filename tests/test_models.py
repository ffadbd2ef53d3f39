"""The models: shapes for every config, seeds that decide, and no field that decides nothing."""

from dataclasses import fields, replace
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from labutils.codes import decode_codes
from labutils.config import BASELINE, COMPACT, Config
from labutils.data import subset
from labutils.kinds import KINDS, has_field
from labutils.models import VAE, build_model
from labutils.objectives import build_objective, negative_elbo
from labutils.training import fit

CHOICES = {f.name: f.metadata["choices"] for f in fields(Config)}


def weights(model: nn.Module) -> torch.Tensor:
    """All parameters and running statistics as one vector."""
    return torch.cat([t.detach().flatten().double() for t in model.state_dict().values()])


@st.composite
def architectures(draw: st.DrawFn) -> Config:
    filters = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=5)))
    return Config(
        filters=filters,
        depth=draw(st.integers(1, min(4, len(filters)))),
        latent_dim=draw(st.integers(1, 64)),
        batch_norm=draw(st.booleans()),
        activation=draw(st.sampled_from(CHOICES["activation"])),
    )


@given(architectures(), st.integers(2, 4))
def test_shapes_and_range(c, n):
    model = build_model(c)
    x = torch.rand(n, 1, 28, 28)
    z = model.encode(x)
    assert z.shape == (n, c.latent_dim)
    x_hat = model.decode(z)
    assert x_hat.shape == x.shape
    assert ((x_hat >= 0) & (x_hat <= 1)).all()
    assert torch.equal(model.decode_logits(z).sigmoid(), x_hat)


@given(architectures())
def test_the_decoder_mirrors_the_encoder(c):
    seen: dict[str, list[torch.Size]] = {"into": [], "out of": []}
    model = build_model(c)
    for layer in model.modules():
        if isinstance(layer, nn.ConvTranspose2d):
            layer.register_forward_hook(lambda _, args, out: seen["out of"].append(out.shape))
        elif isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, args, out: seen["into"].append(args[0].shape))
    model(torch.rand(2, 1, 28, 28))
    assert seen["out of"] == seen["into"][::-1]  # channels, height and width
    assert len(seen["into"]) == len(c.filters)


@pytest.mark.parametrize("c", [BASELINE, COMPACT])
def test_it_computes_what_plain_layers_compute(c, digits):
    # the network of the docstring, written down with torch's own layers in torch's default memory layout
    ours = build_model(c)
    f, channels = c.filters, (c.filters[-1], 4, 4)

    def after(width):
        return [nn.BatchNorm2d(width), nn.SiLU()] if c.batch_norm else [nn.ReLU()]

    def down(a, b):
        return [nn.Conv2d(a, b, 3, 2, 1, bias=not c.batch_norm), *after(b)]

    def up(a, b, extra):
        return nn.ConvTranspose2d(a, b, 3, 2, 1, extra, bias=b == 1 or not c.batch_norm)

    encoder = [*down(1, f[0]), *down(f[0], f[1]), *down(f[1], f[2]), nn.Flatten(), nn.Linear(f[2] * 16, c.latent_dim)]
    decoder = [nn.Linear(c.latent_dim, f[2] * 16), nn.Unflatten(1, channels), type(after(1)[-1])()]
    decoder += [up(f[2], f[1], 0), *after(f[1]), up(f[1], f[0], 1), *after(f[0]), up(f[0], 1, 1), nn.Sigmoid()]
    plain = nn.Sequential(*encoder, *decoder)
    order = torch.arange(f[2] * 16).view(channels).permute(1, 2, 0).flatten()  # a plain flatten has channels first
    with torch.no_grad():
        for p, q in zip(plain.parameters(), ours.parameters(), strict=True):
            p.copy_(q)
        into, out_of = (layer for layer in plain if isinstance(layer, nn.Linear))
        into.weight[:, order] = into.weight.clone()
        out_of.weight[order], out_of.bias[order] = out_of.weight.clone(), out_of.bias.clone()
    x = digits.val.images[:50].float() / 255
    y, y_plain = ours(x), plain(x)
    torch.testing.assert_close(y, y_plain, rtol=1e-4, atol=1e-5)
    for out in (y, y_plain):
        ((out - x) ** 2).sum().backward()
    first, first_plain = next(ours.parameters()).grad, next(plain.parameters()).grad
    torch.testing.assert_close(first, first_plain, rtol=1e-3, atol=1e-3 * float(first.abs().max()))


def test_depth_counts_the_halvings():
    for depth, size in ((1, 14), (2, 7), (3, 4), (4, 2)):
        assert build_model(Config(filters=(2, 2, 2, 2, 2), depth=depth)).decoder[1].shape == (size, size, 2)


def test_parameters_of_the_baseline_by_hand():
    def conv(a: int, b: int) -> int:
        return a * b * 3 * 3 + b

    encoder = conv(1, 32) + conv(32, 32) + conv(32, 64) + (64 * 4 * 4 * 32 + 32)
    decoder = (32 * 64 * 4 * 4 + 64 * 4 * 4) + conv(64, 32) + conv(32, 32) + conv(32, 1)
    assert sum(p.numel() for p in build_model(BASELINE).parameters()) == encoder + decoder


def test_the_seed_decides_the_initial_weights():
    assert torch.equal(weights(build_model(COMPACT)), weights(build_model(COMPACT)))
    assert not torch.equal(weights(build_model(COMPACT)), weights(build_model(replace(COMPACT, seed=1))))


def test_building_neither_reads_nor_moves_the_global_random_state():
    torch.manual_seed(1)
    first, state = weights(build_model(COMPACT)), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(weights(build_model(COMPACT)), first)


def test_the_signal_reaches_the_pixels(digits):
    # with torch's default the untrained output hardly depends on the input, and small plain networks never learn
    x = digits.val.images.float() / 255
    spread = build_model(BASELINE).decode_logits(build_model(BASELINE).encode(x)).std(0).mean()
    assert 0.1 < spread < 10


TINY = Config(filters=(3, 4), depth=2, latent_dim=4, activation="leaky_relu", epochs=1, batch_size=16, n_train=40,
              device="cpu", precision="float32", dataset="mnist5k")  # fmt: skip
SMALL = {
    model: Config(
        **{name: v for name, v in {**vars(TINY), "model": model, "hidden": 8}.items() if has_field(model, name)}
    )
    for model in CHOICES["model"]
}
# The reader's images (dataset), where and how precisely it is computed (device, precision) and what a classifier starts
# from (encoder) have tests of their own
ELSEWHERE = {"dataset", "image_size", "channels", "classes", "model", "device", "precision", "encoder", "threads"}
CHANGES = {
    "filters": (3, 5), "depth": 1, "latent_dim": 5, "residual": True, "hidden": 9, "batch_norm": True,
    "activation": "silu", "negative_slope": 0.2, "dropout": 0.5, "loss": "bce", "beta": 2.0, "beta_warmup": 0.9,
    "free_bits": 2.0, "binarise": True, "epochs": 2, "batch_size": 20, "lr": 5e-3, "schedule": "constant",
    "optimizer": "adam", "beta2": 0.9, "weight_decay": 0.1, "n_train": 32, "seed": 1, "head": 8, "shift": 2,
    "flip": True, "label_smoothing": 0.1, "encoder_lr": 0.5, "initialisation": "torch",
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(digits):
    @cache  # most comparisons are with the same base
    def of(c: Config) -> torch.Tensor:
        model = build_model(c)
        fit(model, build_objective(c), subset(digits.train, c.n_train), subset(digits.val, 10), c)
        return weights(model)

    return of


@pytest.mark.parametrize(
    ("model", "name"),
    [(m, f.name) for f in fields(Config) for m in KINDS if has_field(m, f.name) and f.name not in ELSEWHERE],
)
def test_every_field_matters(trained, model, name):
    # an option that a literal further down ignores would make an ablation a comparison of equal things;
    # adam and adamw differ in their weight decay alone
    base = replace(SMALL[model], weight_decay=0.01) if name == "optimizer" else SMALL[model]
    assert not torch.equal(trained(base), trained(replace(base, **{name: CHANGES[name]})))


@pytest.mark.parametrize("name", ["activation", "optimizer"])
def test_every_choice_is_another_training(trained, name):
    results = [trained(replace(TINY, weight_decay=0.01, **{name: choice})) for choice in CHOICES[name]]
    assert not any(torch.equal(a, b) for i, a in enumerate(results) for b in results[:i])


def test_no_field_is_forgotten_above():
    assert CHANGES.keys() | ELSEWHERE == {f.name for f in fields(Config)}
    assert all(getattr(TINY, name) != value for name, value in CHANGES.items())


VAE_MODELS = [model for model in CHOICES["model"] if model.endswith("vae")]


@pytest.mark.parametrize("model", VAE_MODELS)
def test_a_vae_encodes_decodes_and_samples(model):
    vae = build_model(replace(SMALL[model], residual=model != "mlp_vae", batch_norm=True)).eval()
    x, y = torch.rand(3, 1, 28, 28), torch.tensor([1, 2, 3])
    mu, logvar = vae.posterior(x)
    assert mu.shape == logvar.shape == (3, 4)
    assert torch.equal(vae.encode(x), mu)
    assert torch.equal(vae(x, y), vae.decode(mu, y))
    assert torch.equal(vae.decode(mu, y), vae.decode_logits(mu, y).sigmoid())
    assert vae.decode(mu).shape == x.shape
    images = vae.sample(5, seed=1)
    assert images.shape == (5, 1, 28, 28)
    assert ((images >= 0) & (images <= 1)).all()
    assert torch.equal(images, vae.sample(5, seed=1))
    assert not torch.equal(images, vae.sample(5, seed=2))
    assert not torch.equal(vae.sample(5), vae.sample(5))
    assert not images.requires_grad


def test_sampling_leaves_the_model_and_the_global_random_state_as_they_were():
    vae = build_model(replace(SMALL["conditional_vae"], batch_norm=True)).train()
    before, state = weights(vae), torch.get_rng_state()
    images = vae.sample(20, y=3, seed=0)
    assert torch.equal(images, vae.sample(20, y=3, seed=0))
    assert vae.training
    assert torch.equal(weights(vae), before)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_log_variance_is_bounded():
    vae = build_model(SMALL["mlp_vae"])
    _, logvar = vae.posterior(torch.rand(2, 1, 28, 28) * 1e30)
    assert (logvar.abs() <= 10).all()
    assert logvar.exp().isfinite().all()


def test_only_a_conditional_vae_looks_at_labels():
    z, one, two = torch.randn(2, 4), torch.tensor([1, 1]), torch.tensor([1, 2])
    for model in VAE_MODELS:
        vae = build_model(SMALL[model]).eval()
        a, b, without = vae.decode(z, one), vae.decode(z, two), vae.decode(z)
        conditional = model == "conditional_vae"
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1]) != conditional
        assert torch.equal(a, without) != conditional
        assert torch.equal(vae.sample(2, y=1, seed=0), vae.sample(2, y=one, seed=0))


@pytest.mark.parametrize("y", [10, -2, 3.0, [1, 2], torch.zeros(3, 1, dtype=torch.long), torch.tensor([0, 1, 99])])
def test_labels_that_are_none_are_refused(y):
    vae = build_model(SMALL["conditional_vae"]).eval()
    for wrong in (lambda: vae.sample(3, y), lambda: decode_codes(vae, torch.zeros(3, vae.latent_dim), y)):
        with pytest.raises(ValueError, match="one for all or 3"):
            wrong()
    a, b = (vae.sample(3, label, seed=0) for label in (4, [4, 4, 4]))
    assert torch.equal(a, b)
    z, four = torch.zeros(3, vae.latent_dim), torch.full((3,), 4)
    for bytes_or_so in (torch.uint8, torch.int16):
        assert torch.equal(decode_codes(vae, z, four.to(bytes_or_so)), decode_codes(vae, z, four))


def test_a_conditional_encoder_is_told_the_label_and_minus_one_is_none():
    vae, x = build_model(SMALL["conditional_vae"]).eval(), torch.rand(3, 1, 28, 28)
    nn.init.normal_(vae.label_shift.weight)  # it starts at zero
    told, without = vae.encode(x, torch.tensor([1, 1, -1])), vae.encode(x)
    assert torch.equal((told == without).all(1), torch.tensor([False, False, True]))
    with torch.no_grad():
        expected = vae.encoder(x)[:, :4] + vae.label_shift.weight[:4, 1]
    torch.testing.assert_close(told[:2], expected[:2])
    z = torch.zeros(2, 4)
    images = vae.decode(z, torch.tensor([-1, 3]))
    assert torch.equal(images[0], vae.decode(z)[0])
    assert not torch.equal(images[1], vae.decode(z)[1])


def test_of_a_tenth_of_the_images_a_conditional_vae_is_not_told_the_label():
    seen = []

    class Spy(VAE):
        def posterior(self, x, y=None):
            seen.append(y)
            return super().posterior(x, y)

        def decode_logits(self, z, y=None):
            seen.append(y)
            return super().decode_logits(z, y)

    spy = build_model(SMALL["conditional_vae"]).train()
    spy.__class__ = Spy
    x, y = torch.zeros(2000, 1, 28, 28), torch.ones(2000, dtype=torch.long)
    negative_elbo(spy, x, y)
    assert torch.equal(seen[0], seen[1])  # encoder and decoder alike
    assert set(seen[0].tolist()) == {1, -1}
    assert 0.86 < (seen[0] == 1).float().mean() < 0.94
    negative_elbo(spy.eval(), x, y)
    assert torch.equal(seen[2], y)


def test_a_classifier_is_an_encoder_with_a_head():
    c = SMALL["classifier"]
    classifier, x = build_model(c).eval(), torch.rand(3, 1, 28, 28)
    assert classifier.encode(x).shape == (3, 4)
    assert classifier(x).shape == (3, 10)
    assert torch.equal(classifier(x), classifier.head(classifier.encode(x)))
    encoder = build_model(replace(c, model="cae")).encoder.state_dict()
    assert {n: p.shape for n, p in encoder.items()} == {n: p.shape for n, p in classifier.encoder.state_dict().items()}
