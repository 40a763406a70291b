"""Start the processes of a training on this machine if neither torchrun nor SLURM did."""

from __future__ import annotations

import os
import pickle
import signal
from typing import TYPE_CHECKING, Any, TypeVar

from senet import errors
from senet.console.command import typed, typing_in
from senet.console.logs import turned_down
from senet.console.stopping import Stopped
from senet.errors import InputTypeError, StudyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from senet.training.processes.processes import DeviceLayout

__all__ = ["launch"]

T = TypeVar("T")

_PLAIN = (*errors.__all__, "MismatchError", "ValueError", "OSError")
"""Errors whose text addresses the user."""


def launch(layout: DeviceLayout, work: Callable[..., T], arguments: dict[str, Any]) -> T:
    """Call `work` in one process per device of the layout, and return the first process's result.

    They are started as by torchrun, and `work` sees its environment. One that fails ends the
    others, and none is restarted. Functions and arguments are pickled.

    Raises:
        StudyError: the message of the process that failed first, or that it was killed.
        InputTypeError: a function or an argument cannot be pickled.
        Stopped, KeyboardInterrupt: a signal asked to stop; it was passed on to the processes.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=len(layout.devices),
        run_id=f"senet-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        # suppress torchrun's own report: we report a failure once, in one line
        with turned_down("torch.distributed.elastic.multiprocessing.api", "torch.multiprocessing.spawn"):
            results: dict[int, Any] = elastic_launch(config, _entry)(work, arguments, typed())
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise InputTypeError(
            f"{work.__name__} cannot be passed to the processes of several devices ({error}): put its functions and "
            "classes at the top of a module, or name the network as path/net.py:function"
        ) from error
    except ChildFailedError as error:
        raise _said(error) from error
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from error
        raise Stopped(error.sigval, f"stopped by {signal.Signals(error.sigval).name}") from error
    result: T = results[0]
    return result


def _entry(work: Callable[..., T], arguments: dict[str, Any], command: str) -> T | None:
    from torch.distributed.elastic.multiprocessing.errors import record

    recorded: Any = record(work)
    with typing_in(command):
        result: T = recorded(**arguments)
    return result if os.environ["RANK"] == "0" else None


def _said(error: Any) -> Exception:
    """The message of the process that failed first, from its record."""
    rank, failure = error.get_first_failure()
    said = failure.message
    text = str(said.get("message", "") if isinstance(said, dict) else said)
    kind, colon, rest = text.partition(": ")
    if colon and kind in _PLAIN:
        return StudyError(rest)
    if text.startswith("To enable traceback"):  # torch's words for a process that left no record
        return StudyError(
            f"process {rank} of the training ended with exit status {failure.exitcode} (above is what it said). A "
            "script trains on several devices under if __name__ == '__main__':, since each process imports it; "
            "the same command resumes from the last checkpoint"
        )
    why = text.splitlines()[0] if text else f"exit status {failure.exitcode}"
    return StudyError(
        f"process {rank} of the training ended ({why}); the same command resumes from the last checkpoint"
    )
