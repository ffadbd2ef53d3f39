"""The models. All have `encode(x) -> z`, and all but the classifier `decode(z) -> x_hat`."""

import math

import torch
from torch import nn

from labutils.config import Config, stream_seed
from labutils.device import RANDOM_LOCK, eval_mode
from labutils.kinds import KINDS

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "elu": nn.ELU, "tanh": nn.Tanh}
# The logit of 0.12, about the mean pixel of MNIST: starting there saves learning that most of an image is background
DARK = -2.0


def build_model(config: Config) -> nn.Module:
    """The config's model, initialised from the config's seed; the global random state stays as it is."""
    with RANDOM_LOCK, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream_seed(config.seed, "initialisation"))
        model = KINDS[config.model].part("network")(config)
    # the layout that the convolutions compute in: any other is converted there and back in every layer
    model.to(memory_format=torch.channels_last)
    return model


def image_shape(config: Config) -> tuple[int, int, int]:
    """(C,H,H) of an image; of MNIST (1,28,28)."""
    return config.channels, config.image_size, config.image_size


def activation(config: Config) -> nn.Module:
    """The non-linearity that the config names."""
    if config.activation == "leaky_relu":
        return nn.LeakyReLU(config.negative_slope)
    return ACTIVATIONS[config.activation]()


def _scale_weights(model: nn.Module, config: Config) -> None:
    if config.initialisation == "he" or (config.initialisation == "auto" and not config.batch_norm):
        model.apply(_keep_variance)


def _keep_variance(layer: nn.Module) -> None:
    """Set weights that carry the signal's variance through ReLU layers (He et al. 2015, eq. 10), and zero biases.

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


class Residual(nn.Module):
    """maps (B,C,H,W) → maps + activation(norm(convolution(maps))), the same shape (He et al. 2016)."""

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        convolution = nn.Conv2d(width, width, 3, padding=1, bias=not config.batch_norm)
        self.block = nn.Sequential(convolution, *_after(config, width))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps + self.block(maps)


def _after(config: Config, width: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(width), activation(config)] if config.batch_norm else [activation(config)]


def _sizes(config: Config) -> list[int]:
    """Height and width before the first convolution and after each."""
    sizes = [config.image_size]
    for i in range(len(config.filters)):
        sizes.append((sizes[-1] + 1) // 2 if i < config.depth else sizes[-1])
    return sizes


def conv_encoder(config: Config, outputs: int) -> nn.Sequential:
    """(B,C,H,H) → (B,outputs). The first `depth` convolutions have stride 2 (28 → 14 → 7 → 4), the others 1."""
    layers: list[nn.Module] = []
    for i, (before, width) in enumerate(zip((config.channels, *config.filters), config.filters, strict=False)):
        stride = 2 if i < config.depth else 1
        layers += [nn.Conv2d(before, width, 3, stride, padding=1, bias=not config.batch_norm), *_after(config, width)]
        layers += [Residual(config, width)] if config.residual else []
    return nn.Sequential(*layers, ToVector(), nn.Linear(config.filters[-1] * _sizes(config)[-1] ** 2, outputs))


def conv_decoder(config: Config, inputs: int) -> nn.Sequential:
    """(B,inputs) → logits (B,C,H,H): `conv_encoder` mirrored, with transposed convolutions."""
    sizes, widths = _sizes(config), (config.channels, *config.filters)
    bottom = (widths[-1], sizes[-1], sizes[-1])
    layers: list[nn.Module] = [nn.Linear(inputs, widths[-1] * sizes[-1] ** 2), ToMaps(*bottom), activation(config)]
    for i in reversed(range(len(config.filters))):
        stride = 2 if i < config.depth else 1
        # a transposed convolution inverts the shape: 4 → 7 needs no extra row, 7 → 14 and 14 → 28 one
        extra = sizes[i] - ((sizes[i + 1] - 1) * stride + 1)
        bias = i == 0 or not config.batch_norm
        layers += [Residual(config, widths[i + 1])] if config.residual else []
        layers += [nn.ConvTranspose2d(widths[i + 1], widths[i], 3, stride, 1, extra, bias=bias)]
        layers += _after(config, widths[i]) if i > 0 else []
    return nn.Sequential(*layers)


def _dense(config: Config, inputs: int) -> list[nn.Module]:
    """(B,inputs) → (B,hidden)."""
    norm = [nn.BatchNorm1d(config.hidden)] if config.batch_norm else []
    return [nn.Linear(inputs, config.hidden, bias=not config.batch_norm), *norm, activation(config)]


def _initialise(model: nn.Module, config: Config) -> None:
    _scale_weights(model, config)
    nn.init.constant_(_last_layer(model).bias, DARK)  # type: ignore[arg-type]


def _last_layer(model: nn.Module) -> nn.Linear | nn.ConvTranspose2d:
    return [layer for layer in model.modules() if isinstance(layer, (nn.Linear, nn.ConvTranspose2d))][-1]


class Autoencoder(nn.Module):
    """An encoder (B,C,H,H) → (B,latent_dim), and a decoder (B,latent_dim) → logits (B,C,H,H). Of MNIST's images C is 1
    and H is 28. All their layers get new first weights, as the config's initialisation says."""

    def __init__(self, config: Config, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.latent_dim = config.latent_dim
        self.encoder = encoder
        self.decoder = decoder
        _initialise(self, config)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """x (B,1,28,28) in [0,1] → z (B,latent_dim)."""
        return self.encoder(x)

    # labels y are taken and not used, so that every model is called alike

    def decode_logits(self, z: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """z (B,latent_dim) → logits (B,1,28,28), float32 also under autocast: a sigmoid needs more than 8 bits."""
        return self.decoder(z).float()

    def decode(self, z: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """z (B,latent_dim) → x_hat (B,1,28,28) in [0,1]."""
        return self.decode_logits(z).sigmoid()

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """x → x_hat, both (B,1,28,28)."""
        return self.decode(self.encode(x))


def conv_autoencoder(config: Config) -> Autoencoder:
    """Strided convolutions down to a code, transposed convolutions back up.

    With BASELINE's filters (32, 32, 64), depth 3 and latent 32:

        encode  (B,1,28,28) → (B,32,14,14) → (B,32,7,7) → (B,64,4,4) → (B,1024) → (B,32)
        decode  (B,32) → (B,1024) → (B,64,4,4) → (B,32,7,7) → (B,32,14,14) → (B,1,28,28)
    """
    return Autoencoder(config, conv_encoder(config, config.latent_dim), conv_decoder(config, config.latent_dim))


def linear_autoencoder(config: Config) -> Autoencoder:
    """One matrix each way, and the sigmoid: 784 → latent_dim → 784."""
    shape = image_shape(config)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), config.latent_dim))
    decoder = nn.Sequential(nn.Linear(config.latent_dim, math.prod(shape)), nn.Unflatten(1, shape))
    return Autoencoder(config, encoder, decoder)


