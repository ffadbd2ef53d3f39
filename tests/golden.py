"""The proof that today's code gives the same numbers as older code: small runs that turn every field, bit by bit.

`make same` trains them with an older revision and with the working tree, side by side on this machine, and enters the
kinds of model that come out equal into recipes.json: their stored and published runs keep their names. What differs
gets new names, that kind alone. Nothing is entered while a changed line was executed by no golden run (unless it only
raises or warns): equal numbers would say nothing about it.
"""

import ast
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SMALL = {"filters": (4, 6), "depth": 2, "hidden": 16, "latent_dim": 3, "epochs": 2, "batch_size": 32}
# a value other than the default's and other than SMALL's for every field of Config but device, precision and what the
# images decide
TURNED: dict[str, list[Any]] = {
    "filters": [(4, 5, 6)], "depth": [1], "latent_dim": [5], "residual": [True], "hidden": [24], "batch_norm": [True],
    "activation": ["leaky_relu", "silu", "gelu", "elu", "tanh"], "negative_slope": [0.3], "head": [8], "dropout": [0.3],
    "shift": [2], "flip": [True], "label_smoothing": [0.1], "encoder": ["cae", "conv_vae"], "encoder_lr": [0.5, 0.0],
    "loss": ["bce"], "beta": [3.0], "beta_warmup": [0.5], "free_bits": [0.3], "binarise": [True], "epochs": [4],
    "batch_size": [43], "lr": [0.03], "schedule": ["constant"], "optimizer": ["sgd", "adam", "muon"], "beta2": [0.9],
    "weight_decay": [0.1], "n_train": [70], "seed": [3], "threads": [2], "initialisation": ["torch"],
}  # fmt: skip
# what a machine decides, and what names the run
UNPROVED = {"seconds", "threads", "latency_ms", "batch_latency_ms", "images_per_second"}
# for a line, or a `def`, that no golden run can reach (another device, a download), with the reason
MARK = "# unproved:"


def golden_configs() -> list[dict[str, Any]]:
    """The fields of every golden run; `encoder` names the kind whose first run gives it, `images` the data set."""
    from dataclasses import asdict, replace

    from labutils.config import CLASSIFIER, COMPACT, CONV_VAE, MLP_VAE, Config
    from labutils.kinds import KINDS, has_field

    real = {"cae": COMPACT, "mlp_vae": MLP_VAE, "conv_vae": CONV_VAE, "classifier": CLASSIFIER}
    real["linear"] = Config(model="linear")
    real["conditional_vae"] = replace(CONV_VAE, model="conditional_vae")
    configs = []
    for kind in KINDS:
        small = {name: value for name, value in {"model": kind, **SMALL}.items() if has_field(kind, name)}
        turned = [{name: value} for name, values in TURNED.items() if has_field(kind, name) for value in values]
        turned += [{"encoder": "cae", "encoder_lr": lr} for lr in (0.0, 0.5)] if has_field(kind, "encoder") else []
        if has_field(kind, "batch_norm"):
            turned += [
                {"negative_slope": 0.3, "activation": "leaky_relu"},
                {"optimizer": "muon", "batch_norm": True},
                {"initialisation": "he", "batch_norm": True},
            ]
        configs += [{**small, **variant, "images": "few"} for variant in [{}, *turned]]
        fields = {
            name: v
            for name, v in asdict(replace(real[kind], epochs=1)).items()
            if name not in ("dataset", "image_size", "channels", "classes", "device", "precision")
        }
        # more than 10,000 images, of which some are measured; for a VAE's slow steps fewer do
        configs.append({**fields, "n_train": 3000 if kind.endswith("_vae") else None, "images": "many"})
        configs += [{**small, "images": images} for images in ("colour", "tiny")]
    noisy = {name: value for name, value in SMALL.items() if name != "hidden"}
    configs.append({**noisy, "model": "noisy", "noise": 0.2, "images": "few"})
    return configs


def noisy_objective(config: Any) -> Any:
    """A kind of model that is not built in: an autoencoder that is shown noise."""
    import torch

    def squared_error(model: Any, x: Any, y: Any, progress: float) -> Any:
        x_hat = model(x + config.noise * torch.randn_like(x) if model.training else x)
        return {"loss": (x_hat - x).square().flatten(1).sum(1).mean(), "mse": (x_hat - x).square().mean()}

    return squared_error


def noisy_network(config: Any) -> Any:
    from labutils.models import Autoencoder, conv_decoder, conv_encoder

    return Autoencoder(config, conv_encoder(config, config.latent_dim), conv_decoder(config, config.latent_dim))


