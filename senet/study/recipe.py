"""How a network is trained: the optimiser's numbers, and what they are where nobody says."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from senet.study.data import DataSource

__all__ = ["Recipe", "learning_rate_factor", "recipe_for"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov's momentum; the learning rate warms up linearly and then falls to 0 as a cosine.

    Attributes:
        batch_size: images a step.
        epochs: passes over the training images.
        lr: the highest learning rate.
        se_lr: that of the SE blocks; None for the same.
        momentum: of SGD.
        weight_decay: of every parameter.
        warm_up: the share of all steps in which the learning rate rises.

    Raises:
        ValueError: on numbers that are none of these.
    """

    batch_size: int
    epochs: int
    lr: float
    se_lr: float | None = None
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warm_up: float = 0.1

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is a whole number of at least 1, not {value!r}")
        for name in ("lr", "se_lr"):
            value = getattr(self, name)
            if name == "se_lr" and value is None:
                continue
            if not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is a number greater than 0, not {value!r}")
        for name, below in (("momentum", 1.0), ("weight_decay", math.inf), ("warm_up", 1.0)):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < below:
                end = "" if math.isinf(below) else f" and less than {below:g}"
                raise ValueError(f"{name} is a number of at least 0{end}, not {value!r}")


def recipe_for(
    source: DataSource,
    *,
    pretrained: bool,
    batch_size: int | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    se_lr: float | None = None,
    weight_decay: float | None = None,
) -> Recipe:
    """The numbers that were given, and for the others what suits the images and the start.

    | | batch | epochs | learning rate | weight decay |
    |---|---|---|---|---|
    | digits, from scratch | 64 | 15 | 0.05 | 5e-4 |
    | images of at most 64 pixels, from scratch | 128 | 30 | 0.1 | 5e-4 |
    | photos, from scratch | 64 | 60 | 0.05 | 1e-4 |
    | from published weights | 32 | 5 | 0.01 | 1e-4 |

    The learning rate is for that batch, and in proportion for another.

    Args:
        source: the images.
        pretrained: whether the network starts from weights.
        batch_size: images a step.
        epochs: passes over the training images.
        lr: the highest learning rate.
        se_lr: that of the SE blocks.
        weight_decay: of every parameter.
    """
    if pretrained:
        usual = Recipe(32, 5, 0.01)
    elif source.name == "digits":
        usual = Recipe(64, 15, 0.05, weight_decay=5e-4)
    elif source.small:
        usual = Recipe(128, 30, 0.1, weight_decay=5e-4)
    else:
        usual = Recipe(64, 60, 0.05)
    batch = usual.batch_size if batch_size is None else batch_size
    given = Recipe(
        batch_size=batch,
        epochs=usual.epochs if epochs is None else epochs,
        lr=usual.lr if lr is None else lr,
        se_lr=se_lr,
        weight_decay=usual.weight_decay if weight_decay is None else weight_decay,
    )
    if lr is not None:
        return given
    return dataclasses.replace(given, lr=usual.lr * batch / usual.batch_size)


def learning_rate_factor(step: int, steps: int, warm_up: float) -> float:
    """What the learning rate is multiplied by at `step` of `steps`: a linear rise, then half a cosine down."""
    rising = max(1, round(warm_up * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
