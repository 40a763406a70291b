"""The commands of cells as child processes, as many at a time as there are devices."""

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
from senet.study.cells.cell import Cell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from senet.console.progress import Progress

__all__ = ["INSIDE", "LOGS", "inside", "run_children"]

LOGS = "logs"
INSIDE = "SENET_CELL"
"""Set in a child, so that a script which begins its study again there is told so."""

REFUSED = 2
"""The exit status of a command that cannot do what was asked. Asking again would not help."""

TRIES = 2
EVERY_S = 0.05
GRACE_S = 60.0
"""How long a child that was asked to stop may take to end its step and write a checkpoint."""

# A shell starts the command in a process group of its own. Beside it waits a process that reads a pipe whose other end
# the parent alone holds. When the parent dies, in whatever way, the read ends and the whole group is killed: the
# training, and the processes that load its images.
_WATCHED = """
exec 3<&0 </dev/null
( ( trap '' TERM INT HUP USR1 USR2; read -r _ <&3; kill -KILL 0 ) >/dev/null 2>&1 & )
exec "$@" 3<&-
"""


@contextlib.contextmanager
def inside() -> Iterator[None]:
    """Within it a file is imported for a training in it, as in a child."""
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
    """Where in the log its own lines begin."""


def run_children(
    cells: Sequence[Cell],
    devices: Sequence[str],
    command: Callable[[Cell, str], list[str]],
    folder: Path,
    progress: Progress,
) -> dict[Cell, str]:
    """Train the cells by their commands, one at a time on each device; what they print goes to `folder`/logs.

    A child that is killed is started once more, and goes on where it was. One that refuses is not.

    Args:
        cells: in the order in which they begin.
        devices: one for each child at a time.
        command: of a cell on a device.
        folder: of the study.
        progress: is told of every cell that ends.

    Returns:
        Why the cells that failed did, in words; the others are finished.

    Raises:
        KeyboardInterrupt, Stopped: where a signal asked to stop. The children were told, and can be resumed.
    """
    (folder / LOGS).mkdir(exist_ok=True)
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
                        progress.note(f"{child.cell.name} {why}: it is started again, and goes on where it was")
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
    cell: Cell,
    device: str,
    tries: int,
    command: Callable[[Cell, str], list[str]],
    folder: Path,
    read: int,
    count: int,
) -> _Child:
    words = command(cell, device)
    with (folder / LOGS / f"{cell.name}.txt").open("ab") as log:
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
    """This process's, with a share of the cores, and with the senet that runs here."""
    environment = {**os.environ, INSIDE: "1"}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // count)))
    root = Path(__file__).resolve().parents[3]
    if root.name not in ("site-packages", "dist-packages"):
        before = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = str(root) if not before else f"{root}{os.pathsep}{before}"
    return environment


def _ask_to_stop(running: Sequence[_Child]) -> None:
    """Have each child end its step and write a checkpoint; a second Ctrl-C does not wait for that."""
    for child in running:
        with contextlib.suppress(ProcessLookupError):
            child.process.terminate()
    end = time.monotonic() + GRACE_S
    for child in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(timeout=max(0.0, end - time.monotonic()))


def _end_group(child: _Child) -> None:
    """End what is left of a child: itself, the processes that it started, and the one that watches.

    The last keeps the group's number in use, so that it cannot be another's by now.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.process.pid, signal.SIGKILL)
    child.process.wait()


def _why(child: _Child, folder: Path) -> str | None:
    """Why a child failed, in a line; None where it did not."""
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
