"""A kind of model of your own: named like a built-in one, stored under its source, taken to every process."""

import importlib.util
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_workers import dask
from torch import nn

from labutils import (
    Config,
    ablate,
    compare,
    load_dataset,
    load_run,
    run,
    stored_runs,
    summarize,
    sweep,
    tuned_sweep,
    verdicts,
)
from labutils.cli.main import main
from labutils.config import add_kind, option
from labutils.explore.explorer import LatentExplorer
from labutils.explore.latent_map import LatentMap
from labutils.kinds import COLUMNS, CONVOLUTIONS, KINDS
from labutils.models import Autoencoder, conv_autoencoder
from labutils.store.key import recipe
from labutils.store.listing import USELESS, select, survey
from labutils.store.weights import RunError
from labutils.trial import try_batch

SCALE = 1.0


def noise_like(x, strength):
    return SCALE * strength * torch.randn_like(x)


def denoising(config):
    def loss(model, x, y, progress):
        x_hat = model(x + noise_like(x, config.noise) if model.training else x)
        return {"loss": F.mse_loss(x_hat, x, reduction="sum") / len(x), "mse": F.mse_loss(x_hat, x).detach()}

    return loss


NOISE = option(0.3, "standard deviation of the noise", low=0, high=5)
TINY = {"dataset": "digits", "filters": (4, 4), "depth": 2, "latent_dim": 3, "epochs": 1, "device": "cpu"}


@pytest.fixture
def noisy():
    yield add_kind("noisy", conv_autoencoder, denoising, fields=CONVOLUTIONS, own={"noise": NOISE})
    KINDS.pop("noisy", None)


def test_it_is_trained_stored_and_compared_as_the_built_in_ones_are(noisy, store):
    base = noisy(**TINY)
    with ThreadPoolExecutor(1) as executor:
        table = ablate("noise", [0.0, 0.5], base=base, seeds=2, executor=executor)
        assert table["noise"].tolist() == [0, 0, 0.5, 0.5]
        assert table["test_mse"].nunique() == 4
        assert (table["pca_mse"] > 0).all()
        arms = {"AE": Config(**TINY), "noisy": base}
        tuned = tuned_sweep(arms, [0.01, 0.02], {1: 1}, executor)
    assert "noisy" in verdicts(tuned, "val_mse").to_string()
    again = run(replace(base, noise=0.5), progress=False)
    assert again.cached
    assert again.config.noise == 0.5
    assert load_run(again.path.name).config == again.config
    assert replace(again.config, noise=1).noise == 1.0
    assert {"noisy", "cae"} == set(stored_runs()["model"])
    made_of_them = (summarize(table, "noise"), compare(table, "noise"), verdicts(tuned, "val_mse"))
    columns = {*table, *tuned, *survey()}.union(*made_of_them) - {*noisy.args[1].__dataclass_fields__}
    assert columns <= {*COLUMNS}, "no field of one's own may have the name of another column"
    assert summarize(table)["n"].tolist() == [2, 2], "its own field tells configurations apart"
    assert len(select(survey(), {"noise": "0.5"})) == 2
    with pytest.raises(ValueError, match=r"no best learning rates.*tune="):
        verdicts(table)
    with pytest.raises(ValueError, match=r"'noize' must be .*did you mean noise\?"):
        ablate("noize", [0.0], base=base)


def test_its_fields_are_checked_as_those_of_config(noisy):
    for wrong in ({"noise": -1}, {"noise": "much"}, {"latent_dim": 0}, {"beta": 2.0}):
        with pytest.raises(ValueError, match=f"^{next(iter(wrong))}="):
            noisy(**{**TINY, **wrong})
    with pytest.raises(ValueError, match="model='noisy' has other fields"):
        Config(model="noisy")
    with pytest.raises(ValueError, match="factor='beta2x'"):
        ablate("beta2x", [1], base=noisy(**TINY))
    with pytest.raises(ValueError, match="'cae' must be a name"):
        add_kind("cae", conv_autoencoder, denoising)
    with pytest.raises(ValueError, match="own="):
        add_kind("other", conv_autoencoder, denoising, own={"lr": option(1.0, "taken")})
    for column in ("scale", "bytes", "val_mse"):
        with pytest.raises(ValueError, match=r"own=.*column of a table"):
            add_kind("other", conv_autoencoder, denoising, own={column: option(1.0, "taken")})
    with pytest.raises(ValueError, match="own="):
        add_kind("other", conv_autoencoder, denoising, own={"noise": 0.3})
    with pytest.raises(ValueError, match="fields="):
        add_kind("other", conv_autoencoder, denoising, fields=("nose",))
    assert "other" not in KINDS


