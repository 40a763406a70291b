"""Find the state dict within a training's checkpoint: its key, and the prefix of its own keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from senet.insertion.staying.wrapped import outside

__all__ = ["AVERAGED", "RAW", "Part", "parts_of", "without_wrappers", "wrapped"]

T = TypeVar("T")

RAW = ("state_dict", "model_state_dict", "model_state", "model", "net", "network")
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema")
"""Keys under which training programs store a network's weights, and their moving average."""

_WRAPPER = "module."  # of DataParallel and AveragedModel; torch.compile's may be around a part alone
_COUNTER = "n_averaged"  # of torch's AveragedModel
_SPLIT = ("backbone.", "head.")  # a network in two parts, as mmpretrain has it
_DEPTH = 3
_AVERAGES = frozenset({"averaged", "ema", "ema_model", "model_ema", "module_ema"})


def wrapped(loaded: Mapping[Any, Any]) -> tuple[Any, str]:
    """The weights in a checkpoint, averaged ones first, with a note; else `loaded` itself.

    Published accuracies are those of the averaged weights, which timm loads too.
    """
    notes = []
    for _ in range(_DEPTH):
        averaged, raw = (
            next((key for key in keys if isinstance(loaded.get(key), Mapping) and loaded[key]), None)
            for keys in (AVERAGED, RAW)
        )
        key = averaged or raw
        if key is None:
            break
        if averaged and raw:
            notes.append(
                f"the file holds raw weights ({raw!r}) and averaged ones ({averaged!r}): the averaged are taken"
            )
        loaded = loaded[key]
    return loaded, "; ".join(notes)


def without_wrappers(tensors: Mapping[str, T]) -> dict[str, T]:
    """The tensors without the prefixes of DataParallel, torch.compile and AveragedModel.

    The values may be anything.
    """
    found = {outside(key): value for key, value in tensors.items()}
    while True:
        rest = {key: value for key, value in found.items() if key != _COUNTER}
        if not rest or not all(key.startswith(_WRAPPER) for key in rest):
            return found
        found = {key.removeprefix(_WRAPPER): value for key, value in rest.items()}


class Part(NamedTuple):
    """A part of a file's tensors under shorter names.

    Attributes:
        keys: the file's key of each name.
        averaged: whether its name says that it is a moving average.
    """

    keys: dict[str, str]
    averaged: bool


def parts_of(keys: Iterable[str]) -> list[Part]:
    """The parts of a state dict that may be a network on their own, the whole first.

    These are the keys after a common first name (`model.` in Lightning), and `backbone.` with
    `head.`.
    """
    found = [Part({key: key for key in keys}, False)]
    for part in found:
        if len(found) > 64:
            break
        if next(iter(part.keys.values()), "").count(".") - next(iter(part.keys), "").count(".") >= _DEPTH:
            continue
        groups: dict[str, dict[str, str]] = {}
        for name, key in part.keys.items():
            first, dot, rest = name.partition(".")
            if dot and rest != _COUNTER:
                groups.setdefault(first, {})[rest] = key
        for first, names in groups.items():
            if len(names) > 1:
                found.append(Part(names, part.averaged or first in _AVERAGES))
        if {"backbone", "head"} <= groups.keys():
            merged = {
                name.removeprefix(p): key for p in _SPLIT for name, key in part.keys.items() if name.startswith(p)
            }
            found.append(Part(merged, part.averaged))
    return found
