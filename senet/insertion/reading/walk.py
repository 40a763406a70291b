"""Walks over a dataflow that the rules share: where paths part, what made a value, what follows it."""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Iterator, Sequence

from torch import nn

from senet.insertion.reading.dataflow import Call, Dataflow
from senet.insertion.reading.layout import channel_dim
from senet.insertion.reading.operations import ACTIVATIONS, ELEMENTWISE, NORMS, iterates_its_children, self_gated

__all__ = [
    "Option",
    "Paths",
    "Unit",
    "activation_after",
    "after_concatenation",
    "back",
    "makers",
    "part",
    "takers",
    "unique",
    "unit_after",
]


@dataclasses.dataclass(frozen=True)
class Option:
    """A module call that SE could be joined to, with the position and the channel dimension there."""

    call: Call
    position: str
    channels: int
    channel_dim: int = 1
    source: Call | None = None


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit that SE may rescale: a branch and what it is joined to, or a layer with its activation.

    Attributes:
        rule: the name of the rule that found it.
        value: the addition, concatenation or activation that ends it.
        output: the branch's output, where the standard placement goes.
        fork: the branch's input.
        own: the values that lie only on the branch.
        shortcut: for a residual unit, the other side of the addition.
        own_shortcut: the values that lie only on the shortcut; empty if it is the fork itself.
    """

    rule: str
    value: int
    output: int
    fork: int
    own: frozenset[int]
    shortcut: int = -1
    own_shortcut: frozenset[int] = frozenset()


@dataclasses.dataclass(frozen=True)
class Paths:
    """The paths from a fork to several targets: for each, the values it depends on after the fork, itself included."""

    fork: int
    to: tuple[frozenset[int], ...]

    def own(self, target: int) -> frozenset[int]:
        """The values on the path to one target and on no other path."""
        others = frozenset[int]().union(*(path for index, path in enumerate(self.to) if index != target))
        return self.to[target] - others


def part(flow: Dataflow, targets: Sequence[int]) -> Paths | None:
    """The fork of the paths to `targets`: the last value on which all of them depend; None if there is none.

    Only the values between are visited, so the cost of a chain of blocks is linear in its length.
    """
    everyone = (1 << len(targets)) - 1
    label: dict[int, int] = {}
    for bit, target in enumerate(targets):
        label[target] = label.get(target, 0) | 1 << bit
    heap = [-index for index in label]
    heapq.heapify(heap)
    to: list[set[int]] = [set() for _ in targets]
    while heap:
        index = -heapq.heappop(heap)
        mark = label[index]
        if not heap and mark == everyone:
            return Paths(index, tuple(frozenset(path) for path in to))
        for bit, path in enumerate(to):
            if mark >> bit & 1:
                path.add(index)
        for operand in flow.values[index].operands:
            if operand not in label:
                label[operand] = 0
                heapq.heappush(heap, -operand)
            label[operand] |= mark
    return None


def back(flow: Dataflow, index: int, *, through: frozenset[str] = frozenset()) -> int | None:
    """The value before `index`, one step back over an elementwise operation or a permutation.

    None if another operation made the value. `through` names further operations that may be passed.
    """
    value = flow.values[index]
    operands = list(dict.fromkeys(value.operands))
    if value.op in ELEMENTWISE or value.op in through:
        if len(operands) == 2 and value.op == "mul":
            operands = self_gated(flow, operands)  # x · σ(x), written by hand
            sizes = [math.prod(flow.values[operand].shape) for operand in operands]
            operands = [operands[sizes.index(max(sizes))]] if min(sizes) < max(sizes) else operands  # a map and a gate
        if len(operands) == 1 and math.prod(flow.values[operands[0]].shape) >= math.prod(value.shape):
            return operands[0]
    if len(operands) == 1 and value.op in ("permute", "transpose"):
        return operands[0]
    return None


def makers(flow: Dataflow, index: int, before: float = math.inf) -> Iterator[Option]:
    """The calls that made and returned `index` and ended before the value `before`, innermost first.

    Containers are left out, and so are calls that only passed it through (drop-path in eval mode).
    """
    dim = channel_dim(flow, index)
    if dim is None:
        return
    for call in flow.calls_returning.get(index, ()):
        if call.end > before:
            return
        if call.returns_tensor and call.made(index) and not iterates_its_children(call.module):
            yield Option(call, "output", flow.values[index].shape[dim], dim)


def takers(flow: Dataflow, index: int) -> Iterator[Option]:
    """The calls whose first argument is `index` and that contain every use of it, innermost first."""
    uses = flow.consumers[index]
    dim = channel_dim(flow, index)
    if dim is None:
        return
    for call in reversed(flow.calls_taking.get(index, [])):
        if uses and all(call.made(use) for use in uses) and not iterates_its_children(call.module):
            yield Option(call, "input", flow.values[index].shape[dim], dim)


def unit_after(flow: Dataflow, index: int, within: frozenset[int]) -> list[int]:
    """`index` and the chain of single uses that follows it within a set: its normalisation and activation."""
    chain = [index]
    while True:
        shape = flow.values[chain[-1]].shape
        after = [i for i in flow.consumers[chain[-1]] if flow.values[i].shape == shape]
        if len(after) != 1 or after[0] not in within or flow.values[after[0]].op not in NORMS | ACTIVATIONS:
            return chain
        chain.append(after[0])


def after_concatenation(flow: Dataflow, index: int) -> list[int]:
    """A concatenation and the chain of 1×1 units after it in the same module's code."""
    chain = [index]
    around = (call for call in flow.calls if call.made(index) and not iterates_its_children(call.module))
    block = next(around, None)
    while True:
        size = flow.values[chain[-1]].shape[2:]
        after = [i for i in flow.consumers[chain[-1]] if flow.values[i].shape[2:] == size]
        if len(after) != 1 or (block is not None and not block.made(after[0])):
            return chain
        value = flow.values[after[0]]
        mixes = value.convolution is not None and not value.convolution.spatial
        if not (mixes or value.op in NORMS or value.op in ACTIVATIONS) or len(set(value.operands)) != 1:
            return chain
        chain.append(after[0])


