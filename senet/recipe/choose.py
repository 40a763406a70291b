"""Choose the recipe of a training: the requested one, or a default for the images and the start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from senet.recipe.file import read_recipe
from senet.recipe.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from senet.recipe.recipe import Changes

__all__ = ["Recipe", "recipe_for"]


def recipe_for(
    kind: str, *, pretrained: bool, recipe: str | Path | Recipe | None = None, changes: Changes | None = None
) -> Recipe:
    """The requested recipe, or the default for the images and the start, with the given changes.

    | | batch | epochs | learning rate | weight decay |
    |---|---|---|---|---|
    | context, from scratch | 64 | 8 | 0.05 | 5e-4 |
    | digits, from scratch | 64 | 15 | 0.05 | 5e-4 |
    | images of at most 64 pixels, from scratch | 128 | 30 | 0.1 | 5e-4 |
    | photos, from scratch | 64 | 60 | 0.05 | 1e-4 |
    | from published weights | 32 | 5 | 0.01 | 1e-4 |

    The learning rate is for that batch size and scales with it.

    Args:
        kind: the kind of images, from `DataSource.kind`: "context", "digits", "small" or "photos".
        pretrained: whether the network starts from published weights.
        recipe: a recipe, a name of `senet.study.recipes()`, or a file.
        changes: values that replace the recipe's.

    Raises:
        ValueError: there is no such recipe, or a value is not allowed.
    """
    if isinstance(recipe, Recipe):
        base = recipe
    elif recipe is not None:
        base = read_recipe(recipe)
    elif pretrained:
        base = Recipe(32, 5, 0.01)
    elif kind == "context":
        base = Recipe(64, 8, 0.05, weight_decay=5e-4, label_smoothing=0.1, clip=1.0)
    elif kind == "digits":
        base = Recipe(64, 15, 0.05, weight_decay=5e-4)
    elif kind == "small":
        base = Recipe(128, 30, 0.1, weight_decay=5e-4)
    else:
        base = Recipe(64, 60, 0.05)
    return base.changed(changes or {})
