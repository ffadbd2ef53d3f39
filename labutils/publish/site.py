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
from labutils.runs import load_run

MODELS = {
    "vae16": "16 numbers, with a probability",
    "vae2": "2 numbers: a map of everything",
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
# question → its answer in words; the numbers come from the summary. With another question goes its answer.
PLAIN = {
    "What can sixteen numbers keep of a digit?":
        "Most of it: an autoencoder leaves about half the error of PCA. Without activation functions it is PCA.",
    "What is an autoencoder's error worth, and compared with what?":
        "A lot: it is several times below PCA's, and less than half that of a linear network with as many numbers.",
    "Is arithmetic better spent on more filters or on more training?":
        "On more training first. Wider layers lower the error as well, but cost more than they save.",
    "How many numbers, and how many bits, is a digit?":
        "No number is the size of a digit: more numbers, less error. In bits, a few numbers written precisely beat "
        "many written coarsely.",
    "Do batch norm and initialisation lower the error, or only make more learning rates good?":
        "Batch norm does both. Among initialisations the order depends on how long you train.",
    "Does the activation function matter, each at its best learning rate?":
        "Yes: SiLU is best, tanh worse than ReLU, and without any, longer training does not help.",
    "Where should the picture shrink?":
        "Later: two halvings beat three, also with the same arithmetic, but take more weights.",
    "Do improvements add up, and what should you build?":
        "They add up, but not fully. Take first what costs next to nothing, a smooth activation function and batch "
        "norm; only then pay for width.",
    "What does a VAE change in an autoencoder, and what does it pay?":
        "Its encoder gives distributions in place of points, all of them pulled towards one that we know; it pays with "
        "detail.",
    "Where must codes come from, so that a decoder draws new digits?":
        "From where its images' codes lie. A small network that learns this distribution makes a plain autoencoder "
        "invent digits that are nearly as varied and as readable as real ones, and no copies.",
    "What do directions in a space of codes mean, and is there a digit everywhere?":
        "Directions mean something, single numbers do not. A plain autoencoder can invent digits, too, once somebody "
        "looks where its codes lie.",
    "How do you bring images and a model of your own, and what do two of them gain here?":
        "A folder is enough for images. Of a model you write what is new, a network or a loss. Training with noise "
        "costs on clean images and wins clearly on noisy ones.",
}  # fmt: skip


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
    for stem in series:
        page = folder / "notebooks" / f"{stem}.html"
        write_html(root / "notebooks" / f"{stem}.ipynb", page, series, f"../explorer/{models[0]}.html")
    data = load_dataset(dataset)
    for name in models:
        run = load_run(name)
        method = None if run.config.latent_dim == 2 else "umap"  # of more units PCA's map shows no classes
        page = folder / "explorer" / f"{name}.html"
        export_html(run, page, data, classifier="classifier", method=method, n=600)
    for stem, figure, *_ in PICTURES:
        shutil.copy(root / "outputs" / stem / f"{figure}.png", folder / "pictures" / f"{stem}.{figure}.png")
    text = Template(Path(__file__).with_name("site.html").read_text(encoding="utf-8"), autoescape=True).render(
        style=STYLE.read_text(encoding="utf-8"), address=_address(), models={name: MODELS[name] for name in models},
        pictures=[(f"{stem}.{figure}.png", *texts) for stem, figure, *texts in PICTURES],
        rows=[_row(stem, summary["question"], summary["answer"])
              for stem, summary in results(root / "outputs").items()],
    )  # fmt: skip
    (folder / "index.html").write_text(text, encoding="utf-8")
    return folder / "index.html"


def _address() -> str:
    """Return where the repository can be cloned, as GitHub tells its workflows; "" elsewhere."""
    server, name = (os.environ.get(f"GITHUB_{part}", "") for part in ("SERVER_URL", "REPOSITORY"))
    return f"{server}/{name}" if server and name else ""


def _row(stem: str, question: str, answer: str) -> dict[str, str]:
    """Return a notebook's question, its answer in words and then with numbers; without words the answer comes first."""
    plain = PLAIN.get(question, "")
    return {"stem": stem, "question": question, "plain": plain or answer, "numbers": answer if plain else ""}
