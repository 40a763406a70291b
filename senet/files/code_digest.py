"""Digest a function's code, to tell two trainings apart."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import hashlib
import inspect
import sys
import textwrap
import types
from enum import Enum
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from senet.errors import InputTypeError, StudyError
from senet.words import lasting_repr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["code_name", "command_name", "digest_of_code"]

_PLAIN = (int, float, complex, str, bytes, bool, type(None), PurePath, Enum)
_LIBRARIES = ("site-packages", "dist-packages")


def digest_of_code(function: Callable[..., Any]) -> str:
    """A digest of a function's code and of everything it uses from the user's files, without comments and layout.

    It covers functions, classes, plain values, settings in namespaces and dataclasses, and defaults.

    Raises:
        StudyError: the code cannot be read.
    """
    told: list[str] = []
    seen: set[int] = set()
    alive: list[Any] = []  # keeps visited values alive, so that no `id` is reused
    root = _unwrapped(function)
    home = _file_of(root)

    def visit(value: Any, name: str) -> None:
        if id(value) in seen:
            return
        if isinstance(value, functools.partial):
            visit(value.func, name)
            visit([value.args, value.keywords], name)
        elif isinstance(value, types.MethodType):
            visit(value.__func__, name)
            visit(vars(value.__self__) if hasattr(value.__self__, "__dict__") else None, name)
        elif isinstance(value, types.FunctionType | type):
            seen.add(id(value))
            told.append(f"{name}: {_source(value)}")
            for inner, held in _named_in(value):
                if _is_own(held, root, home):
                    visit(held, inner)
        elif isinstance(value, types.ModuleType):
            seen.add(id(value))
            if (file := getattr(value, "__file__", None)) and Path(file).suffix == ".py":
                told.append(f"{name}: {hashlib.sha256(Path(file).read_bytes()).hexdigest()}")
        elif isinstance(value, list | tuple | dict | set | frozenset):
            seen.add(id(value))
            alive.append(value)
            told.append(f"{name}: {type(value).__name__}")
            listed = sorted(value, key=lasting_repr) if isinstance(value, set | frozenset) else value
            items = value.items() if isinstance(value, dict) else enumerate(listed)
            for key, each in items:
                visit(each, f"{name}[{lasting_repr(key)}]")
        elif isinstance(value, _PLAIN):
            told.append(f"{name} = {value!r}")
        elif not isinstance(value, types.BuiltinFunctionType):
            if (settings := _settings_in(value, root, home)) is not None:
                seen.add(id(value))
                alive.append(value)
                visit(settings, name)
            if callable(value):
                visit(type(value), name)

    visit(function, "train")
    return f"sha256 {hashlib.sha256(chr(10).join(told).encode()).hexdigest()[:16]}"


def _settings_in(value: Any, root: Any, home: Path | None) -> dict[str, Any] | None:
    """The values in a namespace, or in an instance of a dataclass of the user's; None for other objects."""
    if isinstance(value, types.SimpleNamespace | argparse.Namespace):
        return vars(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and _is_own(type(value), root, home):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    return None


def _unwrapped(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, types.MethodType):
        return function.__func__
    if not isinstance(function, types.FunctionType | type):
        return type(function)
    return function


def _file_of(value: Any) -> Path | None:
    try:
        file = inspect.getsourcefile(value)
    except TypeError:
        return None
    return None if file is None else Path(file)


def _source(value: Any) -> str:
    try:
        text = textwrap.dedent(inspect.getsource(value))
    except (OSError, TypeError) as error:
        name = getattr(value, "__qualname__", value)
        raise StudyError(
            f"the code of {name} cannot be read, so that changes to it would not be seen: put it into a file, or give "
            "version= (a name of your own for this training)"
        ) from error
    try:
        return ast.unparse(ast.parse(text))
    except SyntaxError:  # a lambda inside a line
        return text


def _named_in(value: Any) -> Iterator[tuple[str, Any]]:
    """The values that a function, or a class's methods, refer to: globals, closures, defaults."""
    if isinstance(value, type):
        for base in value.__bases__:
            yield base.__name__, base
        for name, held in vars(value).items():
            inner = _function_in(held)
            if isinstance(inner, types.FunctionType):
                yield from _named_in(inner)
            elif isinstance(inner, _PLAIN) and not name.startswith("__"):
                yield name, inner
        return
    for name in sorted(_names(value.__code__)):
        if name in value.__globals__:
            yield name, _function_in(value.__globals__[name])
    for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not bound yet
            continue
    yield "defaults", [value.__defaults__, value.__kwdefaults__]


def _function_in(value: Any) -> Any:
    """The function in a property or a method's descriptor, or behind a cache; any other value as it is."""
    if isinstance(value, staticmethod | classmethod):
        return value.__func__
    if isinstance(value, property):
        return value.fget
    if isinstance(value, functools.cached_property):
        return value.func
    cached = None if isinstance(value, types.FunctionType) else inspect.getattr_static(value, "__wrapped__", None)
    return cached if isinstance(cached, types.FunctionType) else value


def _names(code: types.CodeType) -> set[str]:
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _names(constant)
    return found


def _is_own(value: Any, root: Any, home: Path | None) -> bool:
    """Whether a value belongs to the user's code: a plain value, or defined in the function's module or beside it."""
    own = (*_PLAIN, list, tuple, dict, set, frozenset, functools.partial, types.MethodType)
    if isinstance(value, own) or _settings_in(value, root, home) is not None:
        return True
    if not isinstance(value, types.FunctionType | type | types.ModuleType):
        return False
    if getattr(value, "__module__", None) == root.__module__:
        return True
    path = _file_of(value)
    if path is None or home is None or any(part in _LIBRARIES for part in path.parts):
        return False
    return path.resolve().is_relative_to(home.resolve().parent) and not _is_library(path)


def _is_library(path: Path) -> bool:
    return any(path.resolve().is_relative_to(Path(root).resolve()) for root in (sys.base_prefix, sys.prefix))


def code_name(function: Callable[..., Any]) -> str:
    """The name of a function in settings: its file and its name."""
    root = _unwrapped(function)
    file = _file_of(root)
    return f"{file.name if file else '?'}:{getattr(root, '__qualname__', type(root).__name__)}"


def command_name(function: Callable[..., Any]) -> str:
    """The name by which a command finds a function: path/to/file.py:function.

    Raises:
        InputTypeError: it is not at the top level of a file.
    """
    file = _file_of(_unwrapped(function))
    name = getattr(function, "__name__", "")
    top = isinstance(function, types.FunctionType) and function.__qualname__ == name and name.isidentifier()
    if not top or file is None or not file.is_file() or file.suffix != ".py":
        raise InputTypeError(
            f"trainings in processes of their own find their function by its file, and {code_name(function)} does not "
            "stand at the top level of one: put it there, or use one device"
        )
    return f"{file}:{name}"
