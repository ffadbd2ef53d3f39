"""The objectives by hand, and the one loop: what it averages, what it refuses, and that nothing disturbs it."""

import hashlib
import math
import os
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Normal, kl_divergence

from labutils.callbacks import after_each_epoch, progress_bar, tensorboard_log
from labutils.config import COMPACT, Config
from labutils.data import Dataset, Split, subset, to_float
from labutils.device import resolve_device, resolve_precision
from labutils.graphs import CapturedStep, recordable
from labutils.models import build_model
from labutils.objectives import (
    build_objective,
    cross_entropy,
    kl_to_standard_normal,
    label_error,
    negative_elbo,
    squared_error,
)
from labutils.optim import Muon, build_optimizers
from labutils.training import TrainingDiverged, TrainingInterrupted, evaluate, fit

# 40 images in batches of 16 make three steps an epoch, the last of 8 images.
# Batch norm and a decoupled decay: whatever state a layer or an optimiser can have is there to be disturbed.
TINY = Config(filters=(3, 4), depth=2, latent_dim=4, batch_norm=True, weight_decay=0.01, epochs=2, batch_size=16,
              device="cpu", precision="float32", dataset="mnist5k")  # fmt: skip
PLAIN = replace(TINY, batch_norm=False, weight_decay=0.0)


@pytest.fixture
def few(digits: Dataset) -> tuple[Split, Split]:
    """40 digits to train on, 24 to validate."""
    return subset(digits.train, 40), subset(digits.val, 24)


def train(
    config: Config, few: tuple[Split, Split], objective=squared_error, **options
) -> tuple[nn.Module, pd.DataFrame]:
    model = build_model(config)
    return model, fit(model, objective, *few, config, **options)


def assert_same_weights(a: nn.Module, b: nn.Module) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


# --- objectives -------------------------------------------------------------------------------------------------------


