"""What was found in plain words. Numbers in digits come from the notebooks' answers: none is written here."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from labutils.stats import summarize

INTERVAL = r"\d[\d.]* \[[^]]+\]"  # a number with its interval
# notebook, what to take from its answer, the finding, the sentences that take it, and rows of its table (column → what
# stands in it), of which {name} takes a column's mean with its interval
FINDINGS: tuple[tuple[str, str, str, str, Mapping[str, str]], ...] = (
    ("01_baseline",
     rf"With (\d+) numbers .*? test MSE is ({INTERVAL}) after (\d+) epochs: (\S+) times below PCA .*?, (\S+) times",
     "A network makes more of {0} numbers than PCA.",
     "With {0} numbers a digit, a small convolutional autoencoder has a mean squared error of {1} per pixel on test "
     "images after {2} epochs. PCA's is {3} times as large, that of a linear network with a sigmoid {4} times.", {}),
    ("05_ablation_activation",
     rf"tanh × ({INTERVAL}) / × ({INTERVAL}).*At the rate (\S+) for both, tanh would have had (\S+) times the error",
     "How bad tanh is depends on the learning rate.",
     "Each at its own best rate, its test error is {0} times that of ReLU after one epoch and {1} times after six. Had "
     "both been given the rate {2} for one epoch, its validation error would have been {3} times as large.", {}),
    ("07_tradeoff",
     rf"/ ({INTERVAL}) of the error .* together they are ({INTERVAL}) times the product",
     "Improvements combine, but not fully.",
     "SiLU and batch norm cost hardly any weights or arithmetic, and some time. Together they leave {0} of the "
     "error after long training, which is {1} times what their two single effects would multiply to.", {}),
    ("08_vae",
     rf"It pays with × ({INTERVAL}) the squared error",
     "A VAE's codes come from a known distribution, and it pays with detail.",
     "Its reconstructions, decoded from the mean of each code's distribution, have {0} times the squared error of an "
     "autoencoder with the same layers and recipe.", {}),
    ("09_sampling",
     r"Fréchet distance \S+ \(two real sets (\S+) to (\S+)\)",
     "With a learned prior, an autoencoder invents digits.",
     "A second, small network, told the digit, learns where the codes of real digits lie; a classifier then recognises "
     "{recognised:.1%} of the digits that are decoded from its codes. As a set these are at a Fréchet distance of "
     "{Fréchet:.1f} from real digits, and two sets of real ones are {0} to {1} apart.",
     {"model": "AE", "codes": "learned prior"}),
)  # fmt: skip

# question → its answer in words; the numbers come from the summary. With another question goes its answer.
PLAIN = {
    "What can sixteen numbers keep of a digit?":
        "Most of it: an autoencoder leaves about half the error of PCA. Without activation functions it is PCA.",
    "What is an autoencoder's error worth, and compared with what?":
        "A lot: it is several times below PCA's, and less than half that of a linear network with as many numbers.",
    "Is arithmetic better spent on more filters or on more training?":
        "On more training first. Wider layers lower the error as well, but within six epochs the same "
        "arithmetic lowers it more when it goes into longer training.",
    "How many numbers, and how many bits, is a digit?":
        "No number is the size of a digit: more numbers, less error. In bits: one bit a number is never best. Give the "
        "numbers that you have enough bits before you take more of them.",
    "Do batch norm and initialisation lower the error, or only make more learning rates good?":
        "Batch norm lowers the error, and with PyTorch's first weights it makes more learning rates good. Without "
        "batch norm PyTorch's are better after six epochs; after one the two are not told apart.",
    "Does the activation function matter, each at its best learning rate?":
        "Yes: SiLU is best, tanh worse than ReLU, and a network without any falls behind, the farther the longer it "
        "trains.",
    "Where should the picture shrink?":
        "Not a third time: two halvings beat three, also with the same arithmetic, but take more weights.",
    "Do improvements add up, and what should you build?":
        "They add up, but not fully. Take SiLU and batch norm first; only then pay for width.",
    "What does a VAE change in an autoencoder, and what does it pay?":
        "Its encoder gives distributions in place of points, all of them pulled towards one that we know; it pays with "
        "detail.",
    "Where must codes come from, so that a decoder draws new digits?":
        "From where its images' codes lie. A small network that learns this distribution makes a plain autoencoder "
        "invent digits that are as a set a little farther from real ones than those from each other, a little less "
        "readable, and no near copies.",
    "How many labels does an encoder save that has seen none?":
        "Where there are fifty, more than half of them. But moving the training images at random by a pixel or two "
        "saves as much without any encoder, and for somebody who does that an encoder saves little.",
    "What do directions in a space of codes mean, and is there a digit everywhere?":
        "A direction says more than a single number of the code. A plain autoencoder can invent digits, too, once "
        "somebody looks where its codes lie.",
    "Which settings of a classifier matter, and how many seeds does it take to know?":
        "Small shifts of the training images help; tanh, half the channels and no batch norm harm. With two seeds "
        "a row about a third of the effects are resolved, and all seeds confirm their direction. From about a dozen "
        "seeds on, which images are in the test set is the larger uncertainty.",
    "How much sooner can an autoencoder be as good, and how far is a step from the machine's limit?":
        "More than ten times sooner, and most of that is fewer steps, not quicker ones. A step costs more than twice "
        "what its arithmetic would. On a graphics card a step waits for Python, unless it has been recorded once and "
        "is replayed.",
    "Which findings on digits hold for clothes, with the same sign and the same size?":
        "All three changes whose sign could have turned keep it. Most effects are smaller on clothes. And a VAE "
        "that has learned clothes gives digits more probability than clothes, until what grey pixels cost in any case "
        "is subtracted.",
    "How do you bring images and a model of your own, and what do two of them gain here?":
        "A folder is enough for images. Of a model you write what is new, a network or a loss. Training with noise "
        "costs on clean images and wins clearly on noisy ones.",
}  # fmt: skip


def findings(summaries: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Return notebook, finding and its numbers in a sentence, of those that are published. An answer or a
    table that no longer says what a finding takes from it is a ValueError."""
    found = []
    for stem, pattern, claim, text, rows in FINDINGS:
        if stem in summaries:
            taken = re.search(pattern, summaries[stem]["answer"], re.DOTALL)
            if taken is None:
                raise ValueError(f"{stem}: its answer has changed, and with it a finding: mend FINDINGS in {__name__}")
            try:
                means = _means(Path(summaries[stem]["folder"]) / "results.csv", rows) if rows else {}
                found.append((stem, claim.format(*taken.groups()), text.format(*taken.groups(), **means)))
            except (OSError, KeyError, IndexError) as error:
                problem = f"{stem}: its table has changed ({error!r}), and with it a finding"
                raise ValueError(f"{problem}: mend FINDINGS in {__name__}") from error
    return found


class _Mean:
    """A mean with its 95 % interval, to be formatted as a number is."""

    def __init__(self, row: pd.Series) -> None:
        self.row = row

    def __format__(self, form: str) -> str:
        return "{mean:@} [{low:@}, {high:@}]".replace("@", form).format(**self.row[["mean", "low", "high"]])


def _means(file: Path, rows: Mapping[str, str]) -> dict[str, _Mean]:
    """Return the mean over some rows of a table of each column that has numbers."""
    table = pd.read_csv(file)
    table = table[(table[list(rows)] == pd.Series(rows)).all(axis=1)]
    numbers = map(str, table.drop(columns="seed").select_dtypes("number"))
    return {name: _Mean(summarize(table, list(rows), name).iloc[0]) for name in numbers}


def plain(summary: Mapping[str, Any]) -> str:
    """Return a notebook's answer in words; the one with numbers where its question has none."""
    return PLAIN.get(summary["question"], summary["answer"])
