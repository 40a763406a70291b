"""Who is measured: a network without SE, the same with a peer's SE, and the same with ours."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib.util
import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
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
from senet.running import untouched
from senet.zoo.names.naming import origin

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["OURS", "PEER", "PEER_OPTIMIZED", "PLAIN", "Contestants", "contestants"]

PLAIN, PEER, PEER_OPTIMIZED, OURS = "plain", "peer", "peer optimized", "ours"

_ROUNDING = 1e-3  # timm rounds the hidden width to a multiple of 8


@dataclasses.dataclass(frozen=True)
class Contestants:
    """A network without SE, with a peer's and with ours; the three are of one architecture.

    Attributes:
        networks: by contestant, in training mode, on the CPU.
        peer: who made the peer's SE, in words: "timm's SE", "the straightforward block".
        foreign: whether the peer is another library's network.
    """

    networks: Mapping[str, nn.Module]
    peer: str
    foreign: bool

    def within(self, name: str) -> AbstractContextManager[None]:
        """Within it that contestant's SE is computed as it is to be."""
        return unfused() if name == PEER and not self.foreign else contextlib.nullcontext()

    def inference_forms(self, example: Tensor) -> dict[str, nn.Module]:
        """What is run in inference: normalisations folded in all; in the optimized ones the squeeze moved through."""
        forms = {name: folded(self.networks[name], example) for name in (PLAIN, PEER)}
        forms[OURS] = optimized(self.networks[OURS], example)
        if self.foreign:
            forms[PEER_OPTIMIZED] = optimized(self.networks[PEER], example)
        return forms


def contestants(model: nn.Module, example: Tensor) -> Contestants:
    """The contestants of a network, with SE or without: where it has none, ours is put in.

    The peer is timm's network, where timm has the same and is installed; else ours as the equations stand.

    Args:
        model: the network; it stays as it is.
        example: (1, C, *space), what it takes.

    Raises:
        InsertionError: (a ValueError) where SE has no place in it.
    """
    torch.manual_seed(0)
    plain = remove(model, everything=True) if blocks(model) else copy.deepcopy(model)
    ours = copy.deepcopy(model) if inserted(model) else insert(plain, example, SESpec(bias=True, start="paper"))
    twin = _timms(model, ours, example)
    peer = twin or copy.deepcopy(ours)
    networks = {PLAIN: plain, PEER: peer, OURS: ours}
    words = "the straightforward block" if twin is None else "timm's SE"
    return Contestants({name: network.train() for name, network in networks.items()}, words, twin is not None)


def _timms(model: nn.Module, ours: nn.Module, example: Tensor) -> nn.Module | None:
    """Timm's network with SE that has as many parameters and multiply-adds as ours; None where there is none."""
    if importlib.util.find_spec("timm") is None:
        return None
    import timm

    name, options = origin(model)
    library, _, bare = (name or "").rpartition(":")
    if library == "" and re.fullmatch(r"resnet(50|101|152)", bare):
        known = f"legacy_se{bare}"  # with the stride in the first 1×1 convolution, as the paper's
    else:
        known = f"se{bare.removesuffix('_v1_5')}"
    if not timm.is_model(known):
        return None
    settings = {} if "num_classes" not in options else {"num_classes": options["num_classes"]}
    twin: nn.Module = timm.create_model(known, **settings)
    (tensors, multiply_adds), (theirs, their_multiply_adds) = _size(ours, example), _size(twin, example)
    same = tensors == theirs and abs(multiply_adds / their_multiply_adds - 1) < _ROUNDING
    return twin if same else None


def _size(model: nn.Module, example: Tensor) -> tuple[int, int]:
    """How many parameter tensors there are, and the multiply-adds: what two networks of one architecture share."""
    with untouched(model):
        multiply_adds = count_calls(model, {}, example)[1]
    return len(list(model.parameters())), multiply_adds


def optimized(model: nn.Module, example: Tensor) -> nn.Module:
    """The inference form that `optimize` and `export` give; the log is kept back, as the table says it."""
    with turned_down("senet", to=logging.ERROR):
        return inference_form(model.eval(), example)


def folded(model: nn.Module, example: Tensor) -> nn.Module:
    """The network treated likewise in all but SE, which stays where and as it is."""
    network = capture(model, example)
    fold_constants(network)
    fold_affine(network)
    network.graph.eliminate_dead_code()
    fuse_epilogues(network, [])
    network.graph.eliminate_dead_code()
    return network.module(type(model).__name__)
