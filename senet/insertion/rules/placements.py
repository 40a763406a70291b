"""The paper's five placements (figure 5, tables 14 and 15) as module calls that SE could be joined to.

Their meaning in each kind of network:

| | residual | aggregated | shuffled, dense | plain |
|---|---|---|---|---|
| standard | the branch's output | concatenation, with its 1×1 unit | new branch's output | activation |
| pre | what the branch is given | what the block is given | what the branch is given | what the unit is given |
| post | after the addition and its activation | as standard | the block's output | as standard |
| identity | the shortcut | none | none | none |
| inner | after the branch's last spatial unit | none | after the branch's last spatial unit | as standard |
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from senet.insertion.reading.dataflow import Dataflow
from senet.insertion.reading.layout import channel_dim, through_layout
from senet.insertion.reading.operations import ELEMENTWISE, NORMS, is_split, iterates_its_children, spatial_convolutions
from senet.insertion.reading.walk import (
    Option,
    Unit,
    activation_after,
    after_concatenation,
    back,
    makers,
    takers,
    unit_after,
)

__all__ = ["options_for", "why_none"]


def options_for(flow: Dataflow, unit: Unit, placement: str) -> Iterator[Option]:
    """The options for joining SE at a unit, best first; empty if there is none."""
    if placement == "pre":
        yield from _pre(flow, unit)
    elif placement == "identity":
        if unit.rule == "residual":
            yield from _identity(flow, unit)
    elif unit.rule == "plain":
        yield from _either_side(flow, _unit_before(flow, unit), math.inf)
    elif unit.rule == "aggregated":
        if placement != "inner":
            yield from _concatenated(flow, unit)
    elif placement == "standard":
        yield from _behind(flow, unit.output, unit.own, unit.value)
    elif placement == "post":
        yield from _post(flow, unit)
    else:
        yield from _inner(flow, unit)


def why_none(placement: str, rule: str) -> str:
    """Why a unit has no option, in words."""
    if rule != "residual" and placement == "identity":
        return "it has no shortcut that an addition ends"
    if rule == "aggregated" and placement == "inner":
        return "its branches end in several spatial convolutions"
    return {
        "standard": "no module of its own makes that output as (N, C, …) or (N, …, C)",
        "pre": "no module of its own takes that branch's input",
        "post": "no module of its own makes the block's output",
        "identity": "no module hands on its shortcut",
        "inner": "it has no last spatial convolution whose output a module of its own makes",
    }[placement]


def _unit_before(flow: Dataflow, unit: Unit) -> list[int]:
    """An activation and the chain that leads to it from a convolution or a sum, earliest first."""
    chain = [unit.value]
    while flow.values[chain[0]].convolution is None:
        at = back(flow, chain[0], through=NORMS | {"view"})
        if at is None or at not in unit.own:
            break
        chain.insert(0, at)
    return chain


def _behind(flow: Dataflow, operand: int, own: frozenset[int], join: int) -> Iterator[Option]:
    """Makers of the branch's output, walking back over elementwise steps on the branch.

    SE goes before a layer scale, not after it, where averages would be as small as the scale.
    """
    at: int | None = operand
    behind_scales: list[Option] = []
    while at is not None and at in own:
        index = at
        elsewhere = [flow.values[i] for i in flow.consumers[index] if i not in own and i != join]
        if not all(is_split(value) or value.op == "cat" for value in elsewhere):
            break  # SE there would affect more than this branch
        value = flow.values[index]
        scales = value.op in ("mul", "div") and value.constants > 0
        found = makers(flow, index, before=join)
        if scales:
            behind_scales.extend(found)
        else:
            yield from found
        at = back(flow, index, through=frozenset({"slice", "constant_pad_nd"}))
    yield from behind_scales


def _inner(flow: Dataflow, unit: Unit) -> Iterator[Option]:
    found = spatial_convolutions(flow, unit.own)
    if not found:
        return
    *others, last = found
    before = {last}
    for index in sorted(unit.own, reverse=True):
        if index in before:
            before.update(flow.values[index].operands)
    if all(other in before for other in others):  # otherwise branches run in parallel, and no convolution is the last
        yield from _either_side(flow, unit_after(flow, last, unit.own), unit.value)


def _either_side(flow: Dataflow, chain: list[int], end: float) -> Iterator[Option]:
    """Along a convolution, its normalisation and activation, last first: the makers, then the takers."""
    for index in reversed(chain):
        yield from makers(flow, index, before=end)
        yield from takers(flow, index)


def _pre(flow: Dataflow, unit: Unit) -> Iterator[Option]:
    if unit.rule == "plain" and flow.values[unit.fork].op == "input":
        return  # a picture is no feature map
    yield from _given_to_branch(flow, unit)
    if unit.rule == "aggregated":
        end = after_concatenation(flow, unit.value)[-1]
        for call in flow.calls_returning.get(end, []):
            if call.argument is None or len(call.inputs) != 1:
                continue
            dim = channel_dim(flow, call.argument)
            if dim is not None and call.made(unit.value) and not iterates_its_children(call.module):
                yield Option(call, "input", flow.values[call.argument].shape[dim], dim)


def _given_to_branch(flow: Dataflow, unit: Unit) -> Iterator[Option]:
    value = unit.fork
    end = unit.value if unit.rule == "residual" else math.inf
    while True:
        uses = [index for index in flow.consumers[value] if index in unit.own]
        dim = channel_dim(flow, value)
        if not uses or dim is None:
            return
        for call in reversed(flow.calls_taking.get(value, [])):  # inner before outer
            takes_it = call.end <= end and all(call.made(use) for use in uses)
            if takes_it and not iterates_its_children(call.module):
                yield Option(call, "input", flow.values[value].shape[dim], dim)
        used = flow.values[uses[0]]
        if len(uses) != 1 or not (used.op in ELEMENTWISE or is_split(used)):
            return
        value = uses[0]


def _post(flow: Dataflow, unit: Unit) -> Iterator[Option]:
    if unit.rule != "residual":
        yield from makers(flow, through_layout(flow, unit.value))
        return
    for index in reversed(activation_after(flow, unit.value)):
        yield from makers(flow, index)


def _concatenated(flow: Dataflow, unit: Unit) -> Iterator[Option]:
    chain = after_concatenation(flow, unit.value)
    for call in flow.calls_returning.get(chain[-1], []):
        if call.made(chain[-1]):  # a module returns its end
            yield from _either_side(flow, chain, math.inf)
            return


def _identity(flow: Dataflow, unit: Unit) -> Iterator[Option]:
    if unit.own_shortcut:
        yield from _behind(flow, unit.shortcut, unit.own_shortcut, unit.value)
        return
    dim = channel_dim(flow, unit.shortcut)
    if dim is None:
        return
    sources = flow.calls_taking.get(unit.shortcut, [])
    lasts = [
        call
        for call in flow.calls_returning.get(unit.output, [])
        if call.end <= unit.value and call.returns_tensor and not iterates_its_children(call.module)
    ]
    for last in reversed(lasts):  # the outermost: what it returns goes straight into the addition
        around = [source for source in sources if source.first <= last.first and source.end > unit.value]
        before = [source for source in sources if source.end <= last.first]
        for source in [*reversed(around), *before]:
            if source.module is not last.module and len(flow.calls_of[source.module]) == 1:
                yield Option(last, "shortcut", flow.values[unit.shortcut].shape[dim], dim, source)
