"""Count the cost of a network on an example, and SE's part of it (section 4 of the paper)."""

from __future__ import annotations

import contextlib
import dataclasses
import html
import math
import operator
import statistics
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from senet.cost.activations import kept_for_backward, watched
from senet.errors import InputError, InputTypeError
from senet.fused.switch import fuse_any_size
from senet.insertion import InlineSE, MadeBlock, blocks, channels_of, remove
from senet.running import as_call, count_parameters, describe, devices_of, run, untouched
from senet.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["BlockCost", "Cost", "cost"]

LEAST_ROUNDS, MOST_ROUNDS = 15, 301  # pairs of plain and SE: as many as fit the time, within these limits
MEASURING_S, WARM_UP_S = 1.0, 0.2


@dataclasses.dataclass(frozen=True)
class BlockCost:
    """The cost of one SE block.

    Attributes:
        name: the module's name.
        channels: C; None for a block that takes any number and did not run on the example.
        width: the hidden units between the two layers; None if there are fewer layers.
        parameters: a number; what two blocks share counts for the first.
        multiply_adds: its layers' multiply-adds on the example.
        rescaling: multiplications of a map by its gates, N · C · S, which no flop counter counts.
            For a made block these are all products of two tensors with results of the map's size,
            including the one with α.
        activation_bytes: the bytes kept for the backward pass because of this block.
    """

    name: str
    channels: int | None
    width: int | None
    parameters: int
    multiply_adds: int
    rescaling: int
    activation_bytes: int


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a network on an example, in all and per SE block; `str()` is a table.

    Attributes:
        parameters: a number.
        multiply_adds: the multiply-adds of one forward pass in eval mode: convolutions, matrix
            products and recurrent layers.
        rescaling: multiplications of maps by gates, N · C · S summed over the SE blocks; not part
            of `multiply_adds`.
        activation_bytes: the bytes of distinct storages, without parameters and buffers, kept for
            the backward pass of one forward pass in `activation_mode`.
        latency_ratio: the time of a forward pass in eval mode over that of the same network with SE
            removed; None if not measured.
        blocks: one BlockCost per SE block.
        example: the example's shape and type, in words.
        activation_mode: "training", or "eval" if the network does not run on the example in
            training mode, as a detector that needs targets.
    """

    parameters: int
    multiply_adds: int
    rescaling: int
    activation_bytes: int
    latency_ratio: float | None
    blocks: tuple[BlockCost, ...]
    example: str
    activation_mode: str = "training"

    @property
    def se_parameters(self) -> int:
        """The SE blocks' part of `parameters`."""
        return sum(block.parameters for block in self.blocks)

    @property
    def se_multiply_adds(self) -> int:
        """The SE blocks' part of `multiply_adds`, without the rescaling."""
        return sum(block.multiply_adds for block in self.blocks)

    @property
    def se_activation_bytes(self) -> int:
        """The SE blocks' part of `activation_bytes`, which the network without SE does not keep."""
        return sum(block.activation_bytes for block in self.blocks)

    @property
    def se_parameters_share(self) -> float:
        """`se_parameters` as a fraction of `parameters`."""
        return self.se_parameters / max(1, self.parameters)

    @property
    def se_multiply_adds_share(self) -> float:
        """`se_multiply_adds` as a fraction of `multiply_adds`."""
        return self.se_multiply_adds / max(1, self.multiply_adds)

    @property
    def se_activation_bytes_share(self) -> float:
        """`se_activation_bytes` as a fraction of `activation_bytes`."""
        return self.se_activation_bytes / max(1, self.activation_bytes)

    def __str__(self) -> str:
        from senet.console import display
        from senet.cost.tables import cost_tables

        return display.plain_text(*cost_tables(self))

    def __repr__(self) -> str:  # a dataclass's own has every field of every block
        latency = "" if self.latency_ratio is None else f", latency_ratio={self.latency_ratio:.3f}"
        return (
            f"Cost(parameters={self.parameters}, multiply_adds={self.multiply_adds}, "
            f"activation_bytes={self.activation_bytes}{latency}, {counted(len(self.blocks), 'SE block')})"
        )

    def _repr_html_(self) -> str:  # Jupyter would show every field of every block
        return f"<pre>{html.escape(str(self))}</pre>"


