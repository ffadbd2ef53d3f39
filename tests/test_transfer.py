"""A classifier may start from another model's encoder: what is frozen stays frozen, what does not fit is named."""

from dataclasses import replace

import pytest
import torch

from labutils import BASELINE, Config, load_run, run
from labutils.callbacks import after_each_epoch
from labutils.data import Split, batches, labelled, subset
from labutils.models import Classifier, build_model
from labutils.objectives import build_objective, label_error, moved
from labutils.optim import build_optimizers
from labutils.store.folder import RunError, keep_encoder
from labutils.store.weights import weights_file
from labutils.transfer import fit_head

SMALL = {"dataset": "mnist5k", "filters": (4, 4), "depth": 2, "latent_dim": 3, "batch_norm": True, "device": "cpu"}
AE = Config(**SMALL, epochs=1, n_train=200)
VAE = replace(AE, model="conv_vae")
CLASSIFIER = replace(AE, model="classifier", head=8)


@pytest.fixture(scope="module")
def autoencoder():
    return run(AE, progress=False)


def encoder_of(model):
    return {name: t.clone() for name, t in model.encoder.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_frozen_encoder_is_that_of_the_run_bit_by_bit(autoencoder):
    r = run(replace(CLASSIFIER, encoder=autoencoder.path.name, encoder_lr=0.0, epochs=3, batch_size=10), progress=False)
    assert equal(encoder_of(r.model), encoder_of(autoencoder.model))  # batch norm's statistics and counter included
    assert not equal(encoder_of(run(replace(CLASSIFIER, epochs=3), progress=False).model), encoder_of(r.model))
    assert r.metrics["test_accuracy"] > 0.15
    assert list(r.history["epoch"]) == [1, 2, 3]


def test_an_encoder_of_nobody_can_be_frozen_too():
    config = replace(CLASSIFIER, encoder_lr=0.0)
    assert equal(encoder_of(run(config, progress=False).model), encoder_of(build_model(config)))


def test_fine_tuning_starts_from_the_encoder_and_moves_it(autoencoder):
    moved = []
    for factor in (1e-9, 1.0):
        r = run(replace(CLASSIFIER, encoder=autoencoder.path.name, encoder_lr=factor), progress=False)
        there, here = autoencoder.model.encoder[0].weight, r.model.encoder[0].weight
        moved.append(float((there - here).detach().abs().max()))
    assert moved[0] < 1e-6 < 1e-4 < moved[1]


def test_of_a_vae_the_part_that_gives_mu_is_taken(digits):
    vae = run(VAE, progress=False)
    r = run(replace(CLASSIFIER, encoder=vae.path.name, encoder_lr=0.0), progress=False)
    x, _ = next(batches(digits.test, 5))
    torch.testing.assert_close(r.model.encode(x), vae.model.encode(x))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_the_encoder_has_a_learning_rate_of_its_own(optimizer):
    config = replace(CLASSIFIER, encoder_lr=0.25, lr=0.1, optimizer=optimizer)
    model = build_model(config)
    rates = {id(p): g["lr"] for o in build_optimizers(model, config) for g in o.param_groups for p in g["params"]}
    assert {rates[id(p)] for p in model.encoder.parameters()} == {0.025}
    assert {rates[id(p)] for p in model.head.parameters()} == {0.1}
    assert len(rates) == len(list(model.parameters()))
    assert build_optimizers(model, config)[0].param_groups[0]["lr"] == 0.1  # the one that the history shows


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latent_dim": 5}, r"latent_dim is 3 there, 5 here"),
        ({"filters": (4, 8)}, r"filters is \(4, 4\) there, \(4, 8\) here"),
        ({"depth": 1, "activation": "silu"}, r"depth is 2 there, 1 here; activation is relu there, silu here"),
        ({"batch_norm": False}, "batch_norm"),
        ({"residual": True}, "residual"),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused_by_the_names_of_its_fields(autoencoder, fields, message):
    with pytest.raises(ValueError, match=message):
        run(replace(CLASSIFIER, encoder=autoencoder.path.name, **fields), progress=False)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (Config(model="mlp_vae", hidden=8, latent_dim=3), "that of model='mlp_vae', which has no convolutions"),
        (Config(model="linear", latent_dim=3), "that of model='linear', which has no convolutions"),
        (replace(AE, image_size=16), "image_size is 16 there, 28 here"),
    ],
)
def test_another_networks_encoder_is_refused(tmp_path, config, reason):
    file = tmp_path / "other.safetensors"
    file.write_bytes(weights_file(build_model(config), config))
    with pytest.raises(ValueError, match=reason):
        run(replace(CLASSIFIER, encoder=keep_encoder(file)), progress=False)


