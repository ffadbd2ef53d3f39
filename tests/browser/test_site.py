"""The site, opened from files: no server, no network, at any width, in light and in dark."""

import re
from itertools import pairwise

import pytest
from browser_places import ROOT, SEEN

from labutils.publish.site import build_site

SHOWN = ("03_ablation_latent_dim", "08_vae", "11_latent_exploration")
PAGES = ("index.html", *(f"notebooks/{stem}.html" for stem in SHOWN))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A site of three notebooks and one explorer, with the digits that are there on every machine."""
    lab = tmp_path_factory.mktemp("lab")
    (lab / "notebooks").mkdir()
    for stem in SHOWN:
        (lab / "notebooks" / f"{stem}.ipynb").symlink_to(ROOT / "notebooks" / f"{stem}.ipynb")
    (lab / "outputs").symlink_to(ROOT / "outputs")
    return build_site(lab / "site", ["vae2"], "mnist5k", lab).parent


def opened(browser, site, path, **options):
    """A page of the site, every address that it asks for, and what it says to the console."""
    page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **options})
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((site / path).as_uri())
    return page, asked, said


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_whole(browser, site, path):
    page, asked, said = opened(browser, site, path)
    levels = [
        int(tag[1]) for tag in page.evaluate("Array.from(document.querySelectorAll('h1,h2,h3,h4'), (h) => h.tagName)")
    ]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels)), levels
    assert page.locator("img:not([alt]), img[alt=''], iframe:not([title])").count() == 0
    assert page.locator("img[alt^='No description']").count() == 0
    assert page.locator("html[lang=en], meta[name=description]").count() == 2
    links = page.evaluate(
        "Array.from(document.querySelectorAll('[href], [src]'), (e) => e.getAttribute('href') || e.getAttribute('src'))"
    )
    local = {link for link in links if not re.match(r"https?:|data:", link)}
    assert not any(link.startswith(("/", "file:")) for link in local)
    inside = {link[1:] for link in links if link.startswith("#")}
    assert inside <= set(page.evaluate("Array.from(document.querySelectorAll('[id]'), (e) => e.id)"))
    beside = {f"{stem}.html" for stem in SHOWN}
    for link in local:
        target = ((site / path).parent / link.split("#")[0]).resolve()
        in_series = re.fullmatch(r"\d\d_\w+\.html", target.name)  # this site has three of them
        assert target.exists() or (in_series and target.name not in beside), link
    assert "MathJax" not in page.content()
    page.screenshot(path=SEEN / f"site_{path.split('/')[-1][:2]}.png")
    page.wait_for_load_state("networkidle")
    assert said == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked), asked
    page.close()


@pytest.mark.parametrize("path", PAGES)
def test_a_page_fits_a_telephone(browser, site, path):
    page, *_ = opened(browser, site, path, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.screenshot(path=SEEN / f"site_{path.split('/')[-1][:2]}_telephone.png")
    page.close()


CONTRAST = """() => {
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
        .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + [0.2126, 0.7152, 0.0722][i] * v, 0);
    const ground = (element) => {
        for (; element; element = element.parentElement) {
            const colour = numbers(getComputedStyle(element).backgroundColor);
            if (colour.length < 4 || colour[3] > 0) return colour;
        }
    };
    const worst = { ratio: 99 };
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        if (!walker.currentNode.textContent.trim() || element.closest("style, script")) continue;
        const [a, b] = [light(numbers(getComputedStyle(element).color)), light(ground(element))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        const text = walker.currentNode.textContent;
        if (ratio < worst.ratio) Object.assign(worst, { ratio, text, class: element.className });
    }
    return worst;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_all_text_can_be_read(browser, site, path, scheme):
    page, *_ = opened(browser, site, path, color_scheme=scheme)
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")
    worst = page.evaluate(CONTRAST)
    assert worst["ratio"] >= 4.5, worst
    page.close()


def test_formulas_are_drawn(browser, site):
    page, *_ = opened(browser, site, "notebooks/08_vae.html")
    sizes = page.evaluate("Array.from(document.querySelectorAll('math'), (m) => m.getBoundingClientRect().height)")
    assert len(sizes) > 50
    assert min(sizes) > 5
    assert not [text for text in page.locator("main p, main li").all_inner_texts() if "$" in text]
    page.close()


@pytest.mark.parametrize("path", ["index.html", "notebooks/11_latent_exploration.html"])
def test_the_explorer_answers_to_a_key(browser, site, path):
    page, asked, said = opened(browser, site, path)
    page.locator("iframe.explorer").scroll_into_view_if_needed()
    frame = page.frame_locator("iframe.explorer")
    code = frame.locator("#code")
    frame.locator("#sliders input").first.focus(timeout=30_000)
    before = code.input_value()
    page.keyboard.press("ArrowRight")
    assert code.input_value() != before
    assert said == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)
    page.close()


@pytest.mark.parametrize("path", ["index.html", "notebooks/11_latent_exploration.html"])
def test_on_a_telephone_the_explorer_is_a_page_of_its_own(browser, site, path):
    page, *_ = opened(browser, site, path, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    assert not page.locator("iframe.explorer").is_visible()
    page.locator("a[href$='explorer/vae2.html']:visible").first.click()
    page.locator("#sliders input").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
