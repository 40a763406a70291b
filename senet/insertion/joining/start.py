"""The identity start: choose the first layers' rows so that every hidden unit can learn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from senet.block import SEBlock
from senet.errors import InsertionError
from senet.insertion.rules.site import Site
from senet.running import before_calls, run, untouched

__all__ = ["squeezed_means", "start_on_example"]


@contextmanager
def squeezed_means(blocks: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Tensor]]]:
    """A context that records the mean (C,) of each block's input over samples and space, call by call, by name."""
    means: dict[str, list[Tensor]] = {name: [] for name in blocks}

    def look(name: str, args: tuple[Tensor, ...], _kwargs: Any) -> None:
        means[name].append(args[0].cpu().transpose(0, 1).flatten(1).mean(1, dtype=torch.float64))

    with before_calls(blocks, look):
        yield means


def start_on_example(
    model: nn.Module,
    example: Any,
    sites: Mapping[str, Site],
    blocks: Mapping[str, SEBlock],
    seen: Mapping[str, list[Tensor]],
) -> None:
    """Choose the first layers' rows by the blocks' inputs in eval mode and, if it runs, in training mode.

    The two differ if running statistics fit other data, as in a network with random weights.

    Args:
        model: the network with SE at the identity start.
        example: the network's input.
        sites: the blocks' sites, by name.
        blocks: the blocks, by name.
        seen: the means of their inputs in eval mode, from `squeezed_means`.
    """
    with squeezed_means(blocks) as training:
        try:
            with untouched(model, training=True):
                run(model, example)
        except InsertionError:  # one sample for a batch norm on a 1×1 map, a detector without targets
            training = {name: [] for name in blocks}
    with torch.random.fork_rng(devices=[]):
        for name, block in blocks.items():
            expected = [*_bias_of_norm(model.get_submodule(name), sites[name]), *training[name]]
            known = torch.stack(expected) if expected else None
            block.start_as_identity(torch.stack(seen[name]), known)


def _bias_of_norm(host: nn.Module, site: Site) -> list[Tensor]:
    """The bias of a normalisation, which is the mean of its output over any training batch."""
    norms = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
    bare = isinstance(host, norms) and len(list(host.children())) == 1  # timm's norm layers may hold an activation
    bias = host.bias if bare and site.position == "output" else None
    return [bias.detach().cpu().double()] if isinstance(bias, Tensor) else []
