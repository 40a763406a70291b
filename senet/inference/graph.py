"""The network as a graph of ATen operations with a table of constants, for rewriting.

`torch.export` makes it in eval mode, without in-place operations, so a rewrite only has to preserve
values. Operations of training (dropout) or of tracing are removed.
"""

from __future__ import annotations

import dataclasses
import operator
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from senet.block import SEBlock
from senet.errors import OptimizeError
from senet.inference.capture import capture_program
from senet.inference.internals import returns_one_tensor
from senet.inference.shapes import Shapes, expect, parsed
from senet.running import as_call, untouched
from senet.words import kind_of

__all__ = ["Network", "alike", "capture", "expect", "require", "value_of"]

_aten = torch.ops.aten
_THROUGH = (
    _aten.alias.default,
    _aten.detach.default,
    _aten.lift_fresh_copy.default,
    _aten.dropout.default,
    _aten.feature_dropout.default,
    _aten.alpha_dropout.default,
    _aten.feature_alpha_dropout.default,
)


@dataclasses.dataclass(slots=True)
class Network:
    """A graph with its constants; `get_attr` nodes name entries of the table.

    Attributes:
        graph: a functional graph of ATen operations.
        constants: parameters, buffers and values computed from them, by dotted names.
        shapes: the shapes that the graph is for.
        assumed: further conditions on sizes, as in `Captured`.
        note: a remark for the user on the capture; may be empty.
        written: the names of buffers that the graph writes into, which are no constants.
        wanted: the preferred final name of a constant, if it is free.
    """

    graph: fx.Graph
    constants: dict[str, Tensor]
    shapes: Shapes
    assumed: tuple[str, ...] = ()
    note: str = ""
    written: frozenset[str] = frozenset()
    wanted: dict[str, str] = dataclasses.field(default_factory=dict)

    def constant(self, node: Any) -> Tensor | None:
        """The tensor of a `get_attr` node that no call changes; None for any other node or value."""
        if isinstance(node, fx.Node) and node.op == "get_attr" and node.target not in self.written:
            return self.constants[str(node.target)]
        return None

    def add(self, name: str, tensor: Tensor) -> fx.Node:
        """Add a node for a new constant at the graph's insert point, under `name` or a similar free name."""
        free, number = name, 1
        while free in self.constants:
            number += 1
            free = f"{name}_{number}"
        self.constants[free] = tensor
        self.wanted[free] = self.wanted.get(name, name)
        node = self.graph.get_attr(free)
        node.meta["val"] = tensor.detach()
        return node

    def drop(self, node: fx.Node) -> None:
        """Erase an unused node, and then nodes that only it used."""
        waiting, gone = [node], set()
        while waiting:
            node = waiting.pop()
            if node not in gone and not node.users and node.op not in ("placeholder", "output"):
                waiting += node.all_input_nodes
                self.graph.erase_node(node)
                gone.add(node)

    def module(self, name_of_class: str) -> fx.GraphModule:
        """A module that runs the graph, with its own tensors, none of them trainable."""
        nodes = [node for node in self.graph.nodes if node.op == "get_attr"]
        names = {str(node.target) for node in nodes}
        tensors: dict[str, Any] = {}
        for key in sorted(names):
            tensor = self.constants[key].detach().clone(memory_format=torch.preserve_format)
            name = self.wanted.get(key, key)
            name = key if name in names or name in tensors else name
            weighs = tensor.is_floating_point() and key not in self.written
            tensors[name] = nn.Parameter(tensor, requires_grad=False) if weighs else tensor
            for node in nodes:
                if node.target == key:
                    node.target = name
        for node in self.graph.nodes:
            if getattr(node.target, "__module__", "").startswith("senet."):
                node.meta["is_wrapped"] = True  # a leaf when the graph is unpickled
        module = fx.GraphModule(tensors, self.graph, name_of_class)
        module.graph.lint()
        return module.eval()


def value_of(node: fx.Node) -> Any:
    """The fake tensor (shape, dtype, device) of a node's result; None if unknown."""
    return node.meta.get("val")


def alike(a: fx.Node, b: fx.Node) -> bool:
    """Whether the results of both nodes are known to have the same shape and dtype."""
    ours, theirs = value_of(a), value_of(b)
    if not isinstance(ours, Tensor) or not isinstance(theirs, Tensor):
        return False
    return ours.dtype == theirs.dtype and ours.shape == theirs.shape


