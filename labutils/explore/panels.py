"""Panels: functions of a Space (see `latent_space`) that return a Panel; `panel.update()` draws it anew."""

import ast
import re
from collections.abc import Mapping

import ipywidgets as widgets
import torch

from labutils.codes import interpolate, traverse
from labutils.explore import controls as ui
from labutils.explore.controls import Panel
from labutils.explore.space import POOL, RANDOM, Space
from labutils.pictures import png

STEPS = 11  # pictures in a strip
LABEL = "76px"  # the width of a strip's caption
EXAMPLES = ("7 - 1 + 4", "(3 + 8) / 2", "#0 - 7 + 9", "2 * 8 - 3")


def traversals(space: Space, units: int = 8) -> Panel:
    """Return a panel with a strip for each of `units` units, most important first: a test image's code with that unit
    moved through its range."""
    test, units = space.data.test, min(units, space.latent_dim)
    image = ui.number("test image", len(test) - 1)
    starts = [min(i, space.latent_dim - units) for i in range(0, space.latent_dim, units)]
    first = ui.choice([(f"{i + 1} to {i + units}", i) for i in starts], "units, by importance")
    rows = [ui.row(ui.caption("", LABEL), ui.view(36 * STEPS, 36)) for _ in range(units)]

    def update() -> None:
        label = test.labels[image.value]
        z = space.encode(test.images[[image.value]], label)[0]
        for unit, row in zip(space.order[first.value :], rows, strict=False):
            values = torch.linspace(float(space.low[unit]), float(space.high[unit]), STEPS)
            text, strip = row.children
            text.value = f"z{unit} · {space.importance[unit]:.2f}"
            strip.value = png(space.decode(traverse(z, unit, values), label))

    head = ui.caption(f"unit · {space.measure}; from its 0.5 % to its 99.5 % quantile")
    return Panel(update, [image, first], [head, *rows])


def interpolation(space: Space, a: int = 1, b: int = 0) -> Panel:
    """Return a panel from test image `a` to test image `b`, along the line or the arc, with a slider for the place."""
    images = space.data.test.images
    start, end = ui.number("from test image", len(images) - 1, a), ui.number("to", len(images) - 1, b)
    way = ui.choice([("line", False), ("arc", True)], "along the")
    place = ui.control(widgets.FloatSlider, "place", "480px", value=0.5, min=0, max=1, step=0.01)
    left, between, right, strip = ui.view(84), ui.view(140), ui.view(84), ui.view(56 * STEPS, 56)

    def update() -> None:
        ends = images[[start.value, end.value]]
        # every tenth of a hundred places is the strip
        first, last = space.encode(ends)
        codes = interpolate(first, last, 10 * (STEPS - 1) + 1, spherical=way.value)
        at = round(place.value * (len(codes) - 1))
        pictures = space.decode(torch.cat([codes[::10], codes[at : at + 1]]))
        left.value, right.value = png(ends[:1]), png(ends[1:])
        strip.value, between.value = png(pictures[:-1]), png(pictures[-1:])

    return Panel(update, [start, end, way, place], [ui.row(left, between, right), strip])


def arithmetic_code(expression: str, space: Space) -> tuple[torch.Tensor, dict[str, tuple[torch.Tensor, int]]]:
    """Return the code (latent_dim,) of an expression, and by name the codes and labels of its operands.

    An expression has digits (the mean code of a class), #17 (the code of test image 17), +, −, parentheses, and a plain
    number as a factor before * or a divisor after /; anything else is a ValueError.
    """
    operands: dict[str, tuple[torch.Tensor, int]] = {}
    test = space.data.test

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
            case ast.Constant(int() as digit) if type(digit) is int and digit < len(space.names):
                operands[str(digit)] = space.mean_code(digit), digit
                return operands[str(digit)][0]
            case ast.Subscript(ast.Name("image"), ast.Constant(int() as index)) if index < len(test):
                label = int(test.labels[index])
                operands[f"#{index}"] = space.encode(test.images[[index]], label)[0], label
                return operands[f"#{index}"][0]
        raise SyntaxError

    try:
        tree = ast.parse(re.sub(r"#(\d+)", r"image[\1]", expression.replace("−", "-").strip()), mode="eval")
        return value(tree.body), operands
    except SyntaxError:
        raise ValueError(
            f"{expression!r} is no expression such as {EXAMPLES[0]!r}: digits, #0 to #{len(test) - 1} (test images), "
            "+ − ( ), a factor before * or after /"
        ) from None


