"""Define a recipe's knobs as data: default, allowed values, and the flag's help."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from senet.errors import InputError
from senet.words import did_you_mean

__all__ = [
    "Allowed",
    "above_0",
    "at_least_0",
    "check",
    "check_seed",
    "choice",
    "is_number",
    "knob",
    "optional",
    "share",
    "shares",
    "switch",
    "up_to_1",
    "whole",
]


@dataclasses.dataclass(frozen=True)
class Allowed:
    """The values that a knob takes.

    Attributes:
        takes: whether a value is allowed.
        words: the allowed values in words, for the error message.
        choices: the allowed names, if it takes names.
    """

    takes: Callable[[Any], bool]
    words: str
    choices: tuple[str, ...] = ()


def knob(
    *allowed: Allowed, default: Any = dataclasses.MISSING, flag: tuple[str, str, float | None] | None = None
) -> Any:
    """A field of a recipe.

    Args:
        allowed: conditions that its value must all meet.
        default: its value if a recipe leaves it out; without a default a recipe must state it.
        flag: metavar, text and least number of the flag; None if the text depends on more than the recipe.
    """
    return dataclasses.field(default=default, metadata={"allowed": allowed, "flag": flag})


def check(recipe: Any) -> None:
    """Check every knob of a recipe.

    Raises:
        InputError: a value is not allowed; the message names the knob, the allowed values and the nearest name.
    """
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        for allowed in field.metadata["allowed"]:
            if not allowed.takes(value):
                hint = did_you_mean(value, allowed.choices, "", most=1)
                raise InputError(f"{field.name} is {allowed.words}, not {value!r}{hint}")


def check_seed(seed: object) -> None:
    """Check a training's seed.

    Raises:
        InputError: it is not a whole number from 0 to 2**63 - 1, the largest that keys of randomness are made of.
    """
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise InputError(f"seed is a whole number of at least 0 and less than 2**63, not {seed!r}")


def is_number(value: object) -> bool:
    """Whether a value is a number; True and False are none."""
    return isinstance(value, int | float) and type(value) is not bool


def whole(least: int) -> Allowed:
    """A whole number of at least `least`."""
    return Allowed(lambda v: type(v) is int and v >= least, f"a whole number of at least {least}")


def at_least_0(below: float = math.inf) -> Allowed:
    """A number of at least 0 and less than `below`."""
    end = "" if math.isinf(below) else f" and less than {below:g}"
    return Allowed(lambda v: is_number(v) and 0 <= v < below, f"a number of at least 0{end}")


def choice(*words: str) -> Allowed:
    """One of several names."""
    return Allowed(lambda v: v in words, f"one of {', '.join(words)}", words)


def optional(allowed: Allowed) -> Allowed:
    """None, or an allowed value."""
    return dataclasses.replace(allowed, takes=lambda v: v is None or allowed.takes(v))


def _are_shares(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(is_number(v) and 0 < v < 1 for v in values)


above_0 = Allowed(lambda v: is_number(v) and math.isfinite(v) and v > 0, "a number greater than 0")
up_to_1 = Allowed(lambda v: v <= 1, "a share of the area, at most 1")
share = Allowed(lambda v: is_number(v) and 0 <= v <= 1, "a number from 0 to 1")
switch = Allowed(lambda v: type(v) is bool, "True or False")
shares = (
    Allowed(_are_shares, "a list of shares of the run, above 0 and below 1"),
    Allowed(lambda v: list(v) == sorted(set(v)), "a list of shares that come one after the other, each once"),
)
