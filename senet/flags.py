"""The command's flags: each has one name, one meaning and one help text, in every verb that takes it."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import functools
import inspect
import re
import shutil
import sys
import textwrap
import types
import typing
from typing import TYPE_CHECKING, Any, NamedTuple

from jsonargparse import ArgumentParser

from senet.errors import SenetError
from senet.recipe import flags as recipeflags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Verbs = Mapping[str, Callable[..., None]]

__all__ = ["FLAGS", "UsageError", "parse"]


class UsageError(SenetError, ValueError):
    """The command was typed in a way that it does not understand; the message says what would do."""


class Flag(NamedTuple):
    """What a flag is called in help, what it means, and the least number that it takes."""

    metavar: str
    help: str
    least: float | None = None


_NETWORK: Mapping[str, Flag] = {
    "model": Flag(
        "NAME",
        "the network: a name of the zoo (resnet20, se_resnet20), torchvision:NAME, timm:NAME, "
        "path/to/file.py:FUNCTION (the file is run), or a file or run folder that senet wrote",
    ),
    "weights": Flag(
        "FILE",
        "its weights: a .safetensors, .pth or .caffemodel file, 'pretrained' (the library's own, may be downloaded), "
        "or hf:OWNER/NAME; without it the network starts from random weights",
    ),
    "num_classes": Flag("N", "classes that the network tells apart; without it as many as it has of itself", 1),
    "in_channels": Flag("N", "channels of its input images; without it as many as it has of itself, mostly 3", 1),
}
_SE: Mapping[str, Flag] = {
    "reduction_ratio": Flag("R", "hidden units are channels / R, at least 1"),
    "width": Flag("H", "hidden units, in place of the ratio"),
    "squeeze": Flag("KIND", "how a map becomes one number: avg, max, or none (nothing is squeezed)"),
    "gate": Flag("KIND", "sigmoid, hard_sigmoid, tanh or relu"),
    "bias": Flag("", "give both layers biases, as the authors' released networks have them"),
    "placement": Flag("PLACE", "standard, pre, post, identity or inner (figure 5 of the paper)"),
    "start": Flag(
        "START",
        "identity: the network computes at first what it did; paper: He initialisation, to train from scratch; "
        "without it identity, or paper where the network itself is trained from scratch",
    ),
    "where": Flag("PATTERN", "only the sites whose name matches one of these patterns, such as 'layer4*'"),
}
_DATA: Mapping[str, Flag] = {
    "data": Flag(
        "NAME",
        "the images: digits (built in), a folder of class folders (with train/ and val/ or test/ inside, or "
        "split 80/20), torchvision:NAME, or shards of WebDataset (wds:path/{0000..0099}.tar); for predict, pictures "
        "and folders of pictures",
    ),
    "data_root": Flag(
        "FOLDER", "where torchvision's data sets lie, and are downloaded to; without it ~/.cache/senet/data"
    ),
    "size": Flag(
        "PIXELS",
        "height and width of what the network sees (for evaluate, one or several); without it 224 (or what the "
        "network was made for), and the images' own size where that is at most 64",
        1,
    ),
    "resize": Flag(
        "PIXELS",
        "shorter side of an image before its middle is cut out; this and the next five, where they are not given, are "
        "what was saved with the weights, what their library says of them, or ImageNet's",
        1,
    ),
    "crop": Flag("SHARE", "in place of --resize: the share of the shorter side that is cut out, such as 0.875", 0),
    "mean": Flag("X", "of red, green and blue, of values in [0, 1]"),
    "std": Flag("X", "of red, green and blue: with 0.5 0.5 0.5 for both, the input is in [-1, 1]", 0),
    "interpolation": Flag("KIND", "of the resizing: nearest, bilinear, bicubic or lanczos"),
    "channels": Flag("ORDER", "of the colours in the network's input: RGB or BGR"),
    "classes": Flag(
        "FILE",
        "a JSON file with the network's class names in order, by which the folders are looked up; without it "
        "the names that were saved with the network, else the folders in the order of their names",
    ),
    "class_offset": Flag("N", "added to the number of each class, where the network's first class is another", 0),
    "top": Flag("K", "the K likeliest classes of each picture", 1),
    "split": Flag("NAME", "which images: train, val, test or all; without it test, or val where there is no test"),
    "batch_size": Flag(
        "N",
        "images at a time; without it in training 32 from weights, 64 from scratch, 128 for small images "
        "other than digits, in measuring accuracy 64, in bench 1 and 16 (128 for small images, 256 on a GPU)",
        1,
    ),
    "max_bad": Flag(
        "N",
        "images that may be unreadable, a number (40) or a share of all (0.05): so many are skipped and listed at "
        "the end, and more stop the command",
    ),
    "workers": Flag("N", "processes that load images; 0 is none; without it as many as help", 0),
}
_TRAINING: Mapping[str, Flag] = {
    "epochs": Flag(
        "N",
        "passes over the training images; without it 5 from weights, and from scratch 15 for digits, 30 for "
        "other small images, 60 for photos",
        1,
    ),
    "lr": Flag(
        "RATE",
        "highest learning rate; without it 0.01 from weights, 0.05 from scratch, 0.1 for small images other than "
        "digits, in proportion to the batch",
    ),
    "seed": Flag("N", "decides all that is random: weights, order of the images, augmentation", 0),
    "seeds": Flag("N", "train each network N times, with seeds 0 to N - 1", 1),
    "devices": Flag(
        "DEVICE",
        "where to compute: auto (a GPU where there is one), cpu, cuda, cuda:1 or mps; in training also how many, "
        "such as 8, or cpu*2",
    ),
    **{name: Flag(*texts) for name, texts in recipeflags.WHERE.items()},
}
_GATES: Mapping[str, Flag] = {
    "blocks": Flag("PATTERN", "the SE blocks to prune: names, or patterns such as 'layer4*'"),
    "advice": Flag("", "in place of --blocks: those that explain advises"),
    "explanation": Flag("FOLDER", "what explain wrote of this network: its means and its advice are taken as they are"),
    "tolerance": Flag("SHARE", "how much accuracy the advised blocks may cost together, as a fraction", 0),
}
_RECIPE: Mapping[str, Flag] = {name: Flag(*texts) for name, texts in recipeflags.RECIPE.items()}
_OUTPUT: Mapping[str, Flag] = {
    "out": Flag(
        "PATH",
        "where to write: a file for insert and prune, one that ends in .onnx, .xml or .pt2 for export, a .png or .svg "
        "for cost --table, a .csv or .parquet for predict, a folder for train, evaluate, compare, ablate, report, "
        "explain and bench",
    ),
    "predictions": Flag("KIND", "how what was said of each image is written to --out: csv or parquet"),
    "table": Flag(
        "NAME",
        "the paper's tables: cost counts their networks and sets the paper's figures beside them; ablate trains the "
        "variants of reduction, squeeze, no-squeeze, gate, stages, placement, bias, or all",
    ),
    "grid": Flag(
        "AXIS=VALUES",
        "train every combination of these: reduction-ratio=4,16 width=8 squeeze=avg,max,none gate=sigmoid,tanh "
        "bias=no,yes placement=standard,pre stages=all,each,but-each,2,-2,2+3 (2 alone, all but 2, both)",
    ),
    "runs": Flag("FOLDER", "what compare wrote, finished"),
    "resume": Flag("", "go on with what is in the folder from an earlier call"),
    "engines": Flag(
        "NAME",
        "what to measure in: eager, channels-last, compile, onnxruntime, openvino, openvino-bf16, openvino-int8, "
        "cuda, cuda-compile; without it all but openvino-int8",
    ),
    "quick": Flag("", "fewer rounds and nothing compiled: a look, no figure to report"),
    "dynamic_size": Flag("", "let the file take pictures of any height and width, not of --size alone"),
    "int8": Flag(
        "", "compute in INT8 (OpenVINO), calibrated on pictures of --data, the accuracy before and after shown"
    ),
    "port": Flag("N", "the page is at http://127.0.0.1:N; without it 7860, or a free one where that is taken", 1),
    "latency": Flag("", "also measure the time of a forward pass, in turn with and without SE"),
}
_POSITIONAL: Mapping[str, Flag] = {"pattern": Flag("PATTERN", "names to list, such as 'resnet*'")}
_GROUPS: Mapping[str, Mapping[str, Flag]] = {
    "the network": _NETWORK,
    "the images": _DATA,
    "the SE blocks": _SE,
    "the gates": _GATES,
    "the training": _TRAINING,
    "the recipe": _RECIPE,
    "the output": _OUTPUT,
}

FLAGS: Mapping[str, Flag] = {name: flag for group in (*_GROUPS.values(), _POSITIONAL) for name, flag in group.items()}
"""By the parameter's name: `batch_size` is typed `--batch-size`."""


