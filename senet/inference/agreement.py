"""Compare an inference form with its network, inside and around the shapes that it is for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten, tree_map

from senet.errors import OptimizeError
from senet.inference.capture import first_line, tensors_of
from senet.inference.folding import HALF
from senet.inference.shapes import Shapes, failing, resized
from senet.insertion import InsertionError, run, untouched

__all__ = [
    "LARGER",
    "ONE_POSITION",
    "TOLERANCE",
    "check",
    "needed_conditions",
    "relative_difference",
    "trials",
    "unfounded",
]

TOLERANCE = 1e-5  # relative to the largest output, in float32
LARGER, ONE_POSITION = "a larger size", "one position"
_SLACK = 1.25  # of one network's rounding errors, which vary by chance on few outputs
_FAINTER = 16  # examples more, each a little fainter, where the first few leave that open
_EPS = {dtype: torch.finfo(dtype).eps / 16 for dtype in HALF}
_MORE = 32  # positions added: a network that halves its maps five times may need this many


def check(model: nn.Module, other: nn.Module, examples: Mapping[str, Any]) -> str:
    """Why `other` is not the same function as `model` on the examples; "" if it is.

    `other` must also refuse what the network refuses. In half precision both are compared in
    float64, and then the rounding errors of `other` with those of `model`.
    """
    exact, form, trials = (model, other, examples) if not _is_half(model) else _all_doubled(model, other, examples)
    for given in trials.values():
        difference = _difference(exact, form, given)
        if difference <= TOLERANCE:
            continue
        if difference < float("inf") and _difference(exact, exact, given) > TOLERANCE:
            return "it does not compute the same twice, so nothing can be compared with it"
        return f"its outputs would differ by {difference:.2g} of the largest, where {TOLERANCE:g} is allowed"
    return "" if exact is model else _rounds_more(exact, model, other, [*examples.values()])


def unfounded(
    model: nn.Module, other: nn.Module, example: Any, shapes: Shapes, assumed: tuple[str, ...]
) -> tuple[str, ...]:
    """The conditions assumed by PyTorch's operations that `other` needs, because outside them it is another function.

    A condition that no possible trial violates is needed too.
    """
    if _is_half(model):
        model, other, example = _all_doubled(model, other, example)
    return needed_conditions(example, shapes, assumed, lambda given: _difference(model, other, given) <= TOLERANCE)


def needed_conditions(
    example: Any, shapes: Shapes, assumed: Sequence[str], agree: Callable[[Any], bool]
) -> tuple[str, ...]:
    """The conditions on sizes outside which two functions disagree, or that no trial can violate.

    Args:
        example: the input of both functions.
        shapes: the shapes to which the example may be resized.
        assumed: the conditions.
        agree: whether the two agree on a resized example; called once per size.
    """
    outside, _ = failing(shapes, assumed, shapes.sizes(tensors_of(example)))
    known: dict[tuple[int, ...], bool] = {}
    needed = []
    for condition, tried in outside.items():
        for sizes in tried:
            key = tuple(sizes.values())
            if key not in known:
                known[key] = agree(resized(example, shapes, sizes))
        if not tried or not all(known[tuple(sizes.values())] for sizes in tried):
            needed.append(condition)
    return tuple(needed)


def trials(example: Any, shapes: Shapes, *, more: int = 1) -> dict[str, Any]:
    """The example and variants that `shapes` allow, by a description of each.

    Args:
        example: the network's input.
        shapes: the allowed shapes.
        more: the number of samples by which another batch is larger.
    """
    sizes = shapes.sizes(tensors_of(example))
    batch = {name: size for name, size in sizes.items() if name not in shapes.space}
    space = {name: sizes[name] for name in shapes.space}
    last = shapes.space[-1:]
    count = next(iter(batch.values()), tensors_of(example)[0].shape[0] if tensors_of(example) else 1)
    found: dict[str, dict[str, int]] = {f"batch {count}": {}}
    if batch:
        found[f"batch {count + more}"] = {name: size + more for name, size in batch.items()}
        found.setdefault("batch 1", dict.fromkeys(batch, 1))
    if space:
        found[LARGER] = {name: size + _MORE * (2 if name in last else 1) for name, size in space.items()}
        found["odd sizes"] = {name: (size + (7 if name in last else 5)) | 1 for name, size in space.items()}
        found[ONE_POSITION] = dict.fromkeys(space, 1)
    return {
        name: resized(example, shapes, {**sizes, **changed}) if changed else example
        for name, changed in found.items()
        if shapes.allow({**sizes, **changed})
    }


def _is_half(model: nn.Module) -> bool:
    return any(tensor.dtype in HALF for tensor in (*model.parameters(), *model.buffers()))


def _all_doubled(model: nn.Module, form: nn.Module, given: Any) -> tuple[nn.Module, nn.Module, Any]:
    """Float64 copies of a network, of its inference form, whose graph names precisions, and of their input."""
    try:
        model, form = copy.deepcopy(model).double(), copy.deepcopy(form).double()
    except RuntimeError as error:  # of tensors that are results, as an attribute may be
        raise OptimizeError(
            f"{type(model).__name__} cannot be copied for a comparison in float64: {first_line(error)}"
        ) from error
    if isinstance(form, fx.GraphModule):
        for node in form.graph.nodes:
            node.args, node.kwargs = tree_map(_wider, (node.args, node.kwargs))
        form.recompile()
    return _Doubled(model), _Doubled(form), tree_map(_double, given)


class _Doubled(nn.Module):
    """A network whose outputs are float64, even if it casts them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return tree_map(_double, self.network(*args, **kwargs))


