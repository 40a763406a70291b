"""Insert SE into a network on the meta device, which has shapes but no values, for counting."""

from __future__ import annotations

from torch import Tensor, nn

from senet.block import SESpec
from senet.block.made import MadeSpec
from senet.insertion import Where, attach, untouched
from senet.insertion.reading.dataflow import record
from senet.insertion.rules.choose import find
from senet.insertion.rules.site import select

__all__ = ["insert_without_values"]


def insert_without_values(model: nn.Module, example: Tensor, spec: SESpec | MadeSpec, where: Where = None) -> nn.Module:
    """Insert SE into `model` on the meta device at the sites that `insert` would use, without proof.

    Args:
        model: a network without SE, changed in place.
        example: (N, C, H, W), also on the meta device.
        spec: the kind of block and its placement.
        where: the sites to use, as in `insert`.

    Returns:
        `model`.

    Raises:
        InsertionError: there is no site, or `where` matches none.
    """
    with untouched(model):
        flow = record(model, example)
    for site in select(find(flow, spec.placement, frozenset(), type(model).__name__), where):
        attach(model, site, spec)
    return model
