"""Decide whether compiled functions, which PyTorch does not see, may do an operation.

This is decided once per run of a network, because Python's own time counts here: between two
convolutions, whose weights fill the caches, a dozen lines take longer than an SE block's arithmetic
for one image.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from senet.fused.conditions import is_being_traced
from senet.fused.passes.library import library
from senet.inference.graph import Network, expect, value_of

__all__ = ["computed_now", "share_threads", "threads"]

_KINDS = (Tensor, torch.nn.Parameter)


def computed_now(*tensors: Tensor) -> bool:
    """Whether operations on these run now, and are neither observed nor differentiated."""
    differentiated = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    return not (differentiated or is_being_traced())


def threads(*tensors: Tensor) -> int:
    """The number of threads for compiled functions in this run; 0 if PyTorch's operations must be used.

    Args:
        tensors: the network's first input, and the weights that those functions read.
    """
    for x in tensors[1:]:
        if type(x) not in _KINDS or not x.is_cpu or x.dtype is not tensors[1].dtype or not x.is_contiguous():
            return 0
    if not computed_now(*tensors) or type(tensors[0]) not in _KINDS or library() is None:
        return 0
    return torch.get_num_threads()


def share_threads(network: Network, nodes: list[fx.Node]) -> None:
    """Call `threads` at the graph's beginning, and pass its result as the first argument of those nodes still in it."""
    graph = network.graph
    there = set(graph.nodes)
    nodes = [node for node in nodes if node in there]
    given = [node for node in graph.nodes if node.op == "placeholder" and isinstance(value_of(node), Tensor)]
    if not nodes or not given:
        return
    at = given[-1]
    while at.next.op == "placeholder" or at.next.target is expect:
        at = at.next
    words = [word for node in nodes for word in node.args]
    weights = list(dict.fromkeys(word for word in words if isinstance(word, fx.Node) and word.op == "get_attr"))
    for weight in weights:
        at.append(weight)
        at = weight
        name = str(weight.target)  # at the top of the module tree, lookup takes a single step
        network.wanted[name] = network.wanted.get(name, name).replace(".", "_")
    with graph.inserting_after(at):
        known = graph.call_function(threads, (given[0], *weights))
    for node in nodes:
        node.args = (known, *node.args[1:])
