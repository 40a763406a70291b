"""The `senet` command: each verb is a typed function, and its flags are the function's parameters."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence

import torch

from senet import flags
from senet._version import __version__
from senet.console.command import typing_in
from senet.console.display import flush, silence
from senet.console.memory import keep_freed_memory
from senet.console.starting import loaded
from senet.console.stopping import Stopped
from senet.console.streams import open_streams, tell
from senet.errors import ModelError, SenetError
from senet.extras import how_to_get
from senet.verbs.excitation import explain, prune
from senet.verbs.explore import explore
from senet.verbs.judge import judge
from senet.verbs.network import check, cost, insert, models, sites
from senet.verbs.ship import advise, bench, export, push
from senet.verbs.study import ablate, compare, evaluate, predict, report, train

__all__ = ["main"]

DESCRIPTION = """\
Squeeze-and-Excitation for any PyTorch network: put it in, train it beside the plain network, and learn
whether it helped.

Try:
  senet sites --model torchvision:resnet50
  senet compare --model resnet20 --data digits --seeds 3 --out runs/digits"""

TRAINS = ("train", "compare", "ablate", "judge")
RESUMABLE = (*TRAINS, "bench")
FAILED, INTERRUPTED, UNREAD = 2, 130, 141
MOST_LETTERS = 2000
"""Of an error's line."""

VERBS: Mapping[str, Callable[..., int | None]] = {
    verb.__name__: verb
    for verb in (
        *(sites, insert, check, cost, models),
        *(train, evaluate, predict, compare, ablate, judge, report),
        *(explain, prune, explore),
        *(bench, advise, export, push),
    )
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: the words after `senet`; by default those of this process.

    Returns:
        The exit status: 0; 1 if `senet check` found lost SE; 2 if the request cannot be met; 130
        after Ctrl-C; 143 after SIGTERM.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given or os.environ.get("SENET_DEBUG", "0") not in ("", "0")
    open_streams()
    verb = ""
    try:
        loaded()
        version = f"senet {__version__} (PyTorch {torch.__version__})"
        try:
            verb, values = flags.parse(VERBS, DESCRIPTION, version, given)
        except SystemExit:  # help or the version is printed
            flush()
            raise
        if verb in TRAINS:
            keep_freed_memory()
        with typing_in(shlex.join(["senet", *given])):
            status = VERBS[verb](**values)
        flush()
    except KeyboardInterrupt:
        again = f"; {_resumed_by(given)}" if verb in RESUMABLE else ""
        tell(f"\nsenet: interrupted{again}")
        return INTERRUPTED
    except Stopped as stop:
        again = f"; {_resumed_by(given)}" if stop.resumable else ""
        tell(f"senet: {stop}{again}")
        return 128 + stop.number
    except BrokenPipeError:  # the reader of the output has closed it
        silence(sys.stdout)
        return UNREAD
    except (SenetError, OSError, ImportError) as error:  # any other error is a bug of ours, and its traceback helps
        if debug and not isinstance(error, flags.UsageError):
            raise
        tell(f"senet: error: {_in_one_line(error)}{_command_instead(error, given)}")
        return FAILED
    except (MemoryError, RuntimeError) as error:
        wanted = re.search(r"allocate (\d[\d.]* ?\w+)|out of memory", str(error))
        if debug or not (wanted or isinstance(error, MemoryError)):
            raise
        much = f": {wanted[1]} were asked for" if wanted and wanted[1] else ""
        tell(
            f"senet: error: there is not enough memory for this{much}; a smaller size, width, number of classes or "
            "batch needs less"
        )
        return FAILED
    return status or 0


def _resumed_by(given: Sequence[str]) -> str:
    """What resumes an interrupted study, in words."""
    return f"the same command{' without --no-resume' * ('--no-resume' in given)} resumes it"


def _command_instead(error: Exception, given: Sequence[str]) -> str:
    """The command to type instead, if a saved network needs the user's own function beside it."""
    if not isinstance(error, ModelError) or error.instead is None or error.instead[0] not in given:
        return ""
    saved, function = error.instead
    at = given.index(saved)
    words = [*given[:at], function, *given[at + 1 :]]
    models, weights = (_values_of(flag, given) for flag in ("--model", "--weights"))
    if len(models) > 1:  # explore takes several, and as many weights
        each = [*(weights * len(models) if len(weights) == 1 else weights or ["none"] * len(models))]
        each[models.index(saved)] = saved
        if weights:
            first = words.index("--weights") + 1
            words[first : first + len(weights)] = each
        else:
            words += ["--weights", *each]
    elif not weights:
        words += ["--weights", saved]
    return f". That is: senet {shlex.join(words)}"


def _values_of(flag: str, given: Sequence[str]) -> list[str]:
    """The words behind a flag, up to the next one."""
    behind = given[given.index(flag) + 1 :] if flag in given else []
    return list(itertools.takewhile(lambda word: not word.startswith("--"), behind))


def _in_one_line(error: Exception) -> str:
    line = _line_of(error)
    # A name within a hostile file may have 200,000 letters.
    return line if len(line) <= MOST_LETTERS else f"{line[: MOST_LETTERS // 2]} … {line[-MOST_LETTERS // 4 :]}"


def _line_of(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"{package} is not installed: {how_to_get(package)}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__
