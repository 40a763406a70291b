"""The plain rule: convolution, normalisation and activation (VGG, AlexNet, MobileNet v1, RepVGG)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from senet.insertion.reading.dataflow import Dataflow
from senet.insertion.reading.operations import (
    LAYOUT,
    LINEAR,
    convolutions,
    first_attention,
    inside,
    is_activation,
    spatial_convolutions,
)
from senet.insertion.reading.walk import Unit
from senet.insertion.rules.findings import Finding

__all__ = ["plain"]

_STEM = 4  # units: the patch embeddings of LeViT and XCiT have at most these


def plain(flow: Dataflow, squeezed: frozenset[int]) -> Iterator[Finding]:
    """Convolution units up to their activation; a depthwise convolution and the 1×1 after it are one unit.

    Parallel linear branches under one activation (RepVGG, MobileOne) are also one unit. In a
    network with attention only a convolutional encoder before it counts (Wav2Vec2), not a patch
    embedding of a few convolutions.
    """
    end = first_attention(flow)
    found = [finding for finding in _units(flow, squeezed) if end is None or _is_encoder(flow, finding, end)]
    if end is None or sum(finding.unit is not None for finding in found) > _STEM:
        yield from found


def _is_encoder(flow: Dataflow, finding: Finding, attention: int) -> bool:
    """Whether a unit precedes the attention and is not a grouped convolution, which adds positions to tokens."""
    kinds = [kind for _, kind in inside(flow, finding.unit.own)] if finding.unit is not None else []
    return finding.value < attention and not (kinds and all(kind.groups > 1 for kind in kinds))


def _units(flow: Dataflow, squeezed: frozenset[int]) -> Iterator[Finding]:
    depthwise: dict[int, tuple[frozenset[int], frozenset[int]]] = {}  # activation -> its values, its input
    for value in flow.values:
        if len(value.shape) < 3 or value.index in squeezed or not is_activation(flow, value.index):
            continue
        region, given = _linear_before(flow, value.index)
        found = convolutions(flow, region)
        if not found or _is_a_linear_layer(flow, found[-1]):
            continue
        end = _with_its_scale(flow, value.index)
        if squeezed & region or squeezed.intersection(given):
            unit = Unit("plain", end, end, min(given, default=0), region)
            yield Finding(end, "its convolution is behind SE already", unit, squeezed=True)
            continue
        if _goes_on_as_separable(flow, end, found):
            depthwise[end] = region, given
            continue
        before: frozenset[int] = frozenset()
        for index in given & depthwise.keys():
            before, given = depthwise[index][0] | {index}, depthwise[index][1]
        own = region | before | {value.index, end}
        if not spatial_convolutions(flow, own):
            yield Finding(end, "a 1×1 convolution, with no spatial one in its unit")
            continue
        separable = before or any(flow.values[index].operands[0] in region for index in found)
        kind = "a depthwise separable convolution" if separable else "a convolution"
        kind = f"{len(found)} parallel convolutions" if len(found) > 1 and not separable else kind
        unit = Unit("plain", end, end, max(given, default=0), own)
        if squeezed.intersection(flow.consumers[end]):
            yield Finding(end, "its output goes through SE already", unit, squeezed=True)
            continue
        yield Finding(end, f"the activation of {kind}, in a network without shortcuts", unit)


def _is_a_linear_layer(flow: Dataflow, index: int) -> bool:
    """Whether a convolution's kernel covers the whole map, as a classifier's first layer may (VGG)."""
    value = flow.values[index]
    before = flow.values[value.operands[0]].shape[2:]
    return math.prod(value.shape[2:]) == 1 and value.convolution is not None and value.convolution.kernel == before


def _linear_before(flow: Dataflow, activation: int) -> tuple[frozenset[int], frozenset[int]]:
    """The linear steps that end in an activation, and their input."""
    region: set[int] = set()
    given: set[int] = set()
    open_ends = [operand for operand in flow.values[activation].operands if not _is_gate(flow, operand, activation)]
    while open_ends:
        index = open_ends.pop()
        if index in region:
            continue
        value = flow.values[index]
        if value.op not in LINEAR or is_activation(flow, index) or not value.operands:
            given.add(index)
            continue
        region.add(index)
        if value.convolution is None or _is_separable(flow, index):
            open_ends.extend(value.operands)
        else:
            given.update(value.operands)
    return frozenset(region), frozenset(given)


def _is_separable(flow: Dataflow, index: int) -> bool:
    """Whether a 1×1 convolution follows its depthwise one, with at most a norm or a change of layout between."""
    convolution = flow.values[index].convolution
    if convolution is None or convolution.spatial:
        return False
    at = flow.values[index].operands[0]
    while flow.values[at].op in LINEAR and flow.values[at].operands and len(flow.consumers[at]) == 1:
        before = flow.values[at].convolution
        if before is not None:
            return before.depthwise
        at = flow.values[at].operands[0]
    return False


def _is_gate(flow: Dataflow, operand: int, activation: int) -> bool:
    """In x · σ(x), whether `operand` is the σ(x)."""
    operands = flow.values[activation].operands
    return len(operands) == 2 and operand == max(operands)


def _with_its_scale(flow: Dataflow, activation: int) -> int:
    """The activation, including a final division by a number, as in x · relu6(x + 3) / 6."""
    after = [flow.values[index] for index in flow.consumers[activation]]
    if len(after) == 1 and after[0].op in ("mul", "div") and after[0].constants == 0 and len(after[0].operands) == 1:
        return after[0].index
    return activation


def _goes_on_as_separable(flow: Dataflow, activation: int, found: list[int]) -> bool:
    """Whether only depthwise convolutions precede the activation, and only a 1×1 convolution follows it."""
    if not all(convolution.depthwise for _, convolution in inside(flow, found)):
        return False
    after = flow.consumers[activation]
    while len(after) == 1 and flow.values[after[0]].op in LAYOUT:
        after = flow.consumers[after[0]]
    behind = [flow.values[index].convolution for index in after]
    return len(behind) == 1 and behind[0] is not None and not behind[0].spatial
