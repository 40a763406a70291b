"""Training steps, the memory that autograd keeps of a forward pass, and the largest batch on a GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from senet.cost.activations import kept_for_backward
from senet.fused.passes.pointers import LAST

__all__ = ["kept", "largest_batch", "training_step"]

_MOST = 2**14  # the largest batch tried
_STEP = 16  # batches are multiples of it


def training_step(engine: str, network: nn.Module, x: Tensor) -> Callable[[], None]:
    """A function that runs one training step: forward, cross entropy, backward, SGD with momentum.

    Args:
        engine: an engine of `cases.ENGINES` that trains.
        network: the network, in training mode; a copy is trained.
        x: the images, (N, C, *space), on the CPU.
    """
    device = "cuda" if engine.startswith("cuda") else "cpu"
    autocast = device == "cuda" or engine == "bf16"
    last = LAST.get(x.dim(), torch.contiguous_format)
    layout = torch.contiguous_format if engine in ("eager", "compile") else last
    network = copy.deepcopy(network).train().to(device).to(memory_format=layout)
    x = x.to(device).to(memory_format=layout)
    with torch.no_grad():
        outputs = _scores(copy.deepcopy(network)(x[:2])).shape[1]
    labels = torch.arange(len(x), device=device) % outputs
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)
    run: Any = network
    if engine.endswith("compile"):
        torch._dynamo.reset()
        run = torch.compile(network, dynamic=False)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(_scores(run(x)), labels)
        torch.autograd.backward(loss)
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def kept(network: nn.Module, x: Tensor) -> int:
    """Bytes kept for the backward pass of one forward pass in training mode: distinct storages without parameters."""
    return kept_for_backward(copy.deepcopy(network).train(), {}, x)[0]


def largest_batch(network: nn.Module, x: Tensor) -> int:
    """The largest batch whose training step, in bf16 and channels last, fits into the GPU's memory.

    Args:
        network: the network, in training mode.
        x: one image, (1, C, *space).
    """
    return largest(lambda batch: _fits(network, x, batch))


def largest(fits: Callable[[int], bool], most: int = _MOST) -> int:
    """The largest multiple of 16 up to `most` that fits, by bisection; 0 if not even 16 fits."""
    low, high = 0, _STEP
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, most + _STEP)
    while high - low > _STEP:
        middle = (low + high) // 2 // _STEP * _STEP
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _fits(network: nn.Module, x: Tensor, batch: int) -> bool:
    try:
        step = training_step("cuda", network, x.expand(batch, *x.shape[1:]))
        for _ in range(2):  # the first step allocates the optimiser's state
            step()
    except torch.OutOfMemoryError:
        return False
    finally:
        step = None  # type: ignore[assignment]
        torch.cuda.empty_cache()
    return True


def _scores(output: Any) -> Tensor:
    """The (N, classes) scores in a network's output; Inception adds auxiliary ones in training."""
    scores: Tensor = output if isinstance(output, Tensor) else output.logits
    return scores.flatten(1)
