"""The passes in C: compiled once by this machine's C compiler, kept in the user's cache, used through ctypes."""

from __future__ import annotations

import atexit
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["OFF", "library"]

OFF = "SENET_NATIVE"  # set to 0: PyTorch's operations are used
_CACHE = "SENET_CACHE"  # the folder for what was compiled; else senet under the user's cache folder
_SOURCES = ("passes.c", "excitation.c")
_READ_BY_THEM = ("passes.h",)
_COMMON = ("-O3", "-shared", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math")
_OWN_MACHINE = (("-march=native", "-mprefer-vector-width=512"), ("-march=native",), ("-mcpu=native",), ())
_LIMIT_S = 120

log = logging.getLogger("senet")


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled passes, or None where this machine cannot have them: said once, in the log "senet".

    It needs a C compiler that knows OpenMP by the library that PyTorch itself uses (gcc); the first call of all
    compiles for about two seconds. The environment's SENET_NATIVE=0 turns it off.
    """
    if os.environ.get(OFF, "1") in ("0", ""):
        return None
    compiler = next(filter(None, map(shutil.which, ("gcc", "cc"))), None) if sys.platform == "linux" else None
    if compiler is None:
        log.info("no C compiler here: normalisation and SE share a pass in PyTorch's operations, which is slower")
        return None
    try:
        return _declared(ctypes.CDLL(str(_compiled(compiler))))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        log.info("the passes did not compile (%s): PyTorch's operations are used, which is slower", said.strip()[-300:])
        return None


def _declared(functions: ctypes.CDLL) -> ctypes.CDLL:
    """The functions, with the types of what those take that are called for small maps too."""
    pointer, size, number = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
    functions.gates.argtypes = [
        *(pointer, size, size, size, number),
        *(pointer, pointer, size, number, pointer, pointer, size, number),
        *(pointer, number),
    ]
    for dtype in ("float32", "bfloat16"):
        rows, last = (getattr(functions, f"rescale_{kind}_{dtype}") for kind in ("rows", "last"))
        rows.argtypes = [pointer, pointer, size, size, pointer, number, number]
        last.argtypes = [pointer, pointer, size, size, size, pointer, number, number]
    return functions


def _compiled(compiler: str) -> Path:
    """The shared library: the one in the cache where it is there and this user's own, else a new one."""
    folder = _cache_folder()
    path = folder / f"passes-{_fingerprint(compiler)}.so"
    if _ours(path):
        return path
    sources = [str(Path(__file__).with_name(name)) for name in _SOURCES]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / path.name
        for i, machine in enumerate(_OWN_MACHINE):
            words = [compiler, *_COMMON, *machine, *sources, "-o", str(made), "-lm"]
            try:
                subprocess.run(words, check=True, capture_output=True, text=True, timeout=_LIMIT_S)
            except subprocess.CalledProcessError:
                if i == len(_OWN_MACHINE) - 1:
                    raise
                continue
            break
        made.chmod(0o700)
        made.replace(path)  # whole or not at all, whoever else compiles at the same time
    return path


def _fingerprint(compiler: str) -> str:
    """What the library depends on: the source, the flags, the compiler and the processor."""
    digest = hashlib.sha256()
    for name in (*_SOURCES, *_READ_BY_THEM):
        digest.update(Path(__file__).with_name(name).read_bytes())
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True, timeout=_LIMIT_S)
    digest.update(repr((_COMMON, _OWN_MACHINE, version.stdout, platform.machine(), _processor())).encode())
    return digest.hexdigest()[:20]


def _processor() -> str:
    """The processor's abilities: a cache may be shared by machines that differ in them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), "")


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get(_CACHE) or Path(base) / "senet")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK) and _safe(folder):
            return folder
    except OSError:
        pass
    return _private_folder()


@functools.cache
def _private_folder() -> Path:
    """A folder for this process alone, where the user has no cache that is only theirs to write."""
    folder = tempfile.mkdtemp(prefix="senet-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _ours(path: Path) -> bool:
    return path.is_file() and _safe(path)


def _safe(path: Path) -> bool:
    """Whether nobody else could have written it: code is loaded from there."""
    found = path.stat()
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
