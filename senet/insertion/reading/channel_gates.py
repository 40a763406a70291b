"""Find channel gates in a recorded run: products of a map with per-channel weights computed from that map.

SE, effective SE, ECA and their relatives share one pattern: a map u, a reduction over its space,
layers that mix channels, a gate, and the product with u. The pattern is found in the operations,
never in names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from senet.insertion.reading.dataflow import Call, Dataflow, Value
from senet.insertion.reading.operations import ACTIVATIONS, LAYOUT, SOFTMAXES

__all__ = ["ChannelGate", "channel_gates", "rescaling_call"]

_SAME = LAYOUT | frozenset("alias detach _to_copy dropout native_dropout".split())  # same map, other layout
_REDUCTIONS = frozenset(
    "mean sum amax max std var std_mean var_mean logsumexp linalg_vector_norm norm adaptive_avg_pool1d "
    "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d avg_pool1d "
    "avg_pool2d avg_pool3d max_pool2d_with_indices max_pool3d_with_indices bmm".split()
)
_LAYERS = frozenset("convolution addmm mm bmm baddbmm addbmm linear".split())


@dataclasses.dataclass(frozen=True, slots=True)
class ChannelGate:
    """One product of a map with its gate.

    Attributes:
        map: the value that is squeezed and rescaled.
        product: the rescaled map.
        made: the values computed from the map to the product, the product included.
        layers: the values among them that come from layers.
        channels: C.
        channel_dim: the channel dimension of the map.
    """

    map: int
    product: int
    made: frozenset[int]
    layers: tuple[int, ...]
    channels: int
    channel_dim: int


def channel_gates(flow: Dataflow) -> Iterator[ChannelGate]:
    """Every channel gate of a run, in the order of their products."""
    for value in flow.values:
        operands = list(dict.fromkeys(value.operands))
        if value.op not in ("mul", "addcmul") or len(operands) != 2 or len(value.shape) < 3:
            continue
        for rescaled, gate in (operands, operands[::-1]):
            dim = _channel_dim(flow, rescaled, gate)
            source = _source(flow, rescaled)
            between = None if dim is None else _between(flow, gate, source, dim)
            if dim is not None and between is not None:
                layers = tuple(sorted(index for index in between if _is_layer(flow.values[index])))
                weights = flow.values[_before_expanding(flow, gate)].shape
                # A gate that varies over two dimensions is a channel gate only if a layer made it
                # in that shape. In SKNet the second dimension counts branches, which are weighed
                # against each other.
                if sum(n > 1 for n in weights[1:]) > 1 and all(flow.values[i].shape != weights for i in layers):
                    continue
                channels = flow.values[rescaled].shape[dim]
                yield ChannelGate(source, value.index, between | {value.index}, layers, channels, dim)
                break


def rescaling_call(flow: Dataflow, gate: ChannelGate) -> tuple[Call | None, bool]:
    """The innermost call that takes the map and returns the product, and whether it adds the map to it.

    None if no module does just that: the gate is then part of a larger module's forward.
    """
    ends = {gate.product: False}
    for index in flow.consumers[gate.product]:
        value = flow.values[index]
        if value.op == "add" and {_source(flow, operand) for operand in value.operands} == {gate.map, gate.product}:
            ends[index] = True
    for call in flow.calls:
        if len(call.outputs) != 1 or not call.inputs or not call.first <= min(gate.made) <= gate.product < call.end:
            continue
        end = _source(flow, call.outputs[0])
        if end in ends and call.returns_tensor and _source(flow, call.inputs[0]) == gate.map:
            return call, ends[end]
    return None, False


def _source(flow: Dataflow, index: int) -> int:
    """The value from which `index` differs only in layout and dtype."""
    value = flow.values[index]
    while value.op in _SAME and value.operands:
        value = flow.values[value.operands[0]]
    return value.index


def _channel_dim(flow: Dataflow, rescaled: int, gate: int) -> int | None:
    """The channel dimension if the gate has one weight per channel, else None.

    A gate may also vary along space if only part of the space is squeezed. nnU-Net, for instance,
    averages two dimensions of three.
    """
    shape, weights = flow.values[rescaled].shape, flow.values[_before_expanding(flow, gate)].shape
    weights = (1,) * (len(shape) - len(weights)) + weights
    if len(weights) != len(shape) or weights[0] != shape[0]:
        return None
    varies = [dim for dim in range(1, len(shape)) if weights[dim] != 1]
    if any(weights[dim] != shape[dim] for dim in varies):
        return None
    partly = varies[:1] == [1] and any(weights[dim] == 1 < shape[dim] for dim in range(2, len(shape)))
    return varies[0] if len(varies) == 1 or partly else None


def _before_expanding(flow: Dataflow, index: int) -> int:
    """The gate before it was expanded to the size of the map."""
    while flow.values[index].op == "expand":
        index = flow.values[index].operands[0]
    return index


def _between(flow: Dataflow, gate: int, source: int, channel_dim: int) -> frozenset[int] | None:
    """The values from a map to its gate if only a squeeze, layers and an activation lie between, else None.

    No path may reach the map without a reduction, as in a gate over space, or begin at another
    value. A mask is the exception: it selects positions and does not depend on channels.
    """
    made: set[int] = set()
    follows = _following(flow, source, gate)
    open_ends = [(gate, False)]
    seen: set[tuple[int, bool]] = set()
    while open_ends:
        index, reduced = open_ends.pop()
        if (index, reduced) in seen:
            continue
        seen.add((index, reduced))
        value = flow.values[index]
        if index == source:
            if not reduced:
                return None
            continue
        if index not in follows:
            if len(value.shape) == len(flow.values[source].shape) and value.shape[channel_dim] == 1:
                continue
            return None  # from another input, or from before the map
        made.add(index)
        # On a map of one position, a reduction counts as it would on a larger one.
        reduced |= value.op in _REDUCTIONS and any(len(flow.values[each].shape) >= 3 for each in value.operands)
        open_ends.extend((operand, reduced) for operand in value.operands)
    ops = {flow.values[index].op for index in made}
    has_layer = any(_is_layer(flow.values[index]) for index in made)
    return frozenset(made) if has_layer and ops & (ACTIVATIONS | SOFTMAXES) else None


def _following(flow: Dataflow, source: int, last: int) -> set[int]:
    """The values up to `last` that are computed from `source`, `source` included."""
    found = {source}
    for index in range(source + 1, last + 1):
        if not found.isdisjoint(flow.values[index].operands):
            found.add(index)
    return found


def _is_layer(value: Value) -> bool:
    return value.op in _LAYERS and value.constants > 0
