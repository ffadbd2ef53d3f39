"""Panels: a question about a latent space each, with controls and pictures that answer at once.

Every function takes a Space (or what `latent_space` makes one of) and returns a Panel; `panel.update()` draws it anew.
"""

import ast
import re
from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets
import torch

from labutils.codes import interpolate, traverse
from labutils.data import Dataset, to_float
from labutils.explore.controls import Panel, caption, choice, close_all, show, view
from labutils.explore.space import POOL, RANDOM, Model, Space, latent_space
from labutils.plots import class_names

STEPS = 11


def _number(text: str, value: int, last: int) -> widgets.BoundedIntText:
    return widgets.BoundedIntText(value, min=0, max=last, description=text, style={"description_width": "initial"},
                                  layout=widgets.Layout(width="180px"))  # fmt: skip


def traversals(model: Model | Space, data: Dataset | None = None, units: int = 8) -> Panel:
    """What does each unit do? A strip for each of `units` units: a test image's code with that unit moved through its
    range, all else fixed. The most important units come first."""
    space = latent_space(model, data)
    units = min(units, space.latent_dim)
    image = _number("test image", 0, len(space.data.test) - 1)
    pages = [(f"{i + 1} to {min(i + units, space.latent_dim)}", i) for i in range(0, space.latent_dim, units)]
    first = choice(pages, 0, "units, by importance")
    strips = [view(36 * STEPS, 36) for _ in range(units)]
    labels = [caption(width=76) for _ in range(units)]

    def update() -> None:
        x, y = _test_image(space, image.value)
        z = space.encode(x, y)[0]
        shown = space.order[first.value : first.value + units]
        values = [torch.linspace(float(space.low[unit]), float(space.high[unit]), STEPS) for unit in shown]
        codes = torch.cat([traverse(z, unit, v) for unit, v in zip(shown, values, strict=True)])
        pictures = space.decode(codes, y).split(STEPS)
        for i, (strip, label) in enumerate(zip(strips, labels, strict=True)):
            there = i < len(shown)
            strip.layout.display = label.layout.display = "" if there else "none"
            if there:
                show(strip, pictures[i])
                label.value = f"z{shown[i]} · {space.importance[shown[i]]:.2f}"

    rows = [
        widgets.HBox(pair, layout=widgets.Layout(align_items="center")) for pair in zip(labels, strips, strict=True)
    ]
    head = caption(f"<span class=labutils-quiet>unit · {space.measure}; from its 0.5 % to its 99.5 % quantile</span>")
    return Panel(update, [image, first], [head, *rows])


def interpolation(model: Model | Space, data: Dataset | None = None, a: int = 1, b: int = 0) -> Panel:
    """What lies between two digits? From test image `a` to test image `b`, along the straight line or along the arc,
    with a slider for the place in between."""
    space = latent_space(model, data)
    last = len(space.data.test) - 1
    start, end = _number("from test image", a, last), _number("to", b, last)
    way = choice([("line", False), ("arc", True)], False, "along the")
    at = widgets.FloatSlider(0.5, min=0, max=1, step=0.01, description="place", layout=widgets.Layout(width="480px"))
    ends, between, strip = [view(84), view(84)], view(140), view(56 * STEPS, 56)
    shown: dict[str, Any] = {}

    def update() -> None:
        choice = (start.value, end.value, way.value)
        if choice != shown.get("choice"):  # moving the place leaves the strip alone
            images = torch.cat([_test_image(space, i)[0] for i in choice[:2]])
            shown.update(choice=choice, z=space.encode(images))
            for frame, image in zip(ends, images, strict=True):
                show(frame, image[None])
            show(strip, space.decode(interpolate(shown["z"][0], shown["z"][1], STEPS, spherical=way.value)))
        # a fine grid of places is as good as the place itself
        fine = interpolate(shown["z"][0], shown["z"][1], 101, spherical=way.value)
        show(between, space.decode(fine[round(100 * at.value)][None]))

    frames = widgets.HBox([ends[0], between, ends[1]], layout=widgets.Layout(align_items="center"))
    return Panel(update, [start, end, way, at], [frames, strip])


def _test_image(space: Space, index: int) -> tuple[torch.Tensor, int | None]:
    """A test image (1,1,28,28) in [0,1], and its label where the decoder wants to be told."""
    test = space.data.test
    return to_float(test.images[index : index + 1]), int(test.labels[index]) if space.conditional else None


EXAMPLES = ("7 - 1 + 4", "(3 + 8) / 2", "#0 - 7 + 9", "2 * 8 - 3")


