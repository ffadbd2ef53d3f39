"""The command line: `python -m labutils train | classify | generate | explore | run | runs | doctor | …`."""

import argparse
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from labutils.cli.doctor import doctor
from labutils.config import BASELINE, CLASSIFIER, COMPACT, CONV_VAE, MLP_VAE, TRADEOFF, Config
from labutils.kinds import KINDS, has_field
from labutils.paths import outputs_dir

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from labutils.runs import Run

BASES = {"baseline": BASELINE, "compact": COMPACT, "tradeoff": TRADEOFF, "mlp_vae": MLP_VAE, "conv_vae": CONV_VAE,
         "classifier": CLASSIFIER}  # fmt: skip
MODES = ("scratch", "frozen", "finetune")
HEAD = 128  # units between another model's code and the ten outputs
FINETUNE = 0.3  # a trained encoder is moved with a smaller learning rate than a fresh head


class Parser(argparse.ArgumentParser):
    """One that answers a slip with one line; argparse prints two screens of options before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} ({self.prog} --help)\n")

    def refuse(self, word: str) -> NoReturn:
        """Name a word that means nothing here, and the flags that it may have been meant for."""
        if not word.startswith("-"):
            self.error(f"{word!r} was not expected: names stand together, and values behind their --flag")
        flags = set(re.findall(r"--([\w-]*\w)", self.format_help()))
        near = get_close_matches(word.split("=")[0].lstrip("-"), flags, cutoff=0.7)
        suggestion = f", did you mean --{' or --'.join(near)}?" if near else ""
        self.error(f"there is no {word}{suggestion}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run it; the exit status."""
    options = argparse.Namespace()
    try:
        options = _parse(arguments)
        return options.function(options)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, RuntimeError, ArithmeticError, OSError) as error:  # what labutils raises for its users
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        epochs_shown = getattr(options, "gallery", None) or getattr(options, "tensorboard", None)
        again = "begins this run again" if epochs_shown else "goes on after what is finished"
        where = f": {error}" if str(error) else ""
        print(f"stopped{where}; the same command {again}", file=sys.stderr)
        return 130


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, among them the function that they are for."""
    parser = Parser(prog="python -m labutils", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    train = commands.add_parser(
        "train", allow_abbrev=False, help="train a model, or show the stored run of the same settings"
    )
    _add_config(train, tuple(KINDS), "baseline")
    train.add_argument("--gallery", type=Path, metavar="DIR", help="pictures and a checkpoint of every epoch")
    train.set_defaults(function=_train)
    classify = commands.add_parser(
        "classify", allow_abbrev=False, help="train a classifier from scratch or on another model's encoder"
    )
    _add_config(classify, ("classifier",), "classifier")
    classify.add_argument(
        "--mode", choices=MODES, default="scratch", help="what becomes of the encoder's weights (%(default)s)"
    )
    classify.add_argument(
        "--encoder-checkpoint", type=Path, metavar="FILE", help="a file of --checkpoint-path, whose encoder to take"
    )
    classify.set_defaults(function=_classify, gallery=None)
    series = commands.add_parser("run", help="execute the notebooks headless; ends with a table and a page to open")
    series.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="such as 01_baseline; none means all")
    series.set_defaults(function=_run)
    publish = commands.add_parser("publish", help="maintainers: replace the published results by those of a full run")
    publish.set_defaults(function=_publish)
    pages = commands.add_parser("report", help="write what is published as pages to read without Jupyter and network")
    pages.set_defaults(function=_report)
    pretrain = commands.add_parser("pretrain", help="maintainers: replace the published weights by newly trained ones")
    pretrain.add_argument("names", nargs="*", metavar="NAME", help="such as vae16; none means all")
    pretrain.set_defaults(function=_pretrain)
    _add_inference(commands)
    store = commands.add_parser(
        "runs", allow_abbrev=False, help="list the stored runs, verify them, and prune what is of no use"
    )
    store.add_argument("wanted", nargs="*", metavar="FIELD=VALUE", help="only what has it: latent_dim=8 state=damaged")
    store.add_argument("--verify", action="store_true", help="read every byte, the weights too")
    store.add_argument(
        "--prune",
        action="store_true",
        help="name what is damaged, set aside, abandoned or of other code; with --yes delete",
    )
    store.add_argument("--yes", action="store_true", help="with --prune: delete it")
    store.set_defaults(function=_runs)
    commands.add_parser("doctor", help="check this machine: each line OK, or the remedy").set_defaults(function=doctor)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        commands.choices[options.command].refuse(unknown[0])
    return options


def _add_config(parser: argparse.ArgumentParser, models: Sequence[str], base: str) -> None:
    """A flag for each Config field that one of the models has; those not given keep the value of --base. And what to
    write besides the run."""
    bases = [name for name, config in BASES.items() if config.model in models]
    parser.add_argument("--base", choices=bases, default=base, help="the config to start from (%(default)s)")
    for f in fields(Config):
        by_mode = models == ("classifier",) and f.name in ("model", "encoder")
        if by_mode or not any(has_field(model, f.name) for model in models):
            continue
        value = getattr(BASES[base], f.name)
        shown = "by --mode" if models == ("classifier",) and f.name in ("head", "encoder_lr") else value
        shown = ",".join(map(str, value)) if f.name == "filters" else shown
        flag = "--" + f.name.replace("_", "-")
        help = (f.metadata["help"] + ("" if shown in ("", None) else f" ({shown})")).replace("%", "%%")
        if isinstance(f.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=help)
        elif f.metadata["choices"]:
            parser.add_argument(flag, choices=f.metadata["choices"], help=help)
        elif f.name == "filters":
            parser.add_argument(flag, type=_widths, metavar="N,N,…", help=help)
        else:
            kind = str if isinstance(f.default, str) else float if isinstance(f.default, float) else int
            parser.add_argument(flag, type=kind, metavar="NAME" if kind is str else "N", help=help)
    parser.add_argument("--save-plots", action="store_true", help="write training curves and results as PNG")
    parser.add_argument(
        "--plot-dir", type=Path, default=outputs_dir() / "local" / "plots", metavar="DIR", help="where to (%(default)s)"
    )
    parser.add_argument(
        "--checkpoint-path", type=Path, metavar="FILE", help="also write weights and config as one safetensors file"
    )
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", help="log every epoch for TensorBoard")


def _widths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(width) for width in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be widths such as 32,32,64") from None


def _add_inference(commands: "argparse._SubParsersAction[Parser]") -> None:
    """reconstruct, interpolate, generate and explore; what they do is in inference.py."""
    shared = Parser(add_help=False)
    shared.add_argument(
        "--model", default="vae16", metavar="NAME", help="published weights, a run, or a weights file (%(default)s)"
    )
    shared.add_argument(
        "--output",
        type=Path,
        default=outputs_dir() / "local" / "inference",
        metavar="DIR",
        help="where to (%(default)s)",
    )
    digit = "a picture of a digit, or the index of a test image"
    parsers = {
        name: commands.add_parser(name, parents=[shared], help=help)
        for name, help in {
            "reconstruct": "write digits and what a model makes of them (inference_results.png)",
            "interpolate": "write the way from one digit to another (latent_interpolation.png)",
            "generate": "write digits that nobody wrote (generated_digits.png)",
            "explore": "write a page with sliders and a map, and open it",
        }.items()
    }
    parsers["reconstruct"].add_argument("images", nargs="*", metavar="IMAGE", help=f"{digit}; none: one of each class")
    parsers["interpolate"].add_argument("start", metavar="FROM", help=digit)
    parsers["interpolate"].add_argument("end", metavar="TO", help=digit)
    parsers["interpolate"].add_argument("--steps", type=int, default=11, metavar="N", help="pictures (%(default)s)")
    parsers["generate"].add_argument(
        "--method", default="prior", help="prior, gaussian, gaussian per class or mixture (%(default)s)"
    )
    parsers["generate"].add_argument("--n", type=int, default=60, metavar="N", help="how many (%(default)s)")
    parsers["generate"].add_argument(
        "--label", type=int, choices=range(10), metavar="N", help="what a conditional VAE is told (each class in turn)"
    )
    parsers["generate"].add_argument("--seed", type=int, default=0, metavar="N", help="for others (%(default)s)")
    parsers["explore"].add_argument(
        "--open", action=argparse.BooleanOptionalAction, default=True, help="open it in the browser"
    )
    for parser in parsers.values():
        parser.set_defaults(function=_infer)


def _infer(options: argparse.Namespace) -> int:
    from labutils.cli import inference

    return getattr(inference, f"{options.command}_command")(options)


def _pretrain(options: argparse.Namespace) -> int:
    from labutils.publish.pretrained import pretrain

    for path in pretrain(options.names):
        print(f"{'weights':<18} {path}")
    return 0


def _config(options: argparse.Namespace, **defaults: Any) -> Config:
    """--base, changed by `defaults`, changed by the flags that were given."""
    given = {f.name: getattr(options, f.name, None) for f in fields(Config)}
    return replace(
        BASES[options.base], **defaults | {name: value for name, value in given.items() if value is not None}
    )


def _train(options: argparse.Namespace) -> int:
    return _train_and_write(_config(options), options)


def _classify(options: argparse.Namespace) -> int:
    from labutils.store.folder import keep_encoder
    from labutils.store.weights import read_weights
    from labutils.transfer import encoder_layers

    file, mode = options.encoder_checkpoint, options.mode
    if (file is None) != (mode == "scratch"):
        raise ValueError(f"--mode {mode} {'needs' if file is None else 'takes no'} --encoder-checkpoint")
    if file is None:
        return _train_and_write(_config(options), options)
    if mode == "frozen":
        if options.encoder_lr not in (None, 0):
            raise ValueError(f"--mode frozen means encoder_lr=0, not {options.encoder_lr}: leave --encoder-lr out")
        encoder_lr = 0.0
    else:
        encoder_lr = FINETUNE if options.encoder_lr is None else options.encoder_lr
    encoder, layers = keep_encoder(file), encoder_layers(read_weights(file)[1])
    config = replace(_config(options, **layers, head=HEAD, encoder=encoder), encoder_lr=encoder_lr)
    return _train_and_write(config, options)


def _train_and_write(config: Config, options: argparse.Namespace) -> int:
    from labutils.callbacks import tensorboard_log
    from labutils.data import load_dataset
    from labutils.explore.gallery import epoch_gallery
    from labutils.runs import run

    draw = epoch_gallery(options.gallery, config, load_dataset(config.dataset)) if options.gallery else None
    r = run(config, each_epoch=draw, callbacks=[tensorboard_log(options.tensorboard)] if options.tensorboard else [])
    for name, value in r.metrics.items():
        print(f"{name:<18} {value:.6g}")
    print(f"{'run':<18} {r.path}{' (trained before, read from the store)' if r.cached else ''}")
    if options.checkpoint_path:
        options.checkpoint_path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(r.path / "model.safetensors", options.checkpoint_path)
        print(f"{'checkpoint':<18} {options.checkpoint_path}")
    if options.save_plots:
        figures = _figures(r)
        options.plot_dir.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            figure.savefig(options.plot_dir / f"{name}.png", dpi=120)
            print(f"{'plot':<18} {options.plot_dir / name}.png")
    print(in_words(r))
    return 0


def in_words(r: "Run") -> str:
    """What to make of the numbers above."""
    m, config = r.metrics, r.config
    if config.model == "classifier":
        found = f"{m['test_accuracy']:.2%} of the test images are recognised, {m['val_accuracy']:.2%} of the validation"
    else:
        found, lead = f"test MSE {m['test_mse']:.4f}", m["pca_mse"] / m["test_mse"]
        if lead > 0.01:  # with as many components as pixels PCA's error is 0
            beside = f"{lead:.1f} times below" if lead > 1 else f"{1 / lead:.1f} times above"
            found += f", {beside} PCA's {m['pca_mse']:.4f} with {config.latent_dim} numbers"
        found += f", negative ELBO {m['test_neg_elbo']:.1f} nats" if "test_neg_elbo" in m else ""
    return f"{config.dataset}: {found}. One run: another seed gives another number."


def _figures(r: "Run") -> dict[str, "Figure"]:
    """Training curves; a classifier's confusions, a row of reconstructions for whatever reconstructs."""
    from labutils.codes import reconstruct
    from labutils.data import load_dataset, subset
    from labutils.evaluation import confidence
    from labutils.plots import class_names, plot_confusion, plot_history, plot_images

    if "val_mse" not in r.history:
        figures = {"history": plot_history({r.config.model: r.history}, {}, metric="loss")}
    else:
        lines = {"mean image": r.metrics["mean_image_mse"], f"PCA-{r.config.latent_dim}": r.metrics["pca_mse"]}
        figures = {"history": plot_history({r.config.model: r.history}, lines)}
    test = load_dataset(r.config.dataset).test
    if r.config.model == "classifier":
        said, _ = confidence(r.model, test.images)
        figures["confusion"] = plot_confusion(test.labels.numpy(), said, class_names(r.config.dataset))
    else:
        some = subset(test, 12)
        x_hat = reconstruct(r.model, some.images, some.labels)
        figures["reconstructions"] = plot_images({"x": some.images, "x_hat": x_hat})
    return figures