def capture(model: nn.Module, example: Any, *, dynamic_size: bool = False) -> Network:
    """Capture the graph that `model` runs in eval mode on `example`, for any batch size if the network allows it.

    Raises:
        OptimizeError: `torch.export` cannot trace the network, or a size that should be free is not.
    """
    captured = capture_program(model, example, dynamic_size=dynamic_size)
    with untouched(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # the guards are in `captured`, and the graph checks them itself
        module = captured.program.run_decompositions({}).module(check_guards=False)
    if not isinstance(module, fx.GraphModule):
        raise OptimizeError(f"torch.export made {kind_of(module)} of {type(model).__name__}, not a graph")
    constants = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            constants[node.target] = operator.attrgetter(node.target)(module)
            if not isinstance(constants[node.target], Tensor):
                raise OptimizeError(f"{type(model).__name__} holds control flow, which stays as it is: {node.target}")
    graph = fx.Graph()  # torch's own metadata, which no module needs
    graph.output(graph.graph_copy(module.graph, {}))
    graph.set_codegen(module.graph._codegen)
    writes = [node for node in graph.nodes if node.target is _aten.copy_.default]  # as the network does between calls
    written = frozenset(str(node.args[0].target) for node in writes if node.args[0].op == "get_attr")  # type: ignore[union-attr]
    network = Network(graph, constants, captured.shapes, tuple(captured.assumed), captured.note, written)
    _clean(network)
    _plain_call(network, example)
    _guard(network, example, squeezes=any(isinstance(module, SEBlock) for module in model.modules()))
    return network


def _clean(network: Network) -> None:
    for node in list(network.graph.nodes):
        if node.op == "call_function" and node.target in _THROUGH:
            node.replace_all_uses_with(node.args[0])
            network.graph.erase_node(node)
        elif node.op == "call_function" and node.target is _aten._assert_tensor_metadata.default:
            network.graph.erase_node(node)
    network.graph.eliminate_dead_code()


def _plain_call(network: Network, example: Any) -> None:
    """If the network takes and returns plain tensors, skip packing and unpacking at each call."""
    args, kwargs = as_call(example)
    if kwargs or not all(isinstance(arg, Tensor) for arg in args) or not returns_one_tensor(network.graph):
        return
    output = next(node for node in network.graph.nodes if node.op == "output")
    network.graph.set_codegen(fx.graph.CodeGen())
    output.args = (output.args[0][0],)


def _guard(network: Network, example: Any, *, squeezes: bool) -> None:
    """Make the graph refuse inputs that it was not captured for: other shapes, dtypes or values, or padding."""
    placeholders = [node for node in network.graph.nodes if node.op == "placeholder"]
    tensors = [node for node in placeholders if isinstance(value_of(node), Tensor)]
    first = next((node for node in tensors if node.users), None)
    if first is None:
        return
    given = {
        node: (node, sides, value_of(node).dtype)
        for node, (_, sides) in zip(tensors, network.shapes.inputs, strict=True)
    }
    leaves = tree_leaves(as_call(example))
    values = tuple(
        (node, leaf)
        for node, leaf in zip(placeholders, leaves, strict=True)
        if isinstance(leaf, bool | int | float | str | None) and leaf == leaf  # not NaN
    )
    conditions = tuple((condition, parsed(condition)) for condition in network.shapes.conditions)
    others = tuple(words for node, words in given.items() if node is not first)
    with network.graph.inserting_after(placeholders[-1]):
        checked = network.graph.call_function(expect, (*given[first], conditions, others, values, squeezes))
    checked.meta["val"] = value_of(first)
    first.replace_all_uses_with(checked, delete_user_cb=lambda user: user is not checked)


def require(graph: fx.Graph, conditions: Iterable[str]) -> None:
    """Make a graph also refuse sizes that violate one of these conditions."""
    more = tuple((condition, parsed(condition)) for condition in conditions)
    for node in graph.nodes:
        if node.op == "call_function" and node.target is expect:
            node.args = (*node.args[:3], (*node.args[3], *more), *node.args[4:])  # type: ignore[misc]
