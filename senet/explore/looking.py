"""Run one image through a network with free or held gates, and return predictions and gates."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from senet.errors import InputError
from senet.evaluation.logits import input_of, logits_of
from senet.insertion import blocks, holding, recording
from senet.insertion.recognise import channel_dim_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from senet.data.transforms import Preprocessing

__all__ = ["AS_COMPUTED", "WORDS", "Held", "Look", "Maps", "Means", "look"]

WORDS = {"computed": "as computed", "one": "held at 1", "mean": "held at the mean", "scaled": "scaled"}
"""The ways to hold gates, in words."""


@dataclasses.dataclass(frozen=True)
class Held:
    """The treatment of a block's gates: as computed, 1, their mean over images, or `factor` times themselves.

    Raises:
        ValueError: the kind is unknown, or the factor is outside [0, 2].
    """

    kind: str = "computed"
    factor: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in WORDS:
            raise InputError(f"gates are held as one of {', '.join(WORDS)}, not {self.kind!r}")
        if not 0 <= self.factor <= 2:
            raise InputError(f"gates are scaled by 0 to 2, not {self.factor!r}")

    @property
    def changes(self) -> bool:
        """Whether it changes what the network computes."""
        return self.kind != "computed"

    def __str__(self) -> str:
        return f"scaled by {self.factor:g}" if self.kind == "scaled" else WORDS[self.kind]


AS_COMPUTED = Held()


class Means:
    """The mean gates of each block over images, counting each image once.

    Attributes:
        pictures: the number of images.
    """

    def __init__(self) -> None:
        self.pictures = 0
        self._sums: dict[str, Tensor] = {}
        self._seen: set[str] = set()

    def add(self, key: str, gates: Mapping[str, Tensor]) -> None:
        """Count the gates (C,) of one image, unless its `key` was counted before."""
        if key in self._seen:
            return
        self._seen.add(key)
        self.pictures += 1
        for name, values in gates.items():
            self._sums[name] = self._sums[name] + values if name in self._sums else values.double()

    def __contains__(self, name: str) -> bool:
        return name in self._sums

    def __getitem__(self, name: str) -> Tensor:
        return (self._sums[name] / self.pictures).float()


@dataclasses.dataclass(frozen=True)
class Maps:
    """A block's feature maps (C, H, W), before and after its gates."""

    before: Tensor
    after: Tensor


@dataclasses.dataclass(frozen=True)
class Look:
    """A network's predictions and gates for one image.

    Attributes:
        probabilities: (classes,), the softmax of its scores.
        gates: the gates (C,) by block, in the order in which the blocks ran.
        maps: the maps of the requested block.
    """

    probabilities: Tensor
    gates: Mapping[str, Tensor]
    maps: Maps | None = None

    def top(self, count: int) -> list[tuple[int, float]]:
        """The `count` most likely classes with their probabilities, most likely first."""
        values, classes = self.probabilities.topk(min(count, len(self.probabilities)))
        return list(zip(classes.tolist(), values.tolist(), strict=True))


@torch.no_grad()
def look(
    network: nn.Module,
    preprocessing: Preprocessing,
    pixels: Tensor,
    *,
    held: Mapping[str, Held] | None = None,
    means: Means | None = None,
    maps_of: str | None = None,
) -> Look:
    """Run one image through a network in eval mode.

    Args:
        network: a network with SE blocks, ours or another library's.
        preprocessing: its preprocessing.
        pixels: (3, size, size) uint8, from `preprocessing`.
        held: the treatment of gates, by block.
        means: the mean gates; a block without one keeps its computed gates.
        maps_of: the block whose maps are returned.

    Raises:
        StudyError: the network does not return (N, classes) scores.
    """
    device = next(network.parameters()).device
    at = {name: _value(name, each, means) for name, each in (held or {}).items() if each.changes}
    taken: list[Maps] = []
    hooks = []
    if maps_of is not None:
        block = blocks(network)[maps_of]
        hooks.append(block.register_forward_hook(_keeper(channel_dim_of(block), taken.append)))
    try:
        with recording(network) as gates, holding(network, at):
            scores = logits_of(network(input_of(network, pixels[None].to(device), preprocessing)))
    finally:
        for hook in hooks:
            hook.remove()
    seen = {name: values[0].float().cpu() for name, values in gates.items()}
    # In float64, since in float32 the probabilities of all but a few classes may be 0, and tell no order.
    return Look(scores[0].double().softmax(0).cpu(), seen, taken[-1] if taken else None)


def mean_gates(network: nn.Module, preprocessing: Preprocessing, pictures: Iterable[tuple[str, Tensor]]) -> Means:
    """The mean gates over images, given as (key, pixels)."""
    means = Means()
    for key, pixels in pictures:
        means.add(key, look(network, preprocessing, pixels).gates)
    return means


def _value(name: str, held: Held, means: Means | None) -> float | Tensor | Callable[[Tensor], Tensor]:
    if held.kind == "one":
        return 1.0
    if held.kind == "mean" and means is not None and name in means:
        return means[name]
    factor = held.factor if held.kind == "scaled" else 1.0
    return lambda gates: gates * factor


def _keeper(channels_at: int, keep: Callable[[Maps], None]) -> Callable[..., None]:
    def hook(_block: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        keep(Maps(_maps(args[0], channels_at), _maps(output, channels_at)))

    return hook


def _maps(x: Tensor, channels_at: int) -> Tensor:
    """(C, H, W) of the first sample; without space 1 × 1, and for a volume the mean over its depth."""
    x = (x.movedim(-1, 1) if channels_at == -1 else x)[0].detach().float().cpu()
    while x.dim() < 3:
        x = x.unsqueeze(-1)
    return x.mean(1) if x.dim() == 4 else x
