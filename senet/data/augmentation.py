"""A recipe's augmentation beyond the usual crop and flip, per image and per batch."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from senet.data.transforms import IMAGENET_MEAN, Augmentation, augmentation_for
from senet.errors import StudyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from senet.data.source import DataSource
    from senet.data.transforms import Preprocessing
    from senet.recipe.recipe import Recipe

__all__ = ["StrongAugmentation", "augmentation_of", "mixing_of"]


@dataclasses.dataclass(frozen=True)
class StrongAugmentation(Augmentation):
    """TrivialAugment, random erasing and Cutout after crop and flip, drawn from torch's global generator.

    Args:
        trivial_augment: whether to apply one of its operations at random.
        random_erasing: the probability of erasing a rectangle.
        cutout: side in pixels of an erased square, centred anywhere in the image; 0 for none.
        mean: the value of erased pixels, in [0, 1], which normalisation turns into 0.
    """

    trivial_augment: bool = False
    random_erasing: float = 0.0
    cutout: int = 0
    mean: tuple[float, ...] = IMAGENET_MEAN

    def __call__(self, pixels: Tensor) -> Tensor:
        """A random view of an image from `base`: (C, H, W) uint8 -> (C, size, size) uint8."""
        pixels = super().__call__(pixels)
        if self.trivial_augment:
            pixels = self._trivial(pixels)
        if self.random_erasing:
            pixels = self._erase(pixels)
        if self.cutout:
            pixels = self._cut_out(pixels)
        return pixels

    @functools.cached_property
    def _fill(self) -> list[int]:
        return [round(255 * value) for value in self.mean]

    @functools.cached_property
    def _trivial(self) -> Callable[[Tensor], Tensor]:
        from torchvision.transforms import v2

        return v2.TrivialAugmentWide(fill=self._fill)  # type: ignore[no-any-return]

    @functools.cached_property
    def _erase(self) -> Callable[[Tensor], Tensor]:
        from torchvision.transforms import v2

        return v2.RandomErasing(self.random_erasing, value=self._fill)  # type: ignore[no-any-return]

    def _cut_out(self, pixels: Tensor) -> Tensor:
        """Cutout (DeVries and Taylor 2017), which torchvision lacks; the square may extend beyond the edge."""
        middle = torch.randint(self.size, (2,)).tolist()
        top, left = (max(0, at - self.cutout // 2) for at in middle)
        bottom, right = (at - self.cutout // 2 + self.cutout for at in middle)
        pixels = pixels.clone()
        pixels[:, top:bottom, left:right] = torch.tensor(self._fill, dtype=pixels.dtype).view(-1, 1, 1)
        return pixels


def augmentation_of(source: DataSource, preprocessing: Preprocessing, recipe: Recipe) -> Augmentation:
    """The usual augmentation of these images with the recipe's changes and additions."""
    usual = augmentation_for(source, preprocessing)
    if recipe.crop_scale is not None:
        usual = dataclasses.replace(usual, scale=(recipe.crop_scale, usual.scale[1]))
    if not (recipe.trivial_augment or recipe.random_erasing or recipe.cutout):
        return usual
    if recipe.trivial_augment and usual.mode == "RGBA":
        raise StudyError("trivial_augment changes colours, which pictures of four channels do not have: leave it out")
    return StrongAugmentation(
        **{field.name: getattr(usual, field.name) for field in dataclasses.fields(usual)},
        trivial_augment=recipe.trivial_augment,
        random_erasing=recipe.random_erasing,
        cutout=recipe.cutout,
        mean=preprocessing.mean,
    )


def mixing_of(recipe: Recipe, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Mixup, CutMix, or one of them per batch: (N, C, H, W) and (N,) -> (N, C, H, W) and (N, classes).

    Drawn from torch's global generator on the CPU. None if the recipe uses neither.
    """
    from torchvision.transforms import v2

    mixes = [
        kind(alpha=alpha, num_classes=num_classes)
        for kind, alpha in ((v2.MixUp, recipe.mixup), (v2.CutMix, recipe.cutmix))
        if alpha
    ]
    if not mixes:
        return None
    return mixes[0] if len(mixes) == 1 else v2.RandomChoice(mixes)  # type: ignore[no-any-return]