SOURCE = '''
"""A module."""
import torch
import torch.nn.functional as F
from torch import nn

STRENGTH = 0.3


def blurred(x):
    """Blurred."""
    return F.avg_pool2d(x, 3, 1, 1)  # by a box


class Network(nn.Module):
    width = 4

    def __init__(self, config):
        super().__init__()
        pixels = config.channels * config.image_size**2
        self.latent_dim = config.latent_dim
        self.shape = (config.channels, config.image_size, config.image_size)
        self.down = nn.Linear(pixels, config.latent_dim)
        self.up = nn.Linear(config.latent_dim, pixels)

    def encode(self, x):
        return self.down(x.flatten(1))

    def decode(self, z, y=None):
        return self.up(z).sigmoid().unflatten(1, self.shape)

    def forward(self, x, y=None):
        return self.decode(self.encode(x))


def objective(config):
    return lambda model, x, y, progress: {"loss": F.mse_loss(model(blurred(x) * STRENGTH), x, reduction="sum") / len(x)}
'''
# what hides code: decorators, a cache, two names of one function
IMPORTS = """import functools
from dataclasses import dataclass
from typing import NamedTuple
import torch
"""
HIDING = """POOLS = (F.avg_pool2d, F.max_pool2d)
SECOND = F.avg_pool2d


def halved(function):
    @functools.wraps(function)
    def wrapper(x):
        return function(x) / 2

    return wrapper


@functools.cache
def side():
    return 3


@functools.singledispatch
def even(value):
    return value


@even.register
def _(value: int):
    return value + 0


@dataclass
class Grey:
    level: float = 1.0


class Size(NamedTuple):
    side: int = 3

    @functools.cached_property
    def half(self):
        return self.side // 2


@torch.no_grad()
@halved
def blurred(x):"""
DECORATED = (
    SOURCE.replace("import torch\n", IMPORTS, 1)
    .replace("def blurred(x):", HIDING)
    .replace("F.avg_pool2d(x, 3, 1, 1)",
             "POOLS[0](x, even(side()), 1, 1) + SECOND(x, Size().side, 1, 1) * Grey().level")
)  # fmt: skip
EDITS = {
    "a function's number": ("return self.up(z)", "return 2 * self.up(z)"),
    "a function that is called": ("+ SECOND(x, Size().side, 1, 1)", "+ SECOND(x, Size().side, 1, 2)"),
    "a function that is cached": ("return 3", "return 5"),
    "a decorator": ("return function(x) / 2", "return function(x) / 3"),
    "what is registered for a type": ("return value + 0", "return value + 1"),
    "a dataclass's default": ("level: float = 1.0", "level: float = 2.0"),
    "a named tuple's default": ("side: int = 3", "side: int = 5"),
    "a cached property": ("self.side // 2", "self.side // 3"),
    "which of two": ("SECOND = F.avg_pool2d", "SECOND = F.max_pool2d"),
    "a value": ("STRENGTH = 0.3", "STRENGTH = 0.4"),
    "a class's value": ("width = 4", "width = 5"),
    "a lambda": ('reduction="sum") / len(x)', 'reduction="sum")'),
    "what it is made of": ("class Network(nn.Module)", "class Network(nn.Sequential)"),
}


