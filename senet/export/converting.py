"""Wrap other libraries' converters: one-line errors, no output on success, and working Ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import io
import re
import shutil
import signal
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from senet.console.logs import turned_down
from senet.errors import ExportError, FileWriteError, SenetError

__all__ = ["File", "file_errors", "hear_interrupts", "in_one_line", "quietly", "reported"]

_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "nncf", "torch.utils.cpp_extension")
_OPERATORS = (  # torch.onnx, OpenVINO's converter, ONNX Runtime as it loads and as it runs, OpenVINO's kernels
    r"op='([\w.]+)'",
    r"No conversion rule found for operations: ([\w.:, ]+)",
    r"implementation for (\w+)",
    r"running (\w+) node",
    r"onversion of operation [\w./]+/([\w.]+)",
    r"torch\.ops\.([\w.]+)",
    r"(\w+) node with name",
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_NOISE = re.compile(
    r"Check '|Exception (from|happened)|FrontEnd API|Model wasn't|Summary:|\[ONNXRuntimeError\]|-- <built-in"
)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """A context that suppresses converters' output, logs and warnings; failures still raise."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), turned_down(*_LOGGERS):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def reported(what: str, instead: str) -> Iterator[None]:
    """A context that turns any error of a converter or runtime into one line that names the operator.

    Args:
        what: the step and the network, with which the line begins.
        instead: what the user can do instead.

    Raises:
        ExportError: any error other than senet's, the system's, or a missing package.
    """
    try:
        yield
    except (SenetError, OSError, ImportError, MemoryError):
        raise
    except Exception as error:
        raise ExportError(f"{what}: {in_one_line(error)}; {instead}") from error


def in_one_line(error: BaseException) -> str:
    """A converter's or runtime's error in one line: the operators that it names, and its reason."""
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(texts) < 10:
        texts.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    found = [name for pattern in _OPERATORS for text in texts for name in re.findall(pattern, text)]
    operators = dict.fromkeys(name.strip().removesuffix(".default") for names in found for name in names.split(","))
    lines = [line.strip(" -\t") for line in texts[-1].splitlines()]
    reasons = [line for line in lines if line and not _NOISE.match(line)] or [line for line in lines if line]
    reason = reasons[0][:200].rstrip(".:; ") if reasons else type(error).__name__
    return (
        f"it cannot do {', '.join([*operators][:3])} ({reason})" if operators else f"{type(error).__name__}: {reason}"
    )


# A converter calls back into Python, and its C++ code treats a KeyboardInterrupt there as an error of the network.
@contextlib.contextmanager
def hear_interrupts() -> Iterator[None]:
    """A context in which Ctrl-C ends in KeyboardInterrupt, even if other code swallows the one raised inside."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    heard = False

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        heard = True
        if callable(before):
            before(number, frame)

    if not callable(before):  # Ctrl-C was disabled by the caller
        yield
        return
    signal.signal(signal.SIGINT, hear)
    try:
        yield
    except Exception:
        if heard:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        raise KeyboardInterrupt


@contextlib.contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """A context in which errors of a full disk name `path`.

    Raises:
        FileWriteError: the system raised such an error.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        from senet.console.display import bytes_of

        free = bytes_of(shutil.disk_usage(path.parent).free)
        raise FileWriteError(
            f"cannot write {path}: {error.strerror} ({free} free there); nothing of it is left. Give a folder with "
            f"more room"
        ) from error


# Torch's C++ aborts the process if its writer's last bytes fail, so the error is raised only afterwards.
class File(io.FileIO):
    """A file whose writes never raise; `failed` is the first error."""

    failed: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of `data`, or note why not."""
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view) and self.failed is None:
                done += super().write(view[done:]) or 0
        except OSError as error:
            self.failed = error
        return len(view)
