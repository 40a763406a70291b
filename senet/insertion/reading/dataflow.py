"""Record one run of a network as a graph: which operation and which module made each tensor.

The run is the network's own eager forward pass. A dispatch mode observes each operation, and
forward hooks observe each module. So the graph holds what ran, whatever Python control flow or
hooks decided.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from senet.running import as_call, run, tensors_in

__all__ = ["Call", "Convolution", "Dataflow", "Value", "record"]


@dataclasses.dataclass(frozen=True, slots=True)
class Convolution:
    """What a rule needs to know of a convolution: its kernel size and its kind."""

    kernel: tuple[int, ...]
    transposed: bool
    depthwise: bool
    groups: int

    @property
    def spatial(self) -> bool:
        """Whether the kernel is larger than one."""
        return math.prod(self.kernel) > 1


@dataclasses.dataclass(slots=True)
class Value:
    """A tensor that an operation made, or an input, at one moment of the run.

    Attributes:
        index: its position in the order of the run.
        op: the operation's name without overload and in-place suffix, such as "add"; or "input".
        operands: the values it was made from, without constants.
        constants: the number of constants (parameters, buffers, new tensors) it was made from.
        shape: the tensor's shape.
        dtype: the tensor's dtype.
        detail: other arguments that a rule needs, such as the dimension of a slice or a
            permutation.
        convolution: the kind of convolution, if it is one.
    """

    index: int
    op: str
    operands: tuple[int, ...]
    constants: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    detail: Any = None
    convolution: Convolution | None = None


@dataclasses.dataclass(slots=True)
class Call:
    """One call of one module. The values made in it have first <= index < end, and `argument` is its first argument."""

    name: str
    module: nn.Module
    first: int
    inputs: tuple[int, ...]
    argument: int | None
    end: int = -1
    outputs: tuple[int, ...] = ()
    returns_tensor: bool = False

    def made(self, value: int) -> bool:
        """Whether `value` was made during this call, rather than passed through."""
        return self.first <= value < self.end


class Dataflow:
    """A recorded run: values in the order they were made, and calls in the order they ended (inner first)."""

    def __init__(self, values: list[Value], calls: list[Call], output: Any) -> None:
        self.values = values
        self.calls = calls
        self.output = output  # the network's output, which the proof compares

    @functools.cached_property
    def consumers(self) -> list[list[int]]:
        """For each value, the values made from it."""
        table: list[list[int]] = [[] for _ in self.values]
        for value in self.values:
            for operand in dict.fromkeys(value.operands):
                table[operand].append(value.index)
        return table

    @functools.cached_property
    def calls_returning(self) -> dict[int, list[Call]]:
        """For each value, the calls that returned it, innermost first."""
        table: dict[int, list[Call]] = {}
        for call in self.calls:
            for value in dict.fromkeys(call.outputs):
                table.setdefault(value, []).append(call)
        return table

    @functools.cached_property
    def calls_taking(self) -> dict[int, list[Call]]:
        """For each value, the calls whose first argument it was, outermost first."""
        table: dict[int, list[Call]] = {}
        outer_first = self.calls[::-1]
        for call in sorted(outer_first, key=lambda call: (call.first, -call.end)):
            if call.argument is not None:
                table.setdefault(call.argument, []).append(call)
        return table

    @functools.cached_property
    def calls_of(self) -> dict[nn.Module, list[Call]]:
        """For each module, its calls."""
        table: dict[nn.Module, list[Call]] = {}
        for call in self.calls:
            table.setdefault(call.module, []).append(call)
        return table

    @functools.cached_property
    def made_in(self) -> list[Call | None]:
        """For each value, the innermost call during which it was made."""
        table: list[Call | None] = [None] * len(self.values)
        for call in self.calls:
            for index in range(call.first, call.end):
                table[index] = table[index] or call
        return table

    @functools.cached_property
    def input_size(self) -> tuple[int, ...]:
        """The spatial size of the first convolution's input, from which stages are counted."""
        for value in self.values:
            if value.op == "convolution" and value.operands:
                return self.values[value.operands[0]].shape[2:]
        return ()


