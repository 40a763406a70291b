"""The command of a cell, with which any scheduler can train it."""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.block.made import MadeSpec
from senet.errors import InputTypeError, StudyError
from senet.words import kind_of

if TYPE_CHECKING:
    from senet.block import SESpec
    from senet.study.cells.cell import Cell

__all__ = ["command", "of_cell", "one_line", "one_of", "spec_flags"]

SENET = (sys.executable or "python", "-P", "-m", "senet")  # -P: files in the working directory must not shadow packages


def command(verb: str, flags: Mapping[str, Any]) -> list[str]:
    """The words of a command, with a flag for each parameter that is not None.

    Raises:
        InputTypeError: a command cannot express a value, such as a Python object.
    """
    words = [*SENET, verb]
    for name, value in flags.items():
        flag = f"--{name.replace('_', '-')}"
        if value is None:
            continue
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, str | Path | int | float):
            words += [f"{flag}={value}"] if str(value).startswith("-") else [flag, str(value)]
        elif isinstance(value, list | tuple) and value and all(isinstance(each, str | int | float) for each in value):
            words += [flag, *map(str, value)]
        else:
            raise InputTypeError(
                f"trainings in processes of their own are told what to do by a command, and {name} is "
                f"{kind_of(value)}, which no command can name: give its name, or one device"
            )
    return words


def spec_flags(spec: SESpec | MadeSpec) -> dict[str, Any]:
    """The flags of a spec, for fields that differ from their default."""
    if isinstance(spec, MadeSpec):
        return spec.flags()
    fields = dataclasses.fields(spec)
    return {each.name: value for each in fields if (value := getattr(spec, each.name)) != each.default}


def one_of(devices: str | int | None) -> str | int | None:
    """The device of one cell, if several are asked for: "cuda" of "cuda:0,1"; None, which is any, of a number."""
    several = re.fullmatch(r"([a-z]*)(?::\d+(?:,\d+)+|\*\d+)|(?!1$)\d+", str(devices).strip().lower())
    return devices if several is None else several[1]


def of_cell(words: Sequence[str], cell: Cell, device: str | None) -> list[str]:
    """The command of one cell of a study, on a device."""
    on = [] if device is None else ["--devices", device]
    return [*words, "--only", cell.variant, "--seed", str(cell.seed), *on]


def one_line(words: Sequence[str]) -> str:
    """A command quoted for a shell, on one line.

    Raises:
        StudyError: a word holds a line break, which a list of commands cannot have.
    """
    wrong = next((word for word in words if "\n" in word or "\r" in word or "\0" in word), None)
    if wrong is not None:
        raise StudyError(f"{wrong!r} holds a line break, and each command stands on one line: name it otherwise")
    return shlex.join(words)
