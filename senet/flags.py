"""Make a command from typed functions: each verb's parameters are its flags, with the texts of flagtexts.py."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import math
import re
import shutil
import sys
import textwrap
import types
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jsonargparse import ArgumentParser

from senet.console import display
from senet.errors import SenetError
from senet.files.paths import expanded
from senet.flagtexts import FLAGS, GROUPS, POSITIONAL, Flag
from senet.recipe.elsewhere import elsewhere
from senet.words import did_you_mean, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Verbs = Mapping[str, Callable[..., int | None]]

__all__ = ["FLAGS", "UsageError", "parse"]

_TRAINS = ("train", "compare", "ablate")


class UsageError(SenetError, ValueError):
    """The command line cannot be understood; the message says what would work."""


def parse(verbs: Verbs, description: str, version: str, given: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Parse the typed words into a verb and the arguments of its function.

    Args:
        verbs: typed functions by name. A function's parameters are the flags, with checked types,
            and its docstring is the help. A dataclass parameter stands for one flag per field. If
            it may be None, it is None unless one of its flags was typed. `**options: Unpack[a
            TypedDict]` stands for a flag per key and holds those that were typed.
        description: the description of the whole command.
        version: the output of `--version`.
        given: the typed words.

    Raises:
        UsageError: they cannot be understood; the message has the nearest right spelling.
        InputError: a dataclass refuses its values.
        SystemExit: help or version was printed.
    """
    if given and given[0] not in (*verbs, "-h", "--help", "--version"):
        hint = did_you_mean(given[0], verbs, ".", most=1)
        raise UsageError(f"there is no verb {given[0]!r}{hint} The verbs are {', '.join(verbs)}")
    parser = _parser("senet", description)
    parser.add_argument("--version", action="version", version=version, help="print the version and leave")
    subcommands = parser.add_subcommands(dest="verb", metavar="VERB", title="verbs", description=None, required=True)
    for name, function in verbs.items():
        verb = _verb_parser(name, function)
        subcommands.add_subcommand(name, verb, help=(inspect.getdoc(function) or "").partition("\n")[0])
        verb.prog = f"senet {name}"
    if not given:
        parser.print_help(sys.stderr)
        raise UsageError("say which verb")
    try:
        parsed = parser.parse_args(_joined([_at_home(word) for word in given], verbs))
    except argparse.ArgumentError as error:
        raise UsageError(_in_plain_words(str(error), given[0], verbs)) from None
    return parsed.verb, _arguments(verbs[parsed.verb], parsed[parsed.verb].as_dict())


def _at_home(word: str) -> str:
    """The word with the home folder in `--out=~/x`: a shell replaces only a ~ at the beginning of a word."""
    flag, equals, value = word.partition("=")
    if flag.startswith("--") and equals and value.startswith("~"):
        return f"{flag}={expanded(value)}"
    return word


def _joined(words: list[str], verbs: Verbs) -> list[str]:
    """The words with `--sbatch OPTIONS` as one: its options begin with dashes, which argparse takes for flags."""
    at = words.index("--sbatch") + 1 if "--sbatch" in words else len(words)
    if at == len(words) or words[at] in {_typed(each.name) for each in _parameters(verbs[words[0]])}:
        return words
    return [*words[: at - 1], f"--sbatch={words[at]}", *words[at + 1 :]]


class _Parameter(NamedTuple):
    """A flag of a verb: its name, type, default, the default that help shows, and whether it must be given."""

    name: str
    kind: Any
    default: Any
    usual: Any
    required: bool


def _parameters(function: Callable[..., int | None]) -> Iterator[_Parameter]:
    hints = typing.get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        kind = _without_none(hints[name])
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:  # **options: Unpack[Options]
            for key, hint in typing.get_type_hints(typing.get_args(kind)[0]).items():
                yield _Parameter(key, _without_none(hint), None, None, False)
        elif dataclasses.is_dataclass(kind):
            hints_inside = typing.get_type_hints(kind)
            for field in dataclasses.fields(kind):
                required = field.default is dataclasses.MISSING
                usual = None if required else field.default
                needed = required and kind == hints[name]  # a network that may be left out also needs no name
                default = usual if kind == hints[name] else None
                yield _Parameter(field.name, _without_none(hints_inside[field.name]), default, usual, needed)
        else:
            required = parameter.default is inspect.Parameter.empty
            usual = None if required else parameter.default
            yield _Parameter(name, kind, usual, usual, required)


def _arguments(function: Callable[..., int | None], values: Mapping[str, Any]) -> dict[str, Any]:
    """Build a function's arguments from the values of its flags."""
    hints = typing.get_type_hints(function)
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        kind: Any = _without_none(hints[name])
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            keys = typing.get_type_hints(typing.get_args(kind)[0])
            arguments.update({key: values[key] for key in keys if values[key] is not None})
            continue
        if not dataclasses.is_dataclass(kind):
            arguments[name] = values[name]
            continue
        make: Any = kind
        fields = {field.name: values[field.name] for field in dataclasses.fields(kind)}
        if kind != hints[name]:
            fields = {field: value for field, value in fields.items() if value is not None}
            arguments[name] = _made(make, fields, function) if fields else None
        else:
            arguments[name] = make(**fields)
    return arguments


