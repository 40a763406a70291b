"""`optimize`: a network for inference that computes SE's gates before the layer that they rescale."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn

from senet.block.equations import padding
from senet.errors import OptimizeError
from senet.inference.agreement import LARGER, check, trials, unfounded
from senet.inference.algebra import folded_fc, window_means
from senet.inference.capture import ONE_AT_A_TIME, check_network, tensors_of
from senet.inference.eager.conditions import share_threads
from senet.inference.eager.epilogue import fuse_epilogues
from senet.inference.eager.gate import fuse_gates
from senet.inference.find_se import Gate, find_gates, source_of
from senet.inference.folding import applied, fits, fold_affine, fold_constants, fold_into
from senet.inference.graph import Network, capture, require, value_of
from senet.inference.layers import Layer
from senet.inference.rebuild import at_least_single, read_excitation, write_excitation
from senet.inference.shapes import Shapes, free_space
from senet.insertion import InsertionError, run, tell_of_lost, untouched
from senet.running import uninfluenced
from senet.zoo.weights.load import note_preprocessing, noted_preprocessing

__all__ = ["Outcome", "optimize", "optimized"]

_aten = torch.ops.aten
_log = logging.getLogger("senet")
_WORTH = 0.5  # the squeeze moves if it then reads at most this fraction


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome for one SE block: `squeeze` names its node in the graph; `reason` says why it stayed, or is ""."""

    squeeze: str
    moved: bool
    reason: str


def optimize(model: nn.Module, example: Any, *, dynamic_size: bool = False) -> nn.Module:
    """Make a network for inference, with folded normalisations and SE's squeeze before the last linear layer.

    SE of any library is found by its operations. If a linear layer makes the squeezed map, the
    layer's input is averaged instead, and the first FC layer is folded with the layer. Scale,
    addition and ReLU become one step after the layer. Anything that the algebra does not cover
    stays unchanged. The result is compared with the network on the example and on another batch,
    and agrees within 1e-5 of the largest output. In half precision the comparison is in float64,
    and normalisations are folded only if that rounds no weight.

    Args:
        model: any network that `torch.export` can trace, on any device; it is not changed.
        example: its input: a tensor, a tuple of positional arguments or a dict of keyword arguments.
        dynamic_size: whether the result takes other spatial sizes; otherwise only the example's.

    Returns:
        A `torch.fx.GraphModule` in eval mode for any batch size, with its own tensors, which can be
        run, copied, compiled, exported or converted. `meta["senet"]` is a tuple with an `Outcome`
        per SE block. If there is nothing to gain, `model` itself, in its own mode. The log "senet"
        gives the reasons.

    Raises:
        OptimizeError: (a ValueError) the network does not run on the example, cannot be exported,
            is compiled, scripted or wrapped, or fixes its size despite `dynamic_size`.
        TypeError: `model` is not an nn.Module.
    """
    if isinstance(model, nn.Module):
        tell_of_lost(model)
    made = optimized(model, example, dynamic_size=dynamic_size)
    if made is model and any(module.training for module in model.modules()):
        _log.warning("%s is in training mode, as it was given: call its eval() for inference", type(model).__name__)
    return made


@uninfluenced()
def optimized(
    model: nn.Module, example: Any, *, dynamic_size: bool = False, nothing_gained: int = logging.WARNING
) -> nn.Module:
    """`optimize`, for a caller who has already warned of lost SE.

    `nothing_gained` is the log level of the message that `model` is returned for lack of SE.
    """
    if padding.lengths is not None:
        raise OptimizeError("a network cannot be optimised inside senet.valid, whose lengths are one batch's: leave it")
    with ONE_AT_A_TIME:  # another thread's capture of this network puts tensors without values into it
        check_network(model)
        return _optimized(model, example, dynamic_size, nothing_gained)


