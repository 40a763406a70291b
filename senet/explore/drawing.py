"""Draw gates and feature maps as small PNG images inside the page, one pixel per number."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from torch.nn import functional as F

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = [
    "GATE_COLOURS",
    "MAP_COLOURS",
    "difference_strip",
    "feature_map",
    "gate_colours",
    "gradient",
    "photo",
    "strip",
]

GATE_COLOURS = ((0.0, "#0b3c6f"), (0.5, "#7fb2d9"), (1.0, "#f2f2f2"), (1.5, "#f0a35c"), (2.0, "#9c4a05"))
"""The colour-blind palette of gates: blue attenuates, light grey (1) is neutral, orange amplifies."""

MAP_COLOURS = ((-1.0, "#5e2b7c"), (-0.5, "#b398c6"), (0.0, "#f7f7f7"), (0.5, "#7fbf7f"), (1.0, "#14592a"))
"""The colours of a feature map, relative to its largest value: purple below zero, green above."""

DIFFERENCE_COLOURS = ((0.0, "#f2f2f2"), (1.0, "#1a1a1a"))
_LEVELS = 256
_LARGEST_MAP = 56  # side in pixels of a displayed map

Colours = tuple[tuple[float, str], ...]


def gate_colours(reach: float) -> Colours:
    """The colours of gates from 1 − reach to 1 + reach."""
    return tuple((1 + reach * (at - 1), colour) for at, colour in GATE_COLOURS)


def strip(gates: Tensor, colours: Colours = GATE_COLOURS) -> str:
    """The gates (C,) of a block as an image of C × 1 pixels, a data: URL."""
    return _png(gates[None].numpy(), colours)


def difference_strip(difference: Tensor, largest: float) -> str:
    """The distance between two images' gates (C,) as C × 1 pixels; black is `largest`."""
    return _png((difference / max(largest, 1e-12))[None].numpy(), DIFFERENCE_COLOURS)


def feature_map(values: Tensor, largest: float) -> str:
    """A feature map (H, W) as an image, reduced by averaging if large; the darkest colours are ±`largest`."""
    side = max(values.shape)
    if side > _LARGEST_MAP:
        height, width = (max(1, round(n * _LARGEST_MAP / side)) for n in values.shape)
        values = F.interpolate(values[None, None], (height, width), mode="area")[0, 0]
    return _png((values / max(largest, 1e-12)).numpy(), MAP_COLOURS)


def photo(pixels: Tensor) -> str:
    """An image (C, H, W) uint8 of 1, 3 or 4 channels as a data: URL."""
    return _address(Image.fromarray(pixels.permute(1, 2, 0).squeeze(2).contiguous().numpy()))


def gradient(colours: Colours) -> str:
    """The same colours as a CSS gradient, for a legend."""
    low, high = colours[0][0], colours[-1][0]
    stops = (f"{colour} {100 * (at - low) / (high - low):g}%" for at, colour in colours)
    return f"linear-gradient(to right, {', '.join(stops)})"


def _png(values: NDArray[np.floating], colours: Colours) -> str:
    """An indexed PNG; values are clipped to the range of the colours."""
    low, high = colours[0][0], colours[-1][0]
    finite = np.nan_to_num((values - low) / (high - low), nan=0.0, posinf=1.0, neginf=0.0)
    levels = np.rint(finite.clip(0, 1) * (_LEVELS - 1)).astype(np.uint8)
    image = Image.fromarray(levels, "L")
    image.putpalette(_palette(colours))
    return _address(image)


def _palette(colours: Colours) -> bytes:
    at = np.linspace(colours[0][0], colours[-1][0], _LEVELS)
    places = [place for place, _ in colours]
    channels = zip(*(bytes.fromhex(colour[1:]) for _, colour in colours), strict=True)
    return np.stack([np.interp(at, places, each) for each in channels], 1).round().astype(np.uint8).tobytes()


def _address(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
