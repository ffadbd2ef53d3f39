"""Widgets as a still picture, which a published notebook shows in their place: without a kernel they cannot live."""

import base64
import html
import io
import re
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
from PIL import Image, ImageDraw, ImageFont

INK, LINE, KNOB = "#222222", "#bbbbbb", "#0072B2"
GAP, SLIDERS = 6, 4  # pixels between parts; sliders in a row
ALT = "A still picture of the widget that stands here where a kernel runs."


def with_still(bundle: dict[str, Any], picture: Image.Image | None, alt: str = ALT) -> Any:
    """Return what a cell shows, a widget, with a picture that takes its place where there is no kernel."""
    if picture is None:
        return bundle
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    data = {**bundle, "image/png": base64.b64encode(buffer.getvalue()).decode()}
    return data, {"image/png": {"alt": alt}}


def still(widget: widgets.Widget) -> Image.Image | None:
    """Return a widget and all that it holds as a picture, or None for what shows nothing without a kernel."""
    parts = [still(child) for child in getattr(widget, "children", ())]
    match widget:
        case widgets.Image(value=value, layout=layout) if value and layout.visibility != "hidden":
            size = int(layout.width.removesuffix("px")), int(layout.height.removesuffix("px"))
            return Image.open(io.BytesIO(value)).convert("RGB").resize(size, Image.Resampling.NEAREST)
        case widgets.FloatSlider(description=text, value=value, min=low, max=high):
            return _slider(text, (value - low) / (high - low))
        case widgets.HTML(value=value):
            plain = re.sub("<style.*</style>|<div.*</div>", "", value, flags=re.DOTALL)  # buttons and bars
            return _text(html.unescape(re.sub("<[^>]+>", "", plain.replace("<br>", "\n"))))
        case widgets.Combobox(description=text, value=value) | widgets.BoundedIntText(description=text, value=value):
            return _text(f"{text}: {value}")
        case widgets.GridBox():
            rows = [_joined(parts[i : i + SLIDERS], across=True) for i in range(0, len(parts), SLIDERS)]
            return _joined(rows, across=False)
        case widgets.Box(layout=layout) if layout.visibility != "hidden":
            return _joined(parts, across=isinstance(widget, widgets.HBox))
    return None


def _joined(parts: Sequence[Image.Image | None], across: bool) -> Image.Image | None:
    """Pictures side by side, or one below the other, on white."""
    pictures = [part for part in parts if part is not None]
    if not pictures:
        return None
    lengths = [part.width if across else part.height for part in pictures]
    length = sum(lengths) + GAP * (len(pictures) - 1)
    other = max(part.height if across else part.width for part in pictures)
    sheet = Image.new("RGB", (length, other) if across else (other, length), "white")
    at = 0
    for part, size in zip(pictures, lengths, strict=True):
        sheet.paste(part, (at, (other - part.height) // 2) if across else (0, at))
        at += size + GAP
    return sheet


def _text(text: str) -> Image.Image | None:
    font, text = ImageFont.load_default(12), text.strip()
    if not text:
        return None
    _, _, right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), text, font=font)
    sheet = Image.new("RGB", (max(76, int(right) + 4), int(bottom) + 4), "white")
    ImageDraw.Draw(sheet).multiline_text((0, 0), text, INK, font=font)
    return sheet


def _slider(text: str, place: float) -> Image.Image:
    """A slider with its text, its knob at a place from 0 to 1."""
    sheet = Image.new("RGB", (200, 20), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((0, 3), text, INK, font=ImageFont.load_default(11))
    draw.line((76, 10, 192, 10), LINE, 3)
    x = 76 + 116 * min(max(place, 0.0), 1.0)
    draw.ellipse((x - 5, 5, x + 5, 15), KNOB)
    return sheet
