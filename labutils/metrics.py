"""What every run measures: how good its model is, by the measures of its kind, and what it costs."""

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from labutils.config import Config
from labutils.data import Dataset, Split, batches, subset, to_float, training_images
from labutils.device import eval_mode, private_noise
from labutils.kinds import KINDS
from labutils.objectives import Objective, build_objective, draw_code, reconstruction_objective, squared_error
from labutils.timing import costs
from labutils.training import evaluate


def reconstruction_metrics(model: nn.Module, split: Split, batch_size: int = 500) -> dict[str, float]:
    """Averages over the images of a split, whatever the model was trained with (a VAE decodes mu): mse per pixel; bce,
    the cross-entropy of an image in nats; psnr in dB (per image, then averaged); ssim."""
    if not len(split):
        raise ValueError("an empty split has no averages")
    sums = torch.zeros(4, dtype=torch.float64)
    with eval_mode(model) as device:
        for x, y in batches(split.to(device), batch_size):
            x_hat = model(x, y)
            mse = image_mse(x, x_hat)
            bce = F.binary_cross_entropy(x_hat, x, reduction="sum")
            psnr = -10 * mse.clamp_min(1e-12).log10()
            sums += torch.stack([mse.sum(), bce, psnr.sum(), ssim(x, x_hat).sum()]).cpu().double()
    return dict(zip(("mse", "bce", "psnr", "ssim"), (sums / len(split)).tolist(), strict=True))


def image_mse(x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
    """x, x_hat (B,1,28,28) → (B,) mean squared error per pixel."""
    return (x - x_hat).square().flatten(1).mean(1)


def ssim(x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
    """x, x_hat (B,C,H,W) in [0,1] → (B,) structural similarity, at most 1.

    Wang, Bovik, Sheikh, Simoncelli 2004, eq. 13, with their Gaussian window of 11 pixels (of smaller images as many as
    fit, an odd number) and σ = 1.5, averaged over the windows that lie within the image, and over channels.
    """
    n, width = len(x), min(11, (x.shape[-1] - 1) // 2 * 2 + 1)
    x, x_hat = x.flatten(0, 1)[:, None], x_hat.flatten(0, 1)[:, None]
    g = torch.exp(-((torch.arange(width, device=x.device, dtype=x.dtype) - width // 2) ** 2) / (2 * 1.5**2))
    g /= g.sum()

    def blur(image: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.conv2d(image, g.view(1, 1, -1, 1)), g.view(1, 1, 1, -1))

    mu_x, mu_y = blur(x), blur(x_hat)
    var_x, var_y = blur(x * x) - mu_x**2, blur(x_hat * x_hat) - mu_y**2
    covariance = blur(x * x_hat) - mu_x * mu_y
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * mu_x * mu_y + c1) * (2 * covariance + c2) / ((mu_x**2 + mu_y**2 + c1) * (var_x + var_y + c2))
    return index.view(n, -1).mean(1)


def posterior_metrics(model: nn.Module, split: Split, objective: Objective) -> dict[str, float]:
    """A VAE's terms on a split: neg_elbo = bce_sampled + kl in nats an image, mse_sampled per pixel (a code drawn from
    q(z|x) is decoded), and active_units, those whose mu has a variance above 0.01 over the images (Burda et al. 2016,
    section 5.2)."""
    terms = evaluate(model, objective, split)
    mus, squares = [], 0.0
    with eval_mode(model) as device, private_noise(0, "evaluation", device):
        for x, y in batches(split.to(device), 1000):
            mu, logvar = model.posterior(x, y)  # type: ignore[operator]
            squares += float(image_mse(x, model.decode(draw_code(mu, logvar), y)).sum())  # type: ignore[operator]
            mus.append(mu)
    return {
        "neg_elbo": terms["bce"] + terms["kl"],
        "bce_sampled": terms["bce"],
        "kl": terms["kl"],
        "mse_sampled": squares / len(split),
        "active_units": int((torch.cat(mus).var(0) > 0.01).sum()),
    }


def run_metrics(model: nn.Module, config: Config, data: Dataset, history: pd.DataFrame) -> dict[str, float]:
    """The metrics of a finished run: what its kind of model is for (see the *_measures), and what it cost.

    seconds and images_per_second include the validation after each epoch. They and latency_ms hold for the run's
    threads and the neighbours that the process had: a sweep gives a run one thread and a busy core beside it.
    """
    n_train, seconds = len(training_images(config, data)), float(history["seconds"].sum())
    return {
        "n_train": n_train,
        **KINDS[config.model].part("measures")(model, config, data),
        **costs(model, to_float(data.test.images[:100]).to(next(model.parameters()).device)),
        "code_bytes": 4 * config.latent_dim,
        "seconds": seconds,
        "images_per_second": n_train * config.epochs / seconds,
    }


def autoencoder_measures(model: nn.Module, config: Config, data: Dataset) -> dict[str, float]:
    """Reconstruction errors of the three splits; bce, psnr and ssim of the test images."""
    test = reconstruction_metrics(model, data.test)
    return {
        "test_mse": test["mse"],
        "val_mse": evaluate(model, reconstruction_objective(config), data.val)["mse"],
        "train_mse": evaluate(model, squared_error, _train_sample(config, data))["mse"],
        "test_bce": test["bce"],
        "psnr": test["psnr"],
        "ssim": test["ssim"],
    }


def vae_measures(model: nn.Module, config: Config, data: Dataset) -> dict[str, float]:
    """An autoencoder's measures, decoding mu, and `posterior_metrics` of the test images."""
    objective = build_objective(config)
    val = evaluate(model, objective, data.val)
    return {
        **autoencoder_measures(model, config, data),
        **{f"test_{name}": value for name, value in posterior_metrics(model, data.test, objective).items()},
        "val_neg_elbo": val["bce"] + val["kl"],
    }


def classifier_measures(model: nn.Module, config: Config, data: Dataset) -> dict[str, float]:
    """Accuracy in [0,1] and cross-entropy of a label in nats, of the three splits."""
    measures: dict[str, float] = {}
    for name, split in (("test", data.test), ("val", data.val), ("train", _train_sample(config, data))):
        terms = evaluate(model, build_objective(config), split)
        measures |= {f"{name}_accuracy": terms["accuracy"], f"{name}_nll": terms["loss"]}
    return measures


def _train_sample(config: Config, data: Dataset) -> Split:
    """Up to 10,000 evenly spaced training images: as exact as the test's, and sooner than all."""
    train = training_images(config, data)
    return subset(train, min(10_000, len(train)))
