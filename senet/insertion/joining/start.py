"""The identity start: which rows the first layers get, so that every hidden unit can learn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from senet.block import SEBlock
from senet.errors import InsertionError
from senet.insertion.rules.site import Site
from senet.running import run, untouched

__all__ = ["squeezed_means", "start_on_example"]


@contextmanager
def squeezed_means(blocks: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Tensor]]]:
    """Within it, for each block by name, the mean over samples and space of what it is given, call by call: (C,)."""
    means: dict[str, list[Tensor]] = {name: [] for name in blocks}

    def watch(name: str) -> Callable[..., None]:
        def hook(_block: nn.Module, args: tuple[Tensor, ...]) -> None:
            means[name].append(args[0].transpose(0, 1).flatten(1).mean(1, dtype=torch.float64))

        return hook

    hooks = [block.register_forward_pre_hook(watch(name)) for name, block in blocks.items()]
    try:
        yield means
    finally:
        for hook in hooks:
            hook.remove()


def start_on_example(
    model: nn.Module,
    example: Any,
    sites: Mapping[str, Site],
    blocks: Mapping[str, SEBlock],
    seen: Mapping[str, list[Tensor]],
) -> None:
    """Choose the first layers' rows on what the blocks are given in eval and, where it runs so, in training mode.

    The two differ where normalisations have statistics that fit other data, as in a network with
    random weights.

    Args:
        model: the network with SE at its identity start.
        example: what it takes.
        sites: of the blocks, by name.
        blocks: by name.
        seen: what they were given in eval mode, as `squeezed_means` has it.
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
            known = [mean.to("cpu", torch.float64) for mean in expected]
            block.start_as_identity(torch.stack(seen[name]), torch.stack(known) if known else None)


def _bias_of_norm(host: nn.Module, site: Site) -> list[Tensor]:
    """The mean over any training batch of what a normalisation gives: its bias."""
    norms = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
    bare = isinstance(host, norms) and len(list(host.children())) == 1  # timm's have an activation inside
    bias = host.bias if bare and site.position == "output" else None
    return [bias.detach()] if isinstance(bias, Tensor) else []
