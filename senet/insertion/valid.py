"""Keep padding out of the squeeze: one context sets the lengths of a batch for all inserted SE."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from senet.block.equations import check_lengths, in_valid, padding
from senet.fused.switch import unfused
from senet.running import uncompiled

__all__ = ["valid"]


@contextmanager
def valid(lengths: Tensor | Sequence[float], *, axis: int = -1) -> Iterator[None]:
    """A context in which each SEBlock squeezes only over the valid part of each sample.

    Of the L positions along `axis`, the first ⌈length · L⌉ count. After a stride this may be one
    position more or fewer than the unpadded sample would have. Padding can still leak into the
    valid part through convolutions and biases, with or without SE.

    The context applies to this thread, and not to SE blocks of other libraries. A compiled network
    runs uncompiled within it. There no network can be traced, exported or optimised, and the result
    of `optimize` refuses to run, as do the replicas of DataParallel. With activation checkpointing,
    call `backward` inside it too, because that runs the network again; on a GPU it does so in
    another thread, which the context does not reach.

    Args:
        lengths: (N,), from 0 to 1: the fraction of each sample, from its start, that is valid.
        axis: the axis of (N, C, *space) along which the lengths count; in (N, C, L) the last is
            time. The input of SE on a layer of the form (N, *space, C) counts as (N, C, *space).

    Raises:
        ValueError: a length is outside 0 to 1, or, when the network runs, there is not one per sample.
    """
    before = padding.lengths, padding.axis
    given = check_lengths(lengths)
    with unfused(), uncompiled(load=True):
        padding.lengths, padding.axis = given, axis
        in_valid.append(given)
        try:
            yield
        finally:
            in_valid.pop()
            padding.lengths, padding.axis = before