def golden_digests(configs: list[dict[str, Any]]) -> dict[str, Any]:
    """Train every config with the labutils that is imported: a SHA-256 of each run's weights, its history and its
    metrics (None where that labutils has no such field), and the recipe of each kind."""
    import torch

    from labutils import runs
    from labutils.config import add_kind, config_class, option
    from labutils.data import Dataset, Split
    from labutils.store.key import recipe

    torch.set_num_threads(1)
    images = _digest_of_images()
    generator = torch.Generator().manual_seed(7)

    def split(n: int, channels: int = 1, size: int = 28) -> Split:
        pixels = torch.rand(n, channels, size, size, generator=generator) ** 4
        return Split((255 * pixels).to(torch.uint8), torch.arange(n) % 10)

    sets = {
        "few": Dataset("mnist5k", "golden", "few", split(130), split(40), split(40)),
        "many": Dataset("mnist5k", "golden", "many", split(11_000), split(500), split(1000)),
        "colour": Dataset("mnist5k", "golden", "colour", *(split(n, 3, 16) for n in (130, 40, 40))),
        "tiny": Dataset("mnist5k", "golden", "tiny", *(split(n, 1, 8) for n in (130, 40, 40))),
    }
    add_kind("noisy", noisy_network, noisy_objective, fields=("filters", "depth"),
             own={"noise": option(0.1, "strength of the noise", low=0)})  # fmt: skip
    digests: list[dict[str, Any] | None] = []
    first: dict[str, str] = {}
    used: dict[str, str] = {}
    for values in configs:
        fields = {name: tuple(v) if name == "filters" else v for name, v in values.items() if name != "images"}
        if fields.get("encoder"):
            fields["encoder"] = first[fields["encoder"]]
        runs.load_dataset = runs.data_of = lambda *_, data=sets[values["images"]]: data  # type: ignore[attr-defined]
        try:
            config = config_class(fields["model"])(dataset="mnist5k", device="cpu", precision="float32", **fields)
        except (KeyError, TypeError, ValueError):  # a field or a kind that this labutils does not have yet
            digests.append(None)
            continue
        run = runs.run(config, progress=False)  # all the way: trained, measured, stored and read back
        first.setdefault(config.model, run.path.name)
        digest = hashlib.sha256()
        for tensor in run.model.state_dict().values():
            digest.update(tensor.contiguous().numpy().tobytes())
        metrics = {name: value for name, value in run.metrics.items() if name not in UNPROVED}
        history = run.history.drop(columns=[*UNPROVED & {*run.history}]).to_dict("list")
        digests.append({"weights": digest.hexdigest(), "history": history, **metrics})
        if values == next(c for c in configs if c["model"] == config.model):
            used[config.model] = _digest_of_use(run, config)
    return {"digests": digests, "used": used, "images": images, "recipes": {kind: recipe(kind) for kind in first}}


def _digest_of_use(run: Any, config: Any) -> str:
    """What else stored runs go through, once for each kind: read again by each way, used, resumed, kept, listed."""
    from concurrent.futures import ThreadPoolExecutor
    from dataclasses import replace
    from tempfile import TemporaryDirectory

    import torch

    import labutils
    from labutils import runs, sweeps
    from labutils.callbacks import tensorboard_log
    from labutils.store.folder import keep_encoder

    sweeps.load_dataset = sweeps.data_of = runs.load_dataset  # type: ignore[attr-defined]
    results = [*labutils.load_run("ae12").model.state_dict().values()]
    for again in (labutils.run(config), labutils.load_run(run.path.name), labutils.load_run(run.path)):
        results += again.model.state_dict().values()
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    results.append(labutils.load_run(run.path / "model.safetensors").encode(x))
    if hasattr(run.model, "decode"):
        results += [run.reconstruct(x), run.interpolate(x[:1], x[1:2]), run.sample(4)]
        results += [run.sample(4, "gaussian", seed=1)]
    if hasattr(run.model, "sample"):
        results.append(run.model.sample(4, seed=1))
    measure = runs.run_metrics
    try:  # trained, and then interrupted: what comes after is read from the checkpoint

        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        runs.run_metrics = interrupt
        labutils.run(replace(config, seed=11), progress=False)
    except KeyboardInterrupt:
        runs.run_metrics = measure
    resumed = labutils.run(replace(config, seed=11), progress=False)
    weights = resumed.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])  # a damaged run is set aside and trained again
    for again in (resumed, labutils.run(replace(config, seed=11)), labutils.run(replace(config, device="auto"))):
        results += again.model.state_dict().values()
    with TemporaryDirectory() as board:
        watched = labutils.run(config, callbacks=[tensorboard_log(board)])
    results += watched.model.state_dict().values()
    results += labutils.run(config, each_epoch=lambda model, epoch: torch.rand(1)).model.state_dict().values()
    if config.model == "classifier":
        kept = keep_encoder(run.path / "model.safetensors")
        results += labutils.run(replace(config, encoder=kept)).model.state_dict().values()
    with ThreadPoolExecutor(1) as executor:
        table = labutils.sweep([replace(config, seed=seed) for seed in (12, 13)], executor)
    listed = labutils.stored_runs()
    rows = [[float(v) for v in table["seconds"] * 0 + table["n_params"]], len(listed[listed["model"] == config.model])]
    digest = hashlib.sha256(json.dumps(rows).encode())
    for tensor in results:
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _digest_of_images() -> dict[str, str]:
    """Every data set that this machine has, at both scales: a SHA-256 of its images, labels and checksum."""
    from labutils import data
    from labutils.config import Config
    from labutils.download import find_folder

    digests = {}
    names = ["mnist5k", *(name for name in ("mnist", "fashion_mnist") if find_folder(name))]
    data.data_of(Config(dataset="digits"))  # runs: not compared
    for name, scale in itertools.product(names, ("full", "smoke")):
        os.environ["LABUTILS_SCALE"] = scale
        dataset = data.load_dataset(name)
        digest = hashlib.sha256(dataset.checksum.encode())
        for split in (dataset.train, dataset.val, dataset.test):
            digest.update(split.images.numpy().tobytes() + split.labels.numpy().tobytes())
        digests[f"{name}, {scale}"] = digest.hexdigest()
    os.environ["LABUTILS_SCALE"] = "full"
    return digests