def test_the_encoder_of_an_own_kind_with_other_layers_is_refused(tmp_path):
    file = tmp_path / "other.safetensors"
    model = torch.nn.Module()
    model.encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 3))
    file.write_bytes(weights_file(model, AE))
    with pytest.raises(ValueError, match="other layers than a classifier's"):
        run(replace(CLASSIFIER, encoder=keep_encoder(file)), progress=False)
    model = build_model(AE)
    model.encoder[0] = torch.nn.Conv2d(1, 4, 5, 2, 2, bias=False)
    file.write_bytes(weights_file(model, AE))
    with pytest.raises(ValueError, match=r"other sizes than a classifier's \(0.weight\)"):
        run(replace(CLASSIFIER, encoder=keep_encoder(file)), progress=False)


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}"])
def test_what_is_no_weights_file_is_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(RunError, match=r"file is .*damaged.*checkpoint-path"):
        keep_encoder(tmp_path / "file")
    with pytest.raises(RunError, match="nowhere is missing"):
        keep_encoder(tmp_path / "nowhere")


def test_a_checkpoint_file_serves_like_the_run_it_came_from(autoencoder, tmp_path, monkeypatch):
    file = autoencoder.path / "model.safetensors"
    from_run = run(replace(CLASSIFIER, encoder=autoencoder.path.name), progress=False)
    from_file = run(replace(CLASSIFIER, encoder=keep_encoder(file)), progress=False)
    assert from_file.metrics["test_nll"] == from_run.metrics["test_nll"]
    assert keep_encoder(file) == from_file.config.encoder
    kept = from_file.path.parent / "encoders" / f"{from_file.config.encoder}.safetensors"
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match="not the file that was stored"):
        run(replace(CLASSIFIER, encoder=from_file.config.encoder, seed=1), progress=False)
    kept.unlink()


def test_an_encoder_that_is_not_stored_is_named():
    with pytest.raises(RunError, match="encoder='0123456789abcdef' is no stored run"):
        run(replace(CLASSIFIER, encoder="0123456789abcdef"), progress=False)


def test_a_stored_classifier_needs_its_encoders_run_no_more(autoencoder):
    r = run(replace(CLASSIFIER, encoder=autoencoder.path.name, seed=3), progress=False)
    assert load_run(r.path).config.encoder == autoencoder.path.name


def test_freezing_saves_the_encoder_and_counts_encoding(digits, monkeypatch):
    config = replace(CLASSIFIER, encoder_lr=0.0, epochs=4)
    model, calls = build_model(config), []
    whole = model.encoder.forward
    model.encoder.forward = lambda x: (calls.append(len(x)), whole(x))[1]
    train, val = subset(digits.train, 200), subset(digits.val, 100)
    seen = []
    watch = after_each_epoch(lambda m, epoch: seen.append((m is model, epoch)))
    history = fit_head(model, build_objective(config), train, val, config, [watch])
    assert calls == [200, 100]  # each image once, whatever the number of epochs
    assert seen == [(True, epoch) for epoch in (1, 2, 3, 4)]
    assert (history["seconds"] > 0).all()


# --- labels -----------------------------------------------------------------------------------------------------------