def record(model: nn.Module, example: Any) -> Dataflow:
    """Run `model` once on `example` in its current mode, without gradients, and return the recorded run.

    Raises:
        InsertionError: the network does not run on the example.
    """
    recorder = _Recorder()
    with contextlib.ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # takes no Python hooks, but its operations are recorded
            hooks.enter_context(module.register_forward_pre_hook(recorder.entering(name), with_kwargs=True))
            hooks.enter_context(module.register_forward_hook(recorder.leaving, with_kwargs=True))
        for tensor in tensors_in(as_call(example)):
            recorder.new("input", (), 0, tensor)
        with recorder:
            output = run(model, example)
    return Dataflow(recorder.values, recorder.calls, output)


_FACTORIES = frozenset(
    "empty_like zeros_like ones_like full_like rand_like randn_like new_empty new_zeros new_ones new_full".split()
)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values: list[Value] = []
        self.calls: list[Call] = []
        self._open: list[Call] = []
        self._of_tensor = WeakTensorKeyDictionary()
        self._written: dict[int, int] = {}  # storage -> last value written into it in place
        self._storages: list[Any] = []  # keeps written storages alive, so that no address is reused

    def new(self, op: str, operands: tuple[int, ...], constants: int, tensor: Tensor, **more: Any) -> int:
        shape = () if tensor.is_nested else tuple(tensor.shape)  # a nested tensor, as in attention, has no shape
        value = Value(len(self.values), op, operands, constants, shape, tensor.dtype, **more)
        self.values.append(value)
        self._of_tensor[tensor] = value.index
        return value.index

    def value_of(self, tensor: Tensor) -> int | None:
        """The current value of `tensor`; None for a constant. A write through another view makes a new value."""
        index: int | None = self._of_tensor.get(tensor)  # type: ignore[no-untyped-call]
        if tensor.layout is torch.strided and self._written:
            writer = self._written.get(tensor.untyped_storage()._cdata)
            if writer is not None and (index is None or writer > index):
                operands = (writer,) if index is None else (index, writer)
                return self.new("alias", operands, 0, tensor)
        return index

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        op = func._schema.name.split("::")[-1].rstrip("_")
        if op in _FACTORIES:  # empty_like(x), x.new_zeros(...): only the shape and dtype of x matter
            return func(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        known = [self.value_of(tensor) for tensor in tensors]
        result = func(*args, **kwargs)
        operands = tuple(index for index in known if index is not None)
        if not operands:
            return result  # made from constants only, so a constant itself
        more = _details(op, args, kwargs)
        constants = len(known) - len(operands)
        made = tree_leaves(result)
        # A norm's statistics and a log-sigmoid's buffer serve the backward pass. As values they
        # would make one layer seem to return several results.
        for tensor in made[:1] if "norm" in op or op == "log_sigmoid_forward" else made:
            if isinstance(tensor, Tensor):
                in_place = any(tensor is given for given in tensors)
                index = self.new(op, operands, constants, tensor, **more)
                if in_place and tensor.layout is torch.strided and tensor._is_view():
                    storage = tensor.untyped_storage()
                    self._written[storage._cdata] = index
                    self._storages.append(storage)
        return result

    def entering(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            inputs, given = self._values_in((args, kwargs)), next(iter((*args, *kwargs.values())), None)
            argument = self.value_of(given) if isinstance(given, Tensor) else None
            self._open.append(Call(name, module, len(self.values), inputs, argument))

        return hook

    def leaving(self, module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
        call = self._open.pop()
        while call.module is not module:  # a call left open by an exception that the network caught
            call = self._open.pop()
        call.outputs = self._values_in(output)
        call.end = len(self.values)
        call.returns_tensor = isinstance(output, Tensor)
        self.calls.append(call)

    def _values_in(self, tree: Any) -> tuple[int, ...]:
        found = (self.value_of(leaf) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
        return tuple(index for index in found if index is not None)


def _details(op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    if op == "convolution":
        weight, transposed, groups = args[1], bool(args[6]), int(args[8])
        depthwise = groups > 1 and groups == args[0].shape[1]
        return {"convolution": Convolution(tuple(weight.shape[2:]), transposed, depthwise, groups)}
    if op in ("cat", "slice", "split", "split_with_sizes", "narrow", "select", "unbind", "permute", "transpose"):
        plain = (each for each in (*args[1:], *kwargs.values()) if not isinstance(each, Tensor))
        return {"detail": tuple(tuple(each) if isinstance(each, list) else each for each in plain)}
    return {}
