"""What the site's pages are made of. How they look and behave in a browser is for tests/browser."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from labutils.paths import ROOT
from labutils.publish.execution import results, write_html
from labutils.publish.site import MODELS, PICTURES
from labutils.publish.words import PLAIN
from labutils.store.weights import pretrained_index


def page_of(tmp_path, *cells, **options):
    nbformat.write(new_notebook(cells=[new_markdown_cell(text) for text in cells]), tmp_path / "01_a.ipynb")
    write_html(tmp_path / "01_a.ipynb", tmp_path / "01_a.html", **options)
    return (tmp_path / "01_a.html").read_text()


def test_formulas_are_mathml(tmp_path):
    page = page_of(tmp_path, "With $x_1$:\n\n$$\\frac{1}{2} \\bigl\\lVert x \\bigr\\rVert$$\n\nand `$HOME`.")
    assert '<math display="inline"><mrow><msub><mi>x</mi><mn>1</mn></msub></mrow></math>' in page
    assert re.search(r'<span class="formula"><math display="block"><mrow><mfrac>.*‖', page)
    assert "$HOME" in page
    assert not re.search(r"mathjax|https?://", page, re.IGNORECASE)


@pytest.mark.parametrize("formula", ["\\nosuchthing x", "\\left( x"])
def test_a_formula_that_cannot_be_converted_is_named(tmp_path, formula):
    with pytest.raises(ValueError, match=r"01_a: no MathML for the formula .*" + re.escape(repr(formula)[1:-1])):
        page_of(tmp_path, f"Here ${formula}$")


def test_a_page_has_contents_neighbours_and_a_description(tmp_path):
    text = "# Title\n\n**The question.** Is *this* [it](02_b.ipynb)?\n\n## One & two\n\n### $x$ again\n\n## Limits"
    page = page_of(tmp_path, text, series=["00_o", "01_a", "02_b"])
    assert re.findall(r'<li class="(h\d)"><a href="#([^"]+)">', page) == [
        ("h2", "One-&amp;-two"), ("h3", re.search(r'<h3 id="([^"]+)"', page)[1]), ("h2", "Limits")]  # fmt: skip
    assert '<meta content="Is this it?" name="description"/>' in page
    assert 'href="02_b.html">it</a>' in page
    assert re.search(r'href="00_o.html" rel="prev"', page)
    assert re.search(r'href="02_b.html" rel="next"', page)


def test_ends_and_single_pages_have_no_neighbour_there(tmp_path):
    assert re.findall(r'rel="(\w+)"', page_of(tmp_path, "# A", series=["01_a", "02_b"])) == ["next"]
    assert re.findall(r'rel="(\w+)"', page_of(tmp_path, "# A", series=["00_o", "01_a"])) == ["prev"]
    assert re.findall(r'rel="(\w+)"', page_of(tmp_path, "# A")) == []


def test_the_explorer_stands_where_the_sliders_do(tmp_path):
    cells = [new_code_cell(code) for code in ("from labutils import LatentExplorer", "LatentExplorer(1)", "map_()")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "11.ipynb")
    write_html(tmp_path / "11.ipynb", tmp_path / "11.html", explorer="../e.html")
    page = (tmp_path / "11.html").read_text()
    assert page.count("<iframe") == 1
    assert page.index("map_") > page.index("<iframe") > page.index("import")


def test_a_page_leads_to_its_notebook_and_to_colab(tmp_path):
    github = page_of(tmp_path, "# A", address="https://github.com/who/what")
    assert 'href="https://github.com/who/what/blob/main/notebooks/01_a.ipynb"' in github
    assert 'href="https://colab.research.google.com/github/who/what/blob/main/notebooks/01_a.ipynb"' in github
    assert "!git clone https://github.com/who/what lab" in github
    elsewhere = page_of(tmp_path, "# A", address="https://git.example.org/who/what")
    assert 'href="https://git.example.org/who/what/blob/main/notebooks/01_a.ipynb"' in elsewhere
    assert "colab" not in elsewhere
    assert "http" not in page_of(tmp_path, "# A")


def test_a_page_is_written_again_only_where_it_would_be_another(tmp_path):
    notebook, page = tmp_path / "01_a.ipynb", tmp_path / "01_a.html"
    page_of(tmp_path, "# One", series=["01_a"])
    page.write_text(page.read_text().replace("One", "Kept"))  # whoever reads it now sees that it stayed
    write_html(notebook, page, ["01_a"])
    assert "Kept" in page.read_text()
    write_html(notebook, page, ["01_a", "02_b"])
    assert "Kept" not in page.read_text()
    assert "02_b.html" in page.read_text(), "its neighbours count, too"


def test_what_the_front_page_says_of_its_own_is_there_and_holds_no_number():
    """Numbers come from the summaries; a figure or a weight that is gone is found before the site is built."""
    assert all((ROOT / "outputs" / stem / f"{figure}.png").exists() for stem, figure, *_ in PICTURES)
    assert set(MODELS) <= set(pretrained_index())
    assert not [text for text in PLAIN.values() if re.search(r"\d", text)]
    assert {row["question"] for row in results(ROOT / "outputs").values()} >= set(PLAIN), "an answer nobody asks for"
