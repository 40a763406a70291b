"""Rules for networks that concatenate: aggregated (Inception), shuffled (ShuffleNet v2) and dense (DenseNet)."""

from __future__ import annotations

from collections.abc import Iterator

from senet.insertion.reading.dataflow import Dataflow, Value
from senet.insertion.reading.operations import convolutions, is_split, spatial_convolutions, upsamples
from senet.insertion.reading.walk import Unit, after_concatenation, part
from senet.insertion.rules.findings import Finding
from senet.words import counted

__all__ = ["aggregated", "dense"]


def aggregated(flow: Dataflow, squeezed: frozenset[int]) -> Iterator[Finding]:
    """Units of parallel branches, or of the steps of one chain, concatenated over channels into a module's output."""
    for value, operands in _concatenations(flow, squeezed):
        paths = part(flow, operands)
        if paths is None:
            yield Finding(value.index, "what it concatenates comes from different inputs")
            continue
        region = frozenset[int]().union(*paths.to)
        passing = [path for path in paths.to if not convolutions(flow, path) and not _pools(flow, path)]
        branches = len(operands)
        if len(flow.values[paths.fork].shape) != len(value.shape):
            problem = "lists of results, not maps"
        elif not spatial_convolutions(flow, region):
            problem = "its branches hold no spatial convolution"
        elif upsamples(flow, region):
            problem = "a fusion across scales: one part comes back from a smaller map"
        elif passing and (branches == 2 or _concatenates(flow, region)):
            problem = "new channels beside old ones, not branches of one block"
        else:
            problem = ""
        if problem:
            yield Finding(value.index, problem)
            continue
        unit = Unit("aggregated", value.index, value.index, paths.fork, region)
        behind = squeezed.intersection(
            use for link in after_concatenation(flow, value.index) for use in flow.consumers[link]
        )
        if behind or region & squeezed:
            yield Finding(value.index, "its block holds SE already", unit, squeezed=True)
            continue
        what = "the steps of a chain" if passing else "parallel branches"
        yield Finding(value.index, f"{what}, {branches} in all, are concatenated over channels", unit)


def dense(flow: Dataflow, squeezed: frozenset[int]) -> Iterator[Finding]:
    """Units that concatenate new channels to old ones; SE goes on the new branch, before the concatenation."""
    seen: set[int] = set()
    for value, operands in _concatenations(flow, squeezed):
        paths = part(flow, operands)
        if paths is None or any(upsamples(flow, path) for path in paths.to):
            yield Finding(value.index, "a fusion across scales or of different inputs")
            continue
        passing = {o for o, path in zip(operands, paths.to, strict=True) if not convolutions(flow, path)}
        region = frozenset[int]().union(*paths.to)
        counts = [len(convolutions(flow, path)) for path in paths.to]
        if len(operands) > 2 and not _concatenates(flow, region):
            yield Finding(value.index, "branches of one block, not new channels beside old ones")
            continue
        if not passing and (len(operands) != 2 or counts[0] == counts[1]):
            yield Finding(value.index, "parallel branches, none of which only hands channels on")
            continue
        shrinks = not passing
        if shrinks:
            passing = {operands[counts.index(min(counts))]}  # a unit that shrinks the map works on both parts
        for operand in operands:
            if operand in passing or operand in seen:
                continue
            seen.add(operand)
            yield _judge_new(flow, value, operand, set(operands) - {operand}, squeezed, shrinks=shrinks)


def _judge_new(
    flow: Dataflow, value: Value, operand: int, others: set[int], squeezed: frozenset[int], *, shrinks: bool
) -> Finding:
    own, given = _since(flow, operand, others, value.index)
    found = convolutions(flow, own)
    if not spatial_convolutions(flow, own):
        return Finding(value.index, "its new branch holds no spatial convolution")
    split = any(is_split(flow.values[index]) for index in given | others)
    rule = "shuffled" if split or shrinks else "dense"
    fork = max(given, default=operand)
    unit = Unit(rule, value.index, operand, fork, own)
    if own & squeezed:
        return Finding(value.index, "its new branch holds SE already", unit, squeezed=True)
    return Finding(
        value.index, f"a new branch of {counted(len(found), 'convolution')} is concatenated to what was there", unit
    )


def _since(flow: Dataflow, operand: int, others: set[int], end: int) -> tuple[frozenset[int], frozenset[int]]:
    """The values on a new branch, and the branch's input.

    The branch begins at the input of the outermost call that made it, at another operand of the
    concatenation, at an earlier concatenation, or at a part of a map.
    """
    calls = [call for call in flow.calls_returning.get(operand, []) if call.made(operand) and call.end <= end]
    bounds = others.union(calls[-1].inputs if calls else ())
    own: set[int] = set()
    given: set[int] = set()
    open_ends = [operand]
    while open_ends:
        index = open_ends.pop()
        value = flow.values[index]
        outside = index in bounds or value.op == "cat" or is_split(value) or not value.operands
        if outside and index != operand:
            given.add(index)
        elif index not in own:
            own.add(index)
            open_ends.extend(value.operands)
    return frozenset(own), frozenset(given)


def _concatenations(flow: Dataflow, squeezed: frozenset[int]) -> Iterator[tuple[Value, tuple[int, ...]]]:
    for value in flow.values:
        operands = tuple(dict.fromkeys(value.operands))
        if value.op != "cat" or value.index in squeezed or len(value.shape) < 3 or len(operands) < 2:
            continue
        dim = int(value.detail[0]) % len(value.shape) if value.detail else 0
        if dim == 1 and value.constants == 0:
            yield value, operands


def _concatenates(flow: Dataflow, values: frozenset[int]) -> bool:
    return any(flow.values[index].op == "cat" for index in values)


def _pools(flow: Dataflow, values: frozenset[int]) -> bool:
    return any("pool" in flow.values[index].op for index in values)