class ThreeQuarters(nn.Module):
    """Reconstructs every pixel as 3/4, whose logit is log 3."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)

    def decode_logits(self, z: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        return torch.full_like(z, math.log(3)).view(-1, 1, 1, 2)

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        return self.decode_logits(self.encode(x)).sigmoid()


TWO_PIXELS = torch.tensor([[0.0, 1.0], [0.5, 0.5], [1.0, 1.0]]).view(3, 1, 1, 2)


def test_squared_error_by_hand():
    # images cost 9/16 + 1/16, 1/16 + 1/16 and 1/16 + 1/16: a sum over pixels, a mean over images
    terms = squared_error(ThreeQuarters(), TWO_PIXELS, torch.zeros(3))
    assert terms["loss"].item() == pytest.approx((10 + 2 + 2) / 16 / 3)
    assert terms["mse"].item() == pytest.approx((10 + 2 + 2) / 16 / 6)


def test_cross_entropy_by_hand():
    # -log 3/4 for a white pixel, -log 1/4 for a black one, half of each for a grey one
    white, black = -math.log(3 / 4), -math.log(1 / 4)
    terms = cross_entropy(ThreeQuarters(), TWO_PIXELS, torch.zeros(3))
    assert terms["loss"].item() == pytest.approx((white + black + white + black + 2 * white) / 3)
    assert terms["mse"].item() == pytest.approx((10 + 2 + 2) / 16 / 6)


def test_cross_entropy_from_logits_is_that_of_the_output(digits):
    model, x = build_model(PLAIN), to_float(digits.val.images[:50])
    expected = F.binary_cross_entropy(model(x), x, reduction="sum") / 50
    assert cross_entropy(model, x, digits.val.labels[:50])["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_cross_entropy_is_finite_where_a_sigmoid_saturates():
    # the reason for logits: log(sigmoid(-200)) is -inf in float32
    model = ThreeQuarters()
    model.decode_logits = lambda z, y: torch.full_like(z, -200.0).view(-1, 1, 1, 2)
    assert cross_entropy(model, TWO_PIXELS[2:], torch.zeros(1))["loss"].item() == pytest.approx(400)


def test_the_config_names_the_objective():
    assert build_objective(Config(loss="mse")) is squared_error
    assert build_objective(Config(loss="bce")) is cross_entropy
    assert build_objective(Config(model="classifier")).func is label_error
    options = {"beta": 4.0, "beta_warmup": 0.5, "free_bits": 0.1, "binarise": True}
    assert build_objective(Config(model="conv_vae", **options)).keywords == options


@given(st.floats(-20, 20), st.floats(-10, 10))
def test_the_kl_is_that_of_torch_distributions(mu, logvar):
    mu, logvar = torch.tensor(mu, dtype=torch.float64), torch.tensor(logvar, dtype=torch.float64)
    expected = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(torch.zeros_like(mu), torch.ones_like(mu)))
    torch.testing.assert_close(kl_to_standard_normal(mu, logvar), expected)


class TwoUnits(nn.Module):
    """q(z|x) has means 1 and 3 with variances 1 and e², and any code is a grey image of two pixels with logit 0."""

    def posterior(self, x: torch.Tensor, y: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor([[1.0, 3.0]]).expand(len(x), 2), torch.tensor([[0.0, 2.0]]).expand(len(x), 2)

    def decode_logits(self, z: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
        return torch.zeros(len(z), 1, 1, 2)


def test_the_negative_elbo_by_hand():
    # sums over pixels and units, means over images: averaging over pixels would hide a beta of 784
    kl = [0.5, 0.5 * (9 + math.e**2 - 1 - 2)]

    def loss(progress=1.0, **options):
        terms = negative_elbo(TwoUnits(), TWO_PIXELS, None, progress, **options)
        assert terms["bce"].item() == pytest.approx(2 * math.log(2))
        assert terms["kl"].item() == pytest.approx(sum(kl))
        return terms["loss"].item() - 2 * math.log(2)

    assert loss() == pytest.approx(sum(kl))
    assert loss(beta=4.0) == pytest.approx(4 * sum(kl))
    assert loss(0.0, beta=4.0, beta_warmup=0.5) == pytest.approx(0, abs=1e-5)
    assert loss(0.25, beta=4.0, beta_warmup=0.5) == pytest.approx(2 * sum(kl))
    assert loss(0.5, beta=4.0, beta_warmup=0.5) == loss(0.75, beta=4.0, beta_warmup=0.5) == loss(beta=4.0)
    assert loss(free_bits=2.0) == pytest.approx(2 + kl[1])


def test_binarised_images_are_black_and_white_with_the_grey_value_as_probability():
    seen = []

    class Spy(TwoUnits):
        def posterior(self, x, y=None):
            seen.append(x)
            return super().posterior(x)

    x = torch.stack([torch.full((4000,), 0.25), torch.full((4000,), 1.0)], 1).view(4000, 1, 1, 2)
    negative_elbo(Spy(), x, binarise=True)
    assert set(seen[0].flatten().tolist()) == {0.0, 1.0}
    assert seen[0].mean(0).flatten().tolist() == pytest.approx([0.25, 1.0], abs=0.03)


def test_label_error_by_hand():
    logits = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]])
    terms = label_error(nn.Identity(), logits, torch.tensor([0, 0]))
    assert terms["loss"].item() == pytest.approx((-math.log(3 / 4) - math.log(1 / 4)) / 2)
    assert terms["accuracy"].item() == 0.5


def test_progress_runs_from_zero_to_the_last_step_and_is_one_in_evaluation(few):
    seen: dict[bool, list[float]] = {True: [], False: []}

    def objective(model, x, y, progress):
        seen[model.training].append(progress)
        return squared_error(model, x, y)

    train(TINY, few, objective)
    assert seen[True] == pytest.approx([i / 6 for i in range(6)])
    assert set(seen[False]) == {1.0}


def test_each_epoch_is_shown_to_who_asks_and_asking_changes_nothing(few):
    seen = []
    model, _ = train(
        TINY, few, noisy, callbacks=[after_each_epoch(lambda model, epoch: seen.append((epoch, torch.rand(1))))]
    )
    assert [epoch for epoch, _ in seen] == [1, 2]
    assert_same_weights(model, train(TINY, few, noisy)[0])


# --- history ----------------------------------------------------------------------------------------------------------


def test_history_has_a_row_an_epoch(few):
    _, history = train(replace(TINY, epochs=3), few)
    assert list(history) == ["epoch", "lr", "train_loss", "train_mse", "val_loss", "val_mse", "seconds"]
    assert history["epoch"].tolist() == [1, 2, 3]
    assert (history["seconds"] > 0).all()
    assert history["train_mse"].to_numpy() == pytest.approx(history["train_loss"].to_numpy() / 784)


def test_training_learns(few):
    _, history = train(replace(PLAIN, filters=(8, 16), epochs=40, batch_size=8), few)
    blank = few[0].images.float().div(255).var(0, correction=0).mean().item()  # the error of the mean image
    assert history["train_mse"].iloc[-1] < 0.8 * blank


def with_size(model, x, y, progress):
    """An objective that also logs how many images the batch had."""
    return {**squared_error(model, x, y), "size": torch.tensor(float(len(x)))}


def test_averages_are_by_example_not_by_batch(few):
    by_example = (16 * 16 + 16 * 16 + 8 * 8) / 40  # by batch it would be 40 / 3
    model, history = train(TINY, few, with_size)
    assert history["train_size"].tolist() == [pytest.approx(by_example)] * 2
    assert evaluate(model, with_size, few[0], batch_size=16)["size"] == pytest.approx(by_example)


def test_train_and_validation_loss_by_hand(few):
    # at this learning rate no weight moves: the averages over the epoch are those of the initial model
    _, history = train(replace(PLAIN, epochs=1, lr=1e-12), few)
    model = build_model(PLAIN)
    for split, column in zip(few, ("train_loss", "val_loss"), strict=True):
        x = to_float(split.images)
        expected = (model(x) - x).square().sum().item() / len(x)
        assert history[column][0] == pytest.approx(expected, rel=1e-5)


def test_one_batch_larger_than_the_data(few):
    _, history = train(replace(TINY, batch_size=1000), few, with_size)
    assert history["train_size"].tolist() == [40, 40]


def used_rates(config: Config, few: tuple[Split, Split]) -> torch.Tensor:
    """The learning rate of each step as a share of the peak, as every optimizer saw it."""
    rates: dict[type, list[float]] = {}

    def listen(training, moment):
        for optimizer in training.optimizers if moment == "start" else ():
            seen = rates.setdefault(type(optimizer), [])
            optimizer.register_step_pre_hook(
                lambda opt, *_, seen=seen: seen.append(opt.param_groups[0]["lr"] / config.lr)
            )

    history = train(config, few, callbacks=[listen])[1]
    first, *others = rates.values()
    assert len(rates) == (2 if config.optimizer == "muon" else 1)
    assert all(other == first for other in others)
    assert history["lr"].iloc[-1] == pytest.approx(first[-1] * config.lr)
    return torch.tensor(first)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_one_cycle_rises_for_a_tenth_and_falls_to_zero(few, optimizer):
    rates = used_rates(replace(TINY, epochs=10, optimizer=optimizer), few)  # 30 steps
    assert len(rates) == 30
    assert rates[:3].tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert rates[3:].diff().tolist() == pytest.approx([-1 / 27] * 26, abs=1e-6)
    assert rates[-1] == pytest.approx(1 / 27)  # not zero: the last step would be for nothing


def test_one_cycle_of_a_single_step_moves(few):
    assert used_rates(replace(TINY, epochs=1, batch_size=40), few).tolist() == [1]


def test_constant_is_constant(few):
    assert used_rates(replace(TINY, schedule="constant"), few).tolist() == [1] * 6


def test_muon_moves_kernels_as_torchs_muon_moves_matrices(digits):
    model = build_model(COMPACT)
    adam, muon = build_optimizers(model, COMPACT)
    kernels = [
        layer.weight for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))
    ]
    # the layers at both ends, and all vectors, are left to AdamW
    moved = muon.param_groups[0]["params"]
    assert [id(p) for p in moved] == [id(p) for p in kernels[1:-1]]
    assert {id(p) for p in moved} | {id(p) for p in adam.param_groups[0]["params"]} == {
        id(p) for p in model.parameters()
    }

    def as_matrix(tensor):
        return (tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor).reshape(len(tensor), -1).clone()

    start = [as_matrix(p.detach()) for p in moved]
    matrices = [matrix.clone() for matrix in start]
    oracle = torch.optim.Muon(
        matrices, COMPACT.lr, weight_decay=0, momentum=0.9, ns_steps=2, adjust_lr_fn="match_rms_adamw"
    )
    x = digits.val.images[:32].float() / 255
    for _ in range(3):
        muon.zero_grad()
        squared_error(model, x, x)["loss"].backward()
        for p, matrix in zip(moved, matrices, strict=True):
            matrix.grad = as_matrix(p.grad)
        muon.step()
        oracle.step()
    for p, matrix, before in zip(moved, matrices, start, strict=True):
        ours, theirs = as_matrix(p.detach()) - before, matrix - before
        assert (ours - theirs).norm() < 0.02 * theirs.norm()  # torch's computes in bfloat16


def test_muons_weight_decay_shrinks_what_has_no_gradient():
    p = nn.Parameter(torch.ones(3, 4))
    p.grad = torch.zeros(3, 4)
    Muon([{"params": [p], "lr": 0.1}], weight_decay=0.5).step()
    torch.testing.assert_close(p.detach(), torch.full((3, 4), 0.95))


def test_tensorboard_gets_the_history(few, tmp_path):
    train(TINY, few, callbacks=[tensorboard_log(tmp_path / "board")])
    (events,) = (tmp_path / "board").iterdir()
    assert all(name in events.read_bytes() for name in (b"train_loss", b"val_loss", b"lr"))


def test_the_bar_can_be_shown(few, capsys):
    train(TINY, few, callbacks=[progress_bar(TINY, len(few[0]))])
    assert "step" in capsys.readouterr().err


# --- what goes wrong --------------------------------------------------------------------------------------------------


def spoilt(at: int, what):
    """squared_error whose training call number `at` (from 1) does `what` to the terms."""
    calls = 0

    def objective(model, x, y, progress):
        nonlocal calls
        calls += model.training
        terms = squared_error(model, x, y)
        return what(terms) if calls == at and model.training else terms

    return objective


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_divergence_names_epoch_step_and_learning_rate(few, bad):
    config = replace(TINY, schedule="constant", lr=0.0123)
    objective = spoilt(5, lambda terms: {**terms, "loss": terms["loss"] * bad})
    with pytest.raises(TrainingDiverged, match=rf"{bad}.*epoch 2.*step 2.*0\.0123"):
        train(config, few, objective)


def test_a_learning_rate_far_too_high_diverges(few):
    def without_sigmoid(model, x, y, progress):  # which would bound the error and with it every gradient
        return {"loss": (model.decode_logits(model.encode(x)) - x).square().sum() / len(x)}

    with pytest.raises(TrainingDiverged, match=r"epoch \d+, step \d+.*100"):
        train(replace(PLAIN, optimizer="sgd", lr=100, schedule="constant", epochs=5), few, without_sigmoid)


def test_a_validation_loss_that_is_nan_diverges(few):
    def objective(model, x, y, progress):
        terms = squared_error(model, x, y)
        return terms if model.training else {**terms, "loss": terms["loss"] * math.nan}

    with pytest.raises(TrainingDiverged, match=r"validation.*epoch 1"):
        train(TINY, few, objective)


def interrupt(terms):
    raise KeyboardInterrupt


def test_an_interrupt_keeps_the_finished_epochs(few):
    model = build_model(replace(TINY, epochs=5))
    with pytest.raises(TrainingInterrupted, match="2 of 5") as caught:
        fit(model, spoilt(8, interrupt), *few, replace(TINY, epochs=5))
    history = caught.value.history
    assert history["epoch"].tolist() == [1, 2]
    assert history["val_loss"].notna().all()
    assert isinstance(caught.value, KeyboardInterrupt)  # an `except Exception` around a sweep must not swallow it
    assert not any(torch.equal(a, b) for a, b in zip(model.parameters(), build_model(TINY).parameters(), strict=True))


def test_an_interrupt_in_the_first_epoch_has_an_empty_history(few):
    with pytest.raises(TrainingInterrupted, match="0 of 2") as caught:
        train(TINY, few, spoilt(1, interrupt))
    assert len(caught.value.history) == 0


def test_an_interrupt_leaves_the_global_random_state(few):
    state = torch.get_rng_state()
    with pytest.raises(TrainingInterrupted):
        train(TINY, few, spoilt(2, interrupt))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("which", [0, 1], ids=["train", "val"])
@pytest.mark.parametrize("damage", [lambda x: x * 2 - 1, lambda x: x.clone().fill_(math.nan)], ids=["signed", "nan"])
def test_images_outside_0_and_1_are_refused(few, which, damage):
    splits = list(few)
    splits[which] = Split(damage(to_float(few[which].images)), few[which].labels)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        train(TINY, splits)


def test_float_images_train_like_their_bytes(few):
    floats = tuple(Split(to_float(split.images), split.labels) for split in few)
    assert_same_weights(train(TINY, few)[0], train(TINY, floats)[0])


# --- nothing disturbs it ----------------------------------------------------------------------------------------------


def noisy(model, x, y, progress):
    """An objective with noise, as a denoising or variational one has it."""
    return squared_error(model, (x + 0.1 * torch.randn_like(x)).clamp(0, 1), y)


def test_a_seed_is_all_that_decides(few):
    torch.manual_seed(1)
    first = train(TINY, few, noisy)[0]
    torch.manual_seed(2)
    assert_same_weights(train(TINY, few, noisy)[0], first)


def test_the_seed_decides_order_and_noise(few):
    # on their own: whole runs of two seeds differ in their initial weights already
    seen = []

    def spy(model, x, y, progress):
        if model.training:
            seen.append((x.sum().item(), torch.rand(()).item()))
        return squared_error(model, x, y)

    for seed in (0, 1, 0):
        fit(build_model(TINY), spy, *few, replace(TINY, seed=seed))
    first, second, again = seen[:6], seen[6:12], seen[12:]
    assert first == again
    assert all(a != c and b != d for (a, b), (c, d) in zip(first, second, strict=True))


def test_fit_leaves_the_global_random_state(few):
    state = torch.get_rng_state()
    train(TINY, few, noisy)
    assert torch.equal(torch.get_rng_state(), state)


def test_evaluating_changes_no_training(few):
    def watched(model, x, y, progress):
        if model.training:  # evaluate() calls the objective it is given
            evaluate(model, noisy, few[1])
        return noisy(model, x, y, progress)

    assert_same_weights(train(TINY, few, watched)[0], train(TINY, few, noisy)[0])


def test_noise_changes_no_shuffle(few):
    def wasteful(model, x, y, progress):
        torch.rand(len(y))
        return squared_error(model, x, y)

    assert_same_weights(train(TINY, few, wasteful)[0], train(TINY, few)[0])


@pytest.mark.parametrize("mode", [True, False])
def test_evaluate_leaves_the_model_as_it_was(few, mode):
    model, before = build_model(TINY).train(mode), build_model(TINY)
    state = torch.get_rng_state()
    first, again = evaluate(model, noisy, few[1]), evaluate(model, noisy, few[1])
    assert first == again  # the same noise each time: two models are compared on equal terms
    assert model.training is mode
    assert torch.equal(torch.get_rng_state(), state)
    assert_same_weights(model, before)  # also the running means of batch norm


def test_evaluate_uses_running_statistics(few):
    # in training mode an image's loss would depend on its neighbours in the batch
    model = train(TINY, few)[0].train()
    whole, pieces = (evaluate(model, squared_error, few[1], batch_size=n)["loss"] for n in (24, 5))
    assert whole == pytest.approx(pieces, rel=1e-5)


SCRIPT = """
import hashlib, torch
torch.set_num_threads(1)
from labutils import data, models, objectives, training
from labutils.config import COMPACT, Config
c = Config(**{values})
pixels = (torch.arange(40 * 784) * 7919 % 256).to(torch.uint8).view(40, 1, 28, 28)
split = data.Split(pixels, torch.zeros(40, dtype=torch.int64))
model = models.build_model(c)
training.fit(model, objectives.squared_error, split, split, c)
print(hashlib.sha256(b"".join(t.numpy().tobytes() for t in model.state_dict().values())).hexdigest())
"""


def test_two_processes_agree_to_the_bit(capsys):
    # unlike two runs in one process, they differ in Python's hash seed and in all that happened before
    script = SCRIPT.replace("{values}", repr(TINY.to_dict()))
    env = {**os.environ, "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"}
    elsewhere = subprocess.check_output([sys.executable, "-c", script], env=env, text=True, timeout=60)
    exec(script, {})
    here = capsys.readouterr().out
    assert len(here.strip()) == len(hashlib.sha256().hexdigest())
    assert here == elsewhere


# --- devices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused(few, name):
    if torch.cuda.is_available() if name == "cuda" else torch.backends.mps.is_available():
        pytest.skip(f"this machine has {name}")
    with pytest.raises(ValueError, match=f"{name}.*cpu"):
        train(replace(TINY, device=name), few)


def test_auto_takes_what_is_there():
    assert resolve_device("cpu").type == "cpu"
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert resolve_device("auto").type == expected


def test_bfloat16_trains_or_is_refused(few):
    config = replace(TINY, precision="bfloat16")
    try:
        resolve_precision("bfloat16", torch.device("cpu"))
    except ValueError:
        with pytest.raises(ValueError, match="bfloat16"):
            train(config, few)
        return
    model, history = train(config, few)
    assert {p.dtype for p in model.parameters()} == {torch.float32}  # only products are rounded
    assert history["train_loss"][0] == pytest.approx(train(TINY, few)[1]["train_loss"][0], rel=0.05)
    assert history["train_loss"][0] != train(TINY, few)[1]["train_loss"][0]  # it did something


def test_bfloat16_is_refused_where_it_would_be_emulated():
    with pytest.raises(ValueError, match=r"bfloat16.*mps.*float32"):
        resolve_precision("bfloat16", torch.device("mps"))


def test_auto_precision_is_float32_without_a_card():
    assert resolve_precision("auto", torch.device("cpu")) == "float32"
    assert resolve_precision("float32", torch.device("cpu")) == "float32"


@pytest.mark.parametrize("threads", [1, 2])
def test_a_training_has_the_config_s_threads_and_gives_back_the_others(few, threads):
    before = torch.get_num_threads()
    during = []
    train(replace(TINY, threads=threads), few, callbacks=[lambda *_: during.append(torch.get_num_threads())])
    assert set(during) == {threads}
    assert torch.get_num_threads() == before


def test_a_training_that_fails_leaves_the_threads(few):
    before = torch.get_num_threads()

    def broken(model, x, y, progress):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        train(replace(TINY, threads=before + 1), few, broken)
    assert torch.get_num_threads() == before


@pytest.mark.skipif(sys.platform != "linux", reason="the remedy is one for Linux's malloc")
def test_steps_reuse_their_memory(digits):
    import resource

    config = replace(COMPACT, n_train=256, epochs=1)
    model = build_model(config)
    fit(model, squared_error, subset(digits.train, 256), subset(digits.val, 50), config)
    x, faults = to_float(digits.train.images[:256]), []
    for _ in range(20):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        squared_error(model, x, x)["loss"].backward()
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    # a step moves some 25 MiB of activations and gradients: 6,000 pages of 4 KiB
    assert sorted(faults)[10] < 600


# --- a recorded step: what it does on a card, `make gpu-check` sees ---------------------------------------------------


class Record:
    """In place of a CUDA graph: knows the rates that it was recorded with, and computes when it is replayed."""

    def __init__(self) -> None:
        self.step: CapturedStep | None = None
        self.replayed: list[tuple[float, float]] = []

    def __enter__(self) -> None:
        assert self.step is not None
        self.rates = [group["lr"] for group in self.step.optimizers[0].param_groups]

    def __exit__(self, *_: object) -> None:
        pass

    def replay(self) -> None:
        assert self.step is not None
        self.step.out.copy_(self.step.x.sum() + self.step.y.sum())
        self.replayed.append((float(self.step.out), float(self.rates[0])))


def test_a_recorded_step_sees_each_batch_and_each_rate(monkeypatch):
    record = Record()
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: record)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: graph)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.0)
    called = []

    def compute(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        called.append(len(x))
        return x.sum() + y.sum()

    record.step = step = CapturedStep(compute, [optimizer])
    outs = []
    for i in range(7):
        optimizer.param_groups[0]["lr"] = i / 10
        n = 1 if i == 5 else 2  # the last batch of an epoch is smaller
        outs.append(step(torch.full((n, 1), float(i)), torch.ones(n)))
        assert optimizer.param_groups[0]["lr"] == i / 10, "a float, for schedulers and checkpoints"
        assert "capturable" not in optimizer.param_groups[0]
    assert [float(out) for out in outs] == [2, 4, 6, 8, 10, 6, 14], "none is overwritten by the next"
    assert called == [2, 2, 2, 2, 1], "three to warm up, one to record, the small batch as it is"
    assert record.replayed == [(8, pytest.approx(0.3)), (10, pytest.approx(0.4)), (14, pytest.approx(0.6))]


@pytest.mark.parametrize(("name", "can"), [("adam", True), ("adamw", True), ("muon", True), ("sgd", False)])
def test_only_optimizers_that_take_their_rate_from_the_card_are_recorded(name, can):
    """torch's SGD turns its rate into a Python number: on a card that would end the recording, and the training."""
    config = replace(TINY, optimizer=name)
    assert recordable(build_optimizers(build_model(config), config)) is can


def test_muon_takes_its_rate_from_a_tensor_too():
    """As in a recorded step, which must not bake a rate in."""
    after = []
    for lr in (0.05, torch.tensor(0.05)):
        p = nn.Parameter(torch.ones(3, 2))
        p.grad = torch.tensor([[1.0, 2.0], [0.0, 1.0], [3.0, -1.0]])
        optimizer = Muon([{"params": [p], "lr": lr}], weight_decay=0.1)
        optimizer.step()
        after.append(p.detach())
    torch.testing.assert_close(*after)