def _run(options: argparse.Namespace) -> int:
    from labutils.publish.series import run_series

    return min(run_series(options.notebooks), 1)


def _publish(options: argparse.Namespace) -> int:
    from labutils.publish.publication import publish

    print(f"published: {', '.join(publish())}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from labutils.publish.publication import write_pages

    print(f"Open {write_pages().as_uri()}")
    return 0


def _runs(options: argparse.Namespace) -> int:
    from labutils.paths import runs_dir
    from labutils.store.listing import USELESS, differences, remove, select, survey

    if bad := [text for text in options.wanted if "=" not in text]:
        raise ValueError(f"{bad[0]!r} must be FIELD=VALUE, such as latent_dim=8")
    if options.yes and not options.prune:
        raise ValueError("--yes goes with --prune: nothing was deleted")
    table = select(survey(verify=options.verify or options.prune), dict(text.split("=", 1) for text in options.wanted))
    if options.prune:
        table = table[table["state"].isin(USELESS)]
    if len(table):
        formats = {"bytes": "{:,}".format, "days": "{:.1f}".format}
        shown = table[["name", "state", "bytes", "days", "result"]]
        lines = shown.to_string(index=False, na_rep="", formatters=formats).splitlines()
        rest = [note[:150] or config for note, config in zip(table["note"], differences(table), strict=True)]
        for line, more in zip(lines, ["config, or what is wrong", *rest], strict=True):
            print(f"{line}  {more}")
    size = f"{len(table):,} in {runs_dir()}, {table['bytes'].sum() / 2**20:,.1f} MiB"
    if options.yes:
        remove(runs_dir() / name for name in table["name"])
    what = ": deleted" if options.yes else ": --prune --yes deletes them"
    print((size + what if len(table) else f"nothing to prune in {runs_dir()}") if options.prune else size)
    return int(not options.prune and (table["state"] == "damaged").any())


def one_line(message: Warning | str, *where: object, **more: object) -> str:
    """A warning as a sentence: whoever types a command does not know the line of ours that it comes from."""
    return f"warning: {message}\n"
