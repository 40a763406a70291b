"""SE in a network on the meta device, which has shapes and no values: enough to count with, and made in no time."""

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
    """Put SE into `model`, which lies on the meta device, where `insert` would: nothing is proved.

    Args:
        model: a network without SE; it is changed.
        example: (N, C, H, W), on the meta device as well.
        spec: which block, and where.
        where: as `insert` takes it.

    Returns:
        `model`.

    Raises:
        InsertionError: where there is no site, or `where` matches none.
    """
    with untouched(model):
        flow = record(model, example)
    for site in select(find(flow, spec.placement, frozenset(), type(model).__name__), where):
        attach(model, site, spec)
    return model
