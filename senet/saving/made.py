"""Made blocks in a file: the file names their maker, and the caller supplies it."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from senet.block import STARTS, SESpec
from senet.block.made import MadeSpec, Make, block_spec, known_maker, made_by
from senet.errors import InputError, WeightsError
from senet.insertion import Site
from senet.words import listed

__all__ = ["Spec", "described", "make_for", "with_makers"]

Spec = SESpec | MadeSpec


def with_makers(
    sites: Sequence[tuple[Site, Spec]], make: Make | Mapping[str, Make] | None, file: str | Path
) -> list[tuple[Site, Spec]]:
    """The same sites, each made block with its maker: timm's by name, and all others from `make`.

    Raises:
        WeightsError: a maker is missing, or the given one matches no block.
    """
    at: dict[str, list[str]] = {}
    for site, spec in sites:
        if isinstance(spec, MadeSpec):
            at.setdefault(spec.name, []).append(site.name)
    unknown = [name for name in at if known_maker(name) is None]
    if make is None or isinstance(make, Mapping):
        given = dict(make or {})
    elif (typed := made_by(make)) in at or len(unknown) != 1:
        given = {typed: make}
    else:
        given = {unknown[0]: make}
    if surplus := [name for name in given if name not in at]:
        held = f"its blocks are of {', '.join(f'make={name}' for name in at)}" if at else "it holds no made blocks"
        raise WeightsError(f"{file} holds no block of make={surplus[0]}: {held}")
    if missing := [name for name in unknown if name not in given]:
        name, *more = missing
        others = f", and of {', '.join(more)}: a maker for each, by its name" if more else ""
        raise WeightsError(
            f"{file} holds blocks that make={name} made ({listed(at[name], 3)}){others}. A file never makes us run "
            f"code that it names: give make= (--make)"
        )
    makers = {name: known_maker(name) for name in at}
    for name, each in given.items():
        found = block_spec(None, each)
        makers[name] = found.maker if isinstance(found, MadeSpec) else SESpec().block
    return [
        (site, dataclasses.replace(spec, maker=makers[spec.name]) if isinstance(spec, MadeSpec) else spec)
        for site, spec in sites
    ]


def make_for(names: Iterable[str], make: Make | Mapping[str, Make] | None) -> Make | Mapping[str, Make] | None:
    """`make` if the file names a maker that is unknown here, else None."""
    return make if any(known_maker(name) is None for name in names) else None


def described(site: Any, spec: Any, file: str | Path) -> tuple[Site, Spec]:
    """The site and the spec of a block that an untrusted file describes.

    Raises:
        WeightsError: it describes none.
    """
    fields = site if isinstance(site, dict) else {}
    kinds = typing.get_type_hints(Site)
    for name, value in fields.items():
        if type(value) is not kinds.get(name):
            raise WeightsError(f"{file} is damaged: a site has {name} = {value!r:.80}")
    try:
        found = Site(**fields), _spec_of(spec)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{file} is damaged: a site is {site!r:.500} with {spec!r:.500}: {error}") from error
    if found[0].channels < 1:
        raise WeightsError(f"{file} is damaged: {found[0].name} has {found[0].channels} channels")
    return found


def _spec_of(fields: Mapping[str, Any]) -> Spec:
    if "make" not in fields:
        return SESpec(**fields)
    name, module = fields.get("make"), fields.get("module")
    if not (isinstance(name, str) and isinstance(module, str) and name and module):
        raise InputError(f"a made block has make={name!r} and module={module!r}")
    if fields.keys() != {"make", "module", "placement", "start"} or fields["start"] not in STARTS:
        raise InputError("a made block has make, module, placement and start")
    return MadeSpec(name, fields["placement"], fields["start"], module)
