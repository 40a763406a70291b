"""The contestants: a network without SE, with a peer's SE, and with ours."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib.util
import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from senet.block import SESpec
from senet.console.logs import turned_down
from senet.cost.cost import count_calls
from senet.export.export import inference_form
from senet.fused.switch import unfused
from senet.inference.eager.epilogue import fuse_epilogues
from senet.inference.folding import fold_affine, fold_constants
from senet.inference.graph import capture
from senet.insertion import blocks, insert, inserted, remove
from senet.running import copy_of, untouched
from senet.zoo.names.naming import origin

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["AS_INSERTED", "OURS", "PEER", "PEER_OPTIMIZED", "PLAIN", "PLAIN_AS_IT_IS", "Contestants", "contestants"]

PLAIN, PEER, PEER_OPTIMIZED, OURS = "plain", "peer", "peer optimized", "ours"
PLAIN_AS_IT_IS, AS_INSERTED = "plain as it is", "ours as inserted"

INSTEAD = "give one that can be copied, since copies are measured"
_ROUNDING = 1e-3  # timm rounds the hidden width to a multiple of 8


@dataclasses.dataclass(frozen=True)
class Contestants:
    """Three networks of one architecture: without SE, with a peer's, and with ours.

    Attributes:
        networks: the networks by contestant, in training mode on the CPU in float32.
        peer: the peer's SE in words: "timm's SE", "the straightforward block".
        foreign: whether the peer is another library's network.
    """

    networks: Mapping[str, nn.Module]
    peer: str
    foreign: bool

    def within(self, name: str) -> AbstractContextManager[None]:
        """A context in which the contestant's SE is computed in its own way."""
        return unfused() if name == PEER and not self.foreign else contextlib.nullcontext()

    def inference_forms(self, example: Tensor) -> dict[str, nn.Module]:
        """The inference forms: all with folded normalisations, the optimized ones with the squeeze moved."""
        forms = {name: folded(self.networks[name], example) for name in (PLAIN, PEER)}
        forms[OURS] = optimized(self.networks[OURS], example)
        if self.foreign:
            forms[PEER_OPTIMIZED] = optimized(self.networks[PEER], example)
        return forms

    def as_they_are(self) -> dict[str, nn.Module]:
        """The network without SE and ours in eval mode, neither folded nor optimized: what `insert` alone gives."""
        pairs = ((PLAIN_AS_IT_IS, PLAIN), (AS_INSERTED, OURS))
        return {name: copy.deepcopy(self.networks[each]).eval() for name, each in pairs}


def contestants(model: nn.Module, example: Tensor) -> Contestants:
    """The contestants of a network; ours is inserted if it has no SE.

    The peer is timm's network if timm is installed and has the same architecture, else our unfused block.

    Args:
        model: the network; it stays as it is.
        example: one input, (1, C, *space), on the CPU in float32.

    Raises:
        InsertionError: (a ValueError) SE has no place in it.
    """
    plain = (remove(model, everything=True) if blocks(model) else copy_of(model, INSTEAD)).cpu().float()
    ours = (
        copy_of(model, INSTEAD).cpu().float()
        if inserted(model)
        else insert(plain, example, SESpec(bias=True, start="paper"))
    )
    twin = _timms(model, ours, example)
    peer = twin or copy.deepcopy(ours)
    networks = {PLAIN: plain, PEER: peer, OURS: ours}
    words = "the straightforward block" if twin is None else "timm's SE"
    return Contestants({name: network.train() for name, network in networks.items()}, words, twin is not None)


def _timms(model: nn.Module, ours: nn.Module, example: Tensor) -> nn.Module | None:
    """Timm's network with SE and with as many parameters and multiply-adds as ours; None if there is none."""
    if importlib.util.find_spec("timm") is None:
        return None
    import timm

    name, options = origin(model)
    library, _, bare = (name or "").rpartition(":")
    if library == "" and re.fullmatch(r"resnet(50|101|152)", bare):
        known = f"legacy_se{bare}"  # with the stride in the first 1×1 convolution, as in the paper
    else:
        known = f"se{bare.removesuffix('_v1_5')}"
    if not timm.is_model(known):
        return None
    named = {"num_classes": "num_classes", "in_channels": "in_chans", "in_chans": "in_chans"}
    settings = {its: options[given] for given, its in named.items() if given in options}
    twin: nn.Module = timm.create_model(known, **settings)
    (tensors, multiply_adds), (theirs, their_multiply_adds) = _size(ours, example), _size(twin, example)
    same = tensors == theirs and abs(multiply_adds / their_multiply_adds - 1) < _ROUNDING
    return twin if same else None


def _size(model: nn.Module, example: Tensor) -> tuple[int, int]:
    """The number of parameter tensors and the multiply-adds, which are equal for equal architectures."""
    with untouched(model):
        multiply_adds = count_calls(model, {}, example)[1]
    return len(list(model.parameters())), multiply_adds


def optimized(model: nn.Module, example: Tensor) -> nn.Module:
    """The inference form of `optimize` and `export`, without their log, since the table reports it."""
    with turned_down("senet", to=logging.ERROR):
        return inference_form(model.eval(), example)


def folded(model: nn.Module, example: Tensor) -> nn.Module:
    """The same inference form, except that SE is unchanged."""
    network = capture(model, example)
    fold_constants(network)
    fold_affine(network)
    network.graph.eliminate_dead_code()
    fuse_epilogues(network, [])
    network.graph.eliminate_dead_code()
    return network.module(type(model).__name__)