def prove(base: str) -> int:
    """Compare the working tree with a revision and enter what is equal into recipes.json; the exit status."""
    from labutils.paths import ROOT
    from labutils.store.key import FILES, RECIPES, code_hash

    configs = golden_configs()
    print(f"{len(configs)} runs with {base[:12]} and with the working tree: some minutes", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        older = Path(scratch) / "base"
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", older, base], check=True)
        try:
            processes = [_start(tree, Path(scratch), configs) for tree in (older, ROOT)]
            before, after = (_result(process, Path(scratch)) for process in processes)
            files = [ROOT / "labutils" / f"{name}.py" for name in FILES]
            unreached = _unreached(files, [*(older / "labutils").rglob("*.py")], after["executed"])
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", older], check=True)
    if unreached:
        print(
            "Nothing is entered: these changed lines were executed by no golden run. Extend golden.py, or mark a line"
        )
        print(f"that no run on this machine can reach with `{MARK} <reason>`.")
        print("\n".join(unreached))
        return 1
    if before["images"] != after["images"]:
        print(f"Nothing is entered: images differ, {before['images']} before and {after['images']} now.")
        return 1
    equal = {}
    for kind in after["recipes"]:
        if kind not in before["recipes"]:
            print(f"{kind:<16} is new")
            continue
        used = before["used"][kind], after["used"][kind]
        pairs = [({"model": kind, "read, used, resumed": True}, *({"digest": digest} for digest in used))]
        pairs += [(c, old, new) for c, old, new in zip(configs, before["digests"], after["digests"], strict=True)
                 if c["model"] == kind and None not in (old, new)]  # fmt: skip
        # a measure that a run no longer has leaves the others what they were; one that older runs lack does not
        differ = [config for config, old, new in pairs if new != {name: old.get(name) for name in new}]
        if gone := sorted({name for _, old, new in pairs for name in old.keys() - new.keys()}):
            print(f"{kind:<16} runs no longer measure {', '.join(gone)}")
        if pairs and not differ:
            equal[kind] = before["recipes"][kind]
            print(f"{kind:<16} {len(pairs)} runs are equal: stored and published runs keep their names")
        else:
            print(f"{kind:<16} {len(differ)} of {len(pairs)} runs differ: train and publish anew. Such as {differ[:1]}")
            if differ:
                print("\n".join(f"{'':<16} {name}: {old.get(name)} → {new[name]}" for config, old, new in pairs
                                if config in differ[:1] for name in new if new[name] != old.get(name)))  # fmt: skip
    RECIPES.write_text(json.dumps({"code": code_hash(), "equal": equal}, indent=1) + "\n", encoding="utf-8")
    print(f"{RECIPES} is written: commit it with the change.")
    return 0


def _start(tree: Path, scratch: Path, configs: list[dict[str, Any]]) -> subprocess.Popen[str]:
    """`golden_digests` of the labutils in a folder, in a process of its own, its executed lines traced."""
    code = (
        "import coverage, json, runpy, sys; from pathlib import Path; tree = Path(sys.argv[1]);"
        "trace = coverage.Coverage(data_file=None, include=[str(tree / 'labutils' / '*')]); trace.start();"
        f"result = runpy.run_path({__file__!r})['golden_digests'](json.load(sys.stdin)); trace.stop();"
        "data = trace.get_data(); result['executed'] = {f: data.lines(f) for f in data.measured_files()};"
        "print(json.dumps(result))"
    )
    outputs = scratch / f"outputs-{tree.name}"
    env = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "LABUTILS_OUTPUTS": str(outputs),
           "LABUTILS_SCALE": "full"}  # fmt: skip
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, str(tree)], env=env, text=True, cwd=scratch,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=(scratch / f"{tree.name}.err").open("w"))  # fmt: skip
    assert process.stdin
    json.dump(configs, process.stdin)
    process.stdin.close()
    return process


