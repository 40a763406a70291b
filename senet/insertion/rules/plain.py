"""The plain rule: a convolution with its normalisation and activation (VGG, AlexNet, MobileNet v1, RepVGG)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from senet.insertion.reading.dataflow import Dataflow
from senet.insertion.reading.operations import LINEAR, attends, convolutions, is_activation, spatial_convolutions
from senet.insertion.reading.walk import Unit
from senet.insertion.rules.findings import Finding

__all__ = ["plain"]


def plain(flow: Dataflow, squeezed: frozenset[int]) -> Iterator[Finding]:
    """Convolution units, each up to its activation; a depthwise convolution and the 1×1 behind it are one unit.

    Parallel linear branches under one activation (RepVGG, MobileOne) are one unit as well. A network that attends
    has none: its few convolutions only cut the picture into tokens.
    """
    if attends(flow):
        return
    depthwise: dict[int, tuple[frozenset[int], frozenset[int]]] = {}  # activation -> what it holds, what it is given
    for value in flow.values:
        if len(value.shape) < 3 or value.index in squeezed or not is_activation(flow, value.index):
            continue
        region, given = _linear_before(flow, value.index)
        found = convolutions(flow, region)
        if not found or _is_a_linear_layer(flow, found[-1]):
            continue
        if squeezed & region or squeezed.intersection(given):
            unit = Unit("plain", value.index, value.index, min(given, default=0), region)
            yield Finding(value.index, "its convolution is behind SE already", unit, squeezed=True)
            continue
        if _goes_on_as_separable(flow, value.index, found):
            depthwise[value.index] = region, given
            continue
        before: frozenset[int] = frozenset()
        for index in given & depthwise.keys():
            before, given = depthwise[index][0] | {index}, depthwise[index][1]
        own = region | before | {value.index}
        if not spatial_convolutions(flow, own):
            yield Finding(value.index, "a 1×1 convolution, with no spatial one in its unit")
            continue
        kind = "a depthwise separable convolution" if before else "a convolution"
        kind = f"{len(found)} parallel convolutions" if len(found) > 1 and not before else kind
        unit = Unit("plain", value.index, value.index, max(given, default=0), own)
        if squeezed.intersection(flow.consumers[value.index]):
            yield Finding(value.index, "its output goes through SE already", unit, squeezed=True)
            continue
        yield Finding(value.index, f"the activation of {kind}, in a network without shortcuts", unit)


def _is_a_linear_layer(flow: Dataflow, index: int) -> bool:
    """Whether a convolution sees the whole map at once: the first layer of a classifier, as VGG has it."""
    value = flow.values[index]
    before = flow.values[value.operands[0]].shape[2:]
    return math.prod(value.shape[2:]) == 1 and value.convolution is not None and value.convolution.kernel == before


def _linear_before(flow: Dataflow, activation: int) -> tuple[frozenset[int], frozenset[int]]:
    """The linear steps that an activation ends, and what they were given."""
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
        if value.convolution is not None:
            given.update(value.operands)
        else:
            open_ends.extend(value.operands)
    return frozenset(region), frozenset(given)


def _is_gate(flow: Dataflow, operand: int, activation: int) -> bool:
    """In x · σ(x), whether `operand` is the σ(x)."""
    operands = flow.values[activation].operands
    return len(operands) == 2 and operand == max(operands)


def _goes_on_as_separable(flow: Dataflow, activation: int, found: list[int]) -> bool:
    """Whether only depthwise convolutions lie before the activation, and a 1×1 convolution alone behind it."""
    kinds = [flow.values[index].convolution for index in found]
    if not all(kind is not None and kind.depthwise for kind in kinds):
        return False
    behind = [flow.values[index].convolution for index in flow.consumers[activation]]
    return len(behind) == 1 and behind[0] is not None and not behind[0].spatial
