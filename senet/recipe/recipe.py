"""A recipe: the hyperparameters of a training. This file needs no extra."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, TypedDict

from senet.errors import InputError
from senet.recipe.knobs import above_0, at_least_0, check, choice, knob, optional, share, shares, switch, up_to_1, whole
from senet.words import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Changes", "Recipe"]


class Changes(TypedDict, total=False):
    """Values that replace a recipe's; None, or leaving one out, keeps the recipe's. `Recipe` explains each."""

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
    warm_up_steps: int | None
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
    freeze: str | None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a training. Shares are of all steps, so a recipe can run for fewer epochs.

    Attributes:
        batch_size: images per optimiser step, over all devices and accumulated parts.
        epochs: passes over the training images.
        lr: the highest learning rate, for that batch size.
        se_lr: the SE blocks' learning rate; None means the same.
        lr_scaling: how `lr` and `se_lr` scale with another batch size if no `lr` is given:
            "linear", "sqrt" or "none".
        optimiser: "sgd" or "adamw".
        momentum: SGD's momentum, or AdamW's first beta (the second is 0.999).
        nesterov: whether SGD uses Nesterov's momentum.
        weight_decay: weight decay of every parameter.
        decay_norms_and_biases: False exempts one-dimensional parameters from weight decay.
        schedule: after the warm-up, "cosine" falls to 0 along half a cosine, and "step" drops at the milestones.
        milestones: for "step": the shares of the run at which the learning rate is multiplied by `lr_factor`.
        lr_factor: the factor for "step".
        warm_up: the share of the run in which the learning rate rises linearly.
        warm_up_steps: the least number of steps in which it does, but at most half of the run.
        label_smoothing: label smoothing of the cross entropy.
        mixup: alpha of mixup (Zhang et al. 2018); 0 for none. With both mixup and cutmix, each
            batch uses one at random.
        cutmix: alpha of CutMix (Yun et al. 2019); 0 for none.
        crop_scale: for photos: the least share of the area in a random crop; None means 0.35. The
            usual ImageNet value is 0.08.
        trivial_augment: whether to use TrivialAugment Wide (Müller and Hutter 2021).
        random_erasing: the probability that a rectangle is erased (Zhong et al. 2017).
        cutout: side in pixels of an erased square (DeVries and Taylor 2017); 0 for none.
        ema: decay of a moving average of the weights, which is then measured and saved; 0 for none.
        freeze_statistics: the share of the run after which batch normalisation's statistics are
            frozen; 1 for never. SENet-154 was trained with this.
        accumulate: the number of parts into which each device splits its batch, accumulating gradients.
        clip: the largest norm of all gradients together; None for no clipping.
        precision: "32", or mixed precision "bf16" or "16".
        channels_last: whether images and weights use the channels-last memory format.
        compile: whether to use `torch.compile`.
        freeze: "plain" trains only inserted SE and the classifier; the plain network's other weights and its
            batch normalisation's statistics stay fixed. None trains everything.

    Raises:
        ValueError: a value is not allowed.
    """

    batch_size: int = knob(whole(1))
    epochs: int = knob(whole(1))
    lr: float = knob(above_0)
    se_lr: float | None = knob(
        optional(above_0),
        default=None,
        flag=("RATE", "learning rate of the SE blocks; without it the same as the rest", None),
    )
    lr_scaling: str = knob(
        choice("linear", "sqrt", "none"),
        default="linear",
        flag=(
            "KIND",
            "how the recipe's learning rate scales with another --batch-size: linear, sqrt or none; without a "
            "recipe linear",
            None,
        ),
    )
    optimiser: str = knob(
        choice("sgd", "adamw"), default="sgd", flag=("KIND", "sgd or adamw; without a recipe sgd", None)
    )
    momentum: float = knob(
        at_least_0(below=1), default=0.9, flag=("X", "momentum of SGD, or AdamW's first beta; without a recipe 0.9", 0)
    )
    nesterov: bool = knob(switch, default=True, flag=("", "Nesterov's momentum; without a recipe yes", None))
    weight_decay: float = knob(
        at_least_0(),
        default=1e-4,
        flag=("X", "weight decay; without a recipe 1e-4, and 5e-4 for small images from scratch", 0),
    )
    decay_norms_and_biases: bool = knob(
        switch, default=True, flag=("", "apply weight decay to norms and biases too; without a recipe yes", None)
    )
    schedule: str = knob(
        choice("cosine", "step"),
        default="cosine",
        flag=("KIND", "learning rate after its warm-up: cosine or step; without a recipe cosine", None),
    )
    milestones: tuple[float, ...] = knob(
        *shares,
        default=(),
        flag=("SHARE", "for step: the shares of the run after which the learning rate drops, such as 0.3 0.6 0.9", 0),
    )
    lr_factor: float = knob(
        above_0, default=0.1, flag=("X", "for step: the factor of each drop; without a recipe 0.1", 0)
    )
    warm_up: float = knob(
        at_least_0(below=1),
        default=0.1,
        flag=("SHARE", "share of the run in which the learning rate rises; without a recipe 0.1", 0),
    )
    warm_up_steps: int = knob(
        whole(0),
        default=0,
        flag=("N", "the least number of steps in which it rises, but at most half of the run; without a recipe 0", 0),
    )
    label_smoothing: float = knob(
        at_least_0(below=1), default=0.0, flag=("X", "of the cross entropy; without a recipe 0, and 0.1 for context", 0)
    )
    mixup: float = knob(at_least_0(), default=0.0, flag=("ALPHA", "mix images of a batch; 0 is none", 0))
    cutmix: float = knob(
        at_least_0(), default=0.0, flag=("ALPHA", "paste parts of images of a batch into others; 0 is none", 0)
    )
    crop_scale: float | None = knob(
        optional(above_0),
        optional(up_to_1),
        default=None,
        flag=("SHARE", "for photos: the least share of the area in a random crop; without a recipe 0.35", 0),
    )
    trivial_augment: bool = knob(switch, default=False, flag=("", "TrivialAugment, wide", None))
    random_erasing: float = knob(share, default=0.0, flag=("P", "probability of erasing a rectangle of an image", 0))
    cutout: int = knob(whole(0), default=0, flag=("PIXELS", "side of an erased square; 0 is none", 0))
    ema: float = knob(
        at_least_0(below=1),
        default=0.0,
        flag=("DECAY", "measure and save a moving average of the weights; 0 is none", 0),
    )
    freeze_statistics: float = knob(
        share,
        default=1.0,
        flag=("SHARE", "share of the run after which batch norm's statistics are frozen; 1 is never", 0),
    )
    accumulate: int = knob(whole(1), default=1, flag=("N", "process a batch in N parts, for less memory", 1))
    clip: float | None = knob(
        optional(above_0),
        default=None,
        flag=("NORM", "largest norm of the gradients; without a recipe no clipping, and 1 for context", 0),
    )
    precision: str = knob(
        choice("32", "bf16", "16"), default="32", flag=("KIND", "32, bf16 or 16 (mixed); without a recipe 32", None)
    )
    channels_last: bool = knob(
        switch, default=True, flag=("", "use the channels-last memory format; without a recipe yes", None)
    )
    compile: bool = knob(switch, default=False, flag=("", "use torch.compile", None))
    freeze: str | None = knob(
        optional(choice("plain")),
        default=None,
        flag=("WHAT", "plain: train only inserted SE and the classifier, and freeze the rest", None),
    )

    def __post_init__(self) -> None:
        check(self)
        object.__setattr__(self, "milestones", tuple(float(at) for at in self.milestones))
        if self.schedule == "step" and not self.milestones:
            raise InputError("a schedule of 'step' needs milestones, such as 0.3 0.6 0.9")
        if self.batch_size % self.accumulate:
            raise InputError(
                f"a batch_size of {self.batch_size} does not come in {self.accumulate} equal parts: accumulate divides "
                "batch_size"
            )

    def to_json(self) -> dict[str, Any]:
        """The values by name. Options added later are left out at their default, so that older files compare equal."""
        values = dataclasses.asdict(self)
        for name in ("freeze", "warm_up_steps"):
            if not values[name]:
                del values[name]
        return values

    def changed(self, changes: Mapping[str, Any]) -> Recipe:
        """The recipe with the changes that are not None; learning rates scale with another batch size.

        Raises:
            ValueError: a recipe has no such name, of which the message has the nearest, or a value is not allowed.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        known = [field.name for field in dataclasses.fields(self)]
        for name in given:
            if name not in known:
                hint = did_you_mean(name, known, f": it has {', '.join(known)}", most=1)
                raise InputError(f"a recipe has no {name!r}{hint}")
        found = dataclasses.replace(self, **given)
        for name in ("milestones", "lr_factor"):
            if name in given and found.schedule != "step":
                raise InputError(f"{name} is for schedule='step' (--schedule step), and it is {found.schedule}")
        if "lr" in given or found.lr_scaling == "none":
            return found
        ratio = found.batch_size / self.batch_size
        factor = math.sqrt(ratio) if found.lr_scaling == "sqrt" else ratio
        se_lr = found.se_lr if self.se_lr is None or "se_lr" in given else self.se_lr * factor
        return dataclasses.replace(found, lr=self.lr * factor, se_lr=se_lr)
