"""LatentExplorer: a slider for every unit of a code, and the decoded picture."""

import html
import re
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import torch

from labutils.config import IMAGE_SIZE
from labutils.data import Dataset
from labutils.device import eval_mode
from labutils.explore import controls as ui
from labutils.explore.controls import NO_CLASS, Column, Later
from labutils.explore.favourites import add_favourite, favourites_file, read_favourites
from labutils.explore.pad import DrawingPad
from labutils.explore.page import export_html
from labutils.explore.space import POOL, RANDOM, Model, Space, classifier_for, latent_space
from labutils.pictures import png

PAUSE = 0.2  # seconds without a move before `describe` is called
FAVOURITES = "favourites"  # the first entry of their list


class LatentExplorer(Column):
    """Sliders for a code and its picture, shown as the value of a cell.

        LatentExplorer("vae16", classifier="classifier")

    A slider's move replaces the picture; the nearest real digits, the classifier's opinion and the distance from the
    data follow when the sliders rest.

    Args:
        model, data: see `latent_space`.
        classifier: a Run, the name or path of one, or a model; None leaves its opinion out.
        n: how many training images give the sliders' ranges and are searched for the nearest.

    Attributes:
        z, y: the code (latent_dim,), and the label or NO_CLASS, which only a conditional decoder reads.
        index: the test image that was loaded last.
        sliders: by unit, most important first.
        renders: how many pictures have been drawn.
        picture, pair (real and rebuilt, or hidden), nearest, facts, opinion, links: what is shown.
        pad: draws a digit, whose code follows the pen.
        digit, method, favourite, label, code: the controls beside the sliders.
    """

    def __init__(
        self, model: Model | Space, data: Dataset | None = None, *, classifier: Model | None = None, n: int = 5000
    ) -> None:
        super().__init__()
        self.space = latent_space(model, data, n)
        self.classifier = classifier_for(self.space, classifier)
        self.index = self.renders = 0
        self._side = Later(self.status.watching()(self.describe), PAUSE)
        self._favourites_file = favourites_file(self.space.name, self.space.model)
        self.favourites = read_favourites(self._favourites_file)
        self.sliders = {unit: self._slider(unit) for unit in self.space.order}
        units = ui.caption(f"{self.space.name}: unit · {self.space.measure}, most important first")
        columns = widgets.Layout(grid_template_columns="repeat(auto-fit, minmax(190px, 1fr))")
        grid = widgets.GridBox(list(self.sliders.values()), layout=columns)
        self.fill(self._views(), self._starts(), *self._inputs(), units, grid)
        self.from_image(0)

    # Ways to start

    def load(self, z: Any, origin: str = "a code", y: int | None = None, index: int | None = None) -> None:
        """Set all sliders to a code (latent_dim,) of finite numbers and draw once; anything else is a ValueError and
        changes nothing. A unit beyond its slider's range keeps its value, and the status line says so.

        Args:
            origin: what the status line says.
            y: the label; only a conditional decoder reads it.
            index: the test image that the code belongs to; it is shown beside its reconstruction.
        """
        z = torch.as_tensor(z, dtype=torch.float32).flatten().clone()
        if len(z) != self.space.latent_dim or not z.isfinite().all():
            found = len(z) if z.isfinite().all() else "a nan or an inf"
            raise ValueError(f"a code of {self.space.name} has {self.space.latent_dim} finite numbers, not {found}")
        y = NO_CLASS if y is None else y
        if y not in range(NO_CLASS, len(self.space.names)):
            raise ValueError(f"y={y!r} is no label: they go from 0 to {len(self.space.names) - 1}")
        self._origin, self._start = origin, partial(self.load, z.clone(), origin, y, index)
        self.z, self.y = z, y  # first: a slider that is set to them has not moved
        for unit, slider in self.sliders.items():
            slider.value = float(z[unit])
        self.label.value = y
        self._render()
        self._show_real(index)
        beyond = int(((z < self.space.low) | (z > self.space.high)).sum())
        more = f"; {beyond} of its units lie beyond their sliders' ends" if beyond else ""
        self.status.say(f"started from {origin}{more}")

    def from_image(self, index: int) -> None:
        """Load the code of a test image; it and its reconstruction are shown beside the picture."""
        test = self.space.data.test
        if not 0 <= index < len(test):
            raise IndexError(f"test image {index} must be from 0 to {len(test) - 1}")
        label = int(test.labels[index])
        z = self.space.encode(test.images[[index]], label)[0]
        self.index = index
        self.load(z, f"test image {index}, a {self.space.names[label]}", label, index)

    def from_drawing(self, drawing: object, y: int | None = None) -> None:
        """Load the code of a digit drawn on the pad, or of a picture (see `as_images`), shown beside its
        reconstruction. A conditional model is told y; None: the label that is chosen."""
        x, y = self.space.images(drawing)[:1], self.y if y is None else y
        self.load(self.space.encode(x, y)[0], "your drawing", y)
        self._start = partial(self.from_drawing, x, y)
        self._show_pair(x, "your drawing")

    def from_digit(self, label: int) -> None:
        """Load the next test image of a class, or of any for NO_CLASS."""
        labels = self.space.data.test.labels
        images = torch.arange(len(labels)).roll(-self.index - 1)  # the next one first
        if label != NO_CLASS:
            images = images[labels[images] == label]
        if not len(images):
            raise ValueError(f"no test image of {self.space.data.name} is a {self.space.names[label]}")
        self.from_image(int(images[0]))

    def from_random(self, method: str = "gaussian", seed: int | None = None) -> None:
        """Load a random code by a method of `Space.pool`, the class being the one chosen above; without a seed another
        code each time."""
        seed = self.renders if seed is None else seed
        label = self.digit.value if self.digit.value != NO_CLASS else seed % len(self.space.names)
        what = f"{method}, {self.space.names[label]}" if method == "of a class" else method
        self.load(self.space.pool(method, label)[seed % POOL], f"a random code ({what})", label)

    def zeros(self) -> None:
        self.load(torch.zeros(self.space.latent_dim), "zeros", self.y)

    def paste(self, text: str) -> None:
        """Load a code as text: numbers separated by commas or spaces, brackets allowed."""
        try:
            z = [float(word) for word in re.findall(r"[^][(),;\s]+", text)]
        except ValueError as error:
            raise ValueError(f"a code is numbers separated by commas or spaces: {error}") from None
        self.load(z, "a typed code", self.y)

    def reset(self) -> None:
        """Load again what was loaded last."""
        self._start()

    def keep(self, name: str = "") -> str:
        """Store the code as a favourite, also for later sessions, and return its name."""
        name = name or f"{len(self.favourites) + 1}: {self._origin}"
        self.favourites = add_favourite(self._favourites_file, name, [round(v, 6) for v in self.z.tolist()], self.y)
        self.favourite.options = [FAVOURITES, *self.favourites]
        self.status.say(f"kept as “{name}”")
        return name

    def recall(self, name: str) -> None:
        """Load a favourite."""
        favourite = self.favourites[name]
        self.load(favourite["z"], f"favourite {name}", favourite["y"])

    # What is shown

    def _render(self) -> None:
        """Draw the picture now, and request `describe`."""
        self.picture.value = png(self.space.decode(self.z[None], self.y))
        self.renders += 1
        if self.status.error:
            self.status.say("")
        self._side.request()

    def describe(self) -> None:
        """Update what stands beside the picture: text of the code, nearest digits, opinion, distance."""
        x = self.space.decode(self.z[None], self.y)
        (neighbours,), (errors,) = self.space.nearest(x)
        self.nearest.value = png(self.space.train.images[neighbours])
        self.code.value = ui.code_text(self.z)
        self.links.value = ui.links(self.code.value, png(x), f"{self.space.name}.png")
        labels = html.escape(" ".join(self.space.names[int(self.space.train.labels[i])] for i in neighbours))
        picture, code = self.space.error_rank(float(errors[0])), self.space.code_rank(self.z)
        self.facts.value = (
            f"nearest real images: {labels}<br>picture: farther from its nearest than <b>{picture:.0%}</b> of test "
            f"images<br>code: farther from the centre than <b>{code:.0%}</b> of real codes"
        )
        if self.classifier is not None:
            with eval_mode(self.classifier) as device:
                shares = self.classifier(x.to(device)).softmax(1)[0].cpu().tolist()
            self.opinion.value = ui.bars(shares, self.space.names)

    def _show_real(self, index: int | None) -> None:
        """Show a test image and its reconstruction; None hides both."""
        if index is None:
            self.pair.layout.visibility = "hidden"
        else:
            test = self.space.data.test
            self._show_pair(test.images[[index]], f"a real {self.space.names[int(test.labels[index])]}")

    def _show_pair(self, image: torch.Tensor, text: str) -> None:
        """Show an image (1,1,28,28) with a caption, and its reconstruction, which is the picture."""
        self.pair.layout.visibility = "visible"
        self.real.value, self.rebuilt.value = png(image), self.picture.value
        self.real_caption.value = html.escape(text)

    def export_html(self, path: str | Path, **options: Any) -> Path:
        """Write a page that needs neither Python nor a network, see `page.export_html`."""
        return export_html(self.space, path, classifier=self.classifier, **options)

    # Building

    def _slider(self, unit: int) -> widgets.FloatSlider:
        low, high = float(self.space.low[unit]), float(self.space.high[unit])
        slider = widgets.FloatSlider(
            min=low, max=high, step=(high - low) / 200, readout_format=".2f",
            description=f"z{unit} · {self.space.importance[unit]:.2f}", style={"description_width": "70px"},
            layout=widgets.Layout(width="auto", margin="0"),
        )  # fmt: skip
        slider.add_class("labutils-slider")
        self.status.watch(slider, partial(self._moved, unit))
        return slider

    def _views(self) -> widgets.HBox:
        self.picture, self.nearest, self.real, self.rebuilt = ui.view(196), ui.view(280, 56), ui.view(84), ui.view(84)
        self.real_caption, self.facts, self.opinion, self.links = (ui.caption() for _ in range(4))
        rebuilt = widgets.VBox([self.rebuilt, ui.caption("reconstruction")])
        self.pair = widgets.HBox([widgets.VBox([self.real, self.real_caption]), rebuilt])
        layout = widgets.Layout(margin="0 0 0 12px")
        started = widgets.VBox([self.pair, self.opinion], layout=layout)
        beside = widgets.VBox([self.nearest, self.facts, self.links], layout=layout)
        self.pad = DrawingPad(self.status.watching()(self.from_drawing))
        data = self.space.data
        self.pad.layout.display = "" if (data.image_size, data.channels) == (IMAGE_SIZE, 1) else "none"  # ink on paper
        return widgets.HBox([self.picture, started, beside, self.pad], layout=widgets.Layout(flex_flow="row wrap"))

    def _starts(self) -> widgets.HBox:
        self.digit = ui.class_choice(self.space.names, "any", tooltip="which class")
        self.method = ui.choice(RANDOM, value="gaussian", tooltip="where codes come from")
        self.favourite = ui.choice([FAVOURITES, *self.favourites], tooltip="codes that were kept")
        self.status.watch(self.favourite, self._chosen)
        button = self.status.button
        return ui.row(
            ui.caption("start from"), self.digit,
            button("test image", lambda: self.from_digit(self.digit.value), "the next one of that class"),
            self.method, button("random code", lambda: self.from_random(self.method.value)),
            button("zeros", self.zeros), self.favourite,
            button("keep", self.keep, "store this code as a favourite"),
            button("reset", self.reset, "back to what was started from"),
        )  # fmt: skip

    def _inputs(self) -> tuple[widgets.Widget, widgets.Widget]:
        self.code = ui.control(widgets.Text, "code", "99%", placeholder="a code to start from", continuous_update=False)
        self.status.watch(self.code, self._typed)
        self.label = ui.class_choice(self.space.names, "nothing", "the decoder is told")
        self.label.layout.display = "" if self.space.conditional else "none"
        self.status.watch(self.label, self._labelled)
        return self.code, self.label

    # Moved controls

    def _moved(self, unit: int, value: float) -> None:
        slider = self.sliders[unit]
        shown = min(max(float(self.z[unit]), slider.min), slider.max)
        # a page rounds a value to the slider's steps and reports that: no move
        if abs(value - shown) >= 0.501 * slider.step:
            self.z[unit] = value
            self._render()

    def _labelled(self, label: int) -> None:
        if label != self.y:
            self.y = label
            self._render()

    def _chosen(self, name: str) -> None:
        if name != FAVOURITES:
            self.recall(name)

    def _typed(self, text: str) -> None:
        if text and text != ui.code_text(self.z):
            self.paste(text)