def _made(make: Any, fields: Mapping[str, Any], function: Callable[..., int | None]) -> Any:
    missing = [f.name for f in dataclasses.fields(make) if f.default is dataclasses.MISSING and f.name not in fields]
    if missing:
        given = " and ".join(_typed(name) for name in fields)
        names = " and ".join(map(_typed, missing))
        raise UsageError(f"senet {function.__name__} {given} needs {names}; see senet {function.__name__} --help")
    return make(**fields)


def _without_none(hint: Any) -> Any:
    kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
    if str in kinds and typing.get_origin(hint) in (typing.Union, types.UnionType):
        return str  # of the types that Python accepts, the one that can be typed
    return kinds[0] if len(kinds) == 1 and types.NoneType in typing.get_args(hint) else hint


class _Parser(ArgumentParser):
    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help and version; argparse itself says nothing of output that cannot be written."""
        if file is None or file is sys.stdout:
            display.write(message, end="")
        else:
            super()._print_message(message, file)


def _parser(name: str, description: str) -> ArgumentParser:
    return _Parser(
        prog=name,
        description=description,
        formatter_class=_HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
        print_config=None,
    )


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keep docstrings as they are written, and add defaults to the texts."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=min(100, shutil.get_terminal_size((100, 24)).columns))

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)  # keep names whole

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.required:
            return f"{text} (required)"
        usual = getattr(action, "usual", action.default)
        if usual is None or usual is False or usual is argparse.SUPPRESS or not action.option_strings:
            return text
        return f"{text} (default: {'yes' if usual is True else usual})"


def _verb_parser(name: str, function: Callable[..., int | None]) -> ArgumentParser:
    parser = _parser(name, inspect.getdoc(function) or "")
    parameters = {parameter.name: parameter for parameter in _parameters(function)}
    for title, flags in GROUPS.items():
        group = parser.add_argument_group(title)
        for each, texts in flags.items():  # in their order
            if each in parameters:
                _add(group, parameters[each], texts, name)
    for parameter in parameters.values():
        if flag := POSITIONAL.get(parameter.name):
            options: dict[str, Any] = {"metavar": flag.metavar, "help": flag.help}
            parser.add_argument(parameter.name, nargs="?", type=str, default=parameter.default, **options)
    parser.add_argument("--debug", action="store_true", help="show where in the code an error came up")
    return parser


def _add(group: Any, parameter: _Parameter, flag: Flag, verb: str) -> None:
    name, default, text = _typed(parameter.name), parameter.default, flag.text(verb)
    if parameter.kind is bool:
        on_or_off = argparse.BooleanOptionalAction if default or parameter.usual is None else "store_true"
        group.add_argument(name, action=on_or_off, default=default, help=text).usual = parameter.usual
        return
    options: dict[str, Any] = {"type": str}
    kind = parameter.kind
    if typing.get_origin(kind) in (list, Sequence):
        options |= {"nargs": "+", "action": "extend"}  # typed twice, it must not forget its first values
        (kind,) = typing.get_args(kind)
    if kind is not str:
        options["type"] = functools.partial(_number, kind=kind, least=flag.least)
    action = group.add_argument(
        name, default=default, required=parameter.required, metavar=flag.metavar, help=text, **options
    )
    action.usual = parameter.usual


def _typed(name: str) -> str:
    return "--" + name.replace("_", "-")


def _number(text: str, *, kind: type[int] | type[float], least: float | None) -> int | float:
    value: int | float | None
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or math.isnan(value) or (least is not None and value < least):
        noun = "a whole number" if kind is int else "a number"
        at_least = "" if least is None else f" of at least {least:g}"
        raise argparse.ArgumentTypeError(f"it takes {noun}{at_least}, not {text!r}")
    return value


def _in_plain_words(message: str, verb: str, verbs: Verbs) -> str:
    """Rewrite argparse's messages in the terms of the flags."""
    if found := re.match(r"the following arguments are required: (.*)", message):
        names = [_typed(name.rpartition(".")[2]) for name in found[1].split(", ")]
        return f"senet {verb} needs {' and '.join(names)}; see senet {verb} --help"
    if (found := re.match(r"unrecognized arguments: (\S+)", message)) and verb in verbs:
        given = found[1].partition("=")[0].lstrip("-")
        near = nearest(given, [_typed(parameter.name)[2:] for parameter in _parameters(verbs[verb])])
        no_flag = elsewhere(given)
        hint = f"did you mean --{near[0]}?" if near and not no_flag else f"see senet {verb} --help"
        return f"senet {verb} does not take {found[1]!r}; {(verb in _TRAINS and no_flag) or hint}"
    return re.sub(r"^argument (--[\w-]+)\S*: ", r"\1: ", message)