def _result(process: subprocess.Popen[str], scratch: Path) -> dict[str, Any]:
    assert process.stdout
    output = process.stdout.read()
    if process.wait():
        texts = [file.read_text(encoding="utf-8")[-2000:] for file in scratch.glob("*.err")]
        raise RuntimeError("a golden run failed:\n" + "\n".join(texts))
    return json.loads(output)


def _unreached(files: list[Path], older: list[Path], executed: dict[str, list[int]]) -> list[str]:
    """The changed lines that were not executed. A function is unchanged, wherever it has moved, while the older code
    has one of that name with the same lines; of a changed function those lines count that the older one lacks."""
    before: dict[str, list[Counter[str]]] = {}
    for path in older:
        for name, lines in _functions(path.read_text(encoding="utf-8")):
            before.setdefault(name, []).append(Counter(lines.values()))
    unreached = []
    for path in files:
        source, reached = path.read_text(encoding="utf-8"), {*executed.get(str(path), [])}
        begin_of, text_of = _statements(ast.parse(source)), source.splitlines()
        for name, lines in _functions(source):
            if MARK in text_of[min(lines) - 1]:
                continue
            now = Counter(lines.values())
            changed = min((now - then for then in before.get(name, [])), key=Counter.total, default=now)
            for number, text in lines.items():
                begin = begin_of.get(number)
                if text in changed and begin and begin not in reached and MARK not in text_of[begin - 1]:
                    unreached.append(f"  {path.name}:{number}: {text}")
    return unreached


def _functions(source: str) -> Iterator[tuple[str, dict[int, str]]]:
    """Each function by its name within the module, and as "" what is in none: number of the line → its text."""
    from labutils.store.key import code_lines

    lines = {number: text.strip() for number, text in code_lines(source).items()}
    body = ast.parse(source).body
    nodes = [("", node) for node in body]
    nodes += [(f"{node.name}.", inner) for node in body if isinstance(node, ast.ClassDef) for inner in node.body]
    for prefix, node in nodes:
        if isinstance(node, ast.FunctionDef):
            numbers = range(node.lineno, (node.end_lineno or 0) + 1)
            yield prefix + node.name, {n: lines.pop(n) for n in numbers if n in lines}
    yield "", lines


def _statements(tree: ast.AST) -> dict[int, int]:
    """Line → first line of its statement, for all but blocks that end in raising or that warn, with their `except`."""
    begin_of: dict[int, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and not isinstance(node, (ast.Global, ast.Nonlocal)):  # which execute nothing
            end = node.body[0].lineno - 1 if hasattr(node, "body") else node.end_lineno or 0
            begin_of |= dict.fromkeys(range(node.lineno, max(end, node.lineno) + 1), node.lineno)
    for node in ast.walk(tree):
        for block in (getattr(node, "body", None), getattr(node, "orelse", None)):
            if isinstance(node, ast.FunctionDef) or not isinstance(block, list) or not block:
                continue
            warns = any(isinstance(s, ast.Expr) and "warnings.warn(" in ast.unparse(s) for s in block)
            if warns or isinstance(block[-1], ast.Raise):
                begin = node.lineno if isinstance(node, ast.ExceptHandler) else block[0].lineno
                for number in range(begin, (block[-1].end_lineno or 0) + 1):
                    begin_of.pop(number, None)
    return begin_of


if __name__ == "__main__":
    latest = ["git", "log", "-1", "--format=%H", "--", "labutils/store/recipes.json"]  # the code was proved there
    revision = sys.argv[1] if sys.argv[1:] else subprocess.check_output(latest, text=True).strip()
    sys.exit(prove(revision))
