"""How a network is trained: a recipe's numbers, and what can be asked for in their place. Needs no extra."""

from __future__ import annotations

import dataclasses
import difflib
import math
from typing import TYPE_CHECKING, Any, TypedDict

from senet.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Changes", "Recipe"]

OPTIMISERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "step")
PRECISIONS = ("32", "bf16", "16")
SCALINGS = ("linear", "sqrt", "none")


class Changes(TypedDict, total=False):
    """Values in place of a recipe's; None, or not given, leaves the recipe's. `Recipe` says what each is."""

    optimiser: str | None
    batch_size: int | None
    epochs: int | None
    lr: float | None
    se_lr: float | None
    lr_scaling: str | None
    momentum: float | None
    nesterov: bool | None
    weight_decay: float | None
    decay_norms_and_biases: bool | None
    schedule: str | None
    milestones: list[float] | None
    lr_factor: float | None
    warm_up: float | None
    label_smoothing: float | None
    mixup: float | None
    cutmix: float | None
    crop_scale: float | None
    trivial_augment: bool | None
    random_erasing: float | None
    cutout: int | None
    ema: float | None
    freeze_statistics: float | None
    accumulate: int | None
    clip: float | None
    precision: str | None
    channels_last: bool | None
    compile: bool | None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The numbers of a training. Shares are of all steps, so that a recipe can be run shorter.

    Attributes:
        batch_size: images in a step of the optimiser, over all devices and parts.
        epochs: passes over the training images.
        lr: the highest learning rate, for that batch size.
        se_lr: that of the SE blocks; None for the same.
        lr_scaling: how `lr` and `se_lr` follow where another batch size is asked for and no other `lr`: "linear",
            "sqrt" or "none".
        optimiser: "sgd" or "adamw".
        momentum: of SGD; AdamW's first beta (the second is 0.999).
        nesterov: Nesterov's momentum, of SGD.
        weight_decay: of every parameter.
        decay_norms_and_biases: False leaves parameters of one dimension without weight decay.
        schedule: after the warm-up "cosine" falls to 0 as half a cosine, "step" drops at the milestones.
        milestones: for "step": the shares of the run at which the learning rate is multiplied by `lr_factor`.
        lr_factor: for "step".
        warm_up: the share in which the learning rate rises linearly.
        label_smoothing: of the cross entropy.
        mixup: alpha of mixup (Zhang et al. 2018); 0 for none. With cutmix too, each batch draws one of the two.
        cutmix: alpha of CutMix (Yun et al. 2019); 0 for none.
        crop_scale: for photos: the least share of the area that is cut out; None for 0.35. ImageNet's is 0.08.
        trivial_augment: TrivialAugment, wide (Müller and Hutter 2021).
        random_erasing: the probability that a rectangle is erased (Zhong et al. 2017).
        cutout: pixels a side of a square that is erased (DeVries and Taylor 2017); 0 for none.
        ema: decay of a moving average of the weights, which is then what is measured and saved; 0 for none.
        freeze_statistics: the share after which batch normalisation's statistics stay as they are; 1 for never.
            SENet-154 was trained so late in training.
        accumulate: parts in which a batch is worked off on each device, their gradients added up.
        clip: the largest norm of all gradients together; None for any.
        precision: "32", "bf16" or "16" (mixed).
        channels_last: the memory format of images and weights.
        compile: use `torch.compile`.

    Raises:
        ValueError: on numbers that are none of these.
    """

    batch_size: int
    epochs: int
    lr: float
    se_lr: float | None = None
    lr_scaling: str = "linear"
    optimiser: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    decay_norms_and_biases: bool = True
    schedule: str = "cosine"
    milestones: tuple[float, ...] = ()
    lr_factor: float = 0.1
    warm_up: float = 0.1
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    crop_scale: float | None = None
    trivial_augment: bool = False
    random_erasing: float = 0.0
    cutout: int = 0
    ema: float = 0.0
    freeze_statistics: float = 1.0
    accumulate: int = 1
    clip: float | None = None
    precision: str = "32"
    channels_last: bool = True
    compile: bool = False

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("epochs", 1), ("accumulate", 1), ("cutout", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise InputError(f"{name} is a whole number of at least {least}, not {value!r}")
        for name in ("lr", "se_lr", "clip", "lr_factor", "crop_scale"):
            value = getattr(self, name)
            if value is None and name in ("se_lr", "clip", "crop_scale"):
                continue
            if not _is_number(value) or not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} is a number greater than 0, not {value!r}")
        if self.crop_scale is not None and self.crop_scale > 1:
            raise InputError(f"crop_scale is a share of the area, at most 1, not {self.crop_scale!r}")
        for name, below in _AT_LEAST_0.items():
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value < below:
                end = "" if math.isinf(below) else f" and less than {below:g}"
                raise InputError(f"{name} is a number of at least 0{end}, not {value!r}")
        for name in ("random_erasing", "freeze_statistics"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value <= 1:
                raise InputError(f"{name} is a number from 0 to 1, not {value!r}")
        for name in ("nesterov", "decay_norms_and_biases", "trivial_augment", "channels_last", "compile"):
            if type(getattr(self, name)) is not bool:
                raise InputError(f"{name} is True or False, not {getattr(self, name)!r}")
        for name, allowed in _WORDS.items():
            _check_word(name, getattr(self, name), allowed)
        self._check_milestones()
        if self.batch_size % self.accumulate:
            raise InputError(
                f"a batch_size of {self.batch_size} does not come in {self.accumulate} equal parts: accumulate divides "
                "batch_size"
            )

    def _check_milestones(self) -> None:
        found = self.milestones
        if not isinstance(found, list | tuple) or not all(_is_number(share) and 0 < share < 1 for share in found):
            raise InputError(f"milestones are shares of the run, above 0 and below 1, not {found!r}")
        if list(found) != sorted(set(found)):
            raise InputError(f"milestones come one after the other, each once, not {found!r}")
        object.__setattr__(self, "milestones", tuple(float(share) for share in found))
        if self.schedule == "step" and not found:
            raise InputError("a schedule of 'step' needs milestones, such as 0.3 0.6 0.9")

    def changed(self, changes: Mapping[str, Any]) -> Recipe:
        """The same with the changes that are not None; for another batch size the learning rates follow.

        Raises:
            ValueError: on a name that no recipe has, with the nearest, or a value that makes no sense.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        known = [field.name for field in dataclasses.fields(self)]
        for name in given:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else f": it has {', '.join(known)}"
                raise InputError(f"a recipe has no {name!r}{hint}")
        found = dataclasses.replace(self, **given)
        if "lr" in given or found.lr_scaling == "none":
            return found
        ratio = found.batch_size / self.batch_size
        factor = math.sqrt(ratio) if found.lr_scaling == "sqrt" else ratio
        se_lr = found.se_lr if self.se_lr is None or "se_lr" in given else self.se_lr * factor
        return dataclasses.replace(found, lr=self.lr * factor, se_lr=se_lr)


_AT_LEAST_0 = {
    "momentum": 1.0,
    "weight_decay": math.inf,
    "warm_up": 1.0,
    "label_smoothing": 1.0,
    "mixup": math.inf,
    "cutmix": math.inf,
    "ema": 1.0,
}
_WORDS = {"optimiser": OPTIMISERS, "schedule": SCHEDULES, "precision": PRECISIONS, "lr_scaling": SCALINGS}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool


def _check_word(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value in allowed:
        return
    close = difflib.get_close_matches(str(value), allowed, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise InputError(f"{name} is one of {', '.join(allowed)}, not {value!r}{hint}")
