"""The compiled library: built once by this machine's C compiler, cached, and called through ctypes.

It is only a speed-up. Any failure is logged once (log "senet"), and PyTorch's operations do the
work.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from senet.files.cache import cache_folder

__all__ = ["OFF", "library"]

OFF = "SENET_NATIVE"  # 0 means PyTorch's operations
_FOLDER = Path(__file__).with_name("c")
_SOURCES = ("passes.c", "excitation.c")
_READ_BY_THEM = ("passes.h", "rows.h", "last.h", "few.h", "rescale.h", "squeeze.h", "gates.h", "numbers.h")
_COMMON = ("-O3", "-shared", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math")
_OWN_MACHINE = (("-march=native", "-mprefer-vector-width=512"), ("-march=native",), ("-mcpu=native",), ())
_LIMIT_S = 120

# The arguments of each pass in C: maps, values per sample and channel, flags. The sizes follow the
# maps, and the number of threads comes last. Without declarations ctypes would truncate pointers to
# 32 bits.
_PASSES = {"stats": (1, 2, 0), "affine": (3, 3, 1), "sums": (4, 6, 0), "passed": (1, 5, 0), "input": (4, 7, 0)}
_RESCALE = {"rescale": (2, 1, 1)}
_DTYPES = ("float32", "float64", "bfloat16", "float16")

log = logging.getLogger("senet")


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled passes, or None if they are unavailable; the reason is logged once.

    They need a C compiler that links PyTorch's own OpenMP library (gcc): $CC, else gcc or cc. The
    first call on a machine compiles for some seconds. SENET_NATIVE=0 in the environment turns them
    off.
    """
    if os.environ.get(OFF, "1") in ("0", ""):
        return None
    compilers = list(_compilers()) if sys.platform == "linux" else []
    if not compilers:
        log.info("no C compiler here: normalisation and SE share a pass in PyTorch's operations, which is slower")
        return None
    said = ""
    for compiler in compilers:
        for folder in (_shared_folder, _private_folder):  # the first may be full, or mounted noexec
            # No failure of a speed-up may stop a training.
            try:
                return _declared(ctypes.CDLL(str(_compiled(compiler, folder()))))
            except Exception as error:
                said = getattr(error, "stderr", "") or str(error) or type(error).__name__
    log.info("the passes did not compile (%s): PyTorch's operations are used, which is slower", said.strip()[-300:])
    return None


def _compilers() -> Iterator[tuple[str, ...]]:
    """Commands of C compilers: $CC, which may hold flags (conda sets it), then the system's."""
    with contextlib.suppress(ValueError):  # quotes that do not close
        words = shlex.split(os.environ.get("CC", ""))
        if words and (found := shutil.which(words[0])):
            yield found, *words[1:]
    if found := shutil.which("gcc") or shutil.which("cc"):
        yield (found,)


def _declared(functions: ctypes.CDLL) -> ctypes.CDLL:
    """The functions with the types of all their arguments."""
    pointer, size, number = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
    given, layer = (pointer, size, size, size, number, number), (pointer, pointer, size, number)
    made, rescaled = (pointer, number), (pointer, pointer, size, number, number, number)
    for dtype in ("float32", "bfloat16"):
        getattr(functions, f"squeeze_{dtype}").argtypes = [*given, *made]
        getattr(functions, f"gates_{dtype}").argtypes = [*given, *layer, *layer, *made]
        getattr(functions, f"excited_{dtype}").argtypes = [*given[:-1], *layer, *layer, ctypes.c_double, *rescaled]
    for name, (maps, values, flags) in (_PASSES | _RESCALE).items():
        for kind, sizes in (("rows", 2), ("last", 4 if name in _PASSES else 3)):
            for dtype in _DTYPES:
                # Not every compiler has a half float, and `rescale` has two types.
                function = getattr(functions, f"{name}_{kind}_{dtype}", None)
                if function is not None:
                    function.argtypes = [pointer] * maps + [size] * sizes + [pointer] * values + [number] * (flags + 1)
    return functions


def _compiled(compiler: Sequence[str], folder: Path) -> Path:
    """The shared library in `folder`: an existing one if it is intact and owned by this user, else a new one."""
    name = f"passes-{_fingerprint(compiler)}"
    for path in folder.glob(f"{name}-*.so"):
        if _is_whole(path):
            return path
        with contextlib.suppress(OSError):
            path.unlink()
    sources = [str(_FOLDER / source) for source in _SOURCES]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / f"{name}.so"
        for i, machine in enumerate(_OWN_MACHINE):
            try:
                _run([*compiler, *_COMMON, *machine, *sources, "-o", str(made), "-lm"])
            except subprocess.CalledProcessError:
                if i == len(_OWN_MACHINE) - 1:
                    raise
                continue
            break
        made.chmod(0o700)
        path = folder / f"{name}-{_digest(made)}.so"
        made.replace(path)  # atomic, because other processes may compile at the same time
    return path


def _run(words: Sequence[str]) -> str:
    """The output of a command. Compilers use the user's encoding, which may not be UTF-8."""
    done = subprocess.run(words, check=True, capture_output=True, text=True, errors="replace", timeout=_LIMIT_S)
    return done.stdout


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def _is_whole(path: Path) -> bool:
    """Whether the file matches the digest in its name, and only this user could have written it.

    The loader maps a library without reading it, so a truncated one would crash the process much later.
    """
    return path.is_file() and _is_safe(path) and path.stem.endswith(f"-{_digest(path)}")


def _fingerprint(compiler: Sequence[str]) -> str:
    """A digest of everything that the library depends on: source, flags, compiler and processor."""
    digest = hashlib.sha256()
    for name in (*_SOURCES, *_READ_BY_THEM):
        digest.update((_FOLDER / name).read_bytes())
    version = _run([*compiler, "--version"])
    words = (_COMMON, _OWN_MACHINE, *compiler[1:], version, platform.machine(), _processor())
    digest.update(repr(words).encode(errors="replace"))
    return digest.hexdigest()[:20]


def _processor() -> str:
    """The processor's features, since different machines may share a cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), "")


def _shared_folder() -> Path:
    """The user's cache folder if it is safe to run code from, else a private folder of this process."""
    folder = cache_folder()
    try:
        if not os.access(folder, os.W_OK):
            return _private_folder()
        if _is_safe(folder):
            return folder
    except OSError:
        return _private_folder()
    log.info("others can write to %s, so nothing compiled is kept there: chmod go-w or chown it", folder)
    return _private_folder()


@functools.cache
def _private_folder() -> Path:
    """A folder that is removed at the end of this process."""
    folder = tempfile.mkdtemp(prefix="senet-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _is_safe(path: Path) -> bool:
    """Whether only this user could have written it, since code is loaded from there."""
    found = path.stat()
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
