"""Turn images into network inputs: preprocessing for evaluation, augmentation for training."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from senet.errors import InputError
from senet.words import counted, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

    from senet.data.source import DataSource

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Augmentation", "Preprocessing", "augmentation_for", "preprocessing_for"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_WHOLE = (1.0, 1.0)  # of the area
_MODES = {"RGB": "RGB", "BGR": "RGB", "grey": "L", "RGBA": "RGBA"}
"""The orders of channels, and PIL's modes for them, with one letter per channel."""

MOST_STORED = 8192
"""The largest side in pixels that is taken from a file."""

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of an image for evaluation, which is saved with trained weights.

    The shorter side is resized to `resize` pixels, the central `size` × `size` is cropped, and each
    channel of values in [0, 1] is normalised: (value - mean) / std. With `crop_mode` "squash" both
    sides are resized to `resize`, as some of timm's networks want it. The defaults are ImageNet's
    mean and std, which published weights expect. Networks trained from scratch use them too, since
    any fixed numbers will do.

    `channels` is their order in the network's input, "RGB" or "BGR" (the authors' Caffe networks);
    mean and std are always in the order red, green, blue. A network with one input channel takes
    "grey", one with four "RGBA".

    A transparent image is composited on white; with `transparency` None the alpha channel is
    dropped, as for networks that an earlier version trained. For grey of more than 8 bits, `range`
    has the values of black and white.

    Raises:
        ValueError: a size is not a positive whole number, resize is smaller than the crop, mean or
            std is not one number per channel (std positive), or interpolation, channels or crop_mode
            are unknown.
    """

    size: int = 224
    resize: int = 256
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    channels: str = "RGB"
    transparency: str | None = "white"
    range: tuple[float, float] | None = None
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        for name in ("size", "resize"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise InputError(f"{name} is a whole number of pixels, at least 1, not {value!r}")
        if self.resize < self.size:
            raise InputError(f"resize ({self.resize}) is at least the size cut out of it ({self.size})")
        if self.channels not in _MODES:
            raise InputError(f"channels is 'RGB', 'BGR', 'grey' or 'RGBA', not {self.channels!r}")
        count = len(_MODES[self.channels])
        for name in ("mean", "std"):
            values = _numbers(getattr(self, name))
            if len(values) != count or (name == "std" and min(values) <= 0):
                many = {1: "a list of one number", 3: "three numbers", 4: "four numbers"}[count]
                positive = ", positive" * (name == "std")
                given = getattr(self, name)
                raise InputError(f"{name} is {many}, one a channel{positive} ({self.channels}), not {given!r}")
            object.__setattr__(self, name, values)
        if self.interpolation not in INTERPOLATIONS:
            hint = did_you_mean(self.interpolation, INTERPOLATIONS, "", most=1)
            raise InputError(f"interpolation is one of {', '.join(INTERPOLATIONS)}, not {self.interpolation!r}{hint}")
        if self.range is not None:
            ends = _numbers(self.range)
            if len(ends) != 2 or not ends[0] < ends[1]:
                raise InputError(f"range is two numbers, what is black and what is white, not {self.range!r}")
            object.__setattr__(self, "range", ends)
        if self.crop_mode not in ("center", "squash"):
            raise InputError(f"crop_mode is 'center' or 'squash', not {self.crop_mode!r}")
        if self.transparency not in ("white", None):
            raise InputError(f"transparency is 'white' or None, not {self.transparency!r}")

    def __call__(self, image: Image.Image) -> Tensor:
        """An image as (C, size, size) uint8. PIL resizes it, as for published figures."""
        from torchvision.transforms.v2 import functional

        from senet.data.decoding import to_mode

        image = to_mode(image, self.mode, self.transparency, self.range)
        image = _middle(image, self.resize, self.size, self.interpolation, squash=self.crop_mode == "squash")
        return functional.pil_to_tensor(image)  # type: ignore[no-any-return]

    def normalise(self, pixels: Tensor) -> Tensor:
        """The network's input from (N, C, H, W) uint8 pixels: float32, normalised per channel.

        On the CPU its memory format is channels last, which makes convolutions faster.
        """
        mean = torch.tensor(self.mean, device=pixels.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(-1, 1, 1)
        layout = torch.channels_last if pixels.device.type == "cpu" else torch.preserve_format
        normal = (pixels.to(torch.float32, memory_format=layout) / 255 - mean) / std
        return normal.flip(-3) if self.channels == "BGR" else normal

    @property
    def mode(self) -> str:
        """PIL's mode of the prepared image."""
        return _MODES[self.channels]

    @property
    def words(self) -> str:
        """How a picture is cut, in words."""
        sides = "both sides" if self.crop_mode == "squash" else "shorter side"
        return f"{sides} resized to {self.resize}, middle {self.size} × {self.size}, {self.interpolation}"

    def grey(self, count: int = 1) -> Tensor:
        """Mid-grey images (count, C, size, size) uint8 on which to try a network."""
        return torch.full((count, len(self.mean), self.size, self.size), 128, dtype=torch.uint8)

    def for_channels(self, count: int) -> Preprocessing:
        """This preprocessing for a network with another number of input channels.

        One channel is grey, normalised by the mean over the colours' numbers. Four channels include
        the alpha channel, in [-1, 1].

        Raises:
            InputError: images never have so many channels.
        """
        if count == len(self.mean):
            return self
        colours = (
            self
            if len(self.mean) == 3
            else dataclasses.replace(self, channels="RGB", mean=IMAGENET_MEAN, std=IMAGENET_STD)
        )
        if count == 3:
            return colours
        if count == 1:
            mean, std = (round(sum(values) / 3, 6) for values in (colours.mean, colours.std))
            return dataclasses.replace(colours, channels="grey", mean=(mean,), std=(std,))
        if count == 4:
            return dataclasses.replace(colours, channels="RGBA", mean=(*colours.mean, 0.5), std=(*colours.std, 0.5))
        raise InputError(
            f"its first layer takes {counted(count, 'channel')}, and pictures have 3 (RGB), 1 (grey) or 4 (RGBA)"
        )

    def at(self, size: int | None) -> Preprocessing:
        """This preprocessing at another size with the same part of the image; None keeps the size."""
        if type(size) is not int:
            return self if size is None else dataclasses.replace(self, size=size)  # which refuses it
        return dataclasses.replace(self, size=size, resize=round(size * self.resize / self.size))

    def to_json(self) -> dict[str, Any]:
        """Plain values for `from_json`, without fields that earlier versions lacked."""
        return plain_values(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The preprocessing from the `values` of `to_json`.

        Raises:
            ValueError: a name or a value is unknown.
        """
        known = sorted(field.name for field in dataclasses.fields(cls))
        unknown = sorted(set(values) - set(known)) if isinstance(values, Mapping) else [f"{values!r:.60}"]
        if unknown:
            raise InputError(f"preprocessing is described by {', '.join(known)}, not {', '.join(unknown)}")
        for name in ("size", "resize"):
            if type(side := values.get(name)) is int and side > MOST_STORED:  # a small file would fill the memory
                raise InputError(f"preprocessing is damaged: its {name} is {side}, more than {MOST_STORED} pixels")
        try:
            return cls(**{"transparency": None, **values})  # files of earlier versions leave it out
        except (TypeError, ValueError) as error:
            raise error if isinstance(error, InputError) else InputError(f"preprocessing is damaged: {error}") from None


def _numbers(values: Any) -> tuple[float, ...]:
    """The values as finite numbers; empty if they are anything else."""
    try:
        found = tuple(map(float, values))
    except (TypeError, ValueError):
        return ()
    return found if all(map(math.isfinite, found)) else ()


def _middle(image: Image.Image, resize: int, size: int, interpolation: str, *, squash: bool = False) -> Image.Image:
    """The central `size` × `size` of the image with its shorter side, or both if `squash`, resized to `resize`."""
    from torchvision.transforms.v2 import functional

    from senet.data.decoding import MOST_PIXELS

    # A picture of a line, 1 × 10,000, would fill the memory, so first its ends are cut off.
    most = min(image.size) * max(1, MOST_PIXELS // resize**2)
    if max(image.size) > most and not squash:
        image = functional.center_crop(image, [min(image.height, most), min(image.width, most)])
    sides = [resize, resize] if squash else [resize]
    image = functional.resize(image, sides, interpolation=functional.InterpolationMode(interpolation))
    return functional.center_crop(image, [size, size])  # type: ignore[no-any-return]


def preprocessing_for(
    source: DataSource, *, size: int | None = None, known: Preprocessing | None = None
) -> Preprocessing:
    """The preprocessing to train a network with: small images whole at their own size, photos at `size` or 224.

    Args:
        source: the images.
        size: the input's side in pixels.
        known: the preprocessing of its weights, whose mean, std and interpolation are kept.
    """
    base = known or Preprocessing()
    if source.native_size is not None and source.small:
        side = source.native_size if size is None else size
        return dataclasses.replace(base, size=side, resize=side)
    return base.at(size)


def plain_values(described: Preprocessing | Augmentation) -> dict[str, Any]:
    """The fields by name, without later fields at their defaults, so that files stay the same as earlier ones."""
    values = dataclasses.asdict(described)
    for name, usual in (("mode", "RGB"), ("crop_mode", "center")):
        if values.get(name) == usual:
            del values[name]
    return {name: value for name, value in values.items() if value is not None or name not in ("transparency", "range")}


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """A random crop, and a horizontal flip half of the time, drawn from torch's global generator.

    Args:
        size: the output's side in pixels.
        padding: for small images: black pixels added on each side before a random `size` × `size`
            crop; 0 for photos, of which a random part is cropped and resized.
        scale: for photos: the least and greatest share of the area that is cropped; (1, 1) is the whole image.
        flip: whether to flip.
        interpolation: the interpolation of the resizing.
        transparency: as in `Preprocessing`.
        range: as in `Preprocessing`.
        mode: PIL's mode: "RGB", "L" or "RGBA".
    """

    size: int
    padding: int = 0
    scale: tuple[float, float] = (0.35, 1.0)
    flip: bool = True
    interpolation: str = "bilinear"
    transparency: str | None = "white"
    range: tuple[float, float] | None = None
    mode: str = "RGB"

    def base(self, image: Image.Image) -> Tensor:
        """The deterministic part of the augmentation, (C, H, W) uint8, which is kept in memory.

        Small images are resized to `size` and padded; of photos the shorter side is at most twice `size`.
        """
        from torchvision.transforms.v2 import functional

        from senet.data.decoding import to_mode

        image = to_mode(image, self.mode, self.transparency, self.range)
        if self.padding:
            image = functional.pad(_middle(image, self.size, self.size, self.interpolation), [self.padding])
        elif min(image.size) > 2 * self.size:
            mode = functional.InterpolationMode(self.interpolation)
            image = functional.resize(image, [2 * self.size], interpolation=mode)
        return functional.pil_to_tensor(image)  # type: ignore[no-any-return]

    def __call__(self, pixels: Tensor) -> Tensor:
        """A random view of an image from `base`: (C, H, W) uint8 -> (C, size, size) uint8."""
        if self.padding:
            top, left = torch.randint(2 * self.padding + 1, (2,)).tolist()
            pixels = pixels[:, top : top + self.size, left : left + self.size]
        elif self.scale != _WHOLE or pixels.shape[-2:] != (self.size, self.size):
            pixels = self._cut(pixels)
        if self.flip and torch.rand(()) < 0.5:
            pixels = pixels.flip(-1)
        return pixels

    @functools.cached_property
    def _cut(self) -> Callable[[Tensor], Tensor]:
        from torchvision.transforms import v2

        mode = v2.InterpolationMode(self.interpolation)
        return v2.RandomResizedCrop(  # type: ignore[no-any-return]
            self.size, self.scale, interpolation=mode, antialias=True
        )


def augmentation_for(source: DataSource, preprocessing: Preprocessing) -> Augmentation:
    """The usual augmentation: CIFAR's crop of the padded image for small images, Inception's crop for photos.

    Images are flipped if a mirrored image keeps its class. Small images that must not be shifted are not cropped.
    """
    size = preprocessing.size
    return Augmentation(
        size=size,
        padding=max(1, size // 8) if source.small and source.shift else 0,
        scale=Augmentation.scale if source.shift or not source.small else _WHOLE,
        flip=source.flip,
        interpolation=preprocessing.interpolation,
        transparency=preprocessing.transparency,
        range=preprocessing.range,
        mode=preprocessing.mode,
    )


def timm_configuration(model: str) -> dict[str, Any]:
    """What timm says of the published weights of `timm:NAME`; empty if it says nothing."""
    import timm

    found = timm.get_pretrained_cfg(model.removeprefix("timm:"))
    return dataclasses.asdict(found) if found else {}


def unlike_timm(model: str) -> str:
    """A remark if timm prepares pictures for `timm:NAME` as `Preprocessing` cannot, else ""."""
    stated = timm_configuration(model)
    mode, (*_, height, width) = stated.get("crop_mode") or "center", stated.get("input_size") or (3, 1, 1)
    if height == width and mode in ("center", "squash"):
        return ""
    how = f"of {height} × {width}" if height != width else f"by crop_mode {mode!r}"
    return f"timm prepares pictures for {model} {how}, and here their middle is cut: its answers are not timm's"


def timm_preprocessing(configuration: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing of a timm network's published weights, from its `pretrained_cfg`."""
    size = int(configuration.get("input_size", (3, 224, 224))[-1])
    share = float(configuration.get("crop_pct") or 0.875)
    interpolation = str(configuration.get("interpolation") or "bilinear")
    mean, std = (tuple(configuration.get(name) or ()) for name in ("mean", "std"))
    squash = configuration.get("crop_mode") == "squash"
    return Preprocessing(
        size=size,
        resize=max(size, math.floor(size / share)),
        mean=mean if len(mean) == 3 else IMAGENET_MEAN,
        std=std if len(std) == 3 else IMAGENET_STD,
        interpolation=interpolation if interpolation in INTERPOLATIONS else "bilinear",
        crop_mode="squash" if squash else "center",
    )
