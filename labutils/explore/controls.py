"""Small parts that the explorer and the panels share: pictures, a status line, work that waits for a pause."""

import asyncio
import base64
import html
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ipywidgets as widgets
import torch

NO_CLASS = -1  # the label that stands for none
# Sizes are pixels: JupyterLab shows an output about 850 pixels wide on a screen of 1280
STYLE = """<style>
.labutils-pixels { image-rendering: pixelated; background: white; border: 1px solid var(--jp-border-color2, #bbb); }
.labutils-caption, .labutils-caption * { font-size: 12px; color: var(--jp-ui-font-color1, #222); }
.labutils-caption * { line-height: 1.45 !important; }
.labutils-caption .widget-html-content { padding: 3px 0; }
.labutils-error, .labutils-error * { color: var(--jp-error-color1, #b00020) !important; }
.labutils-slider .widget-label, .labutils-slider .widget-readout { font-size: 11px; min-width: 36px; }
</style>"""


def view(width: int, height: int = 0) -> widgets.Image:
    """An image widget of so many screen pixels that shows each pixel of a picture as a square."""
    size = {"width": f"{width}px", "min_width": f"{width}px", "height": f"{height or width}px"}
    image = widgets.Image(format="png", layout=widgets.Layout(**size, margin="0 2px", object_fit="fill"))
    image.add_class("labutils-pixels")
    return image


def caption(text: str = "", width: str = "auto") -> widgets.HTML:
    """A line of small text. What it is given later, as its `value`, is HTML."""
    line = widgets.HTML(html.escape(text), layout=widgets.Layout(margin="0 2px", width=width))
    line.add_class("labutils-caption")
    return line


def row(*parts: widgets.Widget) -> widgets.HBox:
    """Parts beside each other, on further lines where there is no room."""
    return widgets.HBox(parts, layout=widgets.Layout(flex_flow="row wrap", align_items="center", margin="2px 0"))


def control(kind: type[widgets.Widget], text: str = "", width: str = "auto", **options: Any) -> widgets.Widget:
    """An ipywidgets control after a text."""
    layout = widgets.Layout(width=width, margin="0 2px")
    return kind(description=text, layout=layout, style={"description_width": "initial"}, **options)


def choice(options: Iterable[Any], text: str = "", **more: Any) -> widgets.Dropdown:
    """A dropdown as wide as its words, after a text."""
    return control(widgets.Dropdown, text, options=list(options), **more)


def class_choice(names: Sequence[str], none: str = "", text: str = "", **more: Any) -> widgets.Dropdown:
    """A dropdown of classes, its value the label; with `none` also that word, its value NO_CLASS."""
    first = [(none, NO_CLASS)] if none else []
    return choice([*first, *((name, label) for label, name in enumerate(names))], text, **more)


def number(text: str, last: int, value: int = 0) -> widgets.BoundedIntText:
    """A field for a number from 0 to `last`, after a text."""
    return control(widgets.BoundedIntText, text, "180px", value=value, min=0, max=last)


def code_text(z: torch.Tensor) -> str:
    """A code (latent_dim,) as text that can be pasted."""
    return ", ".join(f"{value:.5g}" for value in z.tolist())


def links(text: str, picture: bytes, file: str) -> str:
    """Copy and save without a round trip: the browser has both already."""
    data = base64.b64encode(picture).decode()
    look = "class=jupyter-button style='padding: 0 10px; margin-right: 4px; width: auto; line-height: 28px !important'"
    return (
        f"<div style='display: flex'><button {look} data-code='{text}' "
        "onclick='navigator.clipboard.writeText(this.dataset.code)'>copy code</button>"
        f"<a {look} download='{html.escape(file, quote=True)}' href='data:image/png;base64,{data}'>save PNG</a></div>"
    )


def bars(shares: list[float], names: tuple[str, ...]) -> str:
    """A bar for each class, as HTML."""
    columns = "".join(
        f"<div style='width: 15px; text-align: center' title='{name}: {share:.1%}'>"
        f"<div style='margin: {44 - 44 * share:.0f}px 2px 0; height: {44 * share:.0f}px; background: #0072B2'></div>"
        f"{name[:2]}</div>"
        for name, share in zip(names, shares, strict=True)
    )
    best = max(range(len(shares)), key=shares.__getitem__)
    return f"<div style='display: flex'>{columns}</div>a classifier sees: <b>{names[best]}</b> ({shares[best]:.0%})"


class Status:
    """The last line of a panel: what it did last, or what went wrong. No exception vanishes: it is shown here, kept as
    `error` until something works, and raised on."""

    def __init__(self) -> None:
        self.line = caption()
        self.error: Exception | None = None

    def say(self, text: str) -> None:
        """Show what worked; an error before it is forgotten."""
        self.error = None
        self.line.remove_class("labutils-error")
        self.line.value = html.escape(text)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Show what goes wrong inside, or in the function that this decorates."""
        try:
            yield
        except Exception as error:
            self.error = error
            self.line.add_class("labutils-error")
            self.line.value = html.escape(f"{type(error).__name__}: {error}")
            raise

    def watch(self, part: widgets.Widget, action: Callable[[Any], object]) -> None:
        """Call `action` with each new value of a control; what goes wrong is shown."""
        watched = self.watching()(action)
        part.observe(lambda change: watched(change["new"]), "value")

    def button(self, text: str, action: Callable[[], object], tooltip: str = "") -> widgets.Button:
        """A button that calls `action`; what goes wrong is shown."""
        layout = widgets.Layout(width="auto", margin="0 2px")
        button, watched = widgets.Button(description=text, tooltip=tooltip, layout=layout), self.watching()(action)
        button.on_click(lambda _: watched())
        return button


class Later:
    """Calls a function once, `seconds` after the last request; at once where no event loop runs, as in a script."""

    def __init__(self, function: Callable[[], None], seconds: float) -> None:
        self.function, self.seconds = function, seconds
        self._timer: asyncio.TimerHandle | None = None

    def request(self) -> None:
        if self._timer:
            self._timer.cancel()
        try:
            self._timer = asyncio.get_running_loop().call_later(self.seconds, self.function)
        except RuntimeError:
            self.function()


def close_all(widget: widgets.Widget) -> None:
    """Close a widget, what it holds, and their layouts and styles: the kernel and the page forget them."""
    for child in getattr(widget, "children", ()):
        close_all(child)
    for name in ("layout", "style"):
        if isinstance(part := getattr(widget, name, None), widgets.Widget):
            part.close()
    widget.close()


class Column:
    """Parts below each other and a status line; shown where it is the last line of a cell."""

    def __init__(self) -> None:
        self.status = Status()

    def fill(self, *parts: widgets.Widget) -> None:
        """Show these parts above the status line."""
        self.box = widgets.VBox([widgets.HTML(STYLE), *parts, self.status.line])

    def close(self) -> None:
        """Remove it from the page and the kernel."""
        close_all(self.box)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.box._repr_mimebundle_(**options)


class Panel(Column):
    """Controls above pictures. A control that moves calls `update`, which draws everything anew and returns what the
    status line says."""

    def __init__(
        self, update: Callable[[], str | None], controls: Sequence[widgets.Widget], views: Sequence[widgets.Widget]
    ) -> None:
        super().__init__()
        self._update, self.controls = update, tuple(controls)
        self.fill(row(*controls), *views)
        for part in controls:
            part.observe(lambda change: self.update(), "value")
        self.update()

    def update(self) -> None:
        """Draw the panel as its controls stand. What goes wrong is raised, and shown in the status line."""
        with self.status.watching():
            self.status.say(self._update() or "")