def parse(verbs: Verbs, description: str, version: str, given: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The verb that was typed, and the arguments for its function.

    Args:
        verbs: typed functions by name. The parameters of each are its flags, their types are checked, and its
            docstring is its help. A parameter that is a dataclass stands for one flag per field; one that is a
            dataclass or None is None unless one of its flags was typed; `**options: Unpack[a TypedDict]` stands for
            a flag per key, and holds those that were typed.
        description: of the whole command.
        version: what `--version` prints.
        given: the words that were typed.

    Raises:
        UsageError: where they cannot be understood, with the nearest right spelling.
        ValueError: what a dataclass has against its values.
        SystemExit: after help or version was printed.
    """
    if given and not given[0].startswith("-") and given[0] not in verbs:
        close = difflib.get_close_matches(given[0], verbs, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UsageError(f"there is no verb {given[0]!r}; {hint}The verbs are {', '.join(verbs)}")
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
        parsed = parser.parse_args(list(given))
    except argparse.ArgumentError as error:
        raise UsageError(_in_plain_words(str(error), given[0], verbs)) from None
    return parsed.verb, _arguments(verbs[parsed.verb], parsed[parsed.verb].as_dict())


class _Parameter(NamedTuple):
    """A flag of a verb: its type, its value where it is not typed, and what that comes to."""

    name: str
    kind: Any
    default: Any
    usual: Any
    required: bool


def _parameters(function: Callable[..., None]) -> Iterator[_Parameter]:
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
                needed = required and kind == hints[name]  # a network that may be left out needs no name
                default = usual if kind == hints[name] else None
                yield _Parameter(field.name, _without_none(hints_inside[field.name]), default, usual, needed)
        else:
            required = parameter.default is inspect.Parameter.empty
            usual = None if required else parameter.default
            yield _Parameter(name, kind, usual, usual, required)


def _arguments(function: Callable[..., None], values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a function from the values of its flags."""
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


def _made(make: Any, fields: Mapping[str, Any], function: Callable[..., None]) -> Any:
    missing = [f.name for f in dataclasses.fields(make) if f.default is dataclasses.MISSING and f.name not in fields]
    if missing:
        given = " and ".join(_typed(name) for name in fields)
        names = " and ".join(map(_typed, missing))
        raise UsageError(f"senet {function.__name__} {given} needs {names}; see senet {function.__name__} --help")
    return make(**fields)


def _without_none(hint: Any) -> Any:
    kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
    if str in kinds and typing.get_origin(hint) in (typing.Union, types.UnionType):
        return str  # of the several kinds that Python may give, what is typed
    return kinds[0] if len(kinds) == 1 and types.NoneType in typing.get_args(hint) else hint


def _parser(name: str, description: str) -> ArgumentParser:
    return ArgumentParser(
        prog=name,
        description=description,
        formatter_class=_HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
        print_config=None,
    )


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Docstrings as they are written, and defaults where there are any."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=min(100, shutil.get_terminal_size((100, 24)).columns))

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)  # names are to stay whole

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.required:
            return f"{text} (required)"
        usual = getattr(action, "usual", action.default)
        if usual is None or usual is False or usual is argparse.SUPPRESS or not action.option_strings:
            return text
        return f"{text} (default: {'yes' if usual is True else usual})"


