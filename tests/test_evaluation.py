"""Measures of codes and samples, each against a case whose answer is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from labutils.config import Config
from labutils.data import Split, subset, to_float
from labutils.evaluation import confidence, frechet_distance, importance_nll, knn, nearest, probe, unit_kl
from labutils.models import build_model
from labutils.objectives import kl_to_standard_normal, negative_elbo

VAE = Config(model="mlp_vae", hidden=16, latent_dim=2, device="cpu", dataset="mnist5k")


def test_probe_and_knn_find_what_is_there():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(200) % 2
    z = torch.randn(200, 3, generator=generator) * torch.tensor([1.0, 1.0, 1000.0])  # a scale that says nothing
    z[:, 0] += 8 * y
    assert probe(z[:100], y[:100], z[100:], y[100:]) > 0.98
    assert knn(z[:100, :2], y[:100], z[100:, :2], y[100:]) > 0.98
    assert abs(probe(z[:100, 1:], y[:100], z[100:, 1:], y[100:]) - 0.5) < 0.2


def test_unit_kl_is_the_mean_over_images(digits):
    vae, split = build_model(VAE).eval(), subset(digits.train, 1001)
    expected = kl_to_standard_normal(*vae.posterior(to_float(split.images))).mean(0)
    np.testing.assert_allclose(unit_kl(vae, split), expected.detach(), rtol=1e-4)


class Constant(nn.Module):
    """q(z|x) is any normal distribution, and the decoder ignores the code: log p(x) is known without an integral."""

    def __init__(self, mu: float, logvar: float) -> None:
        super().__init__()
        self.q = nn.Parameter(torch.tensor([mu, logvar]))

    def posterior(self, x: torch.Tensor, y: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        return self.q[0].expand(len(x), 3), self.q[1].expand(len(x), 3)

    def decode_logits(self, z: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        return torch.full((len(z), 1, 28, 28), math.log(3))


def test_the_likelihood_of_a_decoder_that_ignores_its_code(digits):
    split = subset(digits.test, 20)
    x = to_float(split.images)
    exact = -(x * math.log(3 / 4) + (1 - x) * math.log(1 / 4)).flatten(1).sum(1)
    # with the prior as q every weight is one, and one code is enough
    np.testing.assert_allclose(importance_nll(Constant(0.0, 0.0), split, k=1), exact, rtol=1e-5)
    # with another q the weights vary and their mean tends to one; wider than the prior, so that it does so soon
    nll = importance_nll(Constant(0.3, 0.5), split, k=1000)
    np.testing.assert_allclose(nll, exact, atol=0.2)
    # and the ELBO is below by the whole divergence
    terms = negative_elbo(Constant(0.3, 0.5), x, None)
    assert float(terms["loss"].detach()) == pytest.approx(
        float(exact.mean()) + 1.5 * (0.09 + math.e**0.5 - 1.5), rel=1e-4
    )


def test_the_likelihood_is_the_integral_over_a_code_of_one_number(digits):
    vae = build_model(replace(VAE, latent_dim=1)).eval()
    with torch.no_grad():  # q near the prior and a smooth decoder: the estimate is soon as exact as the sum below
        vae.encoder[-1].weight.mul_(10)
        vae.decoder[-2].weight.mul_(30)
    split = Split((digits.test.images[:3] > 127).to(torch.uint8) * 255, digits.test.labels[:3])
    x = to_float(split.images)
    grid = torch.linspace(-12, 12, 8001, dtype=torch.float64)
    with torch.inference_mode():
        logits = vae.decode_logits(grid.float()[:, None]).flatten(1).double()
    log_prior = -0.5 * grid.square() - 0.5 * math.log(2 * math.pi)
    for image, estimate in zip(x, importance_nll(vae, split, k=20_000, at_once=20_000), strict=True):
        target = image.flatten().double().expand_as(logits)
        log_joint = log_prior - F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1)
        exact = -(torch.logsumexp(log_joint, 0) + math.log(float(grid[1] - grid[0])))
        assert estimate == pytest.approx(float(exact), abs=0.05)


def test_the_estimate_falls_from_the_elbo_towards_the_truth(digits):
    vae, split = build_model(VAE).eval(), subset(digits.test, 100)
    with torch.no_grad():  # a new decoder ignores its code, and there is nothing to estimate
        vae.decoder[-2].weight.mul_(100)
    nll = [importance_nll(vae, split, k).mean() for k in (1, 10, 1000)]
    assert nll[0] > nll[1] > nll[2]


def test_the_estimate_does_not_depend_on_the_batch_and_is_repeatable(digits):
    vae, split, state = build_model(VAE).eval(), subset(digits.test, 30), torch.get_rng_state()
    nll = importance_nll(vae, split, 500)
    assert np.array_equal(nll, importance_nll(vae, split, 500))
    assert not np.array_equal(nll, importance_nll(vae, split, 500, seed=1))
    assert nll.shape == (30,)
    np.testing.assert_allclose(
        importance_nll(vae, split, 2000).mean(), importance_nll(vae, split, 2000, at_once=2000).mean(), rtol=0.01
    )
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("model", ["mlp_vae", "conditional_vae"])
def test_every_image_is_judged_by_its_own_codes_and_label(digits, model):
    layers = {"filters": (4, 4), "depth": 2} if model == "conditional_vae" else {"hidden": 16}
    vae = build_model(Config(model=model, latent_dim=2, dataset="mnist5k", **layers)).eval()
    with torch.no_grad():  # a decoder that uses its code, and a q near the prior: the estimates agree to a fraction
        [layer for layer in vae.decoder.modules() if hasattr(layer, "weight")][-1].weight.mul_(20)
    split = subset(digits.test, 5)
    alone = importance_nll(vae, split, 4000, at_once=4000)  # one image at a time
    together = importance_nll(vae, split, 4000, at_once=20_000)
    assert alone.std() > 3
    np.testing.assert_allclose(alone, together, atol=0.5)


def test_frechet_distance_of_normal_distributions():
    # between N(m, s²I) and N(0, I) in d dimensions: m² + d (s − 1)²
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(100_000, 3)), generator.normal(size=(100_000, 3)) * 2 + [1, 0, 0]
    assert frechet_distance(a, b) == pytest.approx(1 + 3, rel=0.03)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_confidence_is_the_largest_probability(digits):
    class Sure(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.tensor([0.0] * 9 + [math.log(9)]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.logits.expand(len(x), 10)

    label, sure = confidence(Sure(), digits.test.images[:7])
    assert label.tolist() == [9] * 7
    assert sure == pytest.approx(0.5)


def test_the_nearest_image_of_a_noisy_image_is_itself(digits):
    x = digits.train.images
    noisy = (to_float(x[[5, 1234, 3999]]) + 0.02 * torch.rand(3, 1, 28, 28)).clamp(0, 1)
    assert nearest(noisy, x).tolist() == [5, 1234, 3999]
    blank = torch.zeros(10_000, 1, 28, 28, dtype=torch.uint8)
    assert nearest(noisy, torch.cat([blank, x])).tolist() == [10_005, 11_234, 13_999]  # beyond the first part
