"""The residual rule: a branch of convolutions added to a shortcut (ResNet and most networks since)."""

from __future__ import annotations

from collections.abc import Iterator

from senet.insertion.reading.dataflow import Dataflow
from senet.insertion.reading.operations import (
    attends,
    convolutions,
    is_linear,
    only_upsampled,
    spatial_convolutions,
    splits_channels,
)
from senet.insertion.reading.walk import Paths, Unit, part
from senet.insertion.rules.findings import Finding, counted

__all__ = ["residual"]


def residual(flow: Dataflow, squeezed: frozenset[int], *, pointwise: bool = False) -> Iterator[Finding]:
    """Additions of a branch of convolutions to a shortcut: the block's input itself, or a projection of it.

    Branches of 1×1 convolutions alone count only where `pointwise` says so.
    """
    for value in flow.values:
        if value.op != "add" or len(value.operands) != 2 or len(value.shape) < 3 or value.index in squeezed:
            continue
        a, b = value.operands
        if a == b or flow.values[a].shape != flow.values[b].shape:
            continue
        paths = part(flow, (a, b))
        if paths is None:
            yield Finding(value.index, "what it adds comes from different inputs")
            continue
        yield _judge(flow, value.index, (a, b), paths, squeezed, pointwise)


def _judge(
    flow: Dataflow, addition: int, sides: tuple[int, int], paths: Paths, squeezed: frozenset[int], pointwise: bool
) -> Finding:
    counts = [len(convolutions(flow, paths.own(side))) for side in (0, 1)]
    longer = 0 if counts[0] > counts[1] else 1
    unit = Unit(
        "residual",
        addition,
        sides[longer],
        paths.fork,
        paths.own(longer),
        sides[1 - longer],
        paths.own(1 - longer),
    )
    problem = _why_not(flow, unit, counts[longer], counts[1 - longer], pointwise)
    if problem:
        return Finding(addition, problem)
    to = "a projection of the block's input" if counts[1 - longer] else "the block's input"
    reason = f"a branch of {counted(counts[longer], 'convolution')} is added to {to}"
    if unit.own & squeezed:
        return Finding(addition, "its branch holds SE already", unit, squeezed=True)
    if unit.own_shortcut & squeezed:
        return Finding(addition, "its shortcut holds SE already", unit, squeezed=True)
    return Finding(addition, reason, unit)


def _why_not(flow: Dataflow, unit: Unit, in_branch: int, in_shortcut: int, pointwise: bool) -> str:
    if in_branch == 0:
        return "neither side holds a convolution"
    if not pointwise and not spatial_convolutions(flow, unit.own):
        return "its branch holds no spatial convolution, only 1×1"
    if in_branch == in_shortcut:
        return "a sum of parallel branches, none of them a shortcut"
    if len(_projections(flow, unit.own_shortcut)) > 1:
        return f"both sides hold convolutions ({in_branch} and {in_shortcut}): a fusion, not a shortcut"
    given = [index for index in flow.consumers[unit.fork] if index in unit.own]
    if splits_channels(flow, unit.own_shortcut) and splits_channels(flow, given):
        return "a sum inside a block that splits its channels"
    if is_linear(flow, unit.own) and _is_twin_or_position(flow, unit):
        return "its branches are linear: twins that can be merged into one convolution, or a position"
    if only_upsampled(flow, unit.fork, unit.output, unit.own) and not only_upsampled(
        flow, unit.fork, unit.shortcut, unit.own_shortcut
    ):
        return "a fusion across scales: one side comes back from a smaller map"
    if _is_summand_of_cell(flow, unit.value):
        return "a sum inside a cell that concatenates its sums"
    return ""


def _is_twin_or_position(flow: Dataflow, unit: Unit) -> bool:
    """Of linear branches: parallel ones (RepVGG), one beside a normalised identity, or a depthwise one alone."""
    parallel = any(flow.values[index].op == "add" and len(flow.values[index].operands) > 1 for index in unit.own)
    kinds = [flow.values[index].convolution for index in convolutions(flow, unit.own)]
    depthwise = all(kind is not None and kind.depthwise for kind in kinds)
    return parallel or bool(unit.own_shortcut) or depthwise or attends(flow)


def _projections(flow: Dataflow, shortcut: frozenset[int]) -> list[int]:
    """The convolutions of a shortcut that mix channels: a depthwise one and the 1×1 behind it are one projection."""
    found = ((index, flow.values[index].convolution) for index in convolutions(flow, shortcut))
    return [index for index, convolution in found if convolution is not None and not convolution.depthwise]


def _is_summand_of_cell(flow: Dataflow, addition: int) -> bool:
    """NASNet's cells: the code that adds also concatenates several such sums into its output."""
    cell = flow.made_in[addition]
    for index in flow.consumers[addition]:
        value = flow.values[index]
        if value.op == "cat" and flow.made_in[index] is cell:
            sums = [i for i in value.operands if flow.values[i].op == "add" and flow.made_in[i] is cell]
            if len(sums) > 1:
                return True
    return False
