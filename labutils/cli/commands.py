"""train, classify, pretrain, runs."""

import argparse
import shutil
from dataclasses import fields
from typing import Any

from matplotlib.figure import Figure

from labutils.callbacks import tensorboard_log
from labutils.cli.main import BASES, FINETUNE, HEAD
from labutils.codes import reconstruct
from labutils.config import Config, config_class
from labutils.data import Dataset, data_of, subset
from labutils.evaluation import confidence, references
from labutils.explore.gallery import epoch_gallery
from labutils.paths import runs_dir
from labutils.plots import plot_confusion, plot_history, plot_images
from labutils.runs import Run, run
from labutils.store.files import writable
from labutils.store.folder import keep_encoder, read_encoder
from labutils.store.listing import USELESS, is_proved, remove, select, survey
from labutils.transfer import encoder_layers

SHOWN = ["name", "state", "bytes", "days", "result", "model", "dataset", "latent_dim", "epochs", "seed"]


def train_command(options: argparse.Namespace, **changes: Any) -> None:
    """Train --base with `changes` and then the given flags applied, and write the files that flags ask for."""
    base = BASES[options.base]
    model = getattr(options, "model", base.model)
    cls = config_class(model)
    given = {name: getattr(options, name) for name in options.fields if hasattr(options, name)}
    if foreign := given.keys() - {f.name for f in fields(cls)}:
        raise ValueError(f"{', '.join(sorted(foreign))}: no field of --model {model}")
    config = cls(**{**vars(base), **changes, **given})
    weights, plots = options.checkpoint_path, options.plot_dir if options.save_plots else None
    if weights:
        writable(weights.parent)  # or an error now rather than after the training
    if plots:
        writable(plots)
    draw = epoch_gallery(options.gallery, config, data_of(config)) if options.gallery else None
    r = run(config, each_epoch=draw, callbacks=[tensorboard_log(options.tensorboard)] if options.tensorboard else [])
    for name, value in r.metrics.items():
        print(f"{name:<18} {value:.6g}")
    print(f"{'run':<18} {r.path}{' (trained before, read from the store)' if r.cached else ''}")
    if weights:
        shutil.copyfile(r.path / "model.safetensors", weights)
        print(f"{'checkpoint':<18} {weights}")
    data = data_of(r.config)
    if plots:
        for name, figure in _figures(r, data).items():
            figure.savefig(plots / f"{name}.png", dpi=120, bbox_inches="tight")
            print(f"{'plot':<18} {plots / name}.png")
    print(in_words(r, data))


def classify_command(options: argparse.Namespace) -> None:
    """`train_command` for a classifier, from scratch or on another model's encoder."""
    file, mode = options.encoder_checkpoint, options.mode
    if (file is None) != (mode == "scratch"):
        raise ValueError(f"--mode {mode} {'needs' if file is None else 'takes no'} --encoder-checkpoint")
    if mode == "frozen" and getattr(options, "encoder_lr", 0) != 0:
        raise ValueError(f"--mode frozen means encoder_lr=0, not {options.encoder_lr}: leave --encoder-lr out")
    changes: dict[str, Any] = {}
    if file:
        changes = {"head": HEAD, "encoder": keep_encoder(file), "encoder_lr": 0.0 if mode == "frozen" else FINETUNE}
        changes |= encoder_layers(read_encoder(changes["encoder"])[1])
    train_command(options, **changes)


def in_words(r: Run, data: Dataset) -> str:
    """Return a sentence about a run's metrics."""
    m, config = r.metrics, r.config
    if "test_accuracy" in m:
        result = f"{m['test_accuracy']:.2%} of the test images are recognised, {m['val_accuracy']:.2%} in validation"
    elif "test_mse" not in m:  # a kind of your own with measures of its own
        result = "measured as above"
    else:
        pca = references(data, config.latent_dim, config.n_train)["pca_mse"]
        result, lead = f"test MSE {m['test_mse']:.4f}", pca / m["test_mse"]
        if lead > 0.01:  # with as many components as pixels PCA's error is 0
            beside = f"{lead:.1f} times below" if lead > 1 else f"{1 / lead:.1f} times above"
            result += f", {beside} PCA's {pca:.4f} with {config.latent_dim} numbers"
        result += f", negative ELBO {m['test_neg_elbo']:.1f} nats" if "test_neg_elbo" in m else ""
    return f"{config.dataset}: {result}. One run: another seed gives another number."


def _figures(r: Run, data: Dataset) -> dict[str, Figure]:
    """Return the training curves, and a classifier's confusions or another model's reconstructions of test images."""
    model, metric, floors = r.config.model, "loss", {}
    if "val_mse" in r.history:
        metric, errors = "mse", references(data, r.config.latent_dim, r.config.n_train)
        floors = {"mean image": errors["mean_image_mse"], f"PCA-{r.config.latent_dim}": errors["pca_mse"]}
    history = plot_history({model: r.history}, floors, metric)
    if "test_accuracy" in r.metrics:
        predicted, _ = confidence(r.model, data.test.images)
        confusion = plot_confusion(data.test.labels.numpy(), predicted, data.classes)
        return {"history": history, "confusion": confusion}
    if not hasattr(r.model, "decode"):
        return {"history": history}
    shown = subset(data.test, 12)
    pictures = {"x": shown.images, "x_hat": reconstruct(r.model, shown.images, shown.labels)}
    return {"history": history, "reconstructions": plot_images(pictures)}


def pretrain_command(options: argparse.Namespace) -> None:
    from labutils.publish.pretrained import pretrain

    for path in pretrain(options.names):
        print(f"{'weights':<18} {path}")


def runs_command(options: argparse.Namespace) -> int:
    """List, verify and prune the store; the status is 1 if a run is damaged."""
    if wrong := [text for text in options.wanted if "=" not in text]:
        raise ValueError(f"{wrong[0]!r} must be FIELD=VALUE, such as latent_dim=8")
    if options.yes and not options.prune:
        raise ValueError("--yes goes with --prune: nothing was deleted")
    wanted = dict(text.split("=", 1) for text in options.wanted)
    table = select(survey(verify=options.verify or options.prune), wanted)
    if wanted and table.empty:
        print(f"nothing has {' '.join(options.wanted)}")
    if options.prune:
        table = table[table["state"].isin(USELESS)]
        if options.yes and (table["state"] == "other code").any() and not is_proved():
            raise ValueError("nothing was deleted: labutils has been edited since `make same`, which may prove that "
                             "runs of other code are today's; do that first, or prune another state=…")  # fmt: skip
    if len(table):
        formats = {"bytes": "{:,}".format, "days": "{:.1f}".format}
        differing = [f.name for f in fields(Config) if table[f.name].dropna().map(str).nunique() > 1]
        columns = dict.fromkeys([*SHOWN, *differing, "note"])
        shown = table[[*columns]].convert_dtypes()  # integer columns stay integer beside missing values
        shown["note"] = shown["note"].str[:150]
        print(shown.astype(object).fillna("").to_string(index=False, formatters=formats))
    if options.yes:
        remove(runs_dir() / name for name in table["name"])
    outcome = ": deleted" if options.yes else ""
    if options.prune and not options.yes and len(table):
        outcome = ": --prune --yes deletes them"
    print(f"{len(table):,} in {runs_dir()}, {table['bytes'].sum() / 2**20:,.1f} MiB{outcome}")
    return int(not options.prune and (table["state"] == "damaged").any())
