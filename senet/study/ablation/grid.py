"""The cells of an ablation: the variants of SE to train, including the paper's tables."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from senet.block import GATES, PLACEMENTS, SESpec
from senet.block.made import MadeSpec, block_spec, short_name
from senet.errors import StudyError
from senet.insertion import Site
from senet.insertion.rules.site import select
from senet.study.ablation.published import Published, published
from senet.words import did_you_mean

__all__ = ["AXES", "TABLES", "Cell", "Stages", "cells_of", "parse_grid", "sites_of", "typed_grid"]

Stages = tuple[int, ...] | None
"""The stages that hold SE; None means all."""

AXES = ("reduction_ratio", "width", "least_width", "squeeze", "gate", "bias", "placement", "stages", "make")
TABLES: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "reduction": {"reduction_ratio": (2, 4, 8, 16, 32)},
    "squeeze": {"squeeze": ("avg", "max")},
    "no-squeeze": {"squeeze": ("avg", "none")},
    "gate": {"gate": tuple(GATES)},
    "stages": {"stages": ("each", "but-each", "all")},
    "placement": {"placement": PLACEMENTS},
    "bias": {"bias": (False, True)},
}
"""Predefined grids by name: the paper's tables 10 to 16, and also hard_sigmoid and biases."""

BASE = "se"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One variant.

    Attributes:
        key: its name, also in its folders' names.
        label: its difference from the standard block, in words.
        spec: its block; None for the plain network.
        stages: the stages that hold SE; None means all.
        published: the paper's figures for it.
    """

    key: str
    label: str
    spec: SESpec | MadeSpec | None
    stages: Stages = None
    published: Published | None = None


def cells_of(
    base: SESpec | MadeSpec, tables: Sequence[str], grid: Mapping[str, Sequence[Any]] | None, stages: Sequence[int]
) -> tuple[dict[str, Cell], dict[str, tuple[str, ...]]]:
    """The distinct cells of tables and grid, the standard one first, and the cells of each table.

    Args:
        base: the standard block.
        tables: names of `TABLES`; "all" means every one.
        grid: values by axis; every combination is a cell.
        stages: the stages in which the network has sites.

    Raises:
        StudyError: a table, an axis or a value does not exist, or nothing varies.
    """
    names = list(TABLES) if "all" in tables else list(dict.fromkeys(tables))
    for name in names:
        if name not in TABLES:
            raise StudyError(f"there is no table {name!r}{did_you_mean(name, [*TABLES, 'all'])}")
    if not names and not grid:
        raise StudyError(f"say what to vary: a table ({', '.join(TABLES)} or all), or a grid such as gate=sigmoid,tanh")
    label = "standard SE" if isinstance(base, SESpec) else f"{short_name(base.name)}, standard"
    ratio = getattr(base, "reduction_ratio", None)
    cells = {BASE: Cell(BASE, label, base, None, _published(base, "reduction_ratio", ratio) if names else None)}
    table_of: dict[str, tuple[str, ...]] = {}
    for name in names:
        table_of[name] = _add(cells, base, TABLES[name], stages, paper=True)
    if grid:
        table_of["grid"] = _add(cells, base, grid, stages, paper=False)
    return cells, table_of


def _add(
    cells: dict[str, Cell],
    base: SESpec | MadeSpec,
    grid: Mapping[str, Sequence[Any]],
    stages: Sequence[int],
    *,
    paper: bool,
) -> tuple[str, ...]:
    """Add the missing combinations of a grid; return the keys of all, in order."""
    for axis, values in grid.items():
        if axis not in AXES:
            raise StudyError(f"{axis!r} cannot be varied{did_you_mean(axis, AXES)}")
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise StudyError(f"the grid gives {axis} {values!r}, and takes a list of values, such as [{values!r}]")
        if not values:
            raise StudyError(f"the grid gives {axis} no values")
    expanded = {axis: _expanded(axis, values, stages) for axis, values in grid.items()}
    like_paper = len(stages) > 0 and (min(stages), max(stages)) == (2, 5)
    keys = []
    for combination in itertools.product(*expanded.values()):
        chosen = dict(zip(expanded, combination, strict=True))
        where: Stages = chosen.pop("stages", None)
        spec = _variant(base, chosen)
        apart = {axis: value for axis, value in _values(spec, chosen) if value != dict(_values(base, chosen)).get(axis)}
        if where is not None:
            apart["stages"] = where
        key = "_".join(_slug(axis, value) for axis, value in apart.items()) or BASE
        keys.append(key)
        if key in cells and not _same(cells[key].spec, spec):
            raise StudyError(f"two of the variants are called {key}: give their makers names of their own")
        if key not in cells:
            known = None
            if paper and len(apart) == 1:
                ((axis, value),) = apart.items()
                known = _published(spec, axis, value) if axis != "stages" or like_paper else None
            label = ", ".join(_words(axis, value, stages) for axis, value in apart.items())
            cells[key] = Cell(key, label, spec, where, known)
    return tuple(dict.fromkeys(keys))


def _variant(base: SESpec | MadeSpec, chosen: Mapping[str, Any]) -> SESpec | MadeSpec:
    """The standard block with the chosen options.

    Raises:
        StudyError: there is no such block, or a made block lacks a chosen option.
    """
    rest = {axis: value for axis, value in chosen.items() if axis != "make"}
    try:
        if "make" in chosen:
            # Standard options that only SE has apply to SE alone, not to made blocks.
            keeps = chosen["make"] == "se" and isinstance(base, SESpec)
            base = block_spec(base if keeps else SESpec(placement=base.placement, start=base.start), chosen["make"])
        if isinstance(base, MadeSpec) and (own := rest.keys() - {"placement"}):
            raise StudyError(f"{', '.join(sorted(own))} is SE's own, and make={base.name} makes another block")
        return dataclasses.replace(base, **rest)
    except (TypeError, ValueError) as error:
        if isinstance(error, StudyError):
            raise
        raise StudyError(f"the grid asks for what SE lacks: {error}") from error


def _same(one: SESpec | MadeSpec | None, other: SESpec | MadeSpec) -> bool:
    """Whether two blocks of one name are the same, since functions may share a name."""
    if isinstance(one, MadeSpec) and isinstance(other, MadeSpec) and not (one.typed and other.typed):
        return one == other and one.maker is other.maker
    return one == other


def _values(spec: SESpec | MadeSpec, axes: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """The values that a block has along the axes."""
    for axis in axes:
        if axis == "make":
            yield axis, spec.name if isinstance(spec, MadeSpec) else "se"
        else:
            yield axis, getattr(spec, axis, None)


def _published(spec: SESpec | MadeSpec, axis: str, value: Any) -> Published | None:
    """The paper's row for a value of an axis, if everything else of the block is the paper's too."""
    if not isinstance(spec, SESpec):
        return None
    varied = {axis: getattr(SESpec(), axis)} if hasattr(SESpec(), axis) else {}
    return published(axis, value) if dataclasses.replace(spec, start=None, **varied) == SESpec() else None


def _expanded(axis: str, values: Sequence[Any], stages: Sequence[int]) -> list[Any]:
    """The values of an axis, with words for stages resolved: "all", "each", "but-each", "2+3", "-5"."""
    if axis != "stages":
        return list(values)
    found: list[Stages] = []
    for value in values:
        text = str(value)
        if text == "all":
            found.append(None)
        elif text == "each":
            found += [(stage,) for stage in stages] if len(stages) > 1 else []
        elif text == "but-each":
            found += [tuple(s for s in stages if s != stage) for stage in stages] if len(stages) > 2 else []
        else:
            found.append(_named_stages(text, stages))
    return found


def _named_stages(text: str, stages: Sequence[int]) -> Stages:
    without = text.startswith("-")
    try:
        named = {int(part) for part in text.removeprefix("-").split("+")}
    except ValueError:
        named = {-1}
    if not named <= set(stages):
        here = ", ".join(map(str, stages))
        raise StudyError(
            f"stages={text!r} names none of this network, whose SE is in stages {here}: say all, each, but-each, "
            f"{stages[0]} (alone), -{stages[0]} (all but it) or {stages[0]}+{stages[-1]}"
        )
    kept = tuple(stage for stage in stages if (stage in named) is not without)
    if not kept:
        raise StudyError(f"stages={text!r} leaves no stage for SE")
    return None if len(kept) == len(stages) else kept


def _slug(axis: str, value: Any) -> str:
    if axis == "reduction_ratio":
        return f"r{value}"
    if axis == "stages":
        return "stages-" + "-".join(map(str, value))
    if axis == "bias":
        return "bias" if value else "no-bias"
    if axis == "make":
        return "make-" + re.sub(r"[^\w.-]+", "-", str(value)).strip("-")  # a folder's name
    return f"{axis.replace('_', '-')}-{value}"


def _words(axis: str, value: Any, stages: Sequence[int]) -> str:
    if axis == "reduction_ratio":
        return f"r = {value}"
    if axis == "stages":
        left = [stage for stage in stages if stage not in value]
        if len(value) == 1:
            return f"stage {value[0]} alone"
        return f"all but stage {left[0]}" if len(left) == 1 else f"stages {', '.join(map(str, value))}"
    if axis == "squeeze" and value == "none":
        return "nothing squeezed"
    if axis == "bias":
        return "with biases" if value else "without biases"
    if axis == "make":
        return "SE" if value == "se" else short_name(str(value))
    return f"at least {value} hidden" if axis == "least_width" else f"{axis} {value}"


def sites_of(cell: Cell, found: Sequence[Site], where: Any) -> list[str]:
    """The names of a cell's sites among those of its placement."""
    chosen = select(found, where)
    return [site.name for site in chosen if cell.stages is None or site.stage in cell.stages]


