"""Python files of a person's own: import one, and say where in it an error came up."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from senet.errors import ModelError
from senet.words import did_you_mean

__all__ = ["function_in", "importing_from", "own_line", "raised_at"]


def function_in(path: Path, name: str) -> Any:
    """The function `name` of a Python file; the file is run, and again only when it has changed.

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


def own_line(error: Exception) -> str:
    """Where in a person's own file an error came up, " (net.py, line 3)"; "" where no such file had a part in it."""
    walked = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [(frame.f_code.co_filename, line) for frame, line in walked if "_senet_version" in frame.f_globals]
    return f" ({own[-1][0]}, line {own[-1][1]})" if own else ""


def raised_at(error: BaseException) -> str:
    """The innermost line outside torch and senet that an error came through, " (net.py, line 3)"; "" without one."""
    packages = ("torch.", "senet.", "importlib.")
    own = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not f"{frame.f_globals.get('__name__', '')}.".startswith(packages)
    ]
    return f" ({own[-1][0]}, line {own[-1][1]})" if own else ""


# Two people's files may each lie beside a helper.py. Python knows one module of a name, so without this the second
# file would run with the first one's helper, and nobody would be told.
_beside: dict[str, dict[str, ModuleType]] = {}
"""By folder, the modules that were imported from it."""


@contextlib.contextmanager
def importing_from(folder: Path) -> Iterator[None]:
    """Within it the files of a folder can be imported, as where Python runs one of them.

    A module of the same name that came from another person's folder does not stand in for one of this folder.
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
    """The folder that a module, or the package that it is of, was imported from; "" where it is unknown."""
    top = sys.modules.get(name.partition(".")[0])
    file = getattr(top, "__file__", None) or ""
    return os.path.dirname(os.path.dirname(file) if hasattr(top, "__path__") else file)  # noqa: PTH120


def _imported(path: Path) -> ModuleType:
    """The module of a file, under a name of its own; run again only where the file has changed."""
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
    sys.modules[name] = module  # dataclasses and pickle look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ModelError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module
