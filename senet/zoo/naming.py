"""From a name to the network: `resnet20`, `torchvision:...`, `timm:...`, `file.py:function`, a saved file."""

from __future__ import annotations

import difflib
import fnmatch
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from senet.block import SESpec
from senet.zoo import cifar_resnet
from senet.zoo.entry import Entry
from senet.zoo.errors import ModelError
from senet.zoo.sources import FileSource, Source, TimmSource, TorchvisionSource, ZooSource, extra

__all__ = ["ORIGIN", "SAVED", "is_saved", "list_models", "mark", "origin", "resolve"]

ORIGIN = "_senet_origin"
SAVED = "model.safetensors"  # the trained network in a run folder
_SE = "se_"
_NETWORKS: Mapping[str, Entry] = MappingProxyType({**cifar_resnet.NETWORKS})


def list_models(pattern: str = "*") -> list[str]:
    """The names of the zoo's networks that match an fnmatch pattern, sorted; each has its `se_` form.

    Beside these `create` takes torchvision's (`torchvision:NAME`) and timm's (`timm:NAME`).
    """
    names = [*_NETWORKS, *(_SE + name for name in _NETWORKS)]
    return sorted(name for name in names if fnmatch.fnmatchcase(name, pattern))


def resolve(name: str) -> tuple[Source, SESpec | None]:
    """The source of the plain network, and the SE block that the name asks for.

    Raises:
        ModelError: where there is no such network, with the nearest names.
    """
    if name in _NETWORKS:
        return ZooSource(name, _NETWORKS[name]), None
    if name.startswith(_SE) and name.removeprefix(_SE) in _NETWORKS:
        return resolve(name.removeprefix(_SE))[0], SESpec(bias=True)
    prefix, colon, _ = name.partition(":")
    if colon and prefix == "torchvision":
        return TorchvisionSource(name), None
    if colon and prefix == "timm":
        return TimmSource(name), None
    path, colon, function = name.rpartition(":")
    if colon and path.endswith(".py"):
        return FileSource(Path(path), function), None
    raise _unknown(name)


def is_saved(name: str) -> bool:
    """Whether `name` is a file that `save` may have written, or a run folder."""
    path = Path(name)
    return (path.is_dir() and (path / SAVED).is_file()) or (path.is_file() and path.suffix == ".safetensors")


def mark(model: nn.Module, name: str, options: Mapping[str, Any]) -> None:
    """Write on `model` which network it is."""
    model.__dict__[ORIGIN] = {"model": name, "options": dict(options)}


def origin(model: nn.Module) -> tuple[str | None, dict[str, Any]]:
    """Which network `model` is, and its options; None for one that `create` did not make."""
    found = model.__dict__.get(ORIGIN)
    return (None, {}) if found is None else (found["model"], dict(found["options"]))


def _unknown(name: str) -> ModelError:
    path = Path(name)
    if name.endswith(".py"):
        return ModelError(f"{name!r} is a file; say which function of it makes the network: {name}:FUNCTION")
    if path.is_dir():
        return ModelError(f"the folder {name!r} is no run folder: it has no {SAVED}")
    if path.suffix in (".pth", ".pt", ".bin", ".ckpt"):
        return ModelError(f"{name!r} holds weights, not a network: name the network, and give weights={name!r}")
    if os.sep in name or path.suffix == ".safetensors":
        return ModelError(
            f"{name!r} does not exist; a network is a name of the zoo, torchvision:NAME, timm:NAME, "
            f"path/to/file.py:function, or a file that senet.save wrote"
        )
    near = difflib.get_close_matches(name, list_models(), n=3)
    near = near or _near_elsewhere(name)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"the zoo has {', '.join(list_models())}"
    return ModelError(f"there is no network {name!r}; {hint}")


def _near_elsewhere(name: str) -> list[str]:
    """The names of torchvision's and timm's networks, where these are installed, that `name` may mean."""
    known: list[str] = []
    if importlib.util.find_spec("torchvision"):
        known += [f"torchvision:{other}" for other in extra("torchvision.models", "study").list_models()]
    if importlib.util.find_spec("timm"):
        known += [f"timm:{other}" for other in extra("timm", "timm").list_models()]
    bare = name.rpartition(":")[2]
    same = [other for other in known if other.partition(":")[2] == bare]
    return same or difflib.get_close_matches(name, known, n=3)
