"""Import a user's Python file, and locate errors in it."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from senet.errors import ModelError
from senet.words import did_you_mean

__all__ = ["function_in", "imported_beside", "importing_from", "own_line", "raised_at"]


def function_in(path: Path, name: str) -> Any:
    """The function `name` of a Python file. The file is executed, and again only after it has changed.

    Raises:
        ModelError: there is no such file or function, or the file cannot be imported.
    """
    if not path.is_file():
        raise ModelError(f"{path} does not exist; a function of your own is named path/to/file.py:function")
    module = _imported(path.resolve())
    function = getattr(module, name, None)
    if not callable(function):
        own = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        raise ModelError(f"{path} has no function {name!r}{did_you_mean(name, own)}")
    return function


def imported_beside(path: Path) -> list[Path]:
    """The Python files in a file's folder, and below it, that it imports, and what these import from there."""
    found: set[Path] = set()
    todo = [path]
    while todo:
        file = todo.pop()
        try:
            nodes = list(ast.walk(ast.parse(file.read_bytes())))
        except (OSError, SyntaxError, ValueError):  # importing it says so
            continue
        for node in nodes:
            base, names = path.parent, list[str]()
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = file.parents[min(node.level, len(file.parents)) - 1] if node.level else base
                names = [f"{node.module or ''}.{alias.name}".strip(".") for alias in node.names]
            for parts in (name.split(".") for name in names):
                ats = [base.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
                files = {each for at in ats for each in (at.with_suffix(".py"), at / "__init__.py") if each.is_file()}
                todo += sorted(files - found - {path})
                found |= files - {path}
    return sorted(found)


def own_line(error: BaseException) -> str:
    """The line of a user's file at which an error arose, " (net.py, line 3)"; "" if no such file was involved."""
    return _last_line(error, lambda known: "_senet_version" in known)


def raised_at(error: BaseException) -> str:
    """The innermost line outside torch and senet in an error's traceback, " (net.py, line 3)"; "" if there is none."""
    packages = ("torch.", "senet.", "importlib.")
    return _last_line(error, lambda known: not f"{known.get('__name__', '')}.".startswith(packages))


def _last_line(error: BaseException, wanted: Callable[[Mapping[str, Any]], bool]) -> str:
    """The innermost line of an error's traceback in a module whose globals are wanted, " (net.py, line 3)", else ""."""
    walked = traceback.walk_tb(error.__traceback__)
    found = [f" ({frame.f_code.co_filename}, line {line})" for frame, line in walked if wanted(frame.f_globals)]
    return found[-1] if found else ""


# Two users' files may each have a helper.py beside them. Python keeps one module per name, so the
# second file would silently run with the first one's helper.
_beside: dict[str, dict[str, ModuleType]] = {}
"""The modules imported from each folder."""


@contextlib.contextmanager
def importing_from(folder: Path) -> Iterator[None]:
    """A context in which the files of a folder can be imported, as when Python runs one of them.

    A module of the same name from another folder does not shadow one of this folder.
    """
    own = os.path.abspath(folder)  # noqa: PTH100 as in the files of what is imported: links stay links
    names = {entry.name.removesuffix(".py") for entry in (Path(own).iterdir() if folder.is_dir() else ())}
    homes = {name: _home(name) for name in list(sys.modules) if name.partition(".")[0] in names}
    for name, home in homes.items():
        if home != own and home in _beside:
            _beside[home][name] = sys.modules.pop(name)
    for name, module in _beside.setdefault(own, {}).items():
        sys.modules.setdefault(name, module)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))
        tops = [name for name in list(sys.modules) if name.partition(".")[0] in names]
        _beside[own] |= {name: sys.modules[name] for name in tops if _home(name) == own}


def _home(name: str) -> str:
    """The folder that a module, or its package, was imported from; "" if unknown."""
    top = sys.modules.get(name.partition(".")[0])
    file = getattr(top, "__file__", None) or ""
    return os.path.dirname(os.path.dirname(file) if hasattr(top, "__path__") else file)  # noqa: PTH120


def _imported(path: Path) -> ModuleType:
    """The module of a file, under a name of its own; executed again only if the file has changed."""
    name = f"_senet_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    status = path.stat()
    version = (status.st_mtime_ns, status.st_size)
    module = sys.modules.get(name)
    if module is not None and getattr(module, "_senet_version", None) == version:
        return module
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path} is not a Python file: its name ends in .py")
    module = importlib.util.module_from_spec(spec)
    module.__dict__["_senet_version"] = version
    sys.modules[name] = module  # dataclasses and pickle look up their module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a script may parse its own arguments, and end
        del sys.modules[name]
        raise ModelError(f"{path} cannot be imported: {type(error).__name__}: {error}{own_line(error)}") from error
    return module
