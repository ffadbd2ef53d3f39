"""The models. Every one has `encode(x) -> z` and `decode(z) -> x_hat`, so that nobody has to ask which one it is."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from labutils.config import IMAGE_SIZE, Config, stream_seed

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "elu": nn.ELU, "tanh": nn.Tanh}
# The logit of 0.12, about the mean pixel of MNIST: starting there saves learning that most of an image is background
DARK = -2.0


def build_model(config: Config) -> "ConvAutoencoder":
    """The config's model, initialised from the config's seed; the global random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream_seed(config.seed, "initialisation"))
        return ConvAutoencoder(config)


def activation(config: Config) -> nn.Module:
    """The non-linearity that the config names."""
    if config.activation == "leaky_relu":
        return nn.LeakyReLU(config.negative_slope)
    return ACTIVATIONS[config.activation]()


def _keep_variance(layer: nn.Module) -> None:
    """Weights that carry the signal's variance through ReLU layers (He et al. 2015, eq. 10), biases zero.

    torch's default shrinks the signal in every layer: six layers on, the code hardly reaches the pixels, and on few
    images a network without batch norm (which rescales anyway) learns one grey picture and never comes back.
    """
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        fan_in = layer.weight[0].numel()
        if isinstance(layer, nn.ConvTranspose2d):  # an output pixel meets 1/stride² of the kernel
            fan_in = layer.in_channels * layer.weight[0, 0].numel() // layer.stride[0] ** 2
        nn.init.normal_(layer.weight, std=(2 / fan_in) ** 0.5)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


@contextmanager
def inference(model: nn.Module) -> Iterator[torch.device]:
    """Evaluation mode without gradients, the model's own mode afterwards; gives the device that holds the model."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield next(model.parameters()).device
    finally:
        model.train(was_training)


class ToVector(nn.Module):
    """(B,C,H,W) → (B,H·W·C). A flatten that copies nothing where channels are last in memory."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.permute(0, 2, 3, 1).flatten(1)


class ToMaps(nn.Module):
    """(B,H·W·C) → (B,C,H,W), the inverse of ToVector."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.shape = (height, width, channels)

    def forward(self, vector: torch.Tensor) -> torch.Tensor:
        return vector.unflatten(1, self.shape).permute(0, 3, 1, 2)


class ConvAutoencoder(nn.Module):
    """Strided convolutions down to a code, transposed convolutions back up.

    Uses of the config: filters, depth, latent_dim, batch_norm, activation, negative_slope. The first `depth`
    convolutions have stride 2 (28 → 14 → 7 → 4), the others keep the resolution; the decoder is the encoder mirrored.
    With BASELINE's filters (32, 32, 64), depth 3 and latent 32:

        encode  (B,1,28,28) → (B,32,14,14) → (B,32,7,7) → (B,64,4,4) → (B,1024) → (B,32)
        decode  (B,32) → (B,1024) → (B,64,4,4) → (B,32,7,7) → (B,32,14,14) → (B,1,28,28)
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.latent_dim = config.latent_dim
        channels = (1, *config.filters)
        sizes = [IMAGE_SIZE]
        for i in range(len(config.filters)):
            sizes.append((sizes[-1] + 1) // 2 if i < config.depth else sizes[-1])
        self.bottom = (channels[-1], sizes[-1], sizes[-1])
        flat = channels[-1] * sizes[-1] ** 2

        def after(width: int) -> list[nn.Module]:
            return [nn.BatchNorm2d(width), activation(config)] if config.batch_norm else [activation(config)]

        down: list[nn.Module] = []
        for i, width in enumerate(config.filters):
            stride = 2 if i < config.depth else 1
            down += [nn.Conv2d(channels[i], width, 3, stride, padding=1, bias=not config.batch_norm), *after(width)]
        self.encoder = nn.Sequential(*down, ToVector(), nn.Linear(flat, config.latent_dim))

        up: list[nn.Module] = [nn.Linear(config.latent_dim, flat), ToMaps(*self.bottom), activation(config)]
        for i in reversed(range(len(config.filters))):
            stride = 2 if i < config.depth else 1
            # a transposed convolution inverts the shape: 4 → 7 needs no extra row, 7 → 14 and 14 → 28 one
            extra = sizes[i] - ((sizes[i + 1] - 1) * stride + 1)
            bias = i == 0 or not config.batch_norm
            up += [nn.ConvTranspose2d(channels[i + 1], channels[i], 3, stride, 1, extra, bias=bias)]
            up += after(channels[i]) if i > 0 else []
        self.decoder = nn.Sequential(*up)
        if not config.batch_norm:
            self.apply(_keep_variance)
        nn.init.constant_(up[-1].bias, DARK)  # type: ignore[arg-type]
        # the layout that the convolutions compute in: any other is converted there and back in every layer
        self.to(memory_format=torch.channels_last)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """x (B,1,28,28) in [0,1] → z (B,latent_dim)."""
        return self.encoder(x)

    def decode_logits(self, z: torch.Tensor) -> torch.Tensor:
        """z (B,latent_dim) → logits (B,1,28,28), float32 also under autocast: a sigmoid needs more than 8 bits."""
        return self.decoder(z).float()

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """z (B,latent_dim) → x_hat (B,1,28,28) in [0,1]."""
        return self.decode_logits(z).sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x → x_hat, both (B,1,28,28)."""
        return self.decode(self.encode(x))