def _optimized(model: nn.Module, example: Any, dynamic_size: bool, nothing_gained: int) -> nn.Module:
    name = type(model).__name__
    _try(model, example)
    try:
        network = capture(model, example, dynamic_size=dynamic_size)
    except OptimizeError:
        if dynamic_size:  # a network that refuses another size raises its own error
            _try(model, trials(example, free_space(example)).get(LARGER, example))
        raise
    tried = trials(example, network.shapes)
    _try(model, tried.get(LARGER, example))
    fold_constants(network)
    folded = fold_affine(network)
    outcomes = _move_squeezes(network)
    if not folded and not outcomes:
        _log.log(nothing_gained, "%s is returned unchanged: it holds no SE, and no normalisation that folds", name)
        return model
    result = network.module(name)
    result.meta["senet"] = tuple(outcomes)
    note_preprocessing(result, noted_preprocessing(model))  # as a copy of the network would have it
    shapes = network.shapes
    problem = check(model, result, tried)
    if not problem and (needed := unfounded(model, result, example, shapes, network.assumed)):
        require(result.graph, needed)
        result.recompile()
        shapes = dataclasses.replace(shapes, conditions=(*shapes.conditions, *needed))
        problem = "" if shapes.allow(shapes.sizes(tensors_of(example))) else "it is another function for other sizes"
    if problem:
        _log.warning("%s is returned unchanged: %s", name, problem)
        return model
    result.meta["senet_shapes"] = shapes
    _say(name, outcomes, folded, network.note, shapes)
    return result


def _try(model: nn.Module, example: Any) -> None:
    try:
        with untouched(model):
            run(model, example)
    except InsertionError as error:
        raise OptimizeError(str(error)) from error


def _move_squeezes(network: Network) -> list[Outcome]:
    """Rewrite every SE block of the graph; return the outcomes."""
    gates, maxima = find_gates(network)
    outcomes = [Outcome(each.squeeze.name, False, "the maximum is not linear, so its squeeze stays") for each in maxima]
    products = [product for each in maxima for product in each.products]
    results = []
    for gate in gates:
        outcome, result = _move(network, gate)
        outcomes.append(outcome)
        results += [] if result is None else [result]
        products += gate.products
    network.graph.eliminate_dead_code()
    joined = [node for node in (fuse_gates(network, result) for result in results) if node is not None]
    joined += fuse_epilogues(network, products)
    share_threads(network, joined)
    network.graph.eliminate_dead_code()
    return outcomes


def _move(network: Network, gate: Gate) -> tuple[Outcome, fx.Node | None]:
    """Rewrite one SE block: the squeeze before the layer if that reads less, and the excitation on vectors.

    Returns:
        The outcome, and the node of its gates if the excitation was rewritten.
    """
    source, reason, result = source_of(network, gate), "", None
    layer = source.layer
    for step in source.steps:
        layer = None if layer is None else applied(layer, step.scale, step.shift)
    if layer is None:
        reason = source.reason
    elif not _worth(layer, gate):
        layer, reason = None, "reading the last linear layer's input would cost as much as reading its output"
    excitation = read_excitation(network, gate)
    first = next(node for node in network.graph.nodes if node in gate.products)
    with network.graph.inserting_before(first if layer is None else layer.node):
        if excitation is not None:
            dtype = value_of(gate.average).dtype
            squeezed = (
                _mean(network, gate.averaged, gate.channel, dtype) if layer is None else _means(network, layer, gate)
            )
            folds = _takes_factor(gate, source.layer, excitation.factor)
            result = write_excitation(
                network,
                excitation,
                squeezed,
                before=layer,
                scale=excitation.factor if folds and layer is None else 1,
                factor=1 if folds else excitation.factor,
            )
            excitation.result.replace_all_uses_with(result)
            if folds and source.layer is not None:
                fold_into(network, source.layer, _number(excitation.factor, source.layer), None)
        elif layer is not None:
            gate.average.replace_all_uses_with(_mean_of_layer(network, layer, gate))
    return Outcome(gate.average.name, layer is not None, reason), result