def parse_grid(words: Sequence[str]) -> dict[str, list[Any]]:
    """Parse a typed grid: `reduction-ratio=4,16 gate=sigmoid,tanh stages=all,-5 bias=no,yes`.

    Raises:
        StudyError: a word is not an axis with values.
    """
    grid: dict[str, list[Any]] = {}
    for word in words:
        name, equals, values = word.partition("=")
        axis = name.strip().removeprefix("--").replace("-", "_")
        if not equals or not values.strip(", "):
            raise StudyError(f"{word!r} is not an axis with values, such as gate=sigmoid,tanh")
        if axis in grid:
            raise StudyError(f"the grid names {axis} twice: give all its values at once, as in gate=sigmoid,tanh")
        grid[axis] = [_value(axis, value.strip()) for value in values.split(",") if value.strip()]
    return grid


def typed_grid(grid: Mapping[str, Sequence[Any]] | None) -> list[str] | None:
    """A grid as words to type: the inverse of `parse_grid`.

    Raises:
        StudyError: a value cannot be typed.
    """
    typed = []
    for axis, values in (grid or {}).items():
        texts = [("yes" if value else "no") if isinstance(value, bool) else str(value) for value in values]
        word = f"{axis.replace('_', '-')}={','.join(texts)}"
        if parse_grid([word]).get(axis) != [str(value) if axis == "stages" else value for value in values]:
            raise StudyError(f"{axis} has values that no command can name: {', '.join(texts)}")
        typed.append(word)
    return typed or None


def _value(axis: str, text: str) -> Any:
    if axis in ("reduction_ratio", "width", "least_width"):
        if not text.isdecimal():
            raise StudyError(f"{axis} takes whole numbers, not {text!r}")
        return int(text)
    if axis == "bias":
        if text not in ("yes", "no", "true", "false"):
            raise StudyError(f"bias is yes or no, not {text!r}")
        return text in ("yes", "true")
    return text
