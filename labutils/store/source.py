"""The source of a kind of model of your own: what it is made of outside of installed packages, as one hash."""

import ast
import dis
import hashlib
import importlib.util
import inspect
import io
import re
import sys
import sysconfig
import textwrap
import tokenize
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch

from labutils.kinds import Kind
from labutils.paths import ROOT

STANDARD = tuple({Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")})
PACKAGES = {"site-packages", "dist-packages"}  # folders of this environment's packages, the user's or the system's
PLAIN = (str, bytes, int, float, complex, bool, type(None), range, slice, torch.dtype, torch.device, np.dtype)
# what Python adds to a class by itself
BY_PYTHON = {"__module__", "__dict__", "__weakref__", "__doc__", "__qualname__", "__firstlineno__", "__annotations__",
             "__static_attributes__", "__annotate_func__", "__annotations_cache__"}  # fmt: skip


def source_of(kind: Kind) -> str:
    """Return a hash, 64 hex digits, of a kind's functions and fields, and of every function, class and value of yours
    that they use, however indirectly. Comments and docstrings do not count. A ValueError says that a source is not to
    be had, as of what was typed into a plain Python prompt."""
    return kind.source or source_and_modules(kind)[0]


def source_and_modules(kind: Kind) -> tuple[str, set[ModuleType]]:
    """Return `source_of` a kind that is defined here, and your own modules that its functions and classes come from,
    other than a notebook or script itself."""
    walk = _Walk(kind)
    return walk.digest.hexdigest(), walk.modules - {sys.modules["__main__"]}


class _Walk:
    """A walk through all that a kind uses."""

    def __init__(self, kind: Kind) -> None:
        self.digest = hashlib.sha256()
        self.modules: set[ModuleType] = set()
        self._read: set[str] = set()
        self._seen: dict[int, tuple[int, Any]] = {}  # which it was; holds it, so that no id is used twice
        own = [(f.name, f.default, [item for item in f.metadata if item[0] != "help"]) for f in kind.own]
        self._visit([kind.network, kind.objective, kind.measures, kind.fields, own, kind.labelled])

    def _visit(self, thing: Any) -> None:
        if isinstance(thing, PLAIN):
            self._add(repr(thing))
        elif isinstance(thing, (list, tuple)):
            self._visit_all(type(thing).__name__, thing)
        elif isinstance(thing, (set, frozenset)):
            self._visit_all("set", sorted(thing, key=repr))
        elif isinstance(thing, dict):
            self._visit_all("dict", [part for item in thing.items() for part in item])
        elif isinstance(thing, torch.Tensor):
            values = thing.detach().cpu()
            # numpy knows no bfloat16
            self._visit(values.numpy() if values.dtype != torch.bfloat16 else [thing.dtype, values.float().numpy()])
        elif isinstance(thing, np.ndarray):
            self._add(f"{thing.dtype} {thing.shape}")
            if thing.dtype.hasobject:
                self._visit(thing.tolist())
            else:
                self.digest.update(thing.tobytes())
        elif isinstance(thing, partial):
            self._visit_all("partial", [thing.func, thing.args, thing.keywords])
        elif isinstance(thing, (staticmethod, classmethod)):
            self._visit_all(type(thing).__name__, [thing.__func__])
        elif isinstance(thing, property):
            self._visit_all("property", [thing.fget, thing.fset])
        elif inspect.ismethod(thing):
            self._visit_all("method", [thing.__func__, thing.__self__])
        elif id(thing) in self._seen:
            self._add(f"again {self._seen[id(thing)][0]}")
        else:
            self._seen[id(thing)] = len(self._seen), thing
            self._visit_once(thing)

    def _visit_once(self, thing: Any) -> None:
        if isinstance(thing, ModuleType):
            self._add(thing.__name__)
            if is_yours(thing):
                self.modules.add(thing)
                self._add_source(thing)
        elif isinstance(thing, (FunctionType, type)):
            self._visit_definition(thing)
        elif inspect.isroutine(thing) and hasattr(thing, "__wrapped__"):  # a function under functools.cache
            self._visit_all("wrapped", [type(thing), thing.__wrapped__])
        elif inspect.isroutine(thing) and hasattr(thing, "__qualname__"):  # of another language
            self._add(f"{getattr(thing, '__module__', '')}.{thing.__qualname__}")  # a method of a C type has none
        else:
            text = re.sub(" at 0x[0-9a-f]+", "", repr(thing))
            self._visit_all("object", [type(thing), getattr(thing, "__dict__", text)])

    def _visit_all(self, name: str, things: Any) -> None:
        self._add(name)
        for thing in things:
            self._visit(thing)
        self._add("end")

    def _add(self, text: str) -> None:
        self.digest.update(text.encode() + b"\0")

    def _add_source(self, module: ModuleType) -> None:
        """Add a module's source, and those of your modules that it imports, each once."""
        if module.__name__ in self._read:
            return
        self._read.add(module.__name__)
        try:
            source = inspect.getsource(module)
        except OSError as error:
            if not str(getattr(module, "__file__", "")).endswith(".py"):
                raise ValueError(f"module {module.__name__} has no source that could be compared later") from error
            source = ""  # an empty file
        self._add(without_words(source))
        for imported in _imported(source, module.__package__ or ""):
            self._add(imported.__name__)
            self._add_source(imported)

    def _visit_definition(self, thing: FunctionType | type) -> None:
        # a decorated function says that it is of the module of what it wraps; its globals know better
        home = thing.__module__ if isinstance(thing, type) else thing.__globals__.get("__name__", "")
        modules = {sys.modules.get(thing.__module__), sys.modules.get(home)}
        yours = {module for module in modules if module is None or is_yours(module)}
        if not yours:
            self._add(f"{thing.__module__}.{thing.__qualname__}")
            return
        self.modules |= {module for module in yours if module is not None}
        self._add(thing.__qualname__)
        if isinstance(thing, type):  # by its parts: of a class in a cell Python does not know the source
            parts = {name: part for name, part in sorted(vars(thing).items()) if not _is_by_python(name, part)}
            self._visit_all("class", [thing.__bases__, parts])
            return
        closure = dict(sorted(inspect.getclosurevars(thing).nonlocals.items()))
        self._visit_all("uses", [thing.__defaults__, thing.__kwdefaults__, closure])
        code = thing.__code__
        if sys.modules.get(home) not in yours:  # made by an installed decorator; what it wraps is in the closure
            self._add(f"{home}.{code.co_qualname}")
            self._visit(dict(getattr(thing, "registry", {})))  # of functools.singledispatch
            return
        try:  # the code's own source: the function's is that of what it wraps
            self._add(without_words(textwrap.dedent(inspect.getsource(code))))
        except OSError as error:
            where = f"{thing.__qualname__} has no source that could be compared later"
            raise ValueError(f"{where}: define it in a notebook's cell or in a file") from error
        self._visit({name: thing.__globals__[name] for name in sorted({*_globals(code)} & {*thing.__globals__})})


def _is_by_python(name: str, part: Any) -> bool:
    """Return whether a class has this part from Python itself, or from `dataclass` or `NamedTuple`."""
    inner = inspect.unwrap(part) if isinstance(part, (FunctionType, staticmethod)) else part
    return name in BY_PYTHON or (isinstance(inner, FunctionType) and inner.__code__.co_filename == "<string>")


def is_yours(module: ModuleType) -> bool:
    """Return whether a module is neither installed nor part of labutils: a notebook, a script, or a file beside it."""
    file = getattr(module, "__file__", None)
    if module.__name__ == "__main__":
        return True
    if file is None:  # built in
        return False
    path = Path(file).resolve()
    return not PACKAGES & {*path.parts} and not any(path.is_relative_to(p) for p in (*STANDARD, ROOT / "labutils"))


def _imported(source: str, package: str) -> list[ModuleType]:
    """Return your own modules that a module's source imports, and packages that they lie in, by name."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (package or not node.level):  # else it cannot have been executed
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names |= {f"{base}.{alias.name}" for alias in node.names}
    names = {".".join(parts[:n]) for name in names for parts in [name.split(".")] for n in range(1, len(parts) + 1)}
    found = [sys.modules[name] for name in sorted(names & {*sys.modules})]
    return [module for module in found if is_yours(module)]


def _globals(code: CodeType) -> Iterator[str]:
    """Yield the global names that code reads, that of functions inside it included."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals(constant)


def without_words(source: str) -> str:
    """Return a source without comments, docstrings and blank lines; part of a line, such as a lambda, as it stands."""
    try:
        return "\n".join(code_lines(source).values())
    except (SyntaxError, tokenize.TokenError):
        return source


def code_lines(source: str) -> dict[int, str]:
    """Return a module's lines by number, without comments, docstrings and blank lines. (ast.unparse would give another
    text with another version of Python.)"""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] = lines[token.start[0] - 1][: token.start[1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            lines[docstring.lineno - 1 : docstring.end_lineno] = [""] * (docstring.end_lineno - docstring.lineno + 1)  # type: ignore[operator]
    return {number: line.rstrip() for number, line in enumerate(lines, 1) if line.strip()}