def defined(folder, source):
    """The kind "blurry" of a module that lies in a folder outside of the path."""
    file = folder / "blurry_module.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location("blurry_module", file)
    module = sys.modules["blurry_module"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    import linecache

    linecache.checkcache()
    return add_kind("blurry", module.Network, module.objective)


@pytest.fixture
def forgotten():
    yield
    KINDS.pop("blurry", None)
    sys.modules.pop("blurry_module", None)


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_renames_its_runs(tmp_path, forgotten, edit):
    defined(tmp_path, DECORATED)
    before = recipe("blurry")
    defined(tmp_path, DECORATED.replace('"""Blurred."""', '"""As a box does."""').replace("  # by a box", ""))
    assert recipe("blurry") == before, "words are no code"
    old, new = EDITS[edit]
    assert DECORATED.count(old) == 1
    defined(tmp_path, DECORATED.replace(old, new))
    assert recipe("blurry") != before


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages"])  # of the user, of the system
def test_what_is_installed_anywhere_is_named_and_not_read(tmp_path, forgotten, folder):
    (tmp_path / folder).mkdir()
    defined(tmp_path / folder, SOURCE)
    before = recipe("blurry")
    defined(tmp_path / folder, SOURCE.replace("STRENGTH = 0.3", "STRENGTH = 0.4"))
    assert recipe("blurry") == before


def test_a_method_of_a_type_in_c_is_named(tmp_path, forgotten):
    source = DECORATED.replace("function(x) / 2", "positive(function(x))")
    defined(tmp_path, source.replace("STRENGTH = 0.3", "positive, STRENGTH = torch.Tensor.relu, 0.3"))
    before = recipe("blurry")
    defined(tmp_path, source.replace("STRENGTH = 0.3", "positive, STRENGTH = torch.Tensor.tanh, 0.3"))
    assert recipe("blurry") != before


def test_a_module_counts_with_the_modules_of_yours_that_it_imports(tmp_path, forgotten, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two edits within a second
    (tmp_path / "a_package").mkdir()
    (tmp_path / "a_package" / "__init__.py").touch()  # inspect finds no source in it
    middle = "try:\n    from . import deep\nexcept ImportError:\n    from a_package import deep\n"
    (tmp_path / "middle_module.py").write_text(f"{middle}def strength():\n    return deep.strength()\n")
    source = SOURCE.replace("import torch\n", "import torch\nimport middle_module\n", 1)
    names = []
    for value in ("0.3", "0.4"):
        (tmp_path / "a_package" / "deep.py").write_text(f"def strength():\n    return {value}\n")
        for name in [name for name in sys.modules if name.startswith(("middle_module", "a_package"))]:
            monkeypatch.delitem(sys.modules, name)
        importlib.invalidate_caches()
        defined(tmp_path, source.replace("* STRENGTH", "* middle_module.strength()"))
        names.append(recipe("blurry"))
    assert names[0] != names[1]


def test_an_edit_counts_without_defining_the_kind_again(noisy, monkeypatch):
    before = recipe("noisy")
    monkeypatch.setitem(globals(), "SCALE", 2.0)  # a cell below was changed and run
    assert recipe("noisy") != before
    monkeypatch.undo()
    assert recipe("noisy") == before


def test_a_run_of_an_edited_definition_comes_with_a_warning(noisy, store, monkeypatch):
    stored = run(noisy(**TINY), progress=False)
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "SCALE", 2.0)
        with pytest.warns(UserWarning, match=rf"{stored.path.name} was trained by another definition of model='noisy'"):
            load_run(stored.path.name)
        assert not run(noisy(**TINY), progress=False).cached
    assert load_run(stored.path.name).metrics == stored.metrics


@pytest.mark.filterwarnings("ignore")  # what distributed leaves behind is its own affair
def test_processes_and_dask_workers_get_it_without_its_module(tmp_path, forgotten, store, counted):
    Blurry = defined(tmp_path, SOURCE)
    configs = [Blurry(dataset="digits", latent_dim=2, epochs=1, device="cpu", seed=seed) for seed in range(4)]
    own = sweep(configs[:2])
    assert own["error"].tolist() == ["", ""]
    with dask() as executor:
        theirs = sweep(configs, executor)
    assert theirs["error"].tolist() == [""] * 4
    assert theirs["run"][:2].tolist() == own["run"].tolist()
    assert all(run(config, progress=False).cached for config in configs), "under the names that the driver gives"
    counted("a kind of model of one's own: 2 runs in own processes, 2 on Dask workers")


def test_a_run_whose_definition_is_missing_says_so(noisy, store):
    stored = run(noisy(**TINY), progress=False)
    weights = (stored.path / "model.safetensors").read_bytes()
    KINDS.pop("noisy")
    with pytest.raises(RunError, match=r"'noisy', is not defined here: .*add_kind\('noisy'"):
        load_run(stored.path.name)
    assert stored_runs().empty
    assert survey()["state"].tolist() == ["unknown kind"]
    assert "--define" in survey()["note"][0]
    assert "unknown kind" not in USELESS, "the command line, which knows no kinds but its own, must not delete it"
    assert (stored.path / "model.safetensors").read_bytes() == weights, "nothing is lost"
    again = add_kind("noisy", conv_autoencoder, denoising, fields=CONVOLUTIONS, own={"noise": NOISE})
    assert run(again(**TINY), progress=False).cached


def test_its_codes_are_explored(noisy, store, tmp_path):
    stored = run(noisy(**TINY), progress=False)
    explorer = LatentExplorer(stored)
    explorer.sliders[0].value += 0.5
    assert explorer.renders == 2
    assert LatentMap(stored).data["decoder"] is not None
    assert explorer.export_html(tmp_path / "page.html").stat().st_size > 10_000


class Foreign(nn.Module):
    """A network that shares nothing with the lab's."""

    def __init__(self, config):
        super().__init__()
        self.latent_dim = config.latent_dim
        self.side = config.image_size
        self.inner = nn.Linear(self.side**2, self.latent_dim)

    def encode(self, x):
        return self.inner(x.flatten(1))

    def decode(self, z, y=None):
        return (z @ self.inner.weight).sigmoid().view(-1, 1, self.side, self.side)

    def forward(self, x, y=None):
        return self.decode(self.encode(x))


def squared(config):
    return lambda model, x, y, progress: {"loss": (model(x) - x).square().flatten(1).sum(1).mean()}


def test_a_network_that_shares_nothing_with_the_labs_has_sliders_and_a_map(store, tmp_path):
    Tied = add_kind("tied", Foreign, squared)
    try:
        stored = run(Tied(dataset="digits", latent_dim=4, epochs=1, device="cpu"), progress=False)
        assert {"test_mse", "psnr", "ssim", "n_params"} <= set(stored.metrics)
        explorer = LatentExplorer(stored)
        explorer.describe()
        assert LatentMap(explorer=explorer).picture_at(0, 0).startswith(b"\x89PNG")
        assert stored.sample(2, "gaussian").shape == (2, 1, 8, 8)
        with pytest.raises(ValueError, match="only Python knows"):
            explorer.export_html(tmp_path / "page.html")
    finally:
        KINDS.pop("tied")


SCRIPT = """
import sys
import torch.nn.functional as F
from labutils import sweep
from labutils.config import add_kind, option
from labutils.kinds import CONVOLUTIONS
from labutils.models import conv_autoencoder

def objective(config):
    def loss(model, x, y, progress):
        return {"loss": F.mse_loss(model(x * config.fade), x, reduction="sum") / len(x)}
    return loss

fade = option(0.5, "how dark", low=0)
Faded = add_kind("faded", conv_autoencoder, objective, fields=CONVOLUTIONS, own={"fade": fade})
base = dict(dataset="mnist5k", filters=(4, 4), depth=2, latent_dim=3, epochs=3, n_train=1000, device="cpu")
table = sweep([Faded(**base, fade=fade, seed=seed) for fade in (0.5, 1.0) for seed in range(5)])
print(" ".join(table["run"]), (table["error"] == "").sum())
"""


def test_a_sweep_that_is_killed_half_way_is_taken_up(tmp_path, store, counted):
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 240
        while len(list(store.glob("[0-9a-f]" * 16))) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    before = {path.name: path.stat().st_mtime_ns for path in store.glob("[0-9a-f]" * 16)}
    assert 3 <= len(before) < 10
    *names, whole = subprocess.check_output([sys.executable, script], stderr=subprocess.DEVNULL, text=True).split()
    assert whole == "10"
    assert set(before) < set(names)
    assert all(Path(store / name).stat().st_mtime_ns == moment for name, moment in before.items())
    counted(f"a sweep of one's own model killed after {len(before)} of 10 runs: the second made the other "
            f"{10 - len(before)}")  # fmt: skip


def test_networks_of_the_lab_are_parts_for_ones_own(store):
    def network(config):
        return Autoencoder(config, nn.Sequential(nn.Flatten(), nn.Linear(64, config.latent_dim)),
                           nn.Sequential(nn.Linear(config.latent_dim, 64), nn.Unflatten(1, (1, 8, 8))))  # fmt: skip

    Shallow = add_kind("shallow", network, squared)
    try:
        assert run(Shallow(dataset="digits", latent_dim=8, epochs=1, device="cpu"), progress=False).metrics["test_mse"]
    finally:
        KINDS.pop("shallow")


class Broken(Foreign):
    """A network with one method that is not as it has to be."""

    def __init__(self, config, name, method):
        super().__init__(config)
        setattr(self, name, partial(method, self))


def network(name, method):
    return lambda config: Broken(config, name, method)


def objective(terms):
    return lambda config: lambda model, x, y, progress: terms(model, x)


def error(model, x):
    return (model(x) - x).square().flatten(1).sum(1).mean()


BREAKS = {
    "no network": (lambda config: None, squared, "network(config) has to return an nn.Module"),
    "no parameters": (lambda config: nn.Identity(), squared, "it has no parameters"),
    "an empty network": (lambda config: nn.Sequential(), squared, "it has no parameters"),
    "no forward": (lambda config: nn.ParameterList([torch.ones(1)]), squared, "network.latent_dim has to be"),
    "forward without y": (network("forward", lambda self, x: self.decode(self.encode(x))), squared,
                          "forward(x, y=None)"),
    "another latent_dim": (lambda config: Foreign(replace(config, latent_dim=5)), squared,
                           "network.latent_dim has to be the config's, 4; it is 5"),
    "pixels that are no numbers": (network("forward", lambda self, x, y=None: self.decode(self.encode(x)) * torch.nan),
                                   squared, "not finite"),
    "no encode": (network("encode", None), squared, "model='broken', tried on a few images"),
    "a code of another width": (network("encode", lambda self, x: x.flatten(1)), objective(lambda model, x: {
        "loss": (model.inner(x.flatten(1)) ** 2).mean()}), "codes of shape (B,latent_dim), here (20, 4); it gave a"),
    "images of another shape": (network("forward", lambda self, x, y=None: self.decode(self.encode(x)).flatten(1)),
                                objective(lambda model, x: {"loss": model(x).mean()}), "(20, 1, 8, 8)"),
    "no sigmoid": (network("forward", lambda self, x, y=None: 3 * self.decode(self.encode(x)) - 2), squared, "sigmoid"),
    "no loss": (Foreign, objective(lambda model, x: {"mse": error(model, x)}), "a dict of mse"),
    "no dict": (Foreign, objective(error), "a tensor of shape ()"),
    "a detached loss": (Foreign, objective(lambda model, x: {"loss": error(model, x).detach()}), "no gradient"),
    "a loss of something else": (Foreign, objective(lambda model, x: {"loss": torch.zeros((), requires_grad=True)}),
                                 "reaches no parameter"),
    "a loss for each image": (Foreign, objective(lambda model, x: {"loss": (model(x) - x).square().flatten(1).sum(1)}),
                              "'loss' is a tensor of shape (20,)"),
    "a term that is a float": (Foreign, objective(lambda model, x: {"loss": error(model, x), "mse": 0.1}),
                               "'mse' is float"),
    "an objective of three": (Foreign, lambda config: lambda model, x, y: {"loss": error(model, x)}, "TypeError"),
    "no objective": (Foreign, lambda config: None, "objective(config) has to return a function"),
}  # fmt: skip


@pytest.mark.parametrize("part", BREAKS)
def test_a_kind_that_breaks_its_contract_is_refused_before_the_first_epoch(part, store):
    network, objective, message = BREAKS[part]
    Kind = add_kind("broken", network, objective)
    config = Kind(dataset="digits", latent_dim=4, epochs=100_000, device="cpu")
    try:
        with pytest.raises(ValueError, match=r"^model='broken', tried on a few images: ") as refused:
            run(config, progress=False)
        assert message in str(refused.value)
        assert not list(store.glob("[0-9a-f]" * 16))
    finally:
        KINDS.pop("broken")


def test_the_trial_leaves_no_trace(noisy, store):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    try_batch(noisy(**TINY, image_size=8, batch_norm=True), load_dataset("digits").train)
    assert torch.equal(torch.rand(3), expected)


def test_a_loss_that_compares_classes_is_tried_on_several(store):
    def contrast(config):
        def loss(model, x, y, progress):
            z, others = model.encode(x), y[:, None] != y
            assert (~others).sum(1).max() > 1, "no two images of a class to be compared"
            return {"loss": F.mse_loss(model(x), x) + 1 / torch.cdist(z, z)[others].min()}

        return loss

    Contrast = add_kind("contrast", Foreign, contrast)
    try:
        train = load_dataset("mnist5k").train
        for order in (torch.arange(4000), torch.randperm(4000, generator=torch.Generator().manual_seed(0))):
            for batch_size in (10, 64):
                try_batch(Contrast(dataset="mnist5k", latent_dim=4, batch_size=batch_size), train.take(order))
    finally:
        KINDS.pop("contrast")


def test_measures_of_ones_own_free_a_kind_from_an_autoencoders_contract(store):
    def network(config):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 1))

    def brightness(config):
        return lambda model, x, y, progress: {"loss": (model(x)[:, 0] - x.mean((1, 2, 3))).square().mean()}

    def measures(model, config, data):
        weights = model[1].weight.detach()
        return {"weight": float(weights.mean()), "first": weights[0, 0], "least": weights.numpy().min()}

    def words(model, config, data):
        return {"weight": "heavy"}

    try:
        Bright = add_kind("bright", network, brightness, measures=measures, own={"way": option("up", "a text")})
        metrics = run(Bright(dataset="digits", epochs=1, device="cpu", way="down"), progress=False).metrics
        assert all(type(metrics[name]) is float for name in ("weight", "first", "least"))  # of numpy and torch, too
        Bright = add_kind("bright", network, brightness, measures=words)
        with pytest.raises(ValueError, match="measures: 'weight' has to be a number, not str"):
            run(Bright(dataset="digits", epochs=1, device="cpu"), progress=False)
    finally:
        KINDS.pop("bright")


