"""Resolve names of networks: `resnet20`, `torchvision:...`, `timm:...`, `file.py:function`, a saved file."""

from __future__ import annotations

import fnmatch
import importlib.util
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from senet.block import SESpec
from senet.errors import ModelError
from senet.extras import extra
from senet.files.hub import is_on_hub
from senet.files.paths import expanded
from senet.words import nearest
from senet.zoo.names.sources import FileSource, Source, TimmSource, TorchvisionSource, ZooSource
from senet.zoo.names.structure import changes, structure_of
from senet.zoo.networks import (
    bn_inception,
    cifar_resnet,
    inception_resnet,
    mobilenet,
    preact_resnet,
    resnet,
    senet154,
    shake_shake,
    short_sighted,
    shufflenet,
    vgg,
    wide_resnet,
)
from senet.zoo.networks.entry import Entry

__all__ = ["ORIGIN", "SAVED", "changed_since", "is_saved", "list_models", "mark", "origin", "resolve"]

ORIGIN = "_senet_origin"
SAVED = "model.safetensors"  # the trained network in a run folder
_FAMILIES = (
    resnet,
    vgg,
    bn_inception,
    inception_resnet,
    mobilenet,
    shufflenet,
    senet154,
    cifar_resnet,
    preact_resnet,
    wide_resnet,
    shake_shake,
    short_sighted,
)
_NETWORKS: Mapping[str, Entry] = MappingProxyType(
    {name: entry for family in _FAMILIES for name, entry in family.NETWORKS.items()}
)
_WITH_SE: Mapping[str, str] = MappingProxyType(
    {entry.se_name or f"se_{name}": name for name, entry in _NETWORKS.items() if entry.se_name is not None}
)  # name with SE -> plain network


def list_models(pattern: str = "*") -> list[str]:
    """The sorted names of the zoo's networks that match an fnmatch pattern.

    `resnet50` has no SE, and `se_resnet50` is the same with SE. If the published network holds SE,
    the one without is called plain: `senet154` and `senet154_plain`. `se_mobilenet_v3_small` is
    `mobilenet_v3_small_plain` with the SE paper's blocks. `resnet50` and deeper are the paper's,
    with the stride in the first 1×1 convolution; `resnet50_v1_5` is the modern form.

    `create` also takes torchvision's (`torchvision:NAME`) and timm's (`timm:NAME`).
    """
    return sorted(name for name in (*_NETWORKS, *_WITH_SE) if fnmatch.fnmatchcase(name, pattern))


def resolve(name: str) -> tuple[Source, SESpec | None]:
    """The source of the plain network, and the SE block in the name.

    Raises:
        ModelError: there is no such network; the message has the nearest names.
    """
    if name in _NETWORKS:
        return ZooSource(name, _NETWORKS[name]), None
    if name in _WITH_SE:
        return resolve(_WITH_SE[name])[0], SESpec(bias=True)
    prefix, colon, _ = name.partition(":")
    if colon and prefix == "torchvision":
        return TorchvisionSource(name), None
    if colon and prefix == "timm":
        return TimmSource(name), None
    path, colon, function = name.rpartition(":")
    if colon and path.endswith(".py"):
        return FileSource(expanded(path), function), None
    raise _unknown(name)


def is_saved(name: str) -> bool:
    """Whether `name` is a possible file of `save`, a run folder, or one of these on the Hub.

    A network's name is never a folder's: a run called `resnet20` is `./resnet20`.
    """
    if name in _NETWORKS or name in _WITH_SE or name.startswith(("torchvision:", "timm:")):
        return False
    path = expanded(name)
    return (
        is_on_hub(name)
        or (path.is_dir() and (path / SAVED).is_file())
        or (path.is_file() and path.suffix == ".safetensors")
    )


def mark(model: nn.Module, name: str, options: Mapping[str, Any]) -> None:
    """Mark the plain `model` with its name, options and structure."""
    model.__dict__[ORIGIN] = {"model": name, "options": dict(options), "structure": structure_of(model)}


def origin(model: nn.Module) -> tuple[str | None, dict[str, Any]]:
    """The name and options of `model`; None if `create` did not make it."""
    found = model.__dict__.get(ORIGIN)
    return (None, {}) if found is None else (found["model"], dict(found["options"]))


def changed_since(model: nn.Module) -> dict[str, tuple[str, str]]:
    """The changes of `model` since `create` made it: each changed module before and after, "" for none.

    Empty for a network that `create` did not make. Inserted and pruned SE does not count as a change.
    """
    made = model.__dict__.get(ORIGIN, {}).get("structure")  # pickles of earlier versions lack it
    return {} if made is None else changes(model, made)


def _unknown(name: str) -> ModelError:
    path = expanded(name)
    if name.endswith(".py"):
        return ModelError(f"{name!r} is a file; say which function of it makes the network: {name}:FUNCTION")
    if name and path.is_dir():
        return ModelError(f"the folder {name!r} is not a run folder: it has no {SAVED}")
    if path.suffix in (".pth", ".pt", ".bin", ".ckpt", ".caffemodel"):
        return ModelError(f"{name!r} holds weights, not a network: name the network, and give weights={name!r}")
    if path.suffix in (".onnx", ".xml", ".pt2") and path.is_file():
        return ModelError(f"{name!r} is an exported program: name the network, or the run, that it was made from")
    if os.sep in name or path.suffix == ".safetensors":
        return ModelError(
            f"{name!r} does not exist; a network is a name of the zoo, torchvision:NAME, timm:NAME, "
            f"path/to/file.py:function, or a file that senet.save wrote"
        )
    near = _near(name)
    some = f"the zoo has {', '.join(list_models()[:8])}, …: list_models() names all"
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else some
    return ModelError(f"there is no network {name!r}; {hint}")


def _near(name: str) -> list[str]:
    """Suggestions for `name`: torchvision's network of that name, else near names of the zoo, timm or torchvision."""
    bare = name.rpartition(":")[2]
    elsewhere: list[str] = []
    for library, module, needed in (("torchvision", "torchvision.models", "study"), ("timm", "timm", "timm")):
        if not importlib.util.find_spec(library):
            continue
        known = [f"{library}:{other}" for other in extra(module, needed).list_models()]
        if f"{library}:{bare}" in known:
            return [f"{library}:{bare}"]
        elsewhere += known
        if near := nearest(name, list_models(), 3):
            return near  # before timm, which takes seconds to import
    return nearest(name, list_models(), 3) or nearest(name, elsewhere, 3)