def arithmetic(space: Space, expression: str = EXAMPLES[0]) -> Panel:
    """Return a panel with the pictures of an expression's operands (see `arithmetic_code`) and of its result. A
    conditional decoder gets each operand's class, and for the result the one chosen: its codes hold the style alone."""
    text = ui.control(
        widgets.Combobox, "calculate", "300px", value=expression, options=EXAMPLES, continuous_update=False
    )
    label = ui.class_choice(space.names, "nothing", "told")
    label.layout.display = "" if space.conditional else "none"
    operands, result = widgets.HBox(), ui.view(112)

    def update() -> str:
        code, parts = arithmetic_code(text.value, space)
        for old in operands.children:
            ui.close_all(old)
        frames = []
        for name, (part, part_label) in parts.items():
            frame = ui.view(84)
            frame.value = png(space.decode(part[None], part_label))
            what = f"test image {name[1:]}" if "#" in name else f"mean of all {space.names[part_label]}"
            frames.append(widgets.VBox([frame, ui.caption(what)]))
        operands.children = frames
        result.value = png(space.decode(code[None], label.value))
        return f"{text.value}: the code lies farther out than {space.code_rank(code):.0%} of real codes"

    answer = widgets.VBox([result, ui.caption("= result")])
    line = widgets.HBox([operands, answer], layout=widgets.Layout(align_items="flex-end"))
    return Panel(update, [text, label], [line])


def random_digits(space: Space, method: str = "gaussian", n: int = 60) -> Panel:
    """Return a panel with a grid of n pictures, at most POOL, decoded from random codes by a method of `Space.pool`."""
    sampler = ui.choice(RANDOM, "codes from", value=method)
    label = ui.class_choice(space.names, text="class")
    seed = ui.number("draw", 999)
    grid = ui.view(15 * 42, -(-n // 15) * 42)

    def update() -> None:
        label.layout.display = "" if sampler.value == "of a class" or space.conditional else "none"
        order = torch.randperm(POOL, generator=torch.Generator().manual_seed(seed.value))
        codes = space.pool(sampler.value, label.value)[order[:n]]
        grid.value = png(space.decode(codes, label.value), 15)

    return Panel(update, [sampler, label, seed], [grid])


def side_by_side(spaces: Mapping[str, Space], steps: int = 9) -> Panel:
    """Return a panel with a strip for each model: the reconstruction of a test image, and codes ever farther from its
    own in a random direction, measured in each unit's standard deviation."""
    test = next(iter(spaces.values())).data.test
    image = ui.number("test image", len(test) - 1)
    reach = ui.control(widgets.FloatSlider, "farthest", "360px", value=2.0, min=0, max=4, step=0.1)
    direction = ui.number("direction", 999)
    real, strips = ui.view(56), {name: ui.view(56 * steps, 56) for name in spaces}

    def update() -> None:
        x, label = test.images[[image.value]], test.labels[image.value]
        real.value = png(x)
        far = torch.linspace(0, reach.value, steps)[:, None]
        for name, space in spaces.items():
            noise = torch.randn(space.latent_dim, generator=torch.Generator().manual_seed(direction.value))
            strips[name].value = png(space.decode(space.encode(x, label) + far * space.z.std(0) * noise, label))

    rows = [ui.row(ui.caption(name, LABEL), strip) for name, strip in {"real": real, **strips}.items()]
    return Panel(update, [image, reach, direction], rows)