class VAE(nn.Module):
    """A variational autoencoder (Kingma and Welling 2014): the encoder gives a normal distribution of codes.

    With a `label_shift` it is conditional (Sohn et al. 2015): encoder and decoder are told the label, so that the code
    need not say which digit it is, and does not. It also learns to do without a label, a tenth of the time.

    Args:
        encoder: (B,1,28,28) → (B,2·latent_dim), mu and then logvar.
        decoder: (B,latent_dim) → logits (B,1,28,28); of a conditional one (B,latent_dim+classes) →.
        label_shift: (B,classes) → (B,2·latent_dim), what a label changes in mu and logvar: with it every class has
            codes around zero.
    """

    def __init__(
        self, config: Config, encoder: nn.Module, decoder: nn.Module, label_shift: nn.Linear | None = None
    ) -> None:
        super().__init__()
        self.latent_dim = config.latent_dim
        self.classes = config.classes
        self.conditional = label_shift is not None
        self.encoder = encoder
        self.label_shift = label_shift
        self.decoder = decoder
        _initialise(self, config)
        with torch.no_grad():  # the first steps need not unlearn random clouds and random pictures of them
            for end in (_last_layer(self.encoder), _last_layer(self.decoder)):
                end.weight.mul_(0.01)
            if label_shift is not None:
                label_shift.weight.zero_()

    def posterior(self, x: torch.Tensor, y: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """x (B,1,28,28) in [0,1] → mu and logvar of q(z|x), (B,latent_dim) each, float32; logvar is within ±10.

        Labels y (B,) are for a conditional VAE alone; None for all, or −1 for one image, means unknown.
        """
        outputs = self.encoder(x).float()
        if self.label_shift is not None:
            outputs = outputs + self.label_shift(_one_hot(outputs, y, self.classes))
        mu, logvar = outputs.chunk(2, dim=1)
        return mu, 10 * (logvar / 10).tanh()  # bounded smoothly: no exponential overflows, no gradient is cut off

    def encode(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """x (B,1,28,28) in [0,1], labels as in `posterior` → mu (B,latent_dim)."""
        return self.posterior(x, y)[0]

    def decode_logits(self, z: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """z (B,latent_dim), labels as in `posterior` → logits (B,1,28,28), float32."""
        return self.decoder(torch.cat([z, _one_hot(z, y, self.classes)], dim=1) if self.conditional else z).float()

    def decode(self, z: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """z (B,latent_dim), labels as in `posterior` → x_hat (B,1,28,28) in [0,1]."""
        return self.decode_logits(z, y).sigmoid()

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """x → x_hat decoded from mu, both (B,1,28,28)."""
        return self.decode(self.encode(x, y), y)

    def sample(self, n: int, y: object = None, seed: int | None = None) -> torch.Tensor:
        """n images (n,1,28,28) in [0,1], decoded from codes of the prior N(0, I); the same each time with a seed.

        y is a conditional_vae's label, one for all or (n,) (see `as_labels`).
        """
        generator = torch.Generator()
        generator.manual_seed(seed) if seed is not None else generator.seed()
        z = torch.randn(n, self.latent_dim, generator=generator)
        with eval_mode(self) as device:
            labels = None if y is None else as_labels(y, n, self.classes).to(device)
            return self.decode(z.to(device), labels)


def mlp_vae(config: Config) -> VAE:
    """A VAE with one hidden layer each way: 784 → hidden → latent_dim → hidden → 784."""
    pixels, to_image = math.prod(image_shape(config)), nn.Unflatten(1, image_shape(config))
    encoder = [nn.Flatten(), *_dense(config, pixels), nn.Linear(config.hidden, 2 * config.latent_dim)]
    decoder = [*_dense(config, config.latent_dim), nn.Linear(config.hidden, pixels), to_image]
    return VAE(config, nn.Sequential(*encoder), nn.Sequential(*decoder))


def conv_vae(config: Config) -> VAE:
    """A VAE with the layers of a conv_autoencoder."""
    return VAE(config, conv_encoder(config, 2 * config.latent_dim), conv_decoder(config, config.latent_dim))


def conditional_vae(config: Config) -> VAE:
    """A conv_vae that is told the label."""
    encoder = conv_encoder(config, 2 * config.latent_dim)
    label_shift = nn.Linear(config.classes, 2 * config.latent_dim, bias=False)
    return VAE(config, encoder, conv_decoder(config, config.latent_dim + config.classes), label_shift)


def as_labels(y: object, n: int, classes: int) -> torch.Tensor:
    """One label for all or n labels, as number, list, array or tensor → (n,) int64; −1 stands for none.

    Another number of labels, or one that is no class, is a ValueError.
    """
    labels = torch.as_tensor(y).cpu()
    whole = labels.shape in ((), (n,)) and not labels.is_floating_point()
    labels = labels.long()  # files hold them as bytes, which know no −1
    if not whole or not ((labels >= -1) & (labels < classes)).all():
        raise ValueError(f"y={y!r} must be integers from 0 to {classes - 1}, one for all or {n}; −1: no label")
    return labels.expand(n)


def _one_hot(like: torch.Tensor, y: torch.Tensor | None, classes: int) -> torch.Tensor:
    """Labels (B,) → (B,classes) of the other tensor's type, a row of zeros where there is none (−1)."""
    if y is None:
        return like.new_zeros(len(like), classes)
    return nn.functional.one_hot(y.clamp_min(0), classes).to(like) * (y >= 0)[:, None]


class Classifier(nn.Module):
    """An autoencoder's encoder with a head: (B,C,H,H) → z (B,latent_dim) → logits (B,classes).

    With `head` units in a hidden layer the head takes codes of any scale: it standardises them first.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.latent_dim = config.latent_dim
        self.encoder = conv_encoder(config, config.latent_dim)
        hidden: list[nn.Module] = []
        width = config.latent_dim
        if config.head:
            hidden, width = [nn.BatchNorm1d(width, affine=False), nn.Linear(width, config.head)], config.head
        output = nn.Linear(width, config.classes)
        self.head = nn.Sequential(*hidden, activation(config), nn.Dropout(config.dropout), output)
        _scale_weights(self, config)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """x (B,1,28,28) in [0,1] → the features z (B,latent_dim) before the head."""
        return self.encoder(x)

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """x → logits (B,classes), float32 also under autocast."""
        return self.head(self.encode(x)).float()
