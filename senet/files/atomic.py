"""Atomic writes: after a killed process or a full disk the old file is still there, never a partial one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import socket
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

from senet.files.paths import expanded

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["atomic_write", "atomic_write_all", "check_writable"]

_HOST = hashlib.sha256(socket.gethostname().encode(errors="replace")).hexdigest()[:8]
_POSIX = os.name == "posix"
_TEMPORARY = re.compile(r"\.senet-((?P<process>\d{1,9})-(?P<host>[0-9a-f]{8})-)?[0-9a-f]{16}(\..*)?", re.DOTALL)
_cleaned: set[Path] = set()


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], *, follow: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same folder; the file written there then replaces `path`.

    The data is flushed to disk (fsync) before the rename. If the block raises, the temporary file
    is removed and `path` is unchanged. The old file's permissions are kept. The temporary file has
    the suffix of `path`, for writers that choose their format by it.

    Args:
        path: the file.
        follow: whether to follow a link at `path` and replace its target. False replaces the link
            itself, since a folder from another user may hold links to anywhere.

    Raises:
        OSError: the folder is missing or cannot be written, or `path` is a folder, a device or read-only.
    """
    target, temporary = _places(path, follow=follow)
    mode = _created(temporary, target, path)
    _clean(target.parent)
    try:
        yield temporary
        temporary.chmod(mode)  # the writer may have replaced the temporary file
        _flush(temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if _POSIX:
        _flush(target.parent)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise the error that writing `path` would raise, before any work is wasted.

    Raises:
        OSError: as `atomic_write`.
    """
    target, temporary = _places(path)
    _created(temporary, target, path)
    temporary.unlink()


@contextlib.contextmanager
def atomic_write_all(*paths: str | os.PathLike[str]) -> Iterator[tuple[Path, ...]]:
    """Yield temporary paths, as `atomic_write` does, for files that belong together: all are replaced, or none.

    The first is the one that readers open, such as OpenVINO's .xml with its .bin. The old one is
    removed before the others change, and the new one comes last. So a process that is killed in
    between leaves no mismatched pair.

    Raises:
        OSError: a folder is missing or cannot be written, or a path is a folder.
    """
    with contextlib.ExitStack() as stack:
        yield tuple([stack.enter_context(atomic_write(path)) for path in paths])
        if len(paths) > 1:
            Path(os.path.realpath(expanded(paths[0]))).unlink(missing_ok=True)
        # an ExitStack unwinds from its top, so the first path's file is replaced last


def _clean(folder: Path) -> None:
    """Remove temporary files of killed writers from a folder, once per folder and process.

    A temporary file's name has its writer's machine and process. A file from another machine, or
    from a version that left them out, is removed when it is a day old.
    """
    if folder in _cleaned:
        return
    _cleaned.add(folder)
    with contextlib.suppress(OSError):
        for path in [*folder.glob(".senet-*")]:
            found = _TEMPORARY.fullmatch(path.name)
            with contextlib.suppress(OSError):
                if found and stat.S_ISREG(path.lstat().st_mode) and _is_left(path, found["host"], found["process"]):
                    path.unlink()


def _is_left(path: Path, host: str | None, process: str | None) -> bool:
    if host == _HOST and process is not None and _POSIX:  # on Windows, signal 0 is Ctrl-C
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return True
        except OSError:  # it runs under another user
            return False
        return False
    return time.time() - path.lstat().st_mtime > 86_400


def _places(path: str | os.PathLike[str], *, follow: bool = True) -> tuple[Path, Path]:
    """The file's final path, and a free name beside it."""
    given = expanded(path)
    target = Path(os.path.realpath(given if follow else given.parent), *(() if follow else (given.name,)))
    if target.is_dir() and (follow or not target.is_symlink()):
        raise IsADirectoryError(f"{path} is a folder; give the name of a file in it")
    # A rename asks only for permission in the folder: it would replace what is protected and, as root, /dev/null.
    if follow and target.exists():
        if not target.is_file():
            raise FileExistsError(f"cannot write {path}: it is not a file, but a device or a pipe")
        if not os.access(target, os.W_OK):
            raise PermissionError(f"cannot write {path}: it is read-only")
    return target, target.with_name(f".senet-{os.getpid()}-{_HOST}-{secrets.token_hex(8)}{target.suffix[:32]}")


def _created(temporary: Path, target: Path, given: str | os.PathLike[str]) -> int:
    """Create the temporary file and return the permissions for the written file."""
    try:
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileNotFoundError:
        raise FileNotFoundError(f"cannot write {given}: the folder {target.parent} does not exist") from None
    except NotADirectoryError:
        raise NotADirectoryError(f"cannot write {given}: {target.parent} is not a folder") from None
    except PermissionError:
        raise PermissionError(f"cannot write {given}: no permission to write in the folder {target.parent}") from None
    except OSError as error:
        raise OSError(error.errno, f"cannot write {given}: {error.strerror}") from None
    try:
        replaced = target.is_file() and not target.is_symlink()
        return stat.S_IMODE(target.stat().st_mode if replaced else os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def _flush(path: Path) -> None:
    """Flush the file, or the folder's directory entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY if _POSIX else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