def cost(model: nn.Module, example: Any, *, latency: bool = False) -> Cost:
    """Count the cost of `model` on `example`, and the SE blocks' share of each figure (section 4).

    The network runs on its own device, in eval mode for multiply-adds and in training mode for kept
    activations. Modes, buffers, gradients and the random state are restored. Frozen parameters
    count as frozen, which keeps fewer activations. The example stands for large batches, so
    normalisation and SE count as fused even if the example is too small for that.

    Batch norm refuses a batch of one whose maps shrink to 1×1. Activations are then extrapolated
    from batches 2 and 3, because they grow linearly. If the network does not run on the example in
    training mode, they are counted in eval mode, and `Cost` says so.

    SE that is written into a larger module's forward is counted under that module's name:
    parameters, arithmetic and kept activations. It cannot be removed, so without other SE its share
    of the time is not measured.

    Args:
        model: any network.
        example: an input: a tensor (N, C, *space), a tuple of positional arguments, or a dict of
            keyword arguments.
        latency: also measure the time, in turn with a copy without SE: the median of at least 15
            paired ratios after warm-up, and exactly 1 for a network without SE.

    Raises:
        ValueError: the network refuses the example, has uninitialised lazy layers, or is quantised.
    """
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in model.parameters()):
        raise InputError(
            f"{type(model).__name__} has lazy layers, which have no shapes yet: run it once on an input first"
        )
    for name, module in model.named_modules():
        if type(module).__module__.startswith(_QUANTISED):
            raise InputError(
                f"{name or type(model).__name__} is quantised, and its weights and arithmetic cannot be counted: take "
                f"the cost of the network before it is quantised"
            )
    with torch.inference_mode(False):
        # autograd cannot keep inference tensors
        example = tree_map_only(Tensor, lambda x: x.clone() if x.is_inference() else x, example)
        listed = blocks(model, example)
        found = {name: block for name, block in listed.items() if not isinstance(block, InlineSE)}
        inline = {name: block for name, block in listed.items() if isinstance(block, InlineSE)}
        # SE in a larger module's forward has no call of its own, so its layers are counted one by
        # one.
        layers = {layer: model.get_submodule(layer) for se in inline.values() for layer in se.layers}
        with untouched(model):
            calls, multiply_adds = count_calls(model, {**found, **layers}, example)
        mode, (activation_bytes, bytes_for) = _kept(model, {**found, **layers}, example)
        ratio: float | None = None
        if latency:
            with untouched(model):
                ratio = _latency_ratio(model, example) if found else None if inline else 1.0
    seen: set[nn.Parameter] = set()

    def own_parameters(block: nn.Module) -> int:
        fresh = set(block.parameters()) - seen
        seen.update(fresh)
        return sum(parameter.numel() for parameter in fresh)

    rows = tuple(
        BlockCost(
            name,
            *_channels_and_width(block),
            parameters=own_parameters(block),
            multiply_adds=sum(calls[each].flops for each in own) // 2,
            rescaling=inline[name].rescaling if name in inline else calls[name].rescaling,
            activation_bytes=sum(bytes_for[each] for each in own),
        )
        for name, block in listed.items()
        for own in [inline[name].layers if name in inline else (name,)]
    )
    return Cost(
        parameters=count_parameters(model),
        multiply_adds=multiply_adds,
        rescaling=sum(row.rescaling for row in rows),
        activation_bytes=activation_bytes,
        latency_ratio=ratio,
        blocks=rows,
        example=describe(example),
        activation_mode=mode,
    )


def _kept(model: nn.Module, found: Mapping[str, nn.Module], example: Any) -> tuple[str, tuple[int, dict[str, int]]]:
    """The mode in which the network runs, and the count of `kept_for_backward` in it."""
    with fuse_any_size():  # one image stands for a batch
        try:
            with untouched(model, training=True):
                return "training", kept_for_backward(model, found, example)
        except ValueError as error:
            with untouched(model):
                try:
                    return "eval", kept_for_backward(model, found, example)
                except ValueError:
                    raise error from None


