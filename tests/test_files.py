"""Files with a checksum inside: what was written comes back, and nothing else does; hostile files cost no memory."""

import hashlib
import json
import os
import resource
import sys
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labutils import BASELINE
from labutils.models import build_model
from labutils.store.files import pack, read_model, read_weights, unpack, weights_file

TINY = replace(BASELINE, dataset="mnist5k", filters=(4, 4), depth=2, latent_dim=3, device="cpu")


@given(
    st.dictionaries(
        st.text("abc.", min_size=1, max_size=4), st.lists(st.floats(width=32, allow_nan=False), max_size=5)
    ),
    st.dictionaries(st.sampled_from("xyz"), st.text(max_size=9)),
)
def test_what_was_packed_comes_back(values, about):
    tensors = {name: torch.tensor(numbers, dtype=torch.float32) for name, numbers in values.items()}
    content = pack(tensors, about)
    found, said = unpack(content)
    assert said == about
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert pack(found, said) == content  # the same bytes for the same content, in any process


def test_a_model_comes_back_as_it_was(tmp_path):
    model = build_model(TINY).eval()
    (tmp_path / "file").write_bytes(weights_file(model, TINY))
    state = torch.random.get_rng_state()
    config, again = read_model(tmp_path / "file")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert config == TINY
    for (name, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
        assert a.stride() == b.stride(), name  # laid out for the convolutions
    assert read_weights(tmp_path / "file")[1] == TINY.to_dict() | {"filters": [4, 4]}
    assert all(p.requires_grad for p in again.parameters())


@given(st.data())
def test_any_changed_byte_is_noticed(data):
    content = bytearray(pack({"a": torch.arange(3.0), "b.c": torch.ones(2, 2)}, {"config": "{}"}))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255).filter(lambda value: value != content[at]))
    try:
        found, said = unpack(bytes(content))
    except ValueError:
        return
    # one kind of white space for another in the header
    assert said == {"config": "{}"}
    assert torch.equal(found["a"], torch.arange(3.0))
    assert torch.equal(found["b.c"], torch.ones(2, 2))


def header(declared, length=None, body=b""):
    """A file with that header; where it is a dict with a checksum that fits, as whoever means harm can compute it."""
    if isinstance(declared, dict):
        sha256 = hashlib.sha256(json.dumps(declared, sort_keys=True).encode() + body).hexdigest()
        declared = json.dumps({**declared, "__metadata__": {**declared["__metadata__"], "sha256": sha256}}).encode()
    text = declared + b" " * (-len(declared) % 8)
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


GIANT = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
CONFIG = {"config": json.dumps(TINY.to_dict())}
WIDE = {"config": json.dumps({**TINY.to_dict(), "filters": [4096] * 40, "depth": 2, "latent_dim": 4096})}
DEEP = {"config": json.dumps({**TINY.to_dict(), "filters": [1] * 100_000})}
HOSTILE = {
    "a pickle": b"\x80\x04cos\nsystem\n(X\x04\x00\x00\x00true\x85R.",
    "a header of 2^60 bytes": header(b"{}", 2**60),
    "a header longer than the file": header(b"{}", 4000),
    "a tensor of 4 TiB": header({"__metadata__": CONFIG, "a": GIANT}),
    "a hundred thousand nested lists": header(b"[" * 100_000),
    "layers of 24 GB": header({"__metadata__": WIDE}),
    "a hundred thousand layers": header({"__metadata__": DEEP}),
    "a config with unknown fields": header({"__metadata__": {"config": json.dumps({**TINY.to_dict(), "x": 1})}}),
    "a config that lacks fields": header({"__metadata__": {"config": '{"model": "cae"}'}}),
    "a config that is a list": header({"__metadata__": {"config": "[1]"}}),
    "metadata that are no text": header({"__metadata__": {"config": 1}}),
    "offsets outside the file": header(
        {"__metadata__": CONFIG, "a": {"dtype": "F32", "shape": [1], "data_offsets": [100, 104]}}, body=bytes(4)
    ),
}


def peak_memory():
    """In bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_without_taking_memory(tmp_path, kind):
    file = tmp_path / "file"
    file.write_bytes(HOSTILE[kind])
    before = peak_memory()
    with pytest.raises(ValueError, match=r"."):
        read_model(file)
    with suppress(ValueError):  # it takes whatever config there is, and allocates what the file really has
        read_weights(file)
    assert peak_memory() - before < 100 * 2**20


def test_a_sparse_terabyte_or_a_pipe_is_refused(tmp_path):
    (tmp_path / "sparse").write_bytes(weights_file(build_model(TINY), TINY))
    os.truncate(tmp_path / "sparse", 2**40)
    os.mkfifo(tmp_path / "pipe")
    for name in ("sparse", "pipe"):
        for reader in (read_model, read_weights):
            with pytest.raises(ValueError, match=name):
                reader(tmp_path / name)
