"""The network as a graph of ATen operations and a table of constants, which the other files here rewrite.

`torch.export` makes it, in eval mode, without in-place operations; so a rewriting only has to keep values equal. What
belongs to training (dropout) or to tracing alone is gone.
"""

from __future__ import annotations

import dataclasses
import logging
import operator
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from senet.errors import InputError, OptimizeError
from senet.insertion import as_call, describe, untouched

__all__ = ["Network", "batch_size", "capture", "expect", "repeated", "value_of"]

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
    """A graph and its constants: `get_attr` nodes name entries of the table.

    Attributes:
        graph: of ATen operations, functional.
        constants: parameters, buffers and what is computed from them, by dotted names.
        note: what a user should know of how it was taken; empty where there is nothing.
        wanted: the name that a constant shall have where it is free in the end.
    """

    graph: fx.Graph
    constants: dict[str, Tensor]
    note: str = ""
    wanted: dict[str, str] = dataclasses.field(default_factory=dict)

    def constant(self, node: Any) -> Tensor | None:
        """The tensor of a `get_attr` node; None for any other node or value."""
        if isinstance(node, fx.Node) and node.op == "get_attr":
            return self.constants[str(node.target)]
        return None

    def add(self, name: str, tensor: Tensor) -> fx.Node:
        """A node for a new constant, at the graph's insert point, under `name` or a free name like it."""
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
        """Erase a node, and then what was made for it alone, where nothing uses it any more."""
        waiting, gone = [node], set()
        while waiting:
            node = waiting.pop()
            if node not in gone and not node.users and node.op not in ("placeholder", "output"):
                waiting += node.all_input_nodes
                self.graph.erase_node(node)
                gone.add(node)

    def module(self, name_of_class: str) -> fx.GraphModule:
        """A module that runs the graph; its tensors are its own, and learn nothing."""
        nodes = [node for node in self.graph.nodes if node.op == "get_attr"]
        names = {str(node.target) for node in nodes}
        tensors: dict[str, Any] = {}
        for key in sorted(names):
            tensor = self.constants[key].detach().clone(memory_format=torch.preserve_format)
            name = self.wanted.get(key, key)
            name = key if name in names or name in tensors else name
            tensors[name] = nn.Parameter(tensor, requires_grad=False) if tensor.is_floating_point() else tensor
            for node in nodes:
                if node.target == key:
                    node.target = name
        for node in self.graph.nodes:
            if getattr(node.target, "__module__", "").startswith("senet."):
                node.meta["is_wrapped"] = True  # to be called, not looked into, where the graph is read from a pickle
        module = fx.GraphModule(tensors, self.graph, name_of_class)
        module.graph.lint()
        return module.eval()


def value_of(node: fx.Node) -> Any:
    """The fake tensor (shape, dtype, device) that stands for what a node makes; None where it is not known."""
    return node.meta.get("val")


def batch_size(example: Any) -> int | None:
    """The size of the first dimension of the example's first floating-point tensor; None where there is none."""
    for leaf in tree_leaves(example):
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim() > 1:
            return int(leaf.shape[0])
    return None


