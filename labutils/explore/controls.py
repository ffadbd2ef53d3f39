"""Widgets that the explorer and the panels share, a status line, and work that waits for a pause."""

import asyncio
import base64
import html
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ipywidgets as widgets
import torch

from labutils.explore.still import still, with_still

NO_CLASS = -1  # the label of no class
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
    """Return an image widget of `width` × `height` (0: square) screen pixels, magnified without smoothing."""
    size = {"width": f"{width}px", "min_width": f"{width}px", "height": f"{height or width}px"}
    image = widgets.Image(format="png", layout=widgets.Layout(**size, margin="0 2px", object_fit="fill"))
    image.add_class("labutils-pixels")
    return image


def caption(text: str = "", width: str = "auto") -> widgets.HTML:
    """Return a line of small text. What is assigned to its `value` is HTML."""
    line = widgets.HTML(html.escape(text), layout=widgets.Layout(margin="0 2px", width=width))
    line.add_class("labutils-caption")
    return line


def row(*parts: widgets.Widget) -> widgets.HBox:
    """Return widgets side by side, wrapped where there is no room."""
    return widgets.HBox(parts, layout=widgets.Layout(flex_flow="row wrap", align_items="center", margin="2px 0"))


def control(kind: type[widgets.Widget], text: str = "", width: str = "auto", **options: Any) -> widgets.Widget:
    """Return an ipywidgets control after a text."""
    layout = widgets.Layout(width=width, margin="0 2px")
    return kind(description=text, layout=layout, style={"description_width": "initial"}, **options)


def choice(options: Iterable[Any], text: str = "", **more: Any) -> widgets.Dropdown:
    """Return a dropdown after a text."""
    return control(widgets.Dropdown, text, options=list(options), **more)


def class_choice(names: Sequence[str], none: str = "", text: str = "", **more: Any) -> widgets.Dropdown:
    """Return a dropdown of classes, its value the label, and first the word `none`, if any, for NO_CLASS."""
    first = [(none, NO_CLASS)] if none else []
    return choice([*first, *((name, label) for label, name in enumerate(names))], text, **more)


def number(text: str, last: int, value: int = 0) -> widgets.BoundedIntText:
    """Return a field for an integer from 0 to `last`, after a text."""
    return control(widgets.BoundedIntText, text, "180px", value=value, min=0, max=last)


def code_text(z: torch.Tensor) -> str:
    """Return a code (latent_dim,) as text that can be pasted."""
    return ", ".join(f"{value:.5g}" for value in z.tolist())


def links(text: str, picture: bytes, file: str) -> str:
    """Return HTML buttons that copy a code's text and save a PNG in the browser, without the kernel."""
    data = base64.b64encode(picture).decode()
    look = "class=jupyter-button style='padding: 0 10px; margin-right: 4px; width: auto; line-height: 28px !important'"
    return (
        f"<div style='display: flex'><button {look} data-code='{text}' "
        "onclick='navigator.clipboard.writeText(this.dataset.code)'>copy code</button>"
        f"<a {look} download='{html.escape(file, quote=True)}' href='data:image/png;base64,{data}'>save PNG</a></div>"
    )


def bars(shares: list[float], names: tuple[str, ...]) -> str:
    """Return a bar for each class, and the likeliest, as HTML."""
    texts = [html.escape(name) for name in names]
    columns = "".join(
        f"<div style='width: 15px; text-align: center' title='{text}: {share:.1%}'>"
        f"<div style='margin: {44 - 44 * share:.0f}px 2px 0; height: {44 * share:.0f}px; background: #0072B2'></div>"
        f"{html.escape(name[:2])}</div>"
        for name, text, share in zip(names, texts, shares, strict=True)
    )
    best = max(range(len(shares)), key=shares.__getitem__)
    return f"<div style='display: flex'>{columns}</div>a classifier sees: <b>{texts[best]}</b> ({shares[best]:.0%})"


class Status:
    """The last line of a panel: what it did last, or the exception, which is kept as `error` until something works."""

    def __init__(self) -> None:
        self.line = caption()
        self.error: Exception | None = None

    def say(self, text: str) -> None:
        """Show a text and clear the error."""
        self.error = None
        self.line.remove_class("labutils-error")
        self.line.value = html.escape(text)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Show an exception raised inside, or in the function that this decorates, and raise it on."""
        try:
            yield
        except Exception as error:
            self.error = error
            self.line.add_class("labutils-error")
            self.line.value = html.escape(f"{type(error).__name__}: {error}")
            raise

    def watch(self, part: widgets.Widget, action: Callable[[Any], object]) -> None:
        """Call `action` with each new value of a control; exceptions are shown."""
        watched = self.watching()(action)
        part.observe(lambda change: watched(change["new"]), "value")

    def button(self, text: str, action: Callable[[], object], tooltip: str = "") -> widgets.Button:
        """Return a button that calls `action`; exceptions are shown."""
        layout = widgets.Layout(width="auto", margin="0 2px")
        button, watched = widgets.Button(description=text, tooltip=tooltip, layout=layout), self.watching()(action)
        button.on_click(lambda _: watched())
        return button


class Later:
    """Calls a function once, `seconds` after the last request, or at once where no event loop runs (a script)."""

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
    """Close a widget, its children, and their layouts and styles, in the kernel and the page."""
    for child in getattr(widget, "children", ()):
        close_all(child)
    for name in ("layout", "style"):
        if isinstance(part := getattr(widget, name, None), widgets.Widget):
            part.close()
    widget.close()


class Column:
    """Widgets below each other and a status line, shown as the value of a cell."""

    def __init__(self) -> None:
        self.status = Status()

    def fill(self, *parts: widgets.Widget) -> None:
        self.box = widgets.VBox([widgets.HTML(STYLE), *parts, self.status.line])

    def close(self) -> None:
        """Remove the widgets from the page and the kernel."""
        close_all(self.box)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return with_still(self.box._repr_mimebundle_(**options), still(self.box))


class Panel(Column):
    """Controls above pictures. A moved control calls `update`, which draws and returns the text of the status line."""

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
        """Draw the panel for its controls' values; an exception is shown in the status line and raised."""
        with self.status.watching():
            self.status.say(self._update() or "")