SEEN: list[float] = []
NAMES = np.array(["a", "b"], dtype=object)


def test_a_training_may_change_what_its_objective_uses(store):
    def remembering(config):
        def loss(model, x, y, progress):
            SEEN.append(progress)
            return {"loss": F.mse_loss(model(x), x), "names": x.new_tensor(len(NAMES))}

        return loss

    try:
        Remembering = add_kind("remembering", conv_autoencoder, remembering, fields=CONVOLUTIONS)
        assert "test_mse" in run(Remembering(**TINY), progress=False).metrics
    finally:
        KINDS.pop("remembering")


def test_a_field_that_a_kind_lacks_is_named_with_those_that_are_near(noisy):
    with pytest.raises(ValueError, match="'nois' is no field of model='noisy', did you mean noise"):
        noisy(**TINY, nois=0.1)


def test_the_command_line_knows_the_kinds_of_a_file(tmp_path, store, capsys, forgotten, monkeypatch):
    file = tmp_path / "blurry_module.py"
    imports, own = "from labutils.config import add_kind, option", "{'blur': option(3, 'pixels')}"
    file.write_text(f"{SOURCE}\n{imports}\nadd_kind('blurry', Network, objective, own={own})\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    command = ["train", "--model", "blurry", "--dataset", "digits", "--epochs", "1", "--blur", "5"]
    assert main([*command, "--define", str(file)]) == 0
    said = capsys.readouterr().out
    assert "test MSE" in said
    assert stored_runs()["blur"].tolist() == [5]
    assert main(["--define", str(file), "runs"]) == 0
    assert "blurry" in capsys.readouterr().out
    for wrong, message in (
        (["train", "--define", "nowhere.py"], "nowhere.py: there is no such file"),
        (["train", "--define", str(file), "--model", "cae", "--blur", "5"], "blur: no field of --model cae"),
    ):
        assert main(wrong) == 2
        assert message in capsys.readouterr().err