def repeated(example: Any, size: int) -> Any:
    """The example with a batch of `size`: its samples again and again, for tensors that have the batch's size."""
    batch = batch_size(example)

    def more(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.dim() == 0 or leaf.shape[0] != batch:
            return leaf
        index = torch.arange(size, device=leaf.device) % leaf.shape[0]
        return leaf.index_select(0, index)

    return tree_map(more, example)


def capture(model: nn.Module, example: Any, *, dynamic_size: bool = False) -> Network:
    """The graph that `model` runs in eval mode on `example`, for any batch size where the network allows it.

    Raises:
        OptimizeError: where `torch.export` cannot follow the network, or the size is to be free and is not.
    """
    batch, note = batch_size(example), ""
    wide = repeated(example, 2) if batch == 1 else example  # a size of 1 is taken as fixed
    with untouched(model):
        try:
            program = _export(model, wide, True, dynamic_size)
            fixed = _fixed(program, None if batch is None else max(batch, 2), dynamic_size)
        except Exception as error:
            raise OptimizeError(
                f"{type(model).__name__} cannot be exported on {describe(example)}: {_first_line(error)}. "
                f"optimize takes networks that torch.export can follow"
            ) from error
        if fixed and dynamic_size:
            raise OptimizeError(
                f"{type(model).__name__} {fixed}: without dynamic_size=True it can be had for the example's"
            )
        if fixed:
            note = f"it {fixed}, so what it is made into is for the example's batch of {batch} alone"
            program = _export(model, example, False, False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = program.run_decompositions({}).module(check_guards=False)
    if not isinstance(module, fx.GraphModule):
        raise OptimizeError(f"torch.export made a {type(module).__name__} of {type(model).__name__}, not a graph")
    constants = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            constants[node.target] = operator.attrgetter(node.target)(module)
            if not isinstance(constants[node.target], Tensor):
                raise OptimizeError(f"{type(model).__name__} holds control flow, which stays as it is: {node.target}")
    graph = fx.Graph()  # of its own, that no module holds to its attributes
    graph.output(graph.graph_copy(module.graph, {}))
    graph.set_codegen(module.graph._codegen)
    network = Network(graph, constants, note)
    _clean(network)
    _plain_call(network, example)
    _guard(network)
    return network


def _export(model: nn.Module, example: Any, free: bool, dynamic_size: bool) -> torch.export.ExportedProgram:
    from torch.export import Dim, export

    args, kwargs = as_call(example)
    batch = batch_size(example)

    def dims(leaf: Any) -> dict[int, Any] | None:
        if not isinstance(leaf, Tensor) or not leaf.dim():
            return None
        space = range(2, leaf.dim()) if dynamic_size and leaf.is_floating_point() else ()
        return dict.fromkeys([*([0] if leaf.shape[0] == batch else []), *space], Dim.AUTO)

    shapes: Any = tree_map(dims, args) if not kwargs else {key: tree_map(dims, value) for key, value in kwargs.items()}
    solver = logging.getLogger("torch.fx.experimental.symbolic_shapes")  # tells at length what it cannot solve
    disabled, solver.disabled = solver.disabled, True
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return export(
                model, args, kwargs, dynamic_shapes=shapes if free and batch is not None else None, strict=False
            )
    finally:
        solver.disabled = disabled


def _fixed(program: torch.export.ExportedProgram, batch: int | None, dynamic_size: bool) -> str:
    """What the network computes with as a fixed number though it was to be free, in words; or ""."""
    users = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        fake = node.meta.get("val")
        if node.op != "placeholder" or node.name not in users or not isinstance(fake, Tensor) or not fake.dim():
            continue
        if not _free(fake.shape[0]) and fake.shape[0] == batch:
            return f"computes with its batch as a fixed number ({batch})"
        sides = [side for side in fake.shape[2:] if not _free(side)]
        if dynamic_size and fake.is_floating_point() and sides:
            return f"computes with a size in space as a fixed number ({sides[0]})"
    return ""


def _free(side: Any) -> bool:
    return not isinstance(side, int) and side.node.maybe_as_int() is None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}"


def _clean(network: Network) -> None:
    for node in list(network.graph.nodes):
        if node.op == "call_function" and node.target in _THROUGH:
            node.replace_all_uses_with(node.args[0])
            network.graph.erase_node(node)
        elif node.op == "call_function" and node.target is _aten._assert_tensor_metadata.default:
            network.graph.erase_node(node)
    network.graph.eliminate_dead_code()


def _plain_call(network: Network, example: Any) -> None:
    """Take and give tensors directly where the network does, with nothing packed or unpacked on each call."""
    args, kwargs = as_call(example)
    output = next(node for node in network.graph.nodes if node.op == "output")
    codegen = network.graph._codegen
    if kwargs or not all(isinstance(arg, Tensor) for arg in args):
        return
    spec = codegen.pytree_info.out_spec if isinstance(codegen, fx.graph._PyTreeCodeGen) else None
    if spec is not None and spec.is_leaf():
        network.graph.set_codegen(fx.graph.CodeGen())
        output.args = (output.args[0][0],)


def _guard(network: Network) -> None:
    """Have the graph refuse tensors of other shapes than it was taken for, where sizes in it are fixed numbers."""
    for node in [node for node in network.graph.nodes if node.op == "placeholder"]:
        fake = value_of(node)
        if not isinstance(fake, Tensor) or not node.users:
            continue
        shape = tuple(None if _free(side) else int(side) for side in fake.shape)
        if any(side is not None for side in shape):
            with network.graph.inserting_after(node):
                checked = network.graph.call_function(expect, (node, shape))
            checked.meta["val"] = fake
            node.replace_all_uses_with(checked, delete_user_cb=lambda user, own=checked: user is not own)


def expect(x: Tensor, shape: Sequence[int | None]) -> Tensor:
    """`x`, which is as `shape` says; None stands for any size.

    Raises:
        ValueError: where it is not.
    """
    if torch._C._get_tracing_state():  # torch.jit.trace: sizes are tensors there
        return x
    if x.dim() != len(shape) or any(
        want is not None and size != want for size, want in zip(x.shape, shape, strict=True)
    ):
        words = ", ".join("any" if want is None else str(want) for want in shape)
        raise InputError(
            f"this inference form was made for tensors of shape ({words}), not {tuple(x.shape)}; "
            f"senet.optimize(..., dynamic_size=True) makes one for any size, where the network allows it"
        )
    return x
