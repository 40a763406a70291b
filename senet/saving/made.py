"""Made blocks in a file: the file names their maker, and the caller supplies it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from senet.block import STARTS, SESpec
from senet.block.made import MadeSpec, Make, block_spec, known_maker, made_by
from senet.errors import InputError, WeightsError
from senet.insertion import Site
from senet.words import listed

__all__ = ["Spec", "make_for", "spec_of", "with_makers"]

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


def spec_of(fields: Mapping[str, Any]) -> Spec:
    """The spec of a block from a header.

    Raises:
        TypeError, ValueError: the header describes no block.
    """
    if "make" not in fields:
        return SESpec(**fields)
    name, module = fields.get("make"), fields.get("module")
    if not (isinstance(name, str) and isinstance(module, str) and name and module):
        raise InputError(f"a made block has make={name!r} and module={module!r}")
    if fields.keys() != {"make", "module", "placement", "start"} or fields["start"] not in STARTS:
        raise InputError("a made block has make, module, placement and start")
    return MadeSpec(name, fields["placement"], fields["start"], module)