def arithmetic_code(expression: str, space: Space) -> tuple[torch.Tensor, dict[str, tuple[torch.Tensor, int]]]:
    """The code (latent_dim,) of an expression of digits, and by name the codes and labels of its operands.

    Args:
        expression: digits (the mean code of a class), #17 (the code of test image 17), +, −, parentheses, and a
            plain number as a factor before * or a divisor after /.

    Raises:
        ValueError: anything else.
    """
    operands: dict[str, tuple[torch.Tensor, int]] = {}

    def operand(name: str) -> torch.Tensor:
        index, last = int(name.strip("#")), len(space.data.test if "#" in name else class_names(space.data.name)) - 1
        if index > last:
            raise ValueError(f"{name} in {expression!r}: the last there is is {last}")
        if "#" in name:
            operands[name] = space.encode(*_test_image(space, index))[0], int(space.data.test.labels[index])
        else:
            operands[name] = space.mean_code(index), index
        return operands[name][0]

    def value(node: ast.AST) -> torch.Tensor:
        match node:
            case ast.BinOp(left, ast.Add(), right):
                return value(left) + value(right)
            case ast.BinOp(left, ast.Sub(), right):
                return value(left) - value(right)
            case ast.BinOp(ast.Constant(float() | int() as factor), ast.Mult(), right):
                return factor * value(right)
            case ast.BinOp(left, ast.Div(), ast.Constant(float() | int() as divisor)) if divisor:
                return value(left) / divisor
            case ast.Constant(int() as digit) if digit is not True and digit is not False:
                return operand(str(digit))
            case ast.Subscript(ast.Name("image"), ast.Constant(int() as index)):
                return operand(f"#{index}")
        raise ValueError(f"{expression!r} is not made of digits, #images, + − ( ), a factor before * or after /")

    try:
        tree = ast.parse(re.sub(r"#(\d+)", r"image[\1]", expression.replace("−", "-").strip()), mode="eval")
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"{expression[:60]!r} is no expression such as {EXAMPLES[0]!r}") from None
    try:
        code = value(tree.body)
    except RecursionError:
        raise ValueError("the expression is too long") from None
    if not code.isfinite().all():
        raise ValueError(f"{expression!r} is a code of numbers too large to decode")
    return code, operands


def arithmetic(model: Model | Space, data: Dataset | None = None, expression: str = EXAMPLES[0]) -> Panel:
    """Can one calculate with digits? An expression of mean codes and test images (see `arithmetic_code`), the pictures
    of its operands, and that of its result. A conditional decoder is told each operand's class, and of the result
    what is chosen: its codes hold the style alone."""
    space = latent_space(model, data)
    text = widgets.Combobox(value=expression, options=EXAMPLES, description="calculate", continuous_update=False,
                            style={"description_width": "initial"})  # fmt: skip
    names = class_names(space.data.name)
    told = choice([("nothing", None), *((name, label) for label, name in enumerate(names))], None, "told")
    told.layout.display = "" if space.conditional else "none"
    operands, result = widgets.HBox(), view(112)

    def update() -> str:
        code, parts = arithmetic_code(text.value, space)
        for old in operands.children:
            close_all(old)
        frames = []
        for name, (part, label) in parts.items():
            show(frame := view(84), space.decode(part[None], label))
            what = f"test image {name[1:]}" if "#" in name else f"mean of all {names[label]}"
            frames.append(widgets.VBox([frame, caption(what)]))
        operands.children = frames
        show(result, space.decode(code[None], told.value))
        return f"{text.value}: the code lies farther out than {space.code_rank(code):.0%} of real codes"

    answer = widgets.VBox([result, caption("= result")])
    row = widgets.HBox([operands, answer], layout=widgets.Layout(align_items="flex-end"))
    return Panel(update, [text, told], [row])


def random_digits(model: Model | Space, data: Dataset | None = None, method: str = "gaussian", n: int = 60) -> Panel:
    """What does it dream? A grid of pictures decoded from random codes, for each way to draw them (see Space.draw)."""
    if not 1 <= n <= POOL:
        raise ValueError(f"n={n} must be from 1 to {POOL}")
    space = latent_space(model, data)
    sampler = choice(RANDOM, method, "codes from")
    digits = [(name, label) for label, name in enumerate(class_names(space.data.name))]
    label = choice(digits, digits[0][1], "class")
    seed = _number("draw", 0, 999)
    grid = view(15 * 42, -(-n // 15) * 42)

    def update() -> None:
        label.layout.display = "" if sampler.value == "of a class" or space.conditional else "none"
        order = torch.randperm(POOL, generator=torch.Generator().manual_seed(seed.value))
        codes = space.pool(sampler.value, label.value)[order[:n]]
        show(grid, space.decode(codes, label.value if space.conditional else None), 15)

    return Panel(update, [sampler, label, seed], [grid])


def side_by_side(spaces: Mapping[str, Space], steps: int = 9) -> Panel:
    """How far can one walk from a code before the picture breaks? The same test image in several models, its
    reconstruction, and codes ever farther from it in a random direction; a step is measured in the spread that each
    unit's codes have."""
    first = next(iter(spaces.values()))
    image = _number("test image", 0, len(first.data.test) - 1)
    reach = widgets.FloatSlider(
        2.0, min=0, max=4, step=0.1, description="farthest", layout=widgets.Layout(width="360px")
    )
    direction = _number("direction", 0, 999)
    real = view(56)
    strips = {name: view(56 * steps, 56) for name in spaces}

    def update() -> None:
        for name, space in spaces.items():
            x, y = _test_image(space, image.value)
            z, spread = space.encode(x, y), space.z.std(0)
            noise = torch.randn(space.latent_dim, generator=torch.Generator().manual_seed(direction.value))
            far = torch.linspace(0, reach.value, steps)[:, None]
            show(strips[name], space.decode(z + far * spread * noise, y))
        show(real, x)

    rows = [widgets.HBox([caption("real", 76), real], layout=widgets.Layout(align_items="center"))]
    rows += [widgets.HBox([caption(name, 76), strip], layout=widgets.Layout(align_items="center"))
             for name, strip in strips.items()]  # fmt: skip
    return Panel(update, [image, reach, direction], rows)
