"""Recompute the paper's cost tables, with the printed figures beside them.

Networks are created on the meta device, so counting takes seconds and no memory. Multiply-adds are
half of PyTorch's flop count: convolutions and linear layers. The rescaling of maps by gates is
counted separately.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from types import MappingProxyType

import torch

from senet.block import SESpec
from senet.cost.cost import count_calls
from senet.errors import InputError
from senet.insertion import blocks, inserted, untouched
from senet.paper import figures as paper
from senet.running import count_parameters
from senet.saving import create
from senet.zoo.names.naming import origin, resolve
from senet.zoo.names.sources import Built

__all__ = ["Counted", "PaperTables", "count", "paper_tables"]

CIFAR_CLASSES = 10
_SIDE_OF_OTHERS = 224  # pixels; Inception-ResNet-v2 was made for 299²
_RELEASED = SESpec(bias=True, start="paper")  # the authors' released SE


@dataclasses.dataclass(frozen=True)
class Counted:
    """The cost of a network with SE for one image, and the SE blocks' part of it.

    Attributes:
        parameters: parameters, including SE's.
        se_parameters: parameters of the SE blocks.
        by_stage: `se_parameters` by stage: log2 of the input's size over the map's.
        channels: channels of the maps that SE rescales, block by block.
        multiply_adds: multiply-adds, including SE's.
        se_multiply_adds: multiply-adds of the SE blocks' layers.
        rescaling: multiplications of maps by gates, not counted in `multiply_adds`.
        side: height and width of the image, in pixels.
    """

    parameters: int
    se_parameters: int
    by_stage: Mapping[int, int]
    channels: tuple[int, ...]
    multiply_adds: int
    se_multiply_adds: int
    rescaling: int
    side: int

    @property
    def plain_parameters(self) -> int:
        """Parameters of the network without SE."""
        return self.parameters - self.se_parameters

    @property
    def plain_multiply_adds(self) -> int:
        """Multiply-adds of the network without SE."""
        return self.multiply_adds - self.se_multiply_adds


@dataclasses.dataclass(frozen=True)
class PaperTables:
    """The tables; each row pairs the paper's figures with ours.

    Attributes:
        imagenet: tables 2 and 8.
        inception_at_224: Inception-ResNet-v2 at the other networks' image size.
        mobile: table 3.
        cifar: tables 4 and 5.
        reductions: table 10; ours is the number of parameters.
        stages: table 13, SE in a single stage of ResNet-50; ours is the number of parameters.
        variants: rows of tables 15 and 16.
    """

    imagenet: tuple[tuple[paper.ImageNetRow, Counted], ...]
    inception_at_224: Counted
    mobile: tuple[tuple[paper.ImageNetRow, Counted], ...]
    cifar: tuple[tuple[paper.CifarRow, Counted], ...]
    reductions: tuple[tuple[paper.VariantRow, int], ...]
    stages: tuple[tuple[paper.VariantRow, int], ...]
    variants: tuple[tuple[paper.VariantRow, Counted], ...]


@functools.cache
def paper_tables() -> PaperTables:
    """Count every network of the paper's tables (sections 4 to 6); this takes ten seconds the first time."""
    imagenet = tuple((row, count(row.name)) for row in paper.IMAGENET)
    released = imagenet[0][1]
    inner, unsqueezed = paper.VARIANTS
    variants = (
        (inner, dataclasses.replace(_RELEASED, placement="inner")),
        (unsqueezed, dataclasses.replace(_RELEASED, squeeze="none")),
    )
    return PaperTables(
        imagenet=imagenet,
        inception_at_224=count("se_inception_resnet_v2", side=_SIDE_OF_OTHERS),
        mobile=tuple((row, count(row.name)) for row in paper.MOBILE),
        cifar=tuple((row, count(row.name, num_classes=CIFAR_CLASSES)) for row in paper.CIFAR),
        reductions=tuple((row, _with_ratio(released, row.value)) for row in paper.REDUCTIONS),
        stages=tuple((row, released.plain_parameters + released.by_stage[row.value]) for row in paper.STAGES),
        variants=tuple((row, count("resnet50", spec)) for row, spec in variants),
    )


def count(name: str, spec: SESpec | None = None, *, num_classes: int = 1000, side: int | None = None) -> Counted:
    """The cost of a zoo network for one image.

    Args:
        name: the network's name in the zoo.
        spec: the SE to insert if the network has none.
        num_classes: the number of classes.
        side: height and width of the image in pixels; None means the network's own size.

    Raises:
        ModelError: the zoo has no such network.
    """
    with torch.device("meta"):
        model = create(name, num_classes=num_classes, spec=spec)
        shape = resolve(name)[0].input_shape(Built(model, origin(model)[1]))
        if shape is None:
            raise InputError(f"what {name} takes as input is not known: name a network of the zoo")
        channels, *space = shape
        example = torch.empty(1, channels, *([side, side] if side is not None else space))
    found = blocks(model)
    with untouched(model):
        calls, multiply_adds = count_calls(model, found, example)
    by_stage: dict[int, int] = {}
    places = inserted(model)
    for block_name, block in found.items():
        stage = places[block_name.rpartition(".")[0]][0].stage
        by_stage[stage] = by_stage.get(stage, 0) + count_parameters(block)
    return Counted(
        parameters=count_parameters(model),
        se_parameters=sum(count_parameters(block) for block in found.values()),
        by_stage=MappingProxyType(by_stage),
        channels=tuple(site.channels for site, _ in places.values()),
        multiply_adds=multiply_adds,
        se_multiply_adds=sum(call.flops // 2 for call in calls.values()),
        rescaling=sum(call.rescaling for call in calls.values()),
        side=int(example.shape[-1]),
    )


def _with_ratio(released: Counted, ratio: int) -> int:
    """The parameters of the same network with another reduction ratio."""
    spec = dataclasses.replace(_RELEASED, reduction_ratio=ratio)
    made = (spec.block(channels, device="meta") for channels in released.channels)
    return released.plain_parameters + sum(map(count_parameters, made))