def _verb_parser(name: str, function: Callable[..., None]) -> ArgumentParser:
    parser = _parser(name, inspect.getdoc(function) or "")
    parameters = list(_parameters(function))
    for title, flags in _GROUPS.items():
        group = parser.add_argument_group(title)
        for parameter in parameters:
            if parameter.name in flags:
                _add(group, parameter, flags[parameter.name])
    for parameter in parameters:
        if flag := _POSITIONAL.get(parameter.name):
            options: dict[str, Any] = {"metavar": flag.metavar, "help": flag.help}
            parser.add_argument(parameter.name, nargs="?", type=str, default=parameter.default, **options)
    parser.add_argument("--debug", action="store_true", help="show where in the code an error came up")
    return parser


def _add(group: Any, parameter: _Parameter, flag: Flag) -> None:
    name, default = _typed(parameter.name), parameter.default
    if parameter.kind is bool:
        on_or_off = argparse.BooleanOptionalAction if default or parameter.usual is None else "store_true"
        group.add_argument(name, action=on_or_off, default=default, help=flag.help).usual = parameter.usual
        return
    options: dict[str, Any] = {"type": str}
    kind = parameter.kind
    if typing.get_origin(kind) is list:
        options["nargs"] = "+"
        (kind,) = typing.get_args(kind)
    if kind is not str:
        options["type"] = functools.partial(_number, kind=kind, least=flag.least)
    action = group.add_argument(
        name, default=default, required=parameter.required, metavar=flag.metavar, help=flag.help, **options
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
    if value is None or (least is not None and value < least):
        noun = "a whole number" if kind is int else "a number"
        at_least = "" if least is None else f" of at least {least:g}"
        raise argparse.ArgumentTypeError(f"it takes {noun}{at_least}, not {text!r}")
    return value


def _in_plain_words(message: str, verb: str, verbs: Verbs) -> str:
    """What argparse says, in the words of someone who types flags."""
    if found := re.match(r"the following arguments are required: (.*)", message):
        names = [_typed(name.rpartition(".")[2]) for name in found[1].split(", ")]
        return f"senet {verb} needs {' and '.join(names)}; see senet {verb} --help"
    if (found := re.match(r"unrecognized arguments: (\S+)", message)) and verb in verbs:
        known = [_typed(parameter.name) for parameter in _parameters(verbs[verb])]
        close = difflib.get_close_matches(found[1].partition("=")[0], known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"see senet {verb} --help"
        return f"senet {verb} does not take {found[1]!r}; {hint}"
    return re.sub(r"^argument (--[\w-]+)\S*: ", r"\1: ", message)
