"""The paper's five placements (figure 5, table 14), each as the module calls that SE could be joined to."""

from __future__ import annotations

import math
from collections.abc import Iterator

from senet.insertion.attach import iterates_its_children
from senet.insertion.dataflow import Dataflow
from senet.insertion.walk import (
    ACTIVATIONS,
    Join,
    Option,
    activation_after,
    back,
    is_split,
    kernels,
    makers,
    unit_after,
)

__all__ = ["options_for"]


def options_for(flow: Dataflow, join: Join, placement: str) -> Iterator[Option]:
    """The ways to join SE at a residual branch, best first. Empty where there is none.

    standard: what the branch gives, before the addition, and before what comes between (drop-path, layer scale).
    pre: what the branch is given. post: what the block gives, after the activation behind the addition.
    identity: the shortcut. inner: the last spatial convolution of the branch, with its normalisation and
    activation.
    """
    return {"standard": _standard, "pre": _pre, "post": _post, "identity": _identity, "inner": _inner}[placement](
        flow, join
    )


def _standard(flow: Dataflow, join: Join) -> Iterator[Option]:
    return _behind(flow, join.branch, join.own_branch, join.addition)


def _behind(flow: Dataflow, operand: int, own: frozenset[int], addition: int) -> Iterator[Option]:
    """Makers of an operand of the addition, walking back over element-wise steps that are the path's own."""
    at: tuple[int, int] | None = (operand, 1)
    while at is not None and at[0] in own:
        index, channel_dim = at
        elsewhere = [i for i in flow.consumers[index] if i not in own and i != addition]
        if not all(is_split(flow.values[i]) for i in elsewhere):
            return  # SE there would reach more than this branch
        yield from makers(flow, index, channel_dim, before=addition)
        at = back(flow, index, channel_dim, through=frozenset({"slice", "constant_pad_nd"}))


def _pre(flow: Dataflow, join: Join) -> Iterator[Option]:
    value = join.fork
    while True:
        uses = [index for index in flow.consumers[value] if index in join.own_branch]
        if not uses:
            return
        calls = [
            call
            for call in flow.calls_taking.get(value, ())
            if call.inputs[0] == value
            and call.end <= join.addition
            and all(call.made(use) for use in uses)
            and not iterates_its_children(call.module)
        ]
        for call in reversed(calls):  # inner before outer
            yield Option(call, "input", flow.values[value].shape[1])
        if len(uses) != 1 or flow.values[uses[0]].op not in ACTIVATIONS:
            return
        value = uses[0]


def _post(flow: Dataflow, join: Join) -> Iterator[Option]:
    for index in reversed(activation_after(flow, join.addition)):
        yield from makers(flow, index, 1)


def _identity(flow: Dataflow, join: Join) -> Iterator[Option]:
    if join.own_shortcut:
        yield from _behind(flow, join.shortcut, join.own_shortcut, join.addition)
        return
    sources = [call for call in flow.calls_taking.get(join.shortcut, ()) if call.inputs[0] == join.shortcut]
    lasts = [
        call
        for call in flow.calls_returning.get(join.branch, ())
        if call.end <= join.addition and call.returns_tensor and not iterates_its_children(call.module)
    ]
    for last in reversed(lasts):  # the outermost: what it returns goes straight into the addition
        around = [source for source in sources if source.first <= last.first and source.end > join.addition]
        before = [source for source in sources if source.end <= last.first]
        for source in [*reversed(around), *before]:
            if source.module is not last.module and len(flow.calls_of[source.module]) == 1:
                yield Option(last, "shortcut", flow.values[join.shortcut].shape[1], source=source)


def _inner(flow: Dataflow, join: Join) -> Iterator[Option]:
    spatial = [index for index, kernel in kernels(flow, join.own_branch) if math.prod(kernel) > 1]
    unit = unit_after(flow, spatial[-1], join.own_branch)
    for index in reversed(unit):
        yield from makers(flow, index, 1, before=join.addition)
        uses = flow.consumers[index]
        takers = [
            call
            for call in flow.calls_taking.get(index, ())
            if call.inputs[0] == index and uses and all(call.made(use) for use in uses)
        ]
        for call in reversed(takers):
            if not iterates_its_children(call.module):
                yield Option(call, "input", flow.values[index].shape[1])
