"""`create`: make a network by name, optionally with weights and SE."""

from __future__ import annotations

import dataclasses
import inspect
import operator
import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from senet.block import SESpec
from senet.block.made import MadeSpec, Make, block_spec
from senet.errors import InputTypeError, ModelError, WeightsError
from senet.files.hub import WEIGHTS, fetched, is_on_hub
from senet.insertion import Where, attach, insert, untouched
from senet.insertion.reading.dataflow import record
from senet.insertion.rules.choose import find
from senet.insertion.rules.site import select
from senet.running import noise
from senet.zoo.names.naming import is_saved, mark, resolve
from senet.zoo.names.sources import DEFAULT_CLASSES, Built, Source, ZooSource
from senet.zoo.weights.adapt import for_model, holds_se, other_kinds, take_se
from senet.zoo.weights.compatibility import head_of
from senet.zoo.weights.dialects import ENDS
from senet.zoo.weights.load import load_file, log_notes
from senet.zoo.weights.reading import WeightsFile, read_file

__all__ = ["CLASSES", "create", "insert_without_values", "requested_classes"]

_SMALLER = {224: 128}  # side in pixels: the same sites at this size, in a third of the time


class _NotGiven(int):
    """The default of `num_classes`: it reads as 1000, and differs from a requested 1000."""


CLASSES = _NotGiven(DEFAULT_CLASSES)


def create(
    name: str,
    *,
    num_classes: int = CLASSES,
    weights: str | os.PathLike[str] | None = None,
    spec: SESpec | None = None,
    make: Make | None = None,
    **options: Any,
) -> nn.Module:
    """`senet.create` for all names but those of saved networks, with the same arguments and errors."""
    if not isinstance(name, str | os.PathLike):
        raise InputTypeError(f"a network's name is a string, not {type(name).__name__}")
    if spec is not None and not isinstance(spec, SESpec):
        raise InputTypeError(f"spec is an SESpec, not {type(spec).__name__}")
    name = os.fspath(name)
    classes = requested_classes(name, num_classes)
    if is_saved(name):
        raise ModelError(f"{name} is a saved network: senet.create and senet.load open it")
    source, named_spec = resolve(name)
    if named_spec is not None and make not in (None, "se"):
        raise ModelError(f"{name} is the network with SE: with make=, create {source.name!r}")
    spec = named_spec if spec is None else spec
    wanted = spec if make is None else block_spec(spec, make)
    if weights is None:
        built = source.build(classes, options)
        return _with_se(source, built, wanted, "paper")
    if weights == "pretrained":
        return _with_se(source, source.pretrained(classes, options), wanted, "identity")
    file = read_file(_fetched(weights))
    options = _as_published(source, file, options)
    built = source.build(classes, options)
    if (part := file.fitted(built.model)) is not file:
        file, published = part, _as_published(source, part, options)
        if published != options:
            options, built = published, source.build(classes, published)
    if classes is None and (head := head_of(built.model, for_model(built.model, file)[0])):
        built = source.build(head.classes, options)
    # a classifier may start fresh only if a number of classes was requested
    head_rule = "strict" if classes is None else "replace"
    alphas = [value for key, value in file.tensors.items() if key.endswith(tuple(f"{end}.alpha" for end in ENDS))]
    held = bool(alphas) if isinstance(wanted, MadeSpec) else holds_se(built.model, file)
    if wanted is not None and held:
        # The file does not record how its blocks started, but blocks with a learnt α keep their
        # function under either start.
        model = _with_se(source, built, wanted, "identity" if alphas else "paper")
        if isinstance(wanted, MadeSpec) and wanted.start == "paper" and not all(bool((a == 1).all()) for a in alphas):
            raise WeightsError(f"{file.source} has blocks with a learnt α, which start='paper' lacks: leave it out")
        if wanted is named_spec:
            take_se(model, file)
        elif other := other_kinds(model, file):
            raise WeightsError(f"{file.source}: {other[0]}: ask for the file's in spec=")
        log_notes(load_file(model, file, head=head_rule))
        return model
    log_notes(load_file(built.model, file, head=head_rule))
    return _with_se(source, built, wanted, "identity")


def _as_published(source: Source, file: WeightsFile, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with Caffe's first pooling if the weights were trained with it and the network supports it."""
    if not (file.caffe_pool and isinstance(source, ZooSource)):
        return dict(options)
    known = inspect.signature(source.entry.build).parameters
    return {**({"caffe_pool": True} if "caffe_pool" in known else {}), **options}


def _with_se(source: Source, built: Built, spec: SESpec | MadeSpec | None, start: str) -> nn.Module:
    """Mark the network with its origin, and insert SE if there is a spec; `start` fills in the spec's."""
    model = built.model
    mark(model, source.name, built.options)
    if spec is None:
        return model
    shape = source.input_shape(built)
    if shape is None:
        raise ModelError(
            f"what {source.name} takes as input is not known, so spec= cannot put SE into it here: create it "
            f"plain, then senet.insert(model, example, spec)"
        )
    channels, height, width = shape
    where = None
    if isinstance(source, ZooSource):
        where = source.entry.where
        height, width = (_SMALLER.get(side, side) for side in (height, width))
    like = next(model.parameters())
    example = noise(1, channels, height, width)
    spec = dataclasses.replace(spec, start=spec.start or start)
    if like.is_meta:
        return insert_without_values(model, example.to(like), spec, where)
    return insert(model, example.to(like), spec, where=where, inplace=True)


def insert_without_values(model: nn.Module, example: Tensor, spec: SESpec | MadeSpec, where: Where) -> nn.Module:
    """Insert SE into `model` on the meta device, in place, at the sites that `insert` would use, without proof."""
    with untouched(model):
        flow = record(model, example)
    for site in select(find(flow, spec.placement, frozenset(), type(model).__name__), where):
        attach(model, site, spec)
    return model


def requested_classes(name: str, num_classes: int) -> int | None:
    """The requested number of classes, or None for the default.

    Raises:
        ModelError: it is not a number of classes.
    """
    if num_classes is CLASSES:
        return None
    try:
        count = operator.index(num_classes)  # type: ignore[arg-type]
    except TypeError:
        count = -1
    least = 0 if name.startswith("timm:") else 1  # in timm, 0 means no classifier
    if isinstance(num_classes, bool) or count < least:
        raise ModelError(f"num_classes is a whole number of at least {least}, not {num_classes!r}")
    return count


def _fetched(weights: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The path of the weights, fetched from the Hub if they are named `hf:owner/name`."""
    return fetched(weights, WEIGHTS) if isinstance(weights, str) and is_on_hub(weights) else weights
