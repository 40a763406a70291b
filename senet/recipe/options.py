"""What can be asked of a training, by name: a recipe, values in place of its own, and where it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from senet.errors import InputTypeError
from senet.recipe.recipe import Changes, Recipe
from senet.words import did_you_mean

__all__ = ["RECIPE", "WHERE", "Options", "changes_in", "known_options"]

Kind = TypeVar("Kind")


class Options(Changes, total=False):
    """Every option of `train` and `compare` that both share; None, or not given, is what is usual.

    The values of `Recipe` under their names, and:

    Attributes:
        recipe: a `Recipe`, a name of `recipes()`, or a YAML file; not given, what suits the images and the start.
        size: pixels a side; not given, 224 for photos, their own size for images of at most 64 pixels.
        devices: "auto" (a GPU where there is one), "cpu", "cuda:0", "mps", or how many.
        nodes: machines; each runs the command under torchrun or SLURM.
        strategy: "ddp" or "fsdp"; not given, ddp where there is more than one device.
        workers: processes that load images; not given, none where the images fit into memory.
        range: of grey of more than 8 bits, what is black and what is white; not given, by the pictures trained on.
        data_root: where torchvision's data sets lie.
        max_bad: how many images may be unreadable, a number (40) or a share (0.05, "5%"), 0.2 where not given; they
            are found before the training begins, skipped, and listed in the result.
        logger: where metrics also go: "tensorboard" where not given, "csv", "wandb" or "mlflow".
        checkpoint_minutes: how often a checkpoint is written within an epoch; 10 where not given, 0 for each step.
    """

    recipe: str | Path | Recipe | None
    size: int | None
    devices: str | int | None
    nodes: int | None
    strategy: str | None
    workers: int | None
    range: Sequence[float] | None
    data_root: str | Path | None
    max_bad: float | str | None
    checkpoint_minutes: float | None
    logger: str | None


def known_options(options: Mapping[str, Any], kind: type[Kind], function: str) -> Kind:
    """The options of a function, of the typed dictionary that declares them; those that are None are left out.

    Raises:
        InputTypeError: for a name that `kind` does not declare; it gives the nearest one that it does.
    """
    names = kind.__optional_keys__ | kind.__required_keys__  # type: ignore[attr-defined]
    for name in options:
        if name not in names:
            hint = did_you_mean(name, names, f"; it takes {', '.join(sorted(names))}", most=1)
            raise InputTypeError(f"{function}() has no option {name!r}{hint}")
    return cast(Kind, {name: value for name, value in options.items() if value is not None})


def changes_in(options: Options) -> Changes:
    """Those that stand in place of a recipe's values."""
    return cast("Changes", {name: value for name, value in options.items() if name in Changes.__annotations__})


RECIPE: Mapping[str, tuple[str, str, float | None]] = {
    "recipe": (
        "NAME",
        "how to train: a recipe that comes with senet (cifar-resnet, cifar-shake-shake, cifar-short, cifar-wrn, "
        "fine-tuning, imagenet-modern, imagenet-paper, imagenet-released, imagenet-senet154, mobilenet) or a .yaml "
        "file; the flags of this group stand in place of its values; without it what suits the images and the weights",
        None,
    ),
    **{field.name: field.metadata["flag"] for field in dataclasses.fields(Recipe) if field.metadata["flag"]},
}
"""The flags of a recipe, each in place of its value: name -> metavar, text, the least number."""

WHERE: Mapping[str, tuple[str, str, float | None]] = {
    "nodes": ("N", "machines; on each the command runs under torchrun or SLURM; without it 1, or as they say", 1),
    "strategy": ("KIND", "for several devices: ddp or fsdp; without it ddp", None),
    "checkpoint_minutes": (
        "MINUTES",
        "time between two checkpoints within an epoch; 0 is after every step; without it 10",
        0,
    ),
    "logger": (
        "NAME",
        "where metrics also go: tensorboard, csv, wandb or mlflow, by Lightning; without it tensorboard",
        None,
    ),
}
