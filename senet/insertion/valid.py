"""Padding that does not count: the lengths of a batch, for all SE that `insert` put into a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from senet.block.equations import check_lengths, padding
from senet.fused.switch import unfused

__all__ = ["valid"]


@contextmanager
def valid(lengths: Tensor | Sequence[float], *, axis: int = -1) -> Iterator[None]:
    """Within it each SEBlock squeezes over the valid part of each sample alone.

    Of the L positions that a map has there, the first ⌈length · L⌉ count. Behind a stride this may
    be one position more or fewer than the sample alone would have. What the padding does elsewhere
    is the network's business: convolutions and biases may let it leak into what is valid, with SE
    or without.

    It holds for this thread. SE of other libraries is not told. A network that `torch.compile`
    compiled runs uncompiled within it. It cannot be traced, exported or optimised there.

    Args:
        lengths: (N,), from 0 to 1: the part of each sample that is valid, from the start, relative
            to the longest.
        axis: the axis that they count along, of (N, C, *space): the last is time in (N, C, L).
            Where SE stands behind a layer of the form (N, *space, C), its input counts as (N, C,
            *space).

    Raises:
        ValueError: the lengths are not from 0 to 1, or, when the network runs, not one per sample.
    """
    before = padding.lengths, padding.axis
    given = check_lengths(lengths)
    with unfused(), torch.compiler.set_stance("force_eager"):
        padding.lengths, padding.axis = given, axis
        try:
            yield
        finally:
            padding.lengths, padding.axis = before