def test_labels_are_drawn_by_the_seed_as_many_of_each_class(digits):
    for n in (50, 200):
        drawn = labelled(digits.train, n, seed=0)
        assert drawn.labels.bincount().tolist() == [n // 10] * 10
    few, more, other = (labelled(digits.train, n, seed) for n, seed in ((53, 0), (200, 0), (200, 1)))
    assert few.labels.bincount().max() - few.labels.bincount().min() == 1
    known = {image.numpy().tobytes() for image in more.images}
    assert all(image.numpy().tobytes() in known for image in few.images)
    assert not torch.equal(more.images, other.images)
    assert torch.equal(labelled(digits.train, 200, 0).images, more.images)


def test_a_class_that_runs_out_leaves_its_turns_to_the_others():
    labels = torch.tensor([0] * 3 + [1] * 20)
    split = Split(torch.zeros(23, 1, 28, 28, dtype=torch.uint8), labels)
    assert labelled(split, 16, 0).labels.bincount().tolist() == [3, 13]
    assert labelled(split, None, 0) is split
    with pytest.raises(ValueError, match="n_train=24 exceeds the 23"):
        labelled(split, 24, 0)


def test_the_labels_do_not_depend_on_the_mode(autoencoder):
    scratch = run(replace(CLASSIFIER, n_train=50), progress=False)
    frozen = run(replace(CLASSIFIER, n_train=50, encoder=autoencoder.path.name, encoder_lr=0.0), progress=False)
    assert scratch.metrics["n_train"] == frozen.metrics["n_train"] == 50


# --- what training does to images and labels --------------------------------------------------------------------------


def test_images_are_moved_each_by_itself_over_zeros():
    x = torch.zeros(200, 1, 28, 28)
    x[:, :, 10:12, 5] = 1
    m = moved(x, 2)
    places = {tuple(place) for place in m.nonzero()[::2, 2:].tolist()}
    assert places == {(row, column) for row in range(8, 13) for column in range(3, 8)}
    assert torch.equal(m.sum((1, 2, 3)), x.sum((1, 2, 3)))
    assert torch.equal(moved(x, 0), x)
    full = moved(torch.ones(50, 1, 28, 28), 2)
    assert (full[:, :, 2:-2, 2:-2] == 1).all()
    assert (full == 0).any()


def test_about_half_of_the_images_are_mirrored():
    x = torch.rand(400, 1, 28, 28)
    m = moved(x, 0, flip=True)
    same, mirrored = ((m == y).flatten(1).all(1) for y in (x, x.flip(3)))
    assert (same ^ mirrored).all()
    assert 150 < same.sum() < 250


def test_only_training_moves_and_smooths():
    model = build_model(CLASSIFIER)
    x, y = torch.rand(32, 1, 28, 28), torch.arange(32) % 10
    plain, moving = label_error, build_objective(replace(CLASSIFIER, shift=3, flip=True, label_smoothing=0.3))
    model.train()
    torch.manual_seed(0)
    assert moving(model, x, y, 0.5)["loss"] != plain(model, x, y, 0.5)["loss"]
    model.eval()
    assert moving(model, x, y, 1.0)["loss"] == plain(model, x, y, 1.0)["loss"]


def test_label_smoothing_by_hand():
    logits = torch.tensor([[2.0, 0.0]])
    model = torch.nn.Identity().train()
    log_p = logits.log_softmax(1)[0]
    loss = label_error(model, logits, torch.tensor([0]), label_smoothing=0.2)["loss"]
    torch.testing.assert_close(loss, -(0.9 * log_p[0] + 0.1 * log_p[1]))


def test_what_a_frozen_encoder_cannot_see_is_refused():
    with pytest.raises(ValueError, match=r"encoder_lr=0 freezes the encoder.*shift=2"):
        replace(CLASSIFIER, encoder_lr=0.0, shift=2)


def test_the_head_takes_codes_of_any_scale():
    model = build_model(CLASSIFIER).train()
    z = torch.randn(64, 3)
    torch.testing.assert_close(model.head(1000 * z + 7), model.head(z), atol=1e-3, rtol=1e-3)
    assert isinstance(model, Classifier)
    assert not [
        m for m in build_model(replace(BASELINE, model="classifier")).head if isinstance(m, torch.nn.BatchNorm1d)
    ]
