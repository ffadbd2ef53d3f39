"""Images of your own: every form they may have, the same splits everywhere, and one clear error for what is damaged."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from labutils import Config, load_dataset, load_run, run, sweep
from labutils.data import Split
from labutils.download import PARTS, DataError
from labutils.explore.explorer import LatentExplorer
from labutils.kinds import KINDS, has_field
from labutils.models import build_model
from labutils.own import save_images
from labutils.pictures import as_images, class_names, png, tile
from labutils.plots import plot_images
from labutils.publish.report import prepare

TINY = Config(filters=(4, 4), depth=2, latent_dim=3, epochs=1, device="cpu")
pytestmark = pytest.mark.filterwarnings("ignore:.* without an image for")  # most drawers hold eight a class


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    """An empty folder for data sets, of the test's own."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("LABUTILS_DATA", str(folder))
    monkeypatch.setattr("labutils.own.data_dir", lambda: folder)
    return folder


def picture(size, mode="L", seed=0):
    """A picture with something in it: a light blot on a dark ground."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    blot = 255 * np.exp(-(((x - width * (0.3 + 0.05 * seed)) / width) ** 2 + ((y - height / 2) / height) ** 2) * 20)
    return Image.fromarray(blot.astype(np.uint8)).convert(mode)


def drawer(folder, classes=("bird", "cat", "dog"), each=8):
    """A folder of pictures, a subfolder a class; sizes, modes and formats differ."""
    forms = [((40, 30), "L", "png"), ((28, 28), "RGB", "jpg"), ((9, 64), "RGBA", "png"), ((120, 90), "P", "gif")]
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            size, mode, ending = forms[i % len(forms)]
            picture(size, mode, seed=3 * k + i).save(folder / name / f"{i:02}.{ending}")
    return folder


def sizes(data):
    return len(data.train), len(data.val), len(data.test)


def test_a_folder_of_pictures_is_a_data_set(data_folder, store):
    drawer(data_folder / "pets")
    data = load_dataset("pets")
    assert (data.name, data.classes, sizes(data)) == ("pets", ("bird", "cat", "dog"), (20, 2, 2))
    assert data.train.images.shape == (20, 1, 28, 28)
    assert data.train.images.dtype == torch.uint8
    every = torch.cat([data.train.labels, data.val.labels, data.test.labels])
    assert every.bincount().tolist() == [8, 8, 8]
    assert load_dataset(str(data_folder / "pets")).checksum == data.checksum, "by its path, too"
    colour = load_dataset("pets", size=16, channels=3)
    assert colour.train.images.shape == (20, 3, 16, 16)
    assert colour.checksum != data.checksum
    assert class_names("pets") == data.classes
    r = run(replace(TINY, dataset="pets", image_size=16, channels=3), progress=False)
    assert (r.config.dataset, r.config.image_size, r.config.channels, r.config.classes) == ("pets", 16, 3, 3)
    assert r.reconstruct(data_folder / "pets" / "cat" / "00.png").shape == (1, 3, 16, 16)


def test_runs_know_images_by_what_they_are_and_not_by_where_they_lie(data_folder, store, tmp_path):
    drawer(data_folder / "pets")
    first = run(replace(TINY, dataset="pets"), progress=False)
    shutil.move(data_folder / "pets", tmp_path / "moved")
    with pytest.raises(ValueError, match=r"'pets' must be one of .*digits.*no folder and no .npz file"):
        load_dataset("pets")
    again = run(replace(TINY, dataset=tmp_path / "moved"), progress=False)
    assert again.cached
    assert again.path == first.path
    assert again.sample(2, "gaussian").shape == (2, 1, 28, 28), "its images are looked for where they are now"
    table = sweep([replace(TINY, dataset=tmp_path / "moved")])
    assert table["dataset"].tolist() == [str(tmp_path / "moved")]
    picture((28, 28), seed=9).save(tmp_path / "moved" / "cat" / "00.png")
    assert not run(replace(TINY, dataset=tmp_path / "moved"), progress=False).cached, "a picture was replaced"


def test_every_picture_is_in_one_split_and_the_same_one_everywhere(data_folder):
    rows = np.arange(97, dtype=np.uint8)
    images = np.broadcast_to(rows[:, None, None], (97, 8, 8))
    save_images("numbered", images, labels=rows % 3)
    data = load_dataset("numbered")
    found = [split.images[:, 0, 0, 0].tolist() for split in (data.train, data.val, data.test)]
    assert sorted([*found[0], *found[1], *found[2]]) == rows.tolist()
    by_class = sorted(rows.tolist(), key=lambda i: (i % 3, i))
    assert found[1] == sorted(by_class[8::10])
    assert found[2] == sorted(by_class[9::10])


def test_splits_that_are_given_are_kept(data_folder):
    drawer(data_folder / "pets" / "train")
    drawer(data_folder / "pets" / "test", each=4)
    assert sizes(load_dataset("pets")) == (22, 2, 12)
    drawer(data_folder / "pets" / "valid", each=2)
    assert sizes(load_dataset("pets")) == (24, 6, 12)
    for loose in (data_folder / "pets" / "train").rglob("*.*"):
        shutil.move(loose, data_folder / "pets" / "train" / f"{loose.parent.name}{loose.name}")
    for folder in ("bird", "cat", "dog"):
        (data_folder / "pets" / "train" / folder).rmdir()
    with pytest.raises(DataError, match="train holds pictures without subfolders"):
        load_dataset("pets")


def test_pictures_without_classes_train_autoencoders_and_no_classifier(data_folder, store):
    drawer(data_folder / "loose", classes=(".",), each=30)
    data = load_dataset("loose")
    assert data.classes == ()
    assert sizes(data) == (24, 3, 3)
    with pytest.raises(ValueError, match="'classifier' learns labels, and loose has none"):
        run(Config(model="classifier", dataset="loose", epochs=1))
    explorer = LatentExplorer(run(replace(TINY, dataset="loose"), progress=False))
    assert "test image 0, a picture" in explorer.status.line.value
    explorer.from_image(2)
    explorer.describe()
    assert bytes(explorer.picture.value).startswith(b"\x89PNG")


def rgb(n, size=16):
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"images": rgb(40), "labels": np.arange(40) % 4}, (32, 4, 4)),
        ({"images": rgb(40)[..., 0] / 255.0}, (32, 4, 4)),
        ({"x_train": rgb(30), "y_train": np.arange(30) % 2, "x_test": rgb(7), "y_test": np.arange(7) % 2}, (27, 3, 7)),
        ({f"{part}_{what}": rgb(n) if what == "images" else np.arange(n)[:, None] % 3
          for part, n in (("train", 20), ("val", 5), ("test", 6)) for what in ("images", "labels")}, (20, 5, 6)),
        ({"images": rgb(20), "labels": np.array(["b", "a"] * 10)}, (16, 2, 2)),
        ({"images": rgb(20), "labels": np.array([b"b", b"a"] * 10)}, (16, 2, 2)),
    ],
    ids=["plain", "grey floats", "as Keras", "as MedMNIST", "names", "bytes"],
)  # fmt: skip
def test_arrays_in_the_ways_that_they_are_shared(data_folder, arrays, expected):
    np.savez(data_folder / "shared.npz", **arrays)
    data = load_dataset("shared")
    assert sizes(data) == expected
    assert data.image_size == 16
    if "labels" in arrays and arrays["labels"].dtype.kind in "US":
        assert data.classes == ("a", "b")


def write_idx(folder, digits):
    folder.mkdir(parents=True)
    for part, tensor in zip(PARTS, (digits.val.images[:, 0], digits.val.labels, digits.test.images[:, 0],
                                    digits.test.labels), strict=True):  # fmt: skip
        header = b"\0\0\x08" + bytes([tensor.ndim]) + b"".join(n.to_bytes(4, "big") for n in tensor.shape)
        (folder / part).write_bytes(header + tensor.to(torch.uint8).numpy().tobytes())


def test_a_folder_in_mnists_format(data_folder, digits):
    write_idx(data_folder / "mine" / "raw", digits)
    data = load_dataset("mine")
    assert (data.name, sizes(data)) == ("mine", (450, 50, 500))
    assert torch.equal(data.test.images, digits.test.images)


def test_sets_that_torchvision_knows_by_name(data_folder, digits):
    write_idx(data_folder / "KMNIST" / "raw", digits)
    data = load_dataset("kmnist")
    assert (data.name, sizes(data), len(data.classes)) == ("kmnist", (450, 50, 500), 10)
    assert torch.equal(data.test.images, digits.test.images)
    write_idx(data_folder / "EMNIST" / "raw", digits)
    for part, name in zip(PARTS, ("train-images-idx3", "train-labels-idx1", "test-images-idx3", "test-labels-idx1"),
                          strict=True):  # fmt: skip
        (data_folder / "EMNIST" / "raw" / part).rename(data_folder / "EMNIST" / "raw" / f"emnist-balanced-{name}-ubyte")
    turned = load_dataset("emnist_balanced")
    assert torch.equal(turned.test.images, digits.test.images.transpose(2, 3)), "EMNIST's pictures are stored turned"
    (data_folder / "KMNIST" / "raw" / PARTS[0]).write_bytes(b"\0\0\x08\x03")
    from labutils import own

    own._torchvision.cache_clear()
    with pytest.raises(DataError, match="kmnist"):
        load_dataset("kmnist")


def test_the_digits_of_scikit_learn_need_no_file():
    data = load_dataset("digits")
    assert sizes(data) == (1439, 179, 179)
    assert (data.image_size, data.channels, len(data.classes)) == (8, 1, 10)
    assert data.train.images.max() == 255


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def html(path):
    path.write_text("<!doctype html><title>Please log in</title>")


DAMAGES = {
    "a cut picture": (lambda d: cut(d / "pets/cat/00.png"), "pets", "00.png is not a picture"),
    "a page under a picture's name": (lambda d: html(d / "pets/cat/01.jpg"), "pets", "01.jpg is not a picture"),
    "an empty file": (lambda d: (d / "pets/dog/03.gif").write_bytes(b""), "pets", "03.gif is not a picture"),
    "a picture beside classes": (lambda d: picture((9, 9)).save(d / "pets/lost.png"), "pets", "lost.png lies beside"),
    "no pictures": (lambda d: (d / "empty").mkdir(), "empty", "empty holds no pictures"),
    "an empty class": (lambda d: (d / "pets/hexagons").mkdir(), "pets", "hexagons holds no pictures"),
    "few pictures": (lambda d: drawer(d / "few", each=3), "few", "9 images: at least 10"),
    "a cut .npz": (lambda d: cut(d / "a.npz"), "a", "a.npz cannot be read"),
    "a page under an .npz's name": (lambda d: html(d / "a.npz"), "a", "a.npz cannot be read"),
    "objects": (lambda d: np.savez(d / "b.npz", images=np.array([{}, 1], object)), "b", "b.npz cannot be read"),
    "no images": (lambda d: np.savez(d / "b.npz", pixels=rgb(20)), "b", "b.npz holds pixels: images"),
    "not square": (lambda d: np.savez(d / "b.npz", images=np.zeros((20, 8, 9), np.uint8)), "b", r"\(20, 8, 9, 1\)"),
    "too large": (lambda d: np.savez(d / "b.npz", images=np.zeros((20, 65, 65), np.uint8)), "b", "65, 65"),
    "bytes as floats": (lambda d: np.savez(d / "b.npz", images=255.0 * np.ones((20, 8, 8))), "b", "within"),
    "a label too few": (lambda d: np.savez(d / "b.npz", images=rgb(20), labels=np.zeros(19, int)), "b", "19"),
    "several sizes": (lambda d: np.savez(d / "b.npz", train_images=rgb(20), test_images=rgb(9, 8)), "b", "several"),
    "half the labels": (lambda d: np.savez(d / "b.npz", x_train=rgb(20), y_train=np.zeros(20, int), x_test=rgb(9)),
                        "b", "labels for one part"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_one_error_that_names_the_file(data_folder, damage, counted):
    drawer(data_folder / "pets")
    np.savez(data_folder / "a.npz", images=rgb(40), labels=np.arange(40) % 4)
    assert sizes(load_dataset("pets")) == (20, 2, 2)
    assert sizes(load_dataset("a")) == (32, 4, 4)
    do, name, words = DAMAGES[damage]
    do(data_folder)
    with pytest.raises(DataError, match=words):
        load_dataset(name)


def test_a_class_that_is_too_small_to_test_is_named(data_folder):
    drawer(data_folder / "pets", each=10)
    drawer(data_folder / "pets", classes=("eel",), each=5)
    with pytest.warns(UserWarning, match=r"pets: eel without an image for (validation|testing): every tenth"):
        load_dataset("pets")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"size": 100}, "size=100 must be from 8 to 64"),
        ({"size": 7}, "size=7 must"),
        ({"channels": 4}, "channels=4 must"),
    ],
)
def test_a_size_that_no_model_takes_is_refused(data_folder, wrong, said):
    drawer(data_folder / "pets")
    with pytest.raises(ValueError, match=f"^{said}"):
        load_dataset("pets", **wrong)


def test_arrays_that_no_model_takes_are_not_saved(data_folder):
    with pytest.raises(ValueError, match="shape"):
        save_images("bad", np.zeros((20, 8, 9), np.uint8))
    for name in ("../bad", "digits"):
        with pytest.raises(ValueError, match="name="):
            save_images(name, np.zeros((20, 8, 8), np.uint8))
    assert not list(data_folder.iterdir())
    drawer(data_folder / "pets")
    with pytest.raises(ValueError, match=r"name='pets' is that of .*pets, which would be read in its place"):
        save_images("pets", np.zeros((20, 8, 8), np.uint8))
    assert [path.name for path in data_folder.iterdir()] == ["pets"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 9), (1, 33), (3, 64)])
def test_every_kind_takes_every_size(kind, channels, size):
    fields = {name: v for name, v in {"filters": (4, 4, 4), "residual": True}.items() if has_field(kind, name)}
    model = build_model(Config(model=kind, image_size=size, channels=channels, classes=3, latent_dim=3, **fields))
    x = torch.rand(2, channels, size, size)
    assert model(x, torch.tensor([0, 2])).shape == ((2, 3) if kind == "classifier" else x.shape)


def test_a_sweep_over_sets_has_each_ones_references(data_folder, store):
    drawer(data_folder / "pets")
    both = sweep([replace(TINY, dataset="pets"), replace(TINY, dataset="digits", n_train=100)])
    assert both["error"].tolist() == ["", ""]
    assert both["pca_mse"].notna().all()
    assert both["image_size"].tolist() == [28, 8]
    assert load_run(both["run"][0]).sample(2, "gaussian").shape == (2, 1, 28, 28)


def test_pictures_of_colour_are_drawn_in_colour_on_white():
    x = torch.zeros(3, 3, 8, 8)
    x[:, 0] = 1.0
    picture = tile(x, 2)
    assert picture.shape == (16, 16, 3)
    assert picture[0, 0].tolist() == [1, 0, 0]
    assert picture[-1, -1].tolist() == [1, 1, 1], "the last row is filled with paper"
    assert png(x).startswith(b"\x89PNG")
    plot_images({"a": x, "b": x[:1]})


def test_a_picture_is_framed_as_those_that_a_model_learned(tmp_path):
    picture((60, 30), "RGB").save(tmp_path / "a.png")
    x = as_images([tmp_path / "a.png"] * 2, 16, 3, whole=True)
    assert x.shape == (2, 3, 16, 16)
    assert x[0, :, :3].std() < 0.02, "above and below is the colour of the edge"
    ink = Image.new("L", (30, 30), 255)
    ink.paste(0, (10, 10, 20, 20))
    ink.save(tmp_path / "ink.png")
    grey = as_images(tmp_path / "ink.png", 28, 1, whole=True)
    assert grey[0, 0, 0, 0] == 0
    assert grey[0, 0, 14, 14] == 1, "dark ink on light paper is inverted"
    with pytest.raises(ValueError, match=r"this model knows \(N, 1, 28, 28\)"):
        as_images(torch.rand(2, 1, 8, 8))


def test_a_notebook_begins_with_the_images_that_it_can_take(data_folder, store):
    drawer(data_folder / "pets")
    data, baseline, budgets = prepare("pets", classes=0)
    assert (data.name, baseline.dataset, baseline.image_size) == ("pets", "pets", 28)
    more = round(4000 / len(data.train))  # few images, many epochs
    assert more > 100
    assert budgets == {2 * more: 3, 8 * more: 2}
    _, baseline, _ = prepare("digits", classes=2, any_size=True)
    assert baseline.image_size == 8
    drawer(data_folder / "loose", classes=(".",), each=24)
    prepare("loose", classes=0)
    with pytest.raises(ValueError, match=r"needs 2 classes of labels, .* of 'loose' have no labels"):
        prepare("loose", classes=2)
    with pytest.raises(ValueError, match=r"written for 28 × 28 grey pixels, .* of 'digits' have 8 × 8 grey pixels"):
        prepare("digits", classes=2)
    with pytest.raises(ValueError, match=r"needs 2,500 training images, .* of 'digits' are 1,4\d\d"):
        prepare("digits")
    with pytest.raises(ValueError, match=r"needs exactly 10 classes of labels, .* of 'pets' have \d classes"):
        prepare("pets")


def test_one_image_of_each_class_in_turn():
    split = Split(torch.zeros(8, 1, 28, 28, dtype=torch.uint8), torch.tensor([0, 0, 2, 5, 5, 5, 2, 0]))
    assert split.examples(8) == [1, 6, 4, 7, 2, 5, 0, 3]
    assert split.examples(3) == [1, 6, 4], "the second image of each class"
    assert split.examples(10)[8:] == [1, 6], "and from the beginning"
    assert Split(split.images[:1], split.labels[:1]).examples(2) == [0, 0]
