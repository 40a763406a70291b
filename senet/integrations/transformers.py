"""SE in the networks that transformers saves and builds: `save_pretrained` and `from_pretrained` keep it.

`insert(model, example)`, train by any Trainer, `model.save_pretrained(folder)`; then
`from_pretrained(ResNetForImageClassification, folder)`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import os
import typing
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from torch import nn

from senet.block import SESpec
from senet.errors import InputTypeError, InsertionError, SEWarning, WeightsError
from senet.extras import extra
from senet.insertion import Site, Where, attach, inserted
from senet.insertion import insert as insert_se
from senet.insertion.joining.attach import attached

__all__ = ["from_pretrained", "insert", "keeping_se", "record"]

_KEY = "senet"  # in the config
_HERE = "senet.integrations.transformers"

_keeps: ContextVar[bool] = ContextVar("keeps_se", default=False)


def insert(
    model: nn.Module, example: Any, spec: SESpec | None = None, *, where: Where = None, inplace: bool = False
) -> Any:
    """`senet.insert`, and `record`: the network's config says where its SE is.

    Args:
        model: a network of transformers, a PreTrainedModel.
        example: what the network takes: a tensor, a tuple of positional arguments or a dict of keyword arguments.
        spec: as `senet.insert` takes it.
        where: as `senet.insert` takes it.
        inplace: as `senet.insert` takes it.

    Raises:
        TypeError: the network has no config, so it is none of transformers.
        InsertionError: as `senet.insert`.
    """
    _config(model)
    return record(insert_se(model, example, spec, where=where, inplace=inplace))


def record(model: nn.Module) -> Any:
    """Write the SE that `model` holds now into its config, and return the model.

    `save_pretrained` saves the config, from which `from_pretrained` here makes the SE again. Needed after
    `senet.insert` and `senet.remove`; `insert` here does it by itself.
    """
    config = _config(model)
    _watch()
    sites = [{"site": dataclasses.asdict(site), "spec": spec.to_json()} for site, spec in inserted(model).values()]
    if sites:
        setattr(config, _KEY, {"load_with": f"{_HERE}.from_pretrained", "sites": sites})
    elif hasattr(config, _KEY):
        delattr(config, _KEY)
    return model


def from_pretrained(kind: Any, name: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
    """`kind.from_pretrained(name, ...)` with the SE that the config records, trained weights and all.

    Args:
        kind: a class of transformers, such as ResNetForImageClassification or AutoModelForImageClassification.
        name: a folder that `save_pretrained` wrote, or a name on the hub.
        args: as `kind.from_pretrained` takes them.
        kwargs: as `kind.from_pretrained` takes them.

    Raises:
        WeightsError: the SE of the config and that of the weights are not the same.
    """
    with keeping_se():
        return kind.from_pretrained(name, *args, **kwargs)


@contextlib.contextmanager
def keeping_se() -> Iterator[None]:
    """Within it every `from_pretrained` of transformers keeps recorded SE, `pipeline(...)` included."""
    _watch()
    before = _keeps.set(True)
    try:
        yield
    finally:
        _keeps.reset(before)


def _config(model: nn.Module) -> Any:
    config = getattr(model, "config", None)
    if not hasattr(config, "to_dict") or not hasattr(model, "save_pretrained"):
        raise InputTypeError(f"model is a PreTrainedModel of transformers, not {type(model).__name__}")
    return config


# A plain class makes a plain network and reports keys that it has no use for, among other remarks.
def _watch() -> None:
    """Make `from_pretrained` keep recorded SE within `keeping_se`, and warn elsewhere where it leaves SE out."""
    network = extra("transformers").PreTrainedModel
    original = inspect.getattr_static(network, "from_pretrained").__func__
    if getattr(original, "_senet", False):
        return

    @functools.wraps(original)
    def watched(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not _keeps.get():
            model = original(cls, *args, **kwargs)
            _warn_of_lost(model[0] if isinstance(model, tuple) else model)
            return model
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = original(_joining(cls), *args, output_loading_info=True, **kwargs)
        model.__class__ = cls
        _check(model, info)
        record(model)
        return (model, info) if wants_info else model

    watched._senet = True  # type: ignore[attr-defined]
    network.from_pretrained = classmethod(watched)


def _joining(kind: type[Any]) -> type[Any]:
    """A subclass of `kind`, of the same name, whose instances are built with the SE of their config."""

    def initialise(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, config, *args, **kwargs)
        recorded = getattr(config, _KEY, None)
        for fields in recorded["sites"] if isinstance(recorded, dict) else ():
            site, spec = _site_and_spec(fields)
            names: dict[str, Any] = {
                key: _as_in(self, value) for key in ("name", "source") if (value := getattr(site, key))
            }
            try:
                attach(self, dataclasses.replace(site, **names), spec)
            except InsertionError as error:
                raise WeightsError(f"the config has SE where this {kind.__name__} has no place: {error}") from error

    return type(kind.__name__, (kind,), {"__init__": initialise, "__module__": kind.__module__})


def _site_and_spec(fields: Any) -> tuple[Site, SESpec]:
    """A Site and its SESpec, as strictly as a stranger's config asks for."""
    if isinstance(fields, dict) and isinstance(fields.get("spec"), dict) and "make" in fields["spec"]:
        raise WeightsError(
            f"the config records a block of make={fields['spec']['make']}, which a config cannot make: insert it into "
            f"a plain network, and load the weights by load_state_dict"
        )
    try:
        site, spec = Site(**fields["site"]), SESpec(**fields["spec"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"the config is damaged: SE is recorded as {fields!r:.200}: {error}") from error
    kinds = typing.get_type_hints(Site)
    wrong = [name for name, value in vars(site).items() if type(value) is not kinds[name]]
    if wrong or site.channels < 1:
        raise WeightsError(f"the config is damaged: a site has {wrong[0] if wrong else 'channels'} = {fields!r:.200}")
    return site, spec


def _as_in(model: Any, name: str) -> str:
    """`name` in `model`, which may be the body of the network that was saved, or the body with a head on it."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    if hasattr(model, prefix[:-1]):
        return name if name.startswith(prefix) else prefix + name
    return name.removeprefix(prefix)


def _warn_of_lost(model: nn.Module) -> None:
    recorded = getattr(getattr(model, "config", None), _KEY, None)
    if isinstance(recorded, dict) and not inserted(model):
        warnings.warn(
            f"the config records SE at {len(recorded['sites'])} places, which this {type(model).__name__} was built "
            f"without; load it with {_HERE}.from_pretrained({type(model).__name__}, ...)",
            SEWarning,
            stacklevel=3,
        )


def _check(model: nn.Module, info: Any) -> None:
    """Raise a WeightsError where weights hold SE that the config does not, or the other way round."""
    ours = {f"{name}.{found.child}" for name, _, found in attached(model)}
    missing = sorted(key for key in info["missing_keys"] if key.rpartition(".fc")[0] in ours)
    if missing:
        raise WeightsError(
            f"the config records SE that the weights lack, as {missing[0]}: it was removed after it was recorded. "
            f"Load the network plain, or call {_HERE}.record before it is saved"
        )
    foreign = sorted(key for key in info["unexpected_keys"] if key.endswith((".se.fc1.weight", ".senet_se.fc1.weight")))
    if foreign:
        raise WeightsError(
            f"the weights hold SE that the config does not record, as {foreign[0]}: call {_HERE}.record(model) after "
            f"senet.insert, before it is saved. To load this file, insert the same SE into a plain network and then "
            f"load its weights by load_state_dict"
        )
