"""Pictures and a checkpoint of an autoencoder or VAE after each epoch."""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from labutils import codes
from labutils.config import Config
from labutils.data import Dataset, subset
from labutils.plots import plot_grids, plot_images, plot_projections
from labutils.store.weights import weights_file


def epoch_gallery(
    folder: str | Path, config: Config, data: Dataset, *, maps: Sequence[str] = ("pca", "umap")
) -> Callable[[nn.Module, int], None]:
    """Return a function for `run`'s `each_epoch` that writes a file an epoch into folders.

    In folder/<dataset>/<model>/ these are samples (64 fixed random codes with the mean and covariance of the model's
    codes), noise (the same codes, standard normal), reconstructions, interpolation (from a 2 to a 5, or any
    two), codes_<method> for each of `maps` (up to 1,000 validation images; UMAP takes some seconds) and checkpoints.
    Files of an earlier call are overwritten. A classifier, or a code of one unit, is a ValueError.
    """
    if config.model == "classifier" or config.latent_dim < 2:
        raise ValueError(f"a gallery decodes two units or more: model={config.model!r}, latent_dim={config.latent_dim}")
    root = Path(folder) / Path(data.name).name / config.model
    noise = codes.sample_normal(64, config.latent_dim)
    mapped, shown = (subset(data.val, min(n, len(data.val))) for n in (1000, 12))
    names = data.class_names
    found = [(mapped.labels == label).nonzero().flatten().tolist() for label in (2, 5)]
    ends = [found[0][0], found[1][0]] if all(found) else [0, len(mapped) - 1]
    way = " → ".join(names[int(mapped.labels[end])] for end in ends)

    def path(name: str, epoch: int, ending: str) -> Path:
        (root / name).mkdir(parents=True, exist_ok=True)
        return root / name / f"epoch_{epoch:03}.{ending}"

    def draw(model: nn.Module, epoch: int) -> None:
        z = codes.encode_images(model, mapped.images)
        shaped = z.mean(0) + noise @ codes.covariance_root(z).T
        rebuilt = codes.reconstruct(model, shown.images, shown.labels)
        pictures = {
            "samples": plot_grids({f"epoch {epoch}": codes.decode_codes(model, shaped)}),
            "noise": plot_grids({f"epoch {epoch}": codes.decode_codes(model, noise)}),
            "reconstructions": plot_images({"x": shown.images, "x_hat": rebuilt}),
            "interpolation": plot_images({way: codes.decode_codes(model, codes.interpolate(*z[ends]))}),
        }
        for method in maps:
            points = {f"{method}, epoch {epoch}": codes.project(z, method)}
            pictures[f"codes_{method}"] = plot_projections(points, mapped.labels.numpy(), names)
        for name, picture in pictures.items():
            picture.savefig(path(name, epoch, "png"), dpi=90)
        path("checkpoints", epoch, "safetensors").write_bytes(weights_file(model, config))

    return draw