def _channels_and_width(block: nn.Module) -> tuple[int | None, int | None]:
    """C and the hidden width of a block of any library."""
    channels = None
    with contextlib.suppress(InputError, InputTypeError):  # ECA that did not run on the example
        channels = channels_of(block)
    layers = [m.weight for m in block.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    if isinstance(block, MadeBlock) or len(layers) < 2 or layers[0].shape[1] != layers[-1].shape[0]:
        return channels, None
    return channels, layers[0].shape[0]


@dataclasses.dataclass
class Calls:
    """Sums over the calls of one SE block: multiplications by gates, and PyTorch's flops, 2 per multiply-add."""

    rescaling: int = 0
    flops: int = 0


_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse.quantized")

UNCOUNTED: Mapping[str, Callable[..., int]] = {
    "aten.mkldnn_rnn_layer": lambda x, w0, w1, *_, **__: 2 * math.prod(x[:-1]) * (math.prod(w0) + math.prod(w1)),
    "aten._cudnn_rnn": lambda x, w, *_, **__: 2 * math.prod(x[:-1]) * sum(math.prod(e) for e in w if len(e) > 1),
    "aten.mv": lambda matrix, *_, **__: 2 * math.prod(matrix),
    "aten.addmv": lambda _, matrix, *__, **___: 2 * math.prod(matrix),
    "aten.addbmm": lambda _, a, b, **__: 2 * math.prod(a) * b[-1],
    "aten.dot": lambda a, *_, **__: 2 * math.prod(a),
    "aten.vdot": lambda a, *_, **__: 2 * math.prod(a),
    "aten._trilinear": lambda a, weight, *_, **__: 2 * math.prod(a[:-1]) * math.prod(weight),  # of nn.Bilinear
    "aten._cdist_forward": lambda a, b, *_, **__: 2 * math.prod(a) * b[-2],
    "torchvision.deform_conv2d": lambda _, w, *__, out_shape, **___: 2 * math.prod(out_shape) * math.prod(w[1:]),
}
"""The flops of operations that PyTorch's counter takes for none, from the shapes of their arguments."""


def _counter() -> Any:
    from torch.utils.flop_counter import FlopCounterMode  # deferred: it takes 0.1 s to import

    found = {}
    for name, flops in UNCOUNTED.items():
        with contextlib.suppress(AttributeError):  # torchvision is not imported, or this torch lacks it
            found[operator.attrgetter(name)(torch.ops)] = flops
    return FlopCounterMode(display=False, custom_mapping=found)


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that counts multiplications and divisions of two tensors with results of at least `least` numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = self.least = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.__name__.partition(".")[0].rstrip("_")
        if name in ("mul", "div", "addcmul", "addcdiv", "lerp") and sum(isinstance(each, Tensor) for each in args) > 1:
            self.count += result.numel() if result.numel() >= self.least else 0
        return result


def count_calls(model: nn.Module, found: Mapping[str, nn.Module], example: Any) -> tuple[dict[str, Calls], int]:
    """The calls of each SE block in `found`, and the multiply-adds of one forward pass of `model` in its mode."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    calls = {name: Calls() for name in found}
    made = {name for name, block in found.items() if isinstance(block, MadeBlock)}
    with _counter() as counter, Products() if made else contextlib.nullcontext() as products:

        def entered(name: str, x: Tensor) -> None:
            calls[name].flops -= counter.get_total_flops()
            if name in made and products is not None:
                products.count, products.least = 0, x.numel()

        def left(name: str, x: Tensor, _: Tensor) -> None:
            calls[name].flops += counter.get_total_flops()
            calls[name].rescaling += products.count if name in made and products is not None else x.numel()

        fused = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # a fused operation that the counter does not know
        try:
            with watched(found, entered, left), sdpa_kernel(SDPBackend.MATH):  # it does not know every kernel either
                run(model, example)
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
    return calls, counter.get_total_flops() // 2


def _latency_ratio(model: nn.Module, example: Any) -> float:
    """Time of a forward pass over that of the network without SE: the median of paired ratios."""
    plain = remove(model, everything=True)
    pair_s = _warm_up(plain, example) + _warm_up(model, example)
    rounds = min(MOST_ROUNDS, max(LEAST_ROUNDS, math.ceil(MEASURING_S / pair_s)))
    ratios = []
    for n in range(rounds):  # in turn, with the order alternating, so that neither gains from the other's warm caches
        seconds = {}
        for network in (plain, model) if n % 2 else (model, plain):
            seconds[network] = _seconds(network, example)
        ratios.append(seconds[model] / seconds[plain])
    return statistics.median(ratios)


def _warm_up(network: nn.Module, example: Any) -> float:
    """Run `network` for the warm-up time; return the seconds of its last forward pass."""
    until = time.perf_counter() + WARM_UP_S
    _seconds(network, example)
    while True:
        last = _seconds(network, example)
        if time.perf_counter() >= until:
            return last


def _seconds(network: nn.Module, example: Any) -> float:
    args, kwargs = as_call(example)
    accelerators = [device for device in devices_of(network) if device.type not in ("cpu", "meta")]
    with torch.no_grad():
        start = time.perf_counter()
        network(*args, **kwargs)
        for device in accelerators:
            torch.accelerator.synchronize(device)
        return time.perf_counter() - start
