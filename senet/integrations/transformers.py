"""Keep SE in networks that transformers loads with `from_pretrained`.

When transformers' `save_pretrained` or `Trainer` saves a network with inserted SE, its config
records the sites. `from_pretrained(ResNetForImageClassification, folder)` then loads the same
network.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from senet.block.made import Make
from senet.errors import InsertionError, WeightsError
from senet.extras import extra
from senet.insertion import Site, attach
from senet.insertion.staying.joined import attached
from senet.insertion.staying.rebuilt import KEY, SIGNS, keeping, note_in_config, watch
from senet.saving.made import Spec, described, with_makers

__all__ = ["from_pretrained", "keeping_se"]


def from_pretrained(
    kind: Any, name: str | os.PathLike[str], *args: Any, make: Make | Mapping[str, Make] | None = None, **kwargs: Any
) -> Any:
    """`kind.from_pretrained(name, ...)` with the SE that the config records, and its trained weights.

    Args:
        kind: a class of transformers, such as ResNetForImageClassification or AutoModelForImageClassification.
        name: a folder that `save_pretrained` wrote, or a name on the Hub.
        args: arguments of `kind.from_pretrained`.
        make: the maker of blocks that were inserted with `make`, as in `senet.load`.
        kwargs: keyword arguments of `kind.from_pretrained`.

    Raises:
        WeightsError: the config and the weights do not hold the same SE.
    """
    with keeping_se(make):
        return kind.from_pretrained(name, *args, **kwargs)


@contextlib.contextmanager
def keeping_se(make: Make | Mapping[str, Make] | None = None) -> Iterator[None]:
    """A context in which every `from_pretrained` of transformers, also in `pipeline(...)`, keeps recorded SE.

    Args:
        make: the maker of blocks that were inserted with `make`, as in `senet.load`.
    """
    extra("transformers.modeling_utils")
    watch()
    before = keeping.set(functools.partial(_load, make))
    try:
        yield
    finally:
        keeping.reset(before)


def _load(make: Any, original: Any, kind: Any, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
    """Call transformers' own `from_pretrained`, `original`, with a class that builds the SE of its config."""
    built: dict[str, Any] = {
        "__init__": functools.partialmethod(_initialise, kind, make),
        "__module__": kind.__module__,
    }
    model, info = original(type(kind.__name__, (kind,), built), *args, output_loading_info=True, **kwargs)
    model.__class__ = kind
    _check(model, info)
    note_in_config(model)  # names as in this network
    return (model, info) if output_loading_info else model


def _initialise(self: Any, kind: type[Any], make: Any, config: Any, *args: Any, **kwargs: Any) -> None:
    kind.__init__(self, config, *args, **kwargs)
    sites, prefix = _recorded(config), _prefix(self)
    if not hasattr(self, prefix[:-1]) and any(site.name.startswith(prefix) for site, _ in sites):
        sites = [(site, spec) for site, spec in sites if site.name.startswith(prefix)]  # a body, without the head's
    for site, spec in with_makers(sites, make, "the config"):
        names: dict[str, Any] = {
            key: _as_in(self, value) for key in ("name", "source") if (value := getattr(site, key))
        }
        try:
            attach(self, dataclasses.replace(site, **names), spec)
        except InsertionError as error:
            raise WeightsError(f"the config has SE where this {kind.__name__} has no place: {error}") from error


def _recorded(config: Any) -> list[tuple[Site, Spec]]:
    """The sites and blocks that a config records."""
    recorded = getattr(config, KEY, None)
    blocks = recorded.get("sites", ()) if isinstance(recorded, dict) else ()
    fields = [each if isinstance(each, dict) else {} for each in blocks]
    return [described(each.get("site"), each.get("spec"), "the config") for each in fields]


def _prefix(model: Any) -> str:
    """What the names of a body's modules begin with in a network with a head."""
    return f"{getattr(model, 'base_model_prefix', '')}."


def _as_in(model: Any, name: str) -> str:
    """`name` in `model`, which may be the saved network without its head, or with one added."""
    prefix = _prefix(model)
    if not hasattr(model, prefix[:-1]):
        return name.removeprefix(prefix)
    here = any(name == each for each, _ in model.named_modules())  # also in its head, or in a neck
    return name if here or name.startswith(prefix) else prefix + name


def _check(model: nn.Module, info: Any) -> None:
    """Raise a WeightsError if the weights hold SE that the config does not record, or the reverse."""
    ours = {f"{name}.{found.child}" for name, _, found in attached(model)}
    missing = sorted(key for key in info["missing_keys"] if any(key.startswith(f"{block}.") for block in ours))
    if missing:
        raise WeightsError(
            f"the config records SE that the weights lack, as {missing[0]}: load the network plain, or make it, insert "
            f"the SE and load its weights by load_state_dict"
        )
    left_out = tuple(f"{site.name}." for site, _ in _recorded(model.config))  # with the head that held it
    unexpected = (key for key in info["unexpected_keys"] if not key.startswith(left_out))
    foreign = sorted(key for key in unexpected if key.endswith(SIGNS))
    if foreign:
        raise WeightsError(
            f"the weights hold SE that the config does not record, as {foreign[0]}: make the network, insert the same "
            f"SE and load the weights by load_state_dict; save_pretrained then records it"
        )
