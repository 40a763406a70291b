"""Run cells' commands as child processes, one per device at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from senet.console.stopping import Stopped
from senet.data.signals import StopRequest
from senet.files.run_folder import own_folder
from senet.study.cells.cell import Cell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from senet.console.progress import Progress

__all__ = ["INSIDE", "LOGS", "inside", "run_children"]

LOGS = "logs"
INSIDE = "SENET_CELL"
"""Set in a child, so that a script that starts its study again there gets an error."""

REFUSED = 2
"""The exit status of a command that refuses its request; repeating it would not help."""

TRIES = 2
EVERY_S = 0.05
GRACE_S = 60.0
"""Seconds for a child that was asked to stop to end its step and write a checkpoint."""

# A shell starts the command in its own process group. A second process reads from a pipe whose
# other end only the parent holds. When the parent dies, for any reason, the read ends and the whole
# group is killed: the training and its image loading processes.
_WATCHED = """
exec 3<&0 </dev/null
( ( trap '' TERM INT HUP USR1 USR2; read -r _ <&3; kill -KILL 0 ) >/dev/null 2>&1 & )
exec "$@" 3<&-
"""


@contextlib.contextmanager
def inside() -> Iterator[None]:
    """A context in which a file is imported for its training function, as in a child."""
    before = os.environ.get(INSIDE)
    os.environ[INSIDE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[INSIDE]
        else:
            os.environ[INSIDE] = before


@dataclasses.dataclass
class _Child:
    cell: Cell
    device: str
    tries: int
    process: subprocess.Popen[bytes]
    begun: int
    """The position in the log at which this child's lines begin."""


def run_children(
    cells: Sequence[Cell],
    devices: Sequence[str],
    command: Callable[[Cell, str], list[str]],
    folder: Path,
    progress: Progress,
) -> dict[Cell, str]:
    """Train the cells by their commands, one at a time per device; their output goes to `folder`/logs.

    A killed child is restarted once and resumes. One that refuses its request is not.

    Args:
        cells: the cells in their order of start.
        devices: the devices, each for one child at a time.
        command: returns the command of a cell on a device.
        folder: of the study.
        progress: the progress display.

    Returns:
        The reasons of failed cells, in words; all others are finished.

    Raises:
        KeyboardInterrupt, Stopped: a signal asked to stop. It was passed on, and the children can be resumed.
    """
    own_folder(folder / LOGS)
    waiting = deque((cell, 1) for cell in cells)
    free, running = list(devices), list[_Child]()
    failed: dict[Cell, str] = {}
    request = StopRequest()
    read, write = os.pipe()
    try:
        with request.listening():
            while (waiting or running) and not request.number:
                while waiting and free:
                    cell, tries = waiting.popleft()
                    running.append(_started(cell, free.pop(0), tries, command, folder, read, len(devices)))
                for child in [each for each in running if each.process.poll() is not None]:
                    running.remove(child)
                    free.append(child.device)
                    _end_group(child)
                    why = _why(child, folder)
                    if why is None:
                        progress.note(f"{child.cell.name} is trained")
                    elif child.tries < TRIES and child.process.returncode != REFUSED:
                        progress.note(f"{child.cell.name} {why}: it is restarted and resumes")
                        waiting.appendleft((child.cell, child.tries + 1))
                    else:
                        progress.note(f"{child.cell.name} {why}")
                        failed[child.cell] = why
                time.sleep(EVERY_S)
            if request.number:
                _ask_to_stop(running)
    finally:
        for child in running:
            _end_group(child)
        os.close(read)
        os.close(write)
    if request.number == signal.SIGINT:
        raise KeyboardInterrupt
    if request.number:
        raise Stopped(request.number, f"stopped by {signal.Signals(request.number).name}; its trainings stopped too")
    return failed


def _started(
    cell: Cell, device: str, tries: int, command: Callable[[Cell, str], list[str]], folder: Path, read: int, count: int
) -> _Child:
    words = command(cell, device)
    path = folder / LOGS / f"{cell.name}.txt"
    if path.is_symlink() or path.is_fifo():  # a link would be followed, and a pipe waited for
        path.unlink()
    with path.open("ab") as log:
        begun = log.tell()
        process = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHED, "senet", *words],
            stdin=read,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=_environment(count),
        )
    return _Child(cell, device, tries, process, begun)


def _environment(count: int) -> dict[str, str]:
    """This process's environment, with a share of the cores and with this installation of senet."""
    environment = {**os.environ, INSIDE: "1"}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // count)))
    root = Path(__file__).resolve().parents[3]
    if root.name not in ("site-packages", "dist-packages"):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), environment.get("PYTHONPATH"))))
    return environment


def _ask_to_stop(running: Sequence[_Child]) -> None:
    """Ask each child to end its step and write a checkpoint; a second Ctrl-C does not wait."""
    for child in running:
        with contextlib.suppress(ProcessLookupError):
            child.process.terminate()
    end = time.monotonic() + GRACE_S
    for child in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(timeout=max(0.0, end - time.monotonic()))


def _end_group(child: _Child) -> None:
    """Kill a child's process group: the child, its own processes, and the watching one.

    The watching process keeps the group's number in use, so it cannot belong to another group by now.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.process.pid, signal.SIGKILL)
    child.process.wait()


def _why(child: _Child, folder: Path) -> str | None:
    """The reason of a child's failure in one line; None if it succeeded."""
    status = child.process.returncode
    if status == 0:
        return None
    log = folder / LOGS / f"{child.cell.name}.txt"
    with log.open("rb") as file:
        file.seek(child.begun)
        lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if line.startswith("senet: error: ")), None)
    if said is not None:
        return f"failed: {said.removeprefix('senet: error: ')}"
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    if status > 128 and lines and lines[-1].startswith("senet: stopped by"):
        return f"was {lines[-1].removeprefix('senet: ').partition(';')[0]}"
    last = f" ({lines[-1].strip():.200})" if lines else ""
    return f"ended with exit status {status}{last}; {log} has what it said"
