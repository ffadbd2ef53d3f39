"""The measures, each against an independent oracle: scikit-image, scikit-learn, or a count by hand."""

import itertools
import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.decomposition import PCA
from torch import nn

from labutils.config import BASELINE, COMPACT
from labutils.data import Split, load_dataset, subset, to_float
from labutils.evaluation import fit_pca, pca_error
from labutils.metrics import image_mse, posterior_metrics, reconstruction_metrics, ssim
from labutils.models import build_model
from labutils.objectives import kl_to_standard_normal, negative_elbo
from labutils.timing import costs


def noise(like: torch.Tensor) -> torch.Tensor:
    """Uniform in [0,1], the same whichever tests ran before."""
    return torch.rand(like.shape, generator=torch.Generator().manual_seed(0))


def oracle_ssim(x: torch.Tensor, x_hat: torch.Tensor) -> float:
    """scikit-image's, of one image, with the window of the paper."""
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    return structural_similarity(x.squeeze().double().numpy(), x_hat.squeeze().double().numpy(), **options)


# Dark and bright backgrounds, and an image with nothing in it: where an image is flat, SSIM subtracts equal numbers.
PAIRS = {
    "blurred": lambda x: (x, nn.functional.avg_pool2d(x, 3, 1, 1)),
    "noisy": lambda x: (x, (x + noise(x) - 0.5).clamp(0, 1)),
    "bright": lambda x: (1 - x, 1 - nn.functional.avg_pool2d(x, 3, 1, 1)),
    "inverted": lambda x: (x, 1 - x),
    "black": lambda x: (x, torch.zeros_like(x)),
    "noise": lambda x: (x, noise(x)),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_ssim_is_that_of_scikit_image(digits, pair):
    x, x_hat = PAIRS[pair](to_float(subset(digits.test, 40).images))
    ours = ssim(x, x_hat)
    assert ours.shape == (40,)
    assert ours.tolist() == pytest.approx([oracle_ssim(a, b) for a, b in zip(x, x_hat, strict=True)], abs=1e-5)


@pytest.mark.parametrize(("size", "width"), [(8, 7), (9, 9), (10, 9), (12, 11)])
def test_ssim_of_small_images_has_the_largest_odd_window_that_fits(size, width):
    # scikit-image knows no Gaussian window but that of 11 pixels: by hand, window by window
    x, y = noise(torch.zeros(2, size, size)).double().numpy()
    g = np.exp(-((np.arange(width) - width // 2) ** 2) / (2 * 1.5**2))
    g = np.outer(g, g) / g.sum() ** 2
    found = []
    for row, column in itertools.product(range(size - width + 1), repeat=2):
        u, v = (image[row : row + width, column : column + width] for image in (x, y))
        mu, nu = (g * u).sum(), (g * v).sum()
        spread, covariance = (g * (u**2 + v**2)).sum() - mu**2 - nu**2, (g * u * v).sum() - mu * nu
        alike = (2 * mu * nu + 1e-4) * (2 * covariance + 9e-4)
        found.append(alike / ((mu**2 + nu**2 + 1e-4) * (spread + 9e-4)))
    images = (torch.from_numpy(image).float()[None, None] for image in (x, y))
    assert float(ssim(*images)) == pytest.approx(np.mean(found), abs=1e-5)


def test_ssim_is_symmetric_and_at_most_one(digits):
    x = to_float(subset(digits.test, 40).images)
    y = noise(x)
    assert torch.allclose(ssim(x, y), ssim(y, x), atol=1e-6)
    assert ssim(x, x).tolist() == pytest.approx([1] * 40, abs=1e-6)
    assert ssim(x, y).max() < 0.5


class Fake(nn.Module):
    """Returns its input times a factor; the parameter tells where the model is."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z * self.factor

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        return self.decode(self.encode(x))


def test_a_perfect_model(digits):
    black_and_white = Split((digits.test.images > 127).to(torch.uint8) * 255, digits.test.labels)
    perfect = reconstruction_metrics(Fake(), black_and_white)
    # 120 dB instead of infinity, so that one perfect image leaves an average usable
    assert perfect == pytest.approx({"mse": 0, "bce": 0, "psnr": 120, "ssim": 1}, abs=1e-5)


def test_metrics_are_averages_over_images(digits):
    # 40 images in batches of 16: the last has 8, and an average of averages would weigh them double
    split = subset(digits.test, 40)
    images = to_float(split.images).squeeze(1).double().numpy()
    ours = reconstruction_metrics(Fake(0.5), split, batch_size=16)
    pairs = [(x, x / 2) for x in images]
    assert ours["mse"] == pytest.approx(np.mean([np.square(a - b).mean() for a, b in pairs]))
    assert ours["psnr"] == pytest.approx(np.mean([peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in pairs]))
    assert ours["ssim"] == pytest.approx(
        np.mean([oracle_ssim(*map(torch.from_numpy, pair)) for pair in pairs]), abs=1e-5
    )
    # log 0 never meets a weight here: where x is 0, so is x / 2
    bce = [-(x * np.log(np.maximum(x / 2, 1e-300)) + (1 - x) * np.log(1 - x / 2)).sum() for x in images]
    assert ours["bce"] == pytest.approx(np.mean(bce), rel=1e-5)


def test_image_mse_is_per_image():
    x = torch.zeros(2, 1, 28, 28)
    x[1] = 0.5
    assert image_mse(x, torch.zeros_like(x)).tolist() == [0, 0.25]


@pytest.mark.parametrize("mode", [True, False])
def test_measuring_leaves_the_model_as_it_was(digits, mode):
    model = build_model(COMPACT).train(mode)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reconstruction_metrics(model, subset(digits.test, 20))
    costs(model, torch.rand(1, 1, 28, 28))
    assert model.training is mode
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_pca_is_that_of_scikit_learn_with_its_pixels_cut_off(digits):
    train, test = (to_float(s.images) for s in (subset(digits.train, 1000), subset(digits.test, 200)))
    pca, (a, b) = fit_pca(train), (x.flatten(1).double().numpy() for x in (train, test))
    assert torch.allclose(pca.reconstruct(test, 0), train.mean(0).expand_as(test), atol=1e-5)
    for k in (2, 12, 32):
        oracle = PCA(k, svd_solver="full").fit(a)
        x_hat = oracle.inverse_transform(oracle.transform(b)).clip(0, 1)
        np.testing.assert_allclose(pca.reconstruct(test, k).flatten(1), x_hat, atol=2e-4)
    everything = pca.reconstruct(train, 784)
    assert torch.allclose(everything, train, atol=1e-4)


def test_pca_has_no_more_components_than_the_images_span(digits):
    # 100 centred images span 99 directions; a further "component" is whatever the eigensolver left there
    assert len(fit_pca(subset(digits.train, 100).images).components) == 99
    assert pca_error(digits, 784, 100) == pca_error(digits, 99, 100) > 0.01


def test_pca_references_of_the_full_set(real_data):
    dataset = load_dataset("mnist", real_data)
    expected = {0: 0.0675, 2: 0.0555, 12: 0.0299, 32: 0.0152}  # measured outside this project
    assert [pca_error(dataset, k) for k in expected] == pytest.approx([*expected.values()], abs=1e-4)


def test_macs_of_the_baseline_by_hand():
    # a convolution: output pixels × 9 × channels in × channels out; a transposed one the same with its input pixels
    half = 14 * 14 * 9 * 1 * 32 + 7 * 7 * 9 * 32 * 32 + 4 * 4 * 9 * 32 * 64 + 64 * 4 * 4 * 32
    assert costs(build_model(BASELINE), torch.rand(1, 1, 28, 28))["macs"] == 2 * half  # the decoder mirrors it


def test_costs():
    model = build_model(BASELINE)
    result = costs(model, torch.rand(1, 1, 28, 28))
    assert result.keys() == {"n_params", "macs", "latency_ms", "batch_latency_ms"}
    assert result["n_params"] == sum(p.numel() for p in model.parameters())
    assert 0 < result["latency_ms"] < 1000
    assert math.isfinite(result["latency_ms"])


class Cloud(nn.Module):
    """A VAE of four units: one varies much with the image, one never, and two just above and below a variance of 0.01;
    decodes any code as its first number."""

    def __init__(self) -> None:
        super().__init__()
        self.sigma = nn.Parameter(torch.tensor(0.5))

    def posterior(self, x: torch.Tensor, y: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        mean = x.flatten(1).mean(1)
        even = torch.linspace(-1, 1, len(x))  # of 300 images its variance is 0.336
        mu = torch.stack([mean * 10, torch.ones(len(x)), 0.18 * even, 0.165 * even], 1)
        return mu, (2 * self.sigma.log()).expand_as(mu)

    def decode_logits(self, z: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        return z[:, :1, None, None].expand(-1, 1, 28, 28)

    def decode(self, z: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        return self.decode_logits(z).sigmoid()


def test_posterior_metrics(digits):
    split = subset(digits.test, 300)
    result = posterior_metrics(Cloud(), split, negative_elbo)
    with torch.no_grad():
        mu, logvar = Cloud().posterior(to_float(split.images))
    assert result["kl"] == pytest.approx(float(kl_to_standard_normal(mu, logvar).sum(1).mean()), rel=1e-5)
    assert result["neg_elbo"] == pytest.approx(result["bce_sampled"] + result["kl"])
    assert mu.var(0).tolist() == pytest.approx([float(mu[:, 0].var()), 0, 0.0109, 0.0091], abs=2e-4)
    assert result["active_units"] == 2
    x = to_float(split.images)
    z = mu[:, :1] + 0.5 * torch.randn(len(x), 200, generator=torch.Generator().manual_seed(0))  # 200 codes an image
    expected = float((z.sigmoid()[:, :, None] - x.flatten(1)[:, None]).square().mean())
    assert result["mse_sampled"] == pytest.approx(expected, rel=0.03)
    assert result == posterior_metrics(Cloud(), split, negative_elbo)  # noise of its own, the same each time