def activation_after(flow: Dataflow, index: int) -> list[int]:
    """`index` and the chain of activations after it, each the only use of the one before."""
    chain = [index]
    while True:
        after = flow.consumers[chain[-1]]
        if len(after) != 1 or flow.values[after[0]].op not in ACTIVATIONS:
            return chain
        if len(set(flow.values[after[0]].operands)) != 1:
            return chain
        chain.append(after[0])


def unique(flow: Dataflow, options: list[list[Option]]) -> list[Option | None]:
    """For each site, the first option whose module serves no other site.

    A module with weights that is called only at several sites (a shared block) serves them all with
    one SE. A shared activation serves none. Where two sites want one module at different positions,
    the earlier one gives way if it has another option.
    """
    wanted = {
        (id(option.call.module), option.call.first, option.call.end, option.channels)
        for group in options
        for option in group
    }

    def fits(option: Option) -> bool:
        calls = flow.calls_of[option.call.module]
        if len(calls) == 1:
            return True
        has_weights = next(option.call.module.parameters(), None) is not None
        return has_weights and all((id(c.module), c.first, c.end, option.channels) in wanted for c in calls)

    chosen: dict[int, Option] = {}
    sites_of: dict[nn.Module, set[int]] = {}

    def choose(site: int, tried: set[nn.Module]) -> bool:
        for option in options[site]:
            module = option.call.module
            if module in tried or not fits(option):
                continue
            tried.add(module)
            others = [other for other in sites_of.get(module, ()) if chosen[other].position != option.position]
            if all(choose(other, tried) for other in others):
                if site in chosen:
                    sites_of[chosen[site].call.module].remove(site)
                chosen[site] = option
                sites_of.setdefault(module, set()).add(site)
                return True
        return False

    for site in range(len(options)):
        choose(site, set())
    return [chosen.get(site) for site in range(len(options))]
