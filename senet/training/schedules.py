"""Learning rate schedules, as factors of the highest rate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from senet.recipe.recipe import Recipe

__all__ = ["frozen_from", "learning_rate_factor"]


def learning_rate_factor(step: int, steps: int, recipe: Recipe) -> float:
    """The factor of the learning rates at `step` (from 0) of `steps`.

    It rises linearly over the share `warm_up` of the steps, but over at least `warm_up_steps` of
    them, or half of the run if that is shorter. Then it falls along half a cosine to 0, or by
    `lr_factor` at each milestone, a share of the whole run.
    """
    rising = max(round(recipe.warm_up * steps), min(recipe.warm_up_steps, steps // 2))
    if step < rising:
        return (step + 1) / rising
    if recipe.schedule == "step":
        return math.prod(recipe.lr_factor for share in recipe.milestones if step >= round(share * steps))
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def frozen_from(steps: int, recipe: Recipe) -> int:
    """The first step (from 0) from which batch normalisation's statistics are frozen everywhere."""
    return round(recipe.freeze_statistics * steps) if recipe.freeze_statistics < 1 else steps
