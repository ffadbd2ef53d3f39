"""Panels: a question about a latent space each, with controls and pictures that answer at once.

Every function takes a Space (or what `latent_space` makes one of) and returns a Panel; `panel.update()` draws it anew.
"""

import ast
import re
from collections.abc import Mapping

import ipywidgets as widgets
import torch

from labutils.codes import interpolate, traverse
from labutils.data import Dataset
from labutils.explore import controls as ui
from labutils.explore.controls import Panel, show
from labutils.explore.space import POOL, RANDOM, Model, Space, latent_space
from labutils.plots import class_names

STEPS = 11  # pictures in a strip
LABEL = "76px"  # the width of what stands before a strip
EXAMPLES = ("7 - 1 + 4", "(3 + 8) / 2", "#0 - 7 + 9", "2 * 8 - 3")


def traversals(model: Model | Space, data: Dataset | None = None, units: int = 8) -> Panel:
    """What does each unit do? A strip for each of `units` units: a test image's code with that unit moved through its
    range, all else fixed. The most important units come first."""
    space = latent_space(model, data)
    test, units = space.data.test, min(units, space.latent_dim)
    image = ui.number("test image", 0, len(test) - 1)
    pages = [(f"{i + 1} to {min(i + units, space.latent_dim)}", i) for i in range(0, space.latent_dim, units)]
    first = ui.choice(pages, "units, by importance")
    rows = [ui.row(ui.caption(width=LABEL), ui.view(36 * STEPS, 36)) for _ in range(units)]

    def update() -> None:
        label = test.labels[image.value]
        z = space.encode(test.images[[image.value]], label)[0]
        shown = space.order[first.value : first.value + units]
        for i, row in enumerate(rows):
            row.layout.display = "" if i < len(shown) else "none"
        for unit, row in zip(shown, rows, strict=False):
            values = torch.linspace(float(space.low[unit]), float(space.high[unit]), STEPS)
            text, strip = row.children
            text.value = f"z{unit} · {space.importance[unit]:.2f}"
            show(strip, space.decode(traverse(z, unit, values), label))

    head = ui.quiet(f"unit · {space.measure}; from its 0.5 % to its 99.5 % quantile")
    return Panel(update, [image, first], [head, *rows])


def interpolation(model: Model | Space, data: Dataset | None = None, a: int = 1, b: int = 0) -> Panel:
    """What lies between two digits? From test image `a` to test image `b`, along the straight line or along the arc,
    with a slider for the place in between."""
    space = latent_space(model, data)
    images = space.data.test.images
    start, end = ui.number("from test image", a, len(images) - 1), ui.number("to", b, len(images) - 1)
    way = ui.choice([("line", False), ("arc", True)], "along the")
    place = ui.control(widgets.FloatSlider, "place", "480px", value=0.5, min=0, max=1, step=0.01)
    left, between, right, strip = ui.view(84), ui.view(140), ui.view(84), ui.view(56 * STEPS, 56)

    def update() -> None:
        ends = images[[start.value, end.value]]
        # a hundred places are as good as any place: every tenth of them is the strip
        first, last = space.encode(ends)
        codes = interpolate(first, last, 10 * (STEPS - 1) + 1, spherical=way.value)
        at = round(place.value * (len(codes) - 1))
        pictures = space.decode(torch.cat([codes[::10], codes[at : at + 1]]))
        for frame, picture in ((left, ends[:1]), (between, pictures[-1:]), (right, ends[1:]), (strip, pictures[:-1])):
            show(frame, picture)

    return Panel(update, [start, end, way, place], [ui.row(left, between, right), strip])


def arithmetic_code(expression: str, space: Space) -> tuple[torch.Tensor, dict[str, tuple[torch.Tensor, int]]]:
    """The code (latent_dim,) of an expression of digits, and by name the codes and labels of its operands.

    Args:
        expression: digits (the mean code of a class), #17 (the code of test image 17), +, −, parentheses, and a
            plain number as a factor before * or a divisor after /.

    Raises:
        ValueError: anything else.
    """
    operands: dict[str, tuple[torch.Tensor, int]] = {}
    test, classes = space.data.test, len(class_names(space.data.name))

    def operand(name: str, index: int, count: int) -> torch.Tensor:
        if index >= count:
            raise ValueError(f"{name} in {expression!r}: the last there is is {count - 1}")
        label = int(test.labels[index]) if "#" in name else index
        code = space.encode(test.images[[index]], label)[0] if "#" in name else space.mean_code(label)
        operands[name] = code, label
        return code

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
            case ast.Constant(int() as digit):
                return operand(str(digit), digit, classes)
            case ast.Subscript(ast.Name("image"), ast.Constant(int() as index)):
                return operand(f"#{index}", index, len(test))
        raise ValueError(f"{expression!r} is not made of digits, #images, + − ( ), a factor before * or after /")

    try:
        tree = ast.parse(re.sub(r"#(\d+)", r"image[\1]", expression.replace("−", "-").strip()), mode="eval")
    except SyntaxError:
        raise ValueError(f"{expression!r} is no expression such as {EXAMPLES[0]!r}") from None
    return value(tree.body), operands


