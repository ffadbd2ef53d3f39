"""LatentExplorer: a slider for every unit of a code, and beside them the picture that the decoder makes of it."""

import html
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import torch

from labutils.data import Dataset
from labutils.device import eval_mode
from labutils.explore.controls import (
    STYLE,
    Later,
    Status,
    bars,
    button,
    caption,
    choice,
    close_all,
    code_text,
    links,
    show,
    view,
)
from labutils.explore.favourites import add_favourite, favourites_file, read_favourites
from labutils.explore.space import RANDOM, Model, Space, latent_space
from labutils.pictures import png
from labutils.plots import class_names
from labutils.runs import Run, load_run

ANY = -1  # the digit that is not chosen
PAGE = 32  # sliders that are seen at once
PAUSE = 0.2  # seconds without a move after which the side is brought up to date


class LatentExplorer:
    """Sliders for a code, its picture, and what there is to know about it. Show it as the last line of a cell.

        LatentExplorer("vae16", classifier="classifier")

    A slider's move decodes the code and replaces one picture, nothing else; what stands beside it (the nearest real
    digits, the classifier's opinion, the distance from the data) follows when the sliders rest.

    Args:
        model: a Run, the name or path of one, a model (then `data` is needed), or a Space.
        data: the images; None means the data set that the run was trained on.
        classifier: a Run, the name or path of one, or a model; None leaves its opinion out.
        n: how many training images tell the ranges of the sliders and are searched for the nearest.

    Attributes:
        z, y: the code (latent_dim,), and the label a conditional_vae is told, or None.
        sliders: by unit, most important first.
        renders: how many pictures have been drawn.
    """

    def __init__(
        self, model: Model | Space, data: Dataset | None = None, *, classifier: Model | None = None, n: int = 5000
    ) -> None:
        self.space = latent_space(model, data, n)
        run = load_run(classifier) if isinstance(classifier, (str, Path)) else classifier
        self.classifier = run.model if isinstance(run, Run) else run
        if hasattr(self.classifier, "decode"):
            raise ValueError(f"classifier={classifier!r} decodes codes and tells no classes: name a classifier")
        self.names = class_names(self.space.data.name)
        self.z: torch.Tensor = torch.zeros(self.space.latent_dim)
        self.y: int | None = None
        self.renders, self._draws, self._index = 0, 0, 0
        self._loading = False  # while many sliders are set at once, none of them draws
        self.status = Status()
        self._side = Later(self._describe_watched, PAUSE)
        self._favourites_file = favourites_file(self.space.name, self.space.model)
        self.favourites = read_favourites(self._favourites_file)
        self.sliders = {unit: self._slider(unit) for unit in self.space.order}
        self._make_parts()
        self.box = self._arranged()
        self.from_image(0)

    # What can be started from

    def load(self, z: Any, origin: str = "a code", y: int | None = None) -> None:
        """Set all sliders to a code (latent_dim,) and draw once. A unit beyond its slider's range keeps its value; the
        slider rests at its end, and the status line says so.

        Raises:
            ValueError: another number of units, a number that is not finite, or no label. Everything stays as it was.
        """
        self._load(z, origin, y, None)

    def _load(self, z: Any, origin: str, y: int | None, real: tuple[torch.Tensor, torch.Tensor, str] | None) -> None:
        """`load`, and beside it a real image, its reconstruction and what it is."""
        z = torch.as_tensor(z, dtype=torch.float32).flatten().clone()
        if len(z) != self.space.latent_dim or not z.isfinite().all():
            raise ValueError(f"a code of {self.space.name} has {self.space.latent_dim} finite numbers, not {len(z)}")
        if y not in (None, *range(len(self.names))):
            raise ValueError(f"y={y!r} is no label: they go from 0 to {len(self.names) - 1}")
        self._start = (z.clone(), origin, y, real)
        self._show_real(*(real or (None, None, "")))
        self._loading = True
        try:
            for unit, slider in self.sliders.items():
                slider.value = float(z[unit])
            self._told.value = ANY if y is None else y
        finally:
            self._loading = False
        self.z, self.y = z, y
        self._render()
        beyond = int(((z < self.space.low) | (z > self.space.high)).sum())
        more = f"; {beyond} of its units lie beyond their sliders' ends" if beyond else ""
        self.status.say(f"started from {origin}{more}")

    def from_image(self, index: int) -> None:
        """Start from the code of a test image; it and its reconstruction are shown beside the picture.

        Raises:
            IndexError: there is no such test image.
        """
        test = self.space.data.test
        if not 0 <= index < len(test):
            raise IndexError(f"test image {index} must be from 0 to {len(test) - 1}")
        self._index, label = index, int(test.labels[index])
        x = test.images[index : index + 1]
        y = label if self.space.conditional else None
        z = self.space.encode(x, y)
        real = x, self.space.decode(z, y), f"a real {self.names[label]}"
        self._load(z[0], f"test image {index}, a {self.names[label]}", y, real)

    def from_digit(self, label: int) -> None:
        """Start from the next test image of a class."""
        found = (self.space.data.test.labels == label).nonzero().flatten()
        later = found[found > self._index]
        self.from_image(int(later[0] if len(later) else found[0]))

    def from_random(self, method: str = "gaussian", seed: int | None = None) -> None:
        """Start from a random code: "prior", "uniform", "gaussian", "mixture", or "of a class" (see Space.draw), the
        class being the one that is chosen above. No seed means another code each time."""
        self._draws += 1
        seed = self._draws if seed is None else seed
        label = self._digit.value if self._digit.value != ANY else seed % len(self.names)
        z = self.space.draw(method, seed, label)
        what = f"{method}, {self.names[label]}" if method == "of a class" else method
        self.load(z, f"a random code ({what})", label if self.space.conditional else None)

    def zeros(self) -> None:
        """Start from the code of zeros."""
        self.load(torch.zeros(self.space.latent_dim), "zeros", self.y)

    def paste(self, text: str) -> None:
        """Start from a code as text: numbers separated by commas or spaces, brackets allowed.

        Raises:
            ValueError: text that is no code of this model.
        """
        words = text.translate(str.maketrans("[](),;", "      ")).split()
        try:
            z = [float(word) for word in words]
        except ValueError as error:
            raise ValueError(f"a code is numbers separated by commas or spaces: {error}") from None
        self.load(z, "a typed code", self.y)

    def reset(self) -> None:
        """Back to what was started from last."""
        self._load(*self._start)

    def keep(self, name: str = "") -> str:
        """Store the code as a favourite, also for the next session; its name."""
        name = name or f"{len(self.favourites) + 1}: {self._start[1]}"
        self.favourites = add_favourite(self._favourites_file, name, [round(v, 6) for v in self.z.tolist()], self.y)
        self._favourite.options = [("favourites", ""), *((name, name) for name in self.favourites)]
        self.status.say(f"kept as “{name}”")
        return name

    def recall(self, name: str) -> None:
        """Start from a favourite.

        Raises:
            KeyError: there is none of that name.
        """
        favourite = self.favourites[name]
        self.load(favourite["z"], f"favourite {name}", favourite["y"])

    # What it shows

    def _moved(self, unit: int, change: Any) -> None:
        slider = self.sliders[unit]
        shown = min(max(float(self.z[unit]), slider.min), slider.max)
        # a page rounds the value it is sent to the slider's steps, and reports that: this is no move
        if self._loading or abs(change["new"] - shown) < 0.501 * slider.step:
            return
        with self.status.watching():
            self.z[unit] = change["new"]
            self._render()

    def _render(self) -> None:
        """The picture, now; the side when the sliders rest."""
        show(self.picture, self.space.decode(self.z[None], self.y))
        self.renders += 1
        self._side.request()

    def _describe_watched(self) -> None:
        with self.status.watching(mends=False):  # it comes late: what was wrong in between is still wrong
            self.describe()

    def describe(self) -> None:
        """Bring up to date what stands beside the picture: text of the code, nearest digits, opinion, distance."""
        x = self.space.decode(self.z[None], self.y)
        found, errors = self.space.nearest(x)
        show(self.nearest, self.space.known.images[found])
        self._text.value = text = code_text(self.z)
        self._links.value = links(text, png(x), f"{self.space.name}.png")
        labels = " ".join(self.names[int(self.space.known.labels[i])] for i in found)
        picture, code = self.space.error_rank(float(errors[0])), self.space.code_rank(self.z)
        self._facts.value = (
            f"nearest real digits: {labels}<br>picture: farther from its nearest than <b>{picture:.0%}</b> of test "
            f"images<br>code: farther from the centre than <b>{code:.0%}</b> of real codes"
        )
        if self.classifier is not None:
            with eval_mode(self.classifier) as device:
                shares = self.classifier(x.to(device)).softmax(1)[0].cpu().tolist()
            self._opinion.value = bars(shares, self.names)

    def save_png(self, path: str | Path) -> Path:
        """Write the picture, 28 × 28 pixels, dark ink on white."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(self.picture.value)
        return Path(path)

    def export_html(self, path: str | Path, **options: Any) -> Path:
        """Write a page that needs neither Python nor a network: see `export.export_html`."""
        from labutils.explore.page import export_html

        return export_html(self.space, path, **options)

    def close(self) -> None:
        """Remove the explorer from the page and the kernel."""
        self._side.cancel()
        for slider in self.sliders.values():
            slider.unobserve_all()
        close_all(self.box)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.box._repr_mimebundle_(**options)

    # How it is built

    def _slider(self, unit: int) -> widgets.FloatSlider:
        low, high = float(self.space.low[unit]), float(self.space.high[unit])
        slider = widgets.FloatSlider(
            min=low, max=high, value=min(max(0.0, low), high), step=(high - low) / 200, readout_format=".2f",
            description=f"z{unit} · {self.space.importance[unit]:.2f}", style={"description_width": "70px"},
            layout=widgets.Layout(width="auto", margin="0"),
        )  # fmt: skip
        slider.add_class("labutils-slider")
        slider.observe(partial(self._moved, unit), "value")
        return slider

    def _make_parts(self) -> None:
        self.picture, self.nearest = view(196), view(280, 56)
        self._real, self._rebuilt = view(84), view(84)
        self._real_caption, self._rebuilt_caption = caption(), caption()
        self._facts, self._opinion, self._links = caption(), caption(), caption()
        digits = [("any", ANY), *((name, label) for label, name in enumerate(self.names))]
        self._digit = choice(digits, ANY, tooltip="which class")
        self._method = choice(RANDOM, "gaussian", tooltip="where codes come from")
        self._told = choice([("nothing", ANY), *digits[1:]], ANY, "the decoder is told")
        self._told.observe(self._told_moved, "value")
        self._favourite = choice([("favourites", ""), *((name, name) for name in self.favourites)], "")
        self._favourite.layout.max_width = "170px"
        self._favourite.observe(self._chosen, "value")
        self._text = widgets.Text(
            placeholder="a code to start from",
            continuous_update=False,
            layout=widgets.Layout(width="100%", margin="0 2px"),
        )
        self._text.observe(self._typed, "value")

    def _arranged(self) -> widgets.VBox:
        """Picture and facts above, the ways to start below them, then the sliders."""
        row = widgets.Layout(flex_flow="row wrap", align_items="center", margin="2px 0")
        column = widgets.Layout(margin="0 0 0 12px")
        real = widgets.HBox([widgets.VBox([self._real, self._real_caption]),
                             widgets.VBox([self._rebuilt, self._rebuilt_caption])])  # fmt: skip
        top = widgets.HBox([self.picture, widgets.VBox([real, self._opinion], layout=column),
                            widgets.VBox([self.nearest, self._facts, self._links], layout=column)])  # fmt: skip
        start = widgets.HBox([
            caption("start from"), self._digit, button("test image", self._next_image, "the next one of that class"),
            self._method, button("random code", lambda: self._try(self.from_random, self._method.value)),
            button("zeros", lambda: self._try(self.zeros)), self._favourite,
            button("keep", lambda: self._try(self.keep), "store this code as a favourite"),
            button("reset", lambda: self._try(self.reset), "back to what was started from"),
        ], layout=row)  # fmt: skip
        text = widgets.HBox([caption("code"), self._text], layout=widgets.Layout(align_items="center", width="100%"))
        self._told.layout.display = "" if self.space.conditional else "none"
        units = f"{self.space.name}: unit · {self.space.measure}, most important first"
        head = caption(f"<span class=labutils-quiet>{html.escape(units)}</span>")
        return widgets.VBox([widgets.HTML(STYLE), top, start, text, self._told, head, self._pages(), self.status.line],
                            layout=widgets.Layout(max_width="860px"))  # fmt: skip

    def _pages(self) -> widgets.Widget:
        """Columns of sliders, at most four beside each other; a tab for every 32 sliders."""
        sliders, pages = list(self.sliders.values()), []
        for start in range(0, len(sliders), PAGE):
            page = sliders[start : start + PAGE]
            rows = max(4, -(-len(page) // 4))
            columns = [widgets.VBox(page[i : i + rows]) for i in range(0, len(page), rows)]
            for column in columns:
                column.layout.width = f"{100 // max(2, len(columns))}%"
            pages.append(widgets.HBox(columns))
        if len(pages) == 1:
            return pages[0]
        names = [f"{i * PAGE + 1} to {min((i + 1) * PAGE, len(sliders))}" for i in range(len(pages))]
        return widgets.Tab(pages, titles=names)

    def _show_real(self, x: torch.Tensor | None, x_hat: torch.Tensor | None, text: str) -> None:
        """What was started from, and its reconstruction; an empty frame where there is no such image."""
        blank = torch.zeros(1, 1, 28, 28)
        show(self._real, blank if x is None else x)
        show(self._rebuilt, blank if x_hat is None else x_hat)
        self._real_caption.value = text or "no real image"
        self._rebuilt_caption.value = "reconstruction" if text else "&nbsp;"

    def _try(self, action: Any, *arguments: Any) -> None:
        """What a button does, with its errors in the status line."""
        with self.status.watching():
            action(*arguments)

    def _next_image(self) -> None:
        if self._digit.value == ANY:
            self._try(self.from_image, (self._index + 1) % len(self.space.data.test))
        else:
            self._try(self.from_digit, self._digit.value)

    def _told_moved(self, change: Any) -> None:
        if not self._loading:
            with self.status.watching():
                self.y = None if change["new"] == ANY else change["new"]
                self._render()

    def _chosen(self, change: Any) -> None:
        if change["new"]:
            self._try(self.recall, change["new"])

    def _typed(self, change: Any) -> None:
        if change["new"] and change["new"] != code_text(self.z):
            self._try(self.paste, change["new"])
