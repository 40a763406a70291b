"""Warn when a library rebuilds a network, loads weights by name, and so leaves out its SE.

ultralytics' trainers do so with their given weights, `from_pretrained` of transformers and
diffusers with a file. They skip unknown keys, or list them among other remarks. We import none of
them: we watch those that are already loaded.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from torch import nn

from senet.errors import warn
from senet.insertion.staying.joined import CHILDREN, attached
from senet.insertion.staying.wrapped import named_outside

__all__ = ["KEY", "SIGNS", "keeping", "network_in", "note_in_config", "watch"]

KEY = "senet"  # in the config of a transformers network
SIGNS = tuple(f".{child}.{key}" for child in CHILDREN for key in ("fc1.weight", "alpha"))  # ends of our keys

keeping: ContextVar[Callable[..., Any] | None] = ContextVar("keeping", default=None)
"""A replacement for transformers' `from_pretrained`, given that method, the class and the arguments, or None."""


def watch() -> None:
    """Watch those libraries that are loaded."""
    for module, name, each in (
        ("ultralytics.nn.tasks", "BaseModel", _watch_ultralytics),
        ("transformers.modeling_utils", "PreTrainedModel", _watch_transformers),
        ("diffusers.models.modeling_utils", "ModelMixin", _watch_diffusers),
    ):
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and not vars(kind).get("_senet_watches", False):
            kind._senet_watches = True
            each(kind)


def network_in(weights: Any) -> nn.Module | None:
    """The network in what ultralytics accepts as weights: a network, or a checkpoint that holds one."""
    found = (weights.get("ema") or weights.get("model")) if isinstance(weights, dict) else weights
    return found if isinstance(found, nn.Module) else None


def note_in_config(model: Any) -> None:
    """Record in a network's config which SE it holds, or that it holds none."""
    found = [(dataclasses.asdict(named_outside(at.site)), at.spec.to_json()) for _, _, at in attached(model)]
    sites = [{"site": site, "spec": spec} for site, spec in found]
    if sites:
        setattr(model.config, KEY, {"load_with": "senet.integrations.transformers.from_pretrained", "sites": sites})
    elif hasattr(model.config, KEY):
        delattr(model.config, KEY)


def _watch_ultralytics(network: Any) -> None:
    load = network.load

    @functools.wraps(load)
    def watched(self: nn.Module, weights: Any, *args: Any, **kwargs: Any) -> Any:
        result = load(self, weights, *args, **kwargs)
        source, ours = network_in(weights), {name for name, _, _ in attached(self)}
        lost = [] if source is None else [name for name, _, _ in attached(source) if name not in ours]
        if lost:
            warn(
                f"the weights hold SE that this {type(self).__name__} was built without: {', '.join(lost)}. It is "
                f"lost; to keep it, train with trainer=senet.integrations.ultralytics.trainer()"
            )
        return result

    network.load = watched


def _watch_transformers(network: Any) -> None:
    save, load = network.save_pretrained, vars(network)["from_pretrained"].__func__

    @functools.wraps(save)
    def saved(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        note_in_config(self)
        return save(self, *args, **kwargs)

    @functools.wraps(load)
    def loaded(cls: Any, *args: Any, **kwargs: Any) -> Any:
        loader = keeping.get()
        if loader is not None:
            return loader(load, cls, *args, **kwargs)
        result = load(cls, *args, **kwargs)
        model = result[0] if isinstance(result, tuple) else result
        recorded = getattr(getattr(model, "config", None), KEY, None)
        if isinstance(recorded, dict) and next(attached(model), None) is None:
            warn(
                f"the config records SE at {len(recorded['sites'])} places, which this {type(model).__name__} was "
                f"built without; load it with {recorded['load_with']}({type(model).__name__}, ...)"
            )
        return result

    network.save_pretrained, network.from_pretrained = saved, classmethod(loaded)


def _watch_diffusers(network: Any) -> None:
    load = vars(network)["from_pretrained"].__func__

    @functools.wraps(load)
    def loaded(cls: Any, *args: Any, **kwargs: Any) -> Any:
        with_account = kwargs.pop("output_loading_info", False)
        result = load(cls, *args, output_loading_info=True, **kwargs)
        if not isinstance(result, tuple):  # diffusers reports no unexpected keys for this format
            return result
        model, info = result
        keys = [key for key in info.get("unexpected_keys", ()) if key.endswith(SIGNS)]
        lost = sorted(key.removesuffix(".fc1.weight").removesuffix(".alpha") for key in keys)
        if lost:
            warn(
                f"the weights hold SE that this {type(model).__name__} was built without, as {lost[0]}. It is lost; to "
                f"keep it, build the network, insert the same SE and load the weights by load_state_dict"
            )
        return result if with_account else model

    network.from_pretrained = classmethod(loaded)
