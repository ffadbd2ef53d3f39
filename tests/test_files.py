"""Weights files with a checksum inside: what was written comes back, and nothing else does."""

from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from labutils import BASELINE
from labutils.models import build_model
from labutils.store.weights import pack, read_model, read_weights, unpack, weights_file

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
