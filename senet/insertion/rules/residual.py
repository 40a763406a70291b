"""The residual rule: a branch of convolutions added to a shortcut (ResNet and most networks since)."""

from __future__ import annotations

from collections.abc import Iterator

from senet.insertion.reading.dataflow import Dataflow
from senet.insertion.reading.operations import (
    SOFTMAXES,
    attends,
    convolutions,
    inside,
    is_linear,
    only_upsampled,
    spatial_convolutions,
    splits_channels,
)
from senet.insertion.reading.walk import Paths, Unit, part
from senet.insertion.rules.findings import Finding
from senet.words import counted

__all__ = ["residual"]

_PICTURE = 4  # channels of an input that is a picture
_BLOCK = 8  # convolutions on the branch of one block, at most


def residual(flow: Dataflow, squeezed: frozenset[int], *, pointwise: bool = False) -> Iterator[Finding]:
    """Additions of a convolutional branch to a shortcut: the block's input, or a projection of it.

    Of nested residual units the inner ones count. Branches of only 1×1 convolutions count only with
    `pointwise`.
    """
    found: list[Finding] = []
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
        found.append(_judge(flow, value.index, (a, b), paths, squeezed, pointwise))
    for finding in found:
        # RRDBNet adds around three residual blocks, and again around all of those groups. SE on the
        # outer additions too would rescale the same features two and three times.
        if finding.unit is not None and _is_made_of_units(flow, finding.unit, found):
            yield Finding(finding.value, "its branch is made of residual units, which count")
        else:
            yield finding


def _is_made_of_units(flow: Dataflow, outer: Unit, found: list[Finding]) -> bool:
    """Whether most spatial convolutions of a branch lie on the branches of units within it."""
    within = (other.unit for other in found if other.unit is not None and other.value in outer.own)
    held = frozenset[int]().union(*(unit.own for unit in within))
    return 2 * len(spatial_convolutions(flow, held)) > len(spatial_convolutions(flow, outer.own))


def _judge(
    flow: Dataflow, addition: int, sides: tuple[int, int], paths: Paths, squeezed: frozenset[int], pointwise: bool
) -> Finding:
    counts = [len(convolutions(flow, paths.own(side))) for side in (0, 1)]
    longer = 0 if counts[0] > counts[1] else 1
    unit = Unit(
        "residual", addition, sides[longer], paths.fork, paths.own(longer), sides[1 - longer], paths.own(1 - longer)
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
    if in_shortcut == 0 and _is_skip_of_input(flow, unit, in_branch):
        return "a skip of the picture itself around the network, whose inside counts"
    if _is_running_sum(flow, unit):
        return "a running sum of what several blocks hand out, not a block"
    if not pointwise and not spatial_convolutions(flow, unit.own):
        return "its branch holds no spatial convolution, only 1×1"
    if in_branch == in_shortcut:
        return "a sum of parallel branches, none of them a shortcut"
    # A depthwise convolution of the shortcut and the 1×1 after it are one projection.
    if sum(not convolution.depthwise for _, convolution in inside(flow, unit.own_shortcut)) > 1:
        return f"both sides hold convolutions ({in_branch} and {in_shortcut}): a fusion, not a shortcut"
    given = [index for index in flow.consumers[unit.fork] if index in unit.own]
    if splits_channels(flow, unit.own_shortcut) and splits_channels(flow, given):
        return "a sum inside a block that splits its channels"
    if is_linear(flow, unit.own) and _is_twin_or_position(flow, unit):
        return "its branches are linear: twins that can be merged into one convolution, or a position"
    if _is_attention_or_position(flow, unit):
        return "its branch is attention, or the position of a token"
    if only_upsampled(flow, unit.fork, unit.output, unit.own) and not only_upsampled(
        flow, unit.fork, unit.shortcut, unit.own_shortcut
    ):
        return "a fusion across scales: one side comes back from a smaller map"
    if _is_summand_of_cell(flow, unit.value):
        return "a sum inside a cell that concatenates its sums"
    return ""


def _is_twin_or_position(flow: Dataflow, unit: Unit) -> bool:
    """Whether linear branches are parallel (RepVGG), beside a normalised identity, or a lone depthwise one."""
    parallel = any(flow.values[index].op == "add" and len(flow.values[index].operands) > 1 for index in unit.own)
    depthwise = all(kind.depthwise for _, kind in inside(flow, unit.own))
    return parallel or bool(unit.own_shortcut) or depthwise or attends(flow)


def _is_attention_or_position(flow: Dataflow, unit: Unit) -> bool:
    """Whether the branch has a softmax (MobileViT v2), or one grouped convolution beside tokens (Wav2Vec2)."""
    kinds = [kind for _, kind in inside(flow, unit.own)]
    ops = {flow.values[index].op for index in unit.own}
    if len(kinds) == 1 and kinds[0].groups > 1 and not unit.own_shortcut and not ops & {"addmm", "mm", "bmm"}:
        return attends(flow)
    if not ops & SOFTMAXES or any(kind.spatial and not kind.depthwise for kind in kinds):
        return False
    last = max(index for index in unit.own if flow.values[index].op in SOFTMAXES)
    projects = is_linear(flow, (index for index in unit.own if index > last))
    return projects or not any(kind.spatial for kind in kinds)


def _is_skip_of_input(flow: Dataflow, unit: Unit, in_branch: int) -> bool:
    """Whether the shortcut is the network's input: an image, or a skip around a whole network (VDSR).

    In a network that is a single block, the shortcut is also the input. Its few convolutions and
    many channels tell it apart.
    """
    value = flow.values[unit.fork]
    return value.op == "input" and in_branch > (_BLOCK if value.shape[1] > _PICTURE else 2)


def _is_running_sum(flow: Dataflow, unit: Unit) -> bool:
    """Whether the sum is a running total of what blocks return beside their output, as in WaveNet.

    A block's output is the next block's input. A running total goes only into the next addition,
    which adds values made since. The last total is used elsewhere, but an earlier one goes only
    into this addition.
    """
    shortcut = flow.values[unit.shortcut]
    if shortcut.op == "add" and len(shortcut.operands) == 2 and len(flow.consumers[unit.shortcut]) == 1:
        return True
    after = [flow.values[index] for index in flow.consumers[unit.value]]
    if len(after) != 1 or after[0].op != "add":
        return False
    return any(operand > unit.fork for operand in after[0].operands if operand != unit.value)


def _is_summand_of_cell(flow: Dataflow, addition: int) -> bool:
    """Whether the same code concatenates several such sums into its output, as NASNet's cells do."""
    cell = flow.made_in[addition]
    for index in flow.consumers[addition]:
        value = flow.values[index]
        if value.op == "cat" and flow.made_in[index] is cell:
            sums = [i for i in value.operands if flow.values[i].op == "add" and flow.made_in[i] is cell]
            if len(sums) > 1:
                return True
    return False