def _wider(given: Any) -> Any:
    return torch.float64 if isinstance(given, torch.dtype) and given.is_floating_point else given


def _double(given: Any) -> Any:
    return given.double() if isinstance(given, Tensor) and given.is_floating_point() else given


def _difference(model: nn.Module, other: nn.Module, given: Any) -> float:
    """The difference between two networks' outputs: 0 if both refuse the input, infinity if only one does."""
    with untouched(model), untouched(other):
        expected, found = _output(model, given), _output(other, given)
    if expected is None or found is None:
        return 0.0 if expected is found else float("inf")
    return relative_difference(expected[0], found[0])


# The error on few outputs varies by chance and is correlated among them. So the errors of all
# trials are pooled, and those of further examples if these are too few.
def _rounds_more(exact: nn.Module, model: nn.Module, other: nn.Module, examples: Sequence[Any]) -> str:
    """Why `other`, in half precision, is further from the exact network than `model`; "" if it is not."""
    more = (_fainter(examples[0], 1 - i / (2 * _FAINTER)) for i in range(1, _FAINTER + 1))
    errors: dict[int, Tensor] = {}
    for index, given in enumerate((*examples, *more), 1):
        with untouched(model), untouched(other):
            outputs = [_output(model, given), _output(other, given)]
            if outputs[0] is None or outputs[1] is None:
                if outputs[0] is outputs[1]:
                    continue
                return "it would not run as the network does in its own precision"
            outputs.append(_output(exact, tree_map(_double, given)))
        for at, each in _errors(*[tree_flatten(output)[0] for output in outputs]):
            errors[at] = errors.get(at, torch.zeros_like(each)) + each
        if index >= len(examples) and not (further := _further(errors)):
            break
    return f"its outputs would be {further} times as far from float64 as its own" if further else ""


def _errors(plain: Sequence[Any], found: Sequence[Any], true: Sequence[Any]) -> Iterator[tuple[int, Tensor]]:
    """For each floating-point output the squares of both networks' errors and of the last bit, over their range."""
    for index, (a, b, exact) in enumerate(zip(plain, found, true, strict=True)):
        if isinstance(a, Tensor) and a.is_floating_point() and a.numel():
            largest = exact.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
            squares = [((x.double() - exact) / largest).square().mean().cpu() for x in (a, b)]
            last = squares[0].new_tensor(_EPS.get(a.dtype, 0.0) ** 2)
            yield index, torch.stack([squares[0], squares[1] if a.dtype == b.dtype else last / 0, last])


def _further(errors: Mapping[int, Tensor]) -> str:
    """The ratio of the two distances, in words; "" if it is within the allowed one."""
    for plain, found, last in (each.sqrt().tolist() for each in errors.values()):
        if not (found <= _SLACK * plain + last or plain != plain):
            return f"{found / max(plain, last):.2g}"
    return ""


def _fainter(example: Any, factor: float) -> Any:
    return tree_map(lambda x: x * factor if isinstance(x, Tensor) and x.is_floating_point() else x, example)


def _output(model: nn.Module, given: Any) -> tuple[Any] | None:
    try:
        return (run(model, given),)
    except InsertionError:
        return None


def relative_difference(expected: Any, given: Any) -> float:
    """The largest difference over all tensors, relative to the largest output; infinity if they differ in kind."""
    ours, structure = tree_flatten(expected)
    theirs, other = tree_flatten(given)
    if structure != other:
        return float("inf")
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
            if type(a) is not type(b) or (a != b and a == a):
                return float("inf")
            continue
        a, b = (torch.view_as_real(x.resolve_conj()) if x.is_complex() else x for x in (a.detach(), b.detach()))
        if a.shape != b.shape or a.dtype != b.dtype:
            return float("inf")
        if a.numel() == 0 or torch.equal(a, b):
            continue
        gap = torch.where((a == b) | (a.isnan() & b.isnan()), 0, (a.double() - b.double()).abs())
        largest = a.double().abs().nan_to_num(0.0, posinf=0.0).max()
        worst = max(
            worst, float((gap / largest.clamp(min=torch.finfo(torch.float32).tiny)).nan_to_num(float("inf")).max())
        )
    return worst
