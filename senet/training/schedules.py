"""Learning rates by step, as factors of the highest."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from senet.recipe.recipe import Recipe

__all__ = ["frozen_from", "learning_rate_factor"]


def learning_rate_factor(step: int, steps: int, recipe: Recipe) -> float:
    """What the learning rates are multiplied by at `step` (from 0) of `steps`.

    First a linear rise over `warm_up` of the steps; then half a cosine down to 0, or a drop by `lr_factor` at each
    milestone, which is counted from the run's beginning.
    """
    rising = round(recipe.warm_up * steps)
    if step < rising:
        return (step + 1) / rising
    if recipe.schedule == "step":
        return math.prod(recipe.lr_factor for share in recipe.milestones if step >= round(share * steps))
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def frozen_from(steps: int, recipe: Recipe) -> int:
    """The first step (from 0) at which batch normalisation's statistics stay as they are."""
    if recipe.freeze is not None:
        return 0
    return round(recipe.freeze_statistics * steps) if recipe.freeze_statistics < 1 else steps
