"""The options of a training: a recipe, values that replace its own, and where it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from senet.errors import InputTypeError
from senet.recipe.elsewhere import elsewhere
from senet.recipe.recipe import Changes, Recipe
from senet.words import did_you_mean

__all__ = ["RECIPE", "WHERE", "Options", "changes_in", "known_options"]

Kind = TypeVar("Kind")


class Options(Changes, total=False):
    """The options that `train` and `compare` share; None, or leaving one out, means the default.

    They are the fields of `Recipe`, and:

    Attributes:
        recipe: a `Recipe`, a name of `recipes()`, or a YAML file; by default one that suits the images and the start.
        size: side of the input in pixels; by default 224 for photos, and their own size for images
            of at most 64 pixels.
        devices: "auto" (a GPU if there is one), "cpu", "cuda:0", "mps", or their number.
        nodes: the number of machines; each runs the command under torchrun or SLURM.
        strategy: "ddp" or "fsdp"; by default ddp if there are several devices.
        workers: processes that load images; by default none if the images fit into memory.
        range: for grey images of more than 8 bits, the values of black and white; by default from the training images.
        data_root: the folder of torchvision's data sets.
        max_bad: how many images may be unreadable: a number (40) or a share (0.05, "5%"), by
            default 0.2. They are found before the training begins, skipped, and listed in the
            result.
        logger: an additional destination of metrics: "tensorboard" (the default), "csv", "wandb" or "mlflow".
        checkpoint_minutes: minutes between checkpoints within an epoch; by default 10; 0 means every step.
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
    """Check a function's options against the typed dictionary that declares them; None values are left out.

    Raises:
        InputTypeError: `kind` does not declare a name; the message has the nearest one.
    """
    names = kind.__optional_keys__ | kind.__required_keys__  # type: ignore[attr-defined]
    for name in options:
        if name not in names:
            known = elsewhere(name) if "recipe" in names else ""
            hint = (
                f": {known}" if known else did_you_mean(name, names, f"; it takes {', '.join(sorted(names))}", most=1)
            )
            raise InputTypeError(f"{function}() has no option {name!r}{hint}")
    return cast(Kind, {name: value for name, value in options.items() if value is not None})


def changes_in(options: Options) -> Changes:
    """The options that replace values of a recipe."""
    return cast("Changes", {name: value for name, value in options.items() if name in Changes.__annotations__})


RECIPE: Mapping[str, tuple[str, str, float | None]] = {
    "recipe": (
        "NAME",
        "how to train: a recipe that comes with senet (cifar-resnet, cifar-shake-shake, cifar-short, cifar-wrn, "
        "fine-tuning, imagenet-modern, imagenet-paper, imagenet-released, imagenet-senet154, mobilenet) or a .yaml "
        "file; the flags of this group replace its values; without it one that suits the images and the weights",
        None,
    ),
    **{field.name: field.metadata["flag"] for field in dataclasses.fields(Recipe) if field.metadata["flag"]},
}
"""The flags for a recipe's values: name -> metavar, text, least number."""

WHERE: Mapping[str, tuple[str, str, float | None]] = {
    "nodes": ("N", "machines, on each of which torchrun or SLURM runs the command; without it 1, or their number", 1),
    "strategy": ("KIND", "for several devices: ddp or fsdp; without it ddp", None),
    "checkpoint_minutes": (
        "MINUTES",
        "time between two checkpoints within an epoch; 0 is after every step; without it 10",
        0,
    ),
    "logger": (
        "NAME",
        "an additional log of metrics: tensorboard, csv, wandb or mlflow, by Lightning; without it tensorboard",
        None,
    ),
}
