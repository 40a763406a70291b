"""Recipes in files: senet's own and the user's."""

from __future__ import annotations

import argparse
import importlib.resources
import re
from pathlib import Path
from typing import TYPE_CHECKING

from senet.errors import InputError, InputTypeError, StudyError
from senet.files.paths import expanded
from senet.recipe.recipe import Recipe
from senet.words import did_you_mean, kind_of

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["read_recipe", "recipes"]

_MOST, _DEPTH = 2**16, 4


def _shipped() -> dict[str, Traversable]:
    """The files that come with senet, by name without suffix. They are part of the package and so of its wheel."""
    folder = importlib.resources.files("senet.recipe") / "shipped"
    return {file.name.removesuffix(".yaml"): file for file in folder.iterdir() if file.name.endswith(".yaml")}


def recipes() -> list[str]:
    """The names of the recipes that come with senet, sorted."""
    return sorted(_shipped())


def read_recipe(name: str | Path) -> Recipe:
    """Read a recipe by name, or from a YAML file whose keys are the fields of `Recipe`.

    Raises:
        StudyError: there is no recipe of that name, the file cannot be read, or it has an unknown
            key or a wrong value. The message says what would be right.
        InputTypeError: it is no name.
    """
    if not isinstance(name, str | Path):
        raise InputTypeError(f"a recipe is a Recipe, the name of one, or a file, not {kind_of(name)}")
    shipped, path = _shipped(), expanded(name)
    file: Traversable | Path
    if str(name) in shipped:
        file = shipped[str(name)]
    elif path.suffix in (".yaml", ".yml") or path.is_file():
        file = path
    else:
        raise StudyError(
            f"there is no recipe {str(name)!r}: it is one of {', '.join(sorted(shipped))}, "
            f"or a file{did_you_mean(name, shipped, '', most=1)}"
        )
    try:
        if isinstance(file, Path) and file.exists() and not file.is_file():
            raise OSError("it is not a file")  # reading a pipe would block
        with file.open("rb") as stream:
            text = stream.read(_MOST + 1).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"the recipe {name} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    return _parsed(text, str(name))


def _parsed(text: str, name: str) -> Recipe:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Recipe, as_positional=False)
    if problem := _problem(text):
        raise StudyError(f"the recipe {name}: {problem}; a recipe is a list of names with a value each")
    if not text.strip():
        raise StudyError(f"the recipe {name}: it is empty; a recipe has batch_size, epochs and lr")
    try:
        values = parser.parse_string(text).as_dict()
        recipe = Recipe(**values)
        if recipe.milestones and recipe.schedule != "step":
            raise InputError(f"milestones are for schedule: step, and it is {recipe.schedule}")
        return recipe
    except (argparse.ArgumentError, TypeError, ValueError) as error:
        raise StudyError(f"the recipe {name}: {_in_plain_words(str(error))}") from error


def _problem(text: str) -> str:
    """Why a text is not parsed, "" if it is: aliases and deep nesting may take minutes, and YAML drops equal names."""
    import yaml

    if len(text) > _MOST:
        return f"it has more than {_MOST} characters"
    depth, names, is_name = 0, set[str](), False
    try:
        for token in yaml.scan(text):
            if is_name and isinstance(token, yaml.ScalarToken):
                if token.value in names:
                    return f"it has {token.value} twice"
                names.add(token.value)
            is_name = isinstance(token, yaml.KeyToken)
            if isinstance(token, yaml.AliasToken):
                return "it has an alias (*)"
            opens = isinstance(token, (yaml.BlockMappingStartToken, yaml.BlockSequenceStartToken))
            opens |= isinstance(token, (yaml.FlowMappingStartToken, yaml.FlowSequenceStartToken))
            closes = isinstance(token, (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken))
            depth += opens - closes
            if depth > _DEPTH:
                return f"it is nested more than {_DEPTH} deep"
    except yaml.YAMLError:
        return ""  # parsing reports the error
    return ""


def _in_plain_words(message: str) -> str:
    """Rewrite jsonargparse's messages in the terms of recipes."""
    if found := re.search(r"[Rr]equired: (.*)", message):
        return f"{found[1]} must be there"
    known = list(Recipe.__dataclass_fields__)
    if found := re.search(r"[Oo]ption '([^']*)'", message):
        unknown = found[1]
        hint = did_you_mean(unknown, known, f"; it has {', '.join(known)}", most=1)
        return f"a recipe has no {unknown!r}{hint}"
    return " ".join(message.replace("Parser key ", "").split())