def _worth(layer: Layer, gate: Gate) -> bool:
    """Whether the layer's input is enough smaller than the squeezed map that moving the squeeze pays."""
    skipped = math.prod(max(step / taps, 1) for step, taps in zip(layer.stride, layer.kernel, strict=True))
    return _elements(layer.h) / skipped <= _WORTH * _elements(gate.averaged)


def _elements(node: fx.Node) -> int:
    """The number of elements of a sample, at the example's size."""
    return math.prod(int(side if isinstance(side, int) else side.node.hint) for side in value_of(node).shape[1:])


def _takes_factor(gate: Gate, layer: Layer | None, factor: float) -> bool:
    """Whether the layer can absorb the gate's constant factor: only this SE block uses its output."""
    if layer is None or factor in (0, 1) or not fits(layer, _number(factor, layer), None):
        return False
    return set(layer.node.users) <= {gate.average, *gate.products}


def _number(factor: float, layer: Layer) -> Tensor:
    return torch.tensor(factor, dtype=torch.float64, device=layer.weight.device)


def _mean(network: Network, node: fx.Node, channel: int, dtype: torch.dtype) -> fx.Node:
    """(N, channels): the average over all other dimensions."""
    fake = value_of(node)
    space = [dim for dim in range(1, fake.dim()) if dim != channel]
    kwargs: dict[str, Any] = {} if fake.dtype == dtype else {"dtype": dtype}
    return network.graph.call_function(_aten.mean.dim, (node, space), kwargs)


def _means(network: Network, layer: Layer, gate: Gate) -> fx.Node:
    """(N, K × taps): the averages of the layer's input that its weights multiply.

    They are at least float32, because sums over a half-precision map can overflow and lose more
    digits than its average.
    """
    dtype = at_least_single(value_of(gate.average).dtype)
    if layer.pointwise or not layer.kernel:
        return _mean(network, layer.h, layer.channel, dtype)
    graph = network.graph
    arguments = (layer.h, list(layer.kernel), list(layer.stride), list(layer.padding), list(layer.dilation), dtype)
    return graph.call_function(_aten.flatten.using_ints, (graph.call_function(window_means, arguments), 1))


def _mean_of_layer(network: Network, layer: Layer, gate: Gate) -> fx.Node:
    """The squeeze's result from the layer's input, for an excitation that is more than layers and activations."""
    graph, fake = network.graph, value_of(gate.average)
    means = _means(network, layer, gate)
    folded, bias = folded_fc(layer, torch.eye(len(layer.weight), device=layer.weight.device), None)
    dtype = at_least_single(fake.dtype)
    arguments = [means, network.add(f"{gate.average.name}.weight", folded.to(dtype))]
    if bias is not None:
        arguments.append(network.add(f"{gate.average.name}.bias", bias.to(dtype)))
    squeezed = graph.call_function(_aten.linear.default, tuple(arguments))
    if dtype != fake.dtype:
        squeezed = graph.call_function(_aten._to_copy.default, (squeezed,), {"dtype": fake.dtype})
    shape = [-1, *fake.shape[1:]]
    return squeezed if len(shape) == 2 else graph.call_function(_aten.reshape.default, (squeezed, shape))


def _say(name: str, outcomes: list[Outcome], folded: int, note: str, shapes: Shapes) -> None:
    moved = sum(outcome.moved for outcome in outcomes)
    words = [f"{moved} of {len(outcomes)} squeezes moved before the last linear layer"] if outcomes else ["no SE found"]
    words.append(f"{folded} normalisations and constant steps folded")
    reasons = Counter(outcome.reason for outcome in outcomes if not outcome.moved)
    words += [f"{count} stayed: {reason}" for reason, count in reasons.items()]
    words += [note] if note else []
    words += [f"it is for {' and '.join(shapes.conditions)}, and refuses other sizes"] if shapes.conditions else []
    _log.info("%s: %s", name, "; ".join(words))
