"""The site: a front page, the notebooks and the explorer, to read and touch without Python and without a network."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Template

from labutils.data import load_dataset
from labutils.explore.page import export_html
from labutils.paths import ROOT
from labutils.publish.execution import STYLE, results, write_html
from labutils.publish.words import findings, plain
from labutils.runs import load_run

MODELS = {
    "vae16": "16 numbers",
    "vae2": "2 numbers, a map of everything",
    "conditional_vae": "16 numbers, told the digit",
}
PICTURES = (  # stem, figure, alternative text, caption
    ("00_from_scratch", "reconstructions",
     "Ten digits in five rows: the originals, the mean image ten times, blocks of grey, blurred digits by PCA, clear "
     "digits by an autoencoder.",
     "Ten test digits, and what is left of them in as many numbers each: averages, PCA, an autoencoder."),
    ("03_ablation_latent_dim", "against_pca",
     "Test error against numbers in the code, both on logarithmic axes: the autoencoder's line lies below the linear "
     "network's, and that below PCA's.",
     "How many components PCA needs (arrows) to do what an autoencoder does."),
    ("03_ablation_latent_dim", "plane",
     "Left: the codes of test digits as points, coloured by class, in a plane. Right: digits drawn from a grid of "
     "places in the same plane, changing gradually from one into another.",
     "With a code of two numbers, every digit is a place, and every place a picture."),
)  # fmt: skip


def build_site(
    folder: Path = ROOT / "build" / "site",
    models: Sequence[str] = tuple(MODELS),
    dataset: str = "mnist",
    root: Path = ROOT,
) -> Path:
    """Write the site from what is published, in place of an older one, and return its front page. The explorer's pages
    show the images of `load_dataset(dataset)`; `models` are the published weights that get one.

    Raises:
        ValueError: a formula in a notebook that cannot be converted.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("notebooks", "pictures"):
        (folder / part).mkdir(parents=True)
    series = sorted(path.stem for path in (root / "notebooks").glob("[0-9]*.ipynb"))
    address = _address()
    for stem in series:
        page = folder / "notebooks" / f"{stem}.html"
        write_html(root / "notebooks" / f"{stem}.ipynb", page, series, f"../explorer/{models[0]}.html", address)
    data = load_dataset(dataset)
    for name in models:
        run = load_run(name)
        method = None if run.config.latent_dim == 2 else "umap"  # of more units PCA's map shows no classes
        page = folder / "explorer" / f"{name}.html"
        links = {"latent-digits-lab": "../index.html"}
        links |= {MODELS[other]: f"{other}.html" for other in models if other != name}
        title = f"A digit as {MODELS[name]}"
        export_html(run, page, data, classifier="classifier", method=method, n=600, title=title, links=links)
    for stem, figure, *_ in PICTURES:
        shutil.copy(root / "outputs" / stem / f"{figure}.png", folder / "pictures" / f"{stem}.{figure}.png")
    summaries = results(root / "outputs")
    text = Template(Path(__file__).with_name("site.html").read_text(encoding="utf-8"), autoescape=True).render(
        style=STYLE.read_text(encoding="utf-8"), address=address, models={name: MODELS[name] for name in models},
        pictures=[(f"{stem}.{figure}.png", *texts) for stem, figure, *texts in PICTURES],
        findings=findings(summaries),
        rows=[(stem, summary["question"], plain(summary), summary["answer"]) for stem, summary in summaries.items()],
    )  # fmt: skip
    (folder / "index.html").write_text(text, encoding="utf-8")
    return folder / "index.html"


def _address() -> str:
    """Return where the repository can be cloned, as GitHub tells its workflows; "" elsewhere."""
    server, name = (os.environ.get(f"GITHUB_{part}", "") for part in ("SERVER_URL", "REPOSITORY"))
    return f"{server}/{name}" if server and name else ""
