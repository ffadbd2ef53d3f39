"""The command line: `python -m labutils train | classify | generate | explore | run | runs | doctor | …`."""

import argparse
import importlib
import os
import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import Field, fields
from difflib import get_close_matches
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NoReturn

from labutils.config import BASELINE, CLASSIFIER, COMPACT, CONV_VAE, MLP_VAE, TRADEOFF, config_class
from labutils.kinds import KINDS, has_field
from labutils.paths import outputs_dir

BASES = {"baseline": BASELINE, "compact": COMPACT, "tradeoff": TRADEOFF, "mlp_vae": MLP_VAE, "conv_vae": CONV_VAE,
         "classifier": CLASSIFIER}  # fmt: skip
HEAD = 128  # units between another model's code and the outputs
FINETUNE = 0.3  # a trained encoder is moved with a smaller learning rate than a fresh head
# module → command → its help; labutils.cli.<module>.<command>_command(options) does it, and may return a status
COMMANDS = {
    "commands": {
        "train": "train a model, or show the stored run of the same settings",
        "classify": "train a classifier from scratch or on another model's encoder",
        "pretrain": "maintainers: replace the published weights by newly trained ones",
        "runs": "list the stored runs, verify them, and prune what is of no use",
    },
    "series": {
        "run": "execute the notebooks headless; ends with a table and a page to open",
        "publish": "maintainers: replace the published results by those of a full run",
        "report": "write what is published as pages to read without Jupyter and network",
        "site": "write the site: a front page, the notebooks and the explorer as pages",
    },
    "inference": {
        "reconstruct": "write digits and what a model makes of them (inference_results.png)",
        "interpolate": "write the way from one digit to another (latent_interpolation.png)",
        "generate": "write digits that nobody wrote (generated_digits.png)",
        "explore": "write a page with sliders and a map, and open it",
    },
    "doctor": {"doctor": "check this machine: each line OK, or the remedy"},
}
DEFINING = ("commands", "inference")  # the modules whose commands take --define: a notebook defines its kinds itself


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line, without two screens of options before it."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("argument --model: invalid choice"):
            message += "; a kind of your own: --define FILE"
        self.exit(2, f"error: {message} ({self.prog} --help)\n")

    def refuse(self, word: str) -> NoReturn:
        """Exit with an error about an unknown word, and the flags it may have been meant for."""
        if not word.startswith("-"):
            self.error(f"{word!r} was not expected: names stand together, and values behind their --flag")
        flags = set(re.findall(r"--[\w-]*\w", self.format_help()))
        near = " or ".join(get_close_matches(word.split("=")[0], flags, cutoff=0.7))
        self.error(f"there is no {word}, did you mean {near}?" if near else f"there is no {word}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return the exit status."""
    try:
        options = _parse(sys.argv[1:] if arguments is None else arguments)
        return resolve_name(f"labutils.cli.{options.module}:{options.command}_command")(options) or 0
    except BrokenPipeError:  # as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, RuntimeError, ArithmeticError, OSError) as error:  # what labutils raises for its users
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        where = f": {error}" if str(error) else ""
        print(f"stopped{where}; the same command begins again from what is stored", file=sys.stderr)
        return 130


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options, with the command and the module of its function. Underscores in flags are dashes."""
    define = Parser(prog="python -m labutils", add_help=False, allow_abbrev=False)
    help = "a Python file of yours that calls add_kind: the kinds of model that it defines are then known here"
    define.add_argument("--define", type=Path, action="append", default=[], metavar="FILE", help=help)
    parser = Parser(prog="python -m labutils", description=__doc__)
    given, arguments = define.parse_known_args(arguments)
    for file in given.define:
        _define(file)
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    parsers: dict[str, Parser] = {}
    for module, texts in COMMANDS.items():
        for name, help in texts.items():
            parents = [define] if module in DEFINING else []
            parsers[name] = commands.add_parser(name, allow_abbrev=False, help=help, parents=parents)
            parsers[name].set_defaults(module=module)
    _add_training(parsers["train"], parsers["classify"])
    _add_inference(**{name: parsers[name] for name in COMMANDS["inference"]})
    names = "such as 01_baseline, or the path of one of yours; none means all"
    parsers["run"].add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help=names)
    parsers["pretrain"].add_argument("names", nargs="*", metavar="NAME", help="such as vae16; none means all")
    add = parsers["runs"].add_argument
    add("wanted", nargs="*", metavar="FIELD=VALUE", help="only what has it: latent_dim=8 state=damaged")
    add("--verify", action="store_true", help="read every byte, the weights too")
    add("--prune", action="store_true", help="name what is damaged, set aside, abandoned or of other code")
    add("--yes", action="store_true", help="with --prune: delete it")
    dashed = [re.sub("^--[^=]*", lambda flag: flag[0].replace("_", "-"), word) for word in arguments]
    options, unknown = parser.parse_known_args(dashed)
    if given.define and options.module not in DEFINING:
        parsers[options.command].error("--define: a notebook defines its kinds itself")
    if unknown:
        parsers[options.command].refuse(unknown[0])
    return options


def _define(file: Path) -> None:
    """Import a Python file as the module of its name: processes then find its functions' source."""
    if not file.is_file() or file.suffix != ".py" or not file.stem.isidentifier():
        raise ValueError(f"--define {file}: there is no such file, or its name is not that of a Python module")
    sys.path.insert(0, str(file.resolve().parent))
    module = importlib.import_module(file.stem)
    if Path(getattr(module, "__file__", None) or "").resolve() != file.resolve():
        raise ValueError(f"--define {file}: {module} has the same name: rename the file")


def _add_training(train: Parser, classify: Parser) -> None:
    """Add flags for the fields of Config, for an encoder, and for files to write besides the run."""
    _add_config(train, tuple(KINDS), "baseline")
    _add_config(classify, ("classifier",), "classifier", omit=("model", "encoder"))
    plots = outputs_dir() / "local" / "plots"
    add = classify.add_argument
    help = f"the encoder's weights (%(default)s); others have head={HEAD}, finetune encoder_lr={FINETUNE}"
    add("--mode", choices=("scratch", "frozen", "finetune"), default="scratch", help=help)
    add("--encoder-checkpoint", type=Path, metavar="FILE", help="a file of --checkpoint-path, whose encoder to take")
    for parser in (train, classify):
        add = parser.add_argument
        add("--save-plots", action="store_true", help="write training curves and results as PNG")
        add("--plot-dir", type=Path, default=plots, metavar="DIR", help="where to (%(default)s)")
        add("--checkpoint-path", type=Path, metavar="FILE", help="also write weights and config as a safetensors file")
        add("--tensorboard", type=Path, metavar="DIR", help="log every epoch for TensorBoard")
    train.add_argument("--gallery", type=Path, metavar="DIR", help="pictures and a checkpoint of every epoch")
    classify.set_defaults(gallery=None)


def _add_config(parser: Parser, models: Collection[str], base: str, omit: Collection[str] = ()) -> None:
    """Add a flag for each Config field that one of the models has; without it the value of --base holds."""
    bases = [name for name, config in BASES.items() if config.model in models]
    parser.add_argument("--base", choices=bases, default=base, help="the config to start from (%(default)s)")
    known: dict[str, Field] = {}
    for f in (f for model in models for f in fields(config_class(model))):
        if type(known.setdefault(f.name, f).default) is not type(f.default):
            raise ValueError(f"two kinds of model have a field {f.name!r} of different types: rename one")
    parser.set_defaults(fields=[*known])
    for f in known.values():
        if f.name in (*omit, "classes") or not any(has_field(model, f.name) for model in models):
            continue
        value: Any = getattr(BASES[base], f.name, f.default)
        shown = ",".join(map(str, value)) if f.name == "filters" else value
        help = f.metadata["help"] + ("" if shown in ("", None) else f" ({shown})")
        flag = "--" + f.name.replace("_", "-")
        try:
            parser.add_argument(flag, default=argparse.SUPPRESS, help=help.replace("%", "%%"), **_form(f))
        except argparse.ArgumentError as error:
            raise ValueError(f"the field {f.name!r} has the name of another flag, {flag}: rename it") from error


def _form(f: Field) -> dict[str, Any]:
    """Return the arguments of `add_argument` that read a field's value."""
    if isinstance(f.default, bool):
        return {"action": argparse.BooleanOptionalAction}
    if f.metadata["choices"]:
        return {"choices": f.metadata["choices"], "type": type(f.default)}
    if f.name == "filters":
        return {"type": widths, "metavar": "N,N,…"}
    kind = int if f.default is None else type(f.default)
    return {"type": kind, "metavar": "NAME" if kind is str else "N"}


def widths(text: str) -> tuple[int, ...]:
    """Return (32, 32, 64) for "32,32,64"; argparse names this function when the text is wrong."""
    return tuple(int(width) for width in text.split(","))


def _add_inference(reconstruct: Parser, interpolate: Parser, generate: Parser, explore: Parser) -> None:
    folder = outputs_dir() / "local" / "inference"
    for parser in (reconstruct, interpolate, generate, explore):
        help = "published weights, a run, or a weights file (%(default)s)"
        parser.add_argument("--model", default="vae16", metavar="NAME", help=help)
        parser.add_argument("--output", type=Path, default=folder, metavar="DIR", help="where to (%(default)s)")
    digit = "a picture of a digit, or the index of a test image"
    reconstruct.add_argument("images", nargs="*", metavar="IMAGE", help=f"{digit}; none: one of each class")
    interpolate.add_argument("start", metavar="FROM", help=digit)
    interpolate.add_argument("end", metavar="TO", help=digit)
    interpolate.add_argument("--steps", type=int, default=11, metavar="N", help="pictures (%(default)s)")
    add = generate.add_argument
    add("--method", default="prior", help="prior, gaussian, gaussian per class or mixture (%(default)s)")
    add("--n", type=int, default=60, metavar="N", help="how many (%(default)s)")
    add("--label", type=int, metavar="N", help="told to a conditional VAE (each class in turn)")
    add("--seed", type=int, default=0, metavar="N", help="another one draws other pictures (%(default)s)")
    explore.add_argument("--open", action=argparse.BooleanOptionalAction, default=True, help="open it in the browser")