def arithmetic(model: Model | Space, data: Dataset | None = None, expression: str = EXAMPLES[0]) -> Panel:
    """Can one calculate with digits? An expression of mean codes and test images (see `arithmetic_code`), the pictures
    of its operands, and that of its result. A conditional decoder is told each operand's class, and of the result
    what is chosen: its codes hold the style alone."""
    space = latent_space(model, data)
    names = class_names(space.data.name)
    text = ui.control(
        widgets.Combobox, "calculate", "300px", value=expression, options=EXAMPLES, continuous_update=False
    )
    label = ui.class_choice(names, "nothing", "told")
    label.layout.display = "" if space.conditional else "none"
    operands, result = widgets.HBox(), ui.view(112)

    def update() -> str:
        code, parts = arithmetic_code(text.value, space)
        for old in operands.children:
            ui.close_all(old)
        frames = []
        for name, (part, part_label) in parts.items():
            show(frame := ui.view(84), space.decode(part[None], part_label))
            what = f"test image {name[1:]}" if "#" in name else f"mean of all {names[part_label]}"
            frames.append(widgets.VBox([frame, ui.caption(what)]))
        operands.children = frames
        show(result, space.decode(code[None], label.value))
        return f"{text.value}: the code lies farther out than {space.code_rank(code):.0%} of real codes"

    answer = widgets.VBox([result, ui.caption("= result")])
    line = widgets.HBox([operands, answer], layout=widgets.Layout(align_items="flex-end"))
    return Panel(update, [text, label], [line])


def random_digits(model: Model | Space, data: Dataset | None = None, method: str = "gaussian", n: int = 60) -> Panel:
    """What does it dream? A grid of n pictures, at most POOL, decoded from random codes, for each way to draw them
    (see Space.pool)."""
    space = latent_space(model, data)
    sampler = ui.choice(RANDOM, "codes from", value=method)
    label = ui.class_choice(class_names(space.data.name), text="class")
    seed = ui.number("draw", 0, 999)
    grid = ui.view(15 * 42, -(-n // 15) * 42)

    def update() -> None:
        label.layout.display = "" if sampler.value == "of a class" or space.conditional else "none"
        order = torch.randperm(POOL, generator=torch.Generator().manual_seed(seed.value))
        show(grid, space.decode(space.pool(sampler.value, label.value)[order[:n]], label.value), 15)

    return Panel(update, [sampler, label, seed], [grid])


def side_by_side(spaces: Mapping[str, Space], steps: int = 9) -> Panel:
    """How far can one walk from a code before the picture breaks? The same test image in several models, its
    reconstruction, and codes ever farther from it in a random direction; a step is measured in the spread that each
    unit's codes have."""
    test = next(iter(spaces.values())).data.test
    image = ui.number("test image", 0, len(test) - 1)
    reach = ui.control(widgets.FloatSlider, "farthest", "360px", value=2.0, min=0, max=4, step=0.1)
    direction = ui.number("direction", 0, 999)
    real, strips = ui.view(56), {name: ui.view(56 * steps, 56) for name in spaces}

    def update() -> None:
        x, label = test.images[[image.value]], test.labels[image.value]
        show(real, x)
        far = torch.linspace(0, reach.value, steps)[:, None]
        for name, space in spaces.items():
            noise = torch.randn(space.latent_dim, generator=torch.Generator().manual_seed(direction.value))
            show(strips[name], space.decode(space.encode(x, label) + far * space.z.std(0) * noise, label))

    rows = [ui.row(ui.caption(name, LABEL), strip) for name, strip in {"real": real, **strips}.items()]
    return Panel(update, [image, reach, direction], rows)
