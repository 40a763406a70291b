"""A place in a network where SE can go."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

from senet.block import hidden_width
from senet.errors import InsertionError
from senet.words import did_you_mean, listed

__all__ = ["POSITIONS", "Site", "Where", "by_part", "lasting", "select"]

POSITIONS = ("output", "input", "shortcut")


@dataclasses.dataclass(frozen=True)
class Site:
    """One place where SE can go, and the reason.

    Attributes:
        name: the module that SE is joined to, named as in `model.named_modules()`.
        channels: C there.
        stage: log2 of the first convolution's input size over the size here; ResNet-50 has stages 2
            to 5.
        rule: the rule that found it: "residual", "aggregated", "shuffled", "dense" or "plain".
        reason: the rule's words for this place.
        placement: "standard", "pre", "post", "identity" or "inner" (figure 5 of the paper).
        position: "output": SE rescales the module's output; "input": its first input; "shortcut":
            the module returns u + (g − 1)·x, where x is the input of the module `source`.
        channel_dim: the channel dimension of that tensor.
        source: for the position "shortcut", the module whose first input is the shortcut.
    """

    name: str
    channels: int
    stage: int
    rule: str
    reason: str
    placement: str = "standard"
    position: str = "output"
    channel_dim: int = 1
    source: str = ""

    @property
    def one_hidden_unit(self) -> bool:
        """Whether the default reduction ratio leaves one hidden unit, which may die at its ReLU."""
        return hidden_width(self.channels) == 1


Where = str | Iterable[str] | Callable[[Site], bool] | None


def lasting(where: Where) -> Where:
    """The same choice of sites for several networks: the names of a generator as a list."""
    return where if where is None or isinstance(where, str) or not isinstance(where, Iterable) else list(where)


def select(found: Sequence[Site], where: Where) -> list[Site]:
    """The sites of `found` that `where` selects: an fnmatch pattern on the name, several, or a predicate on a Site.

    Raises:
        InsertionError: nothing matches, or one of several patterns does not; the candidates are listed.
    """
    if where is None:
        return list(found)
    if callable(where):
        chosen = [site for site in found if where(site)]
        if not chosen:
            raise InsertionError(f"where=... is true for none of the sites: {_listed(found)}")
        return chosen
    patterns = [where] if isinstance(where, str) or not isinstance(where, Iterable) else list(where)
    if not patterns:
        raise InsertionError(f"where=[] names no site; the sites are {_listed(found)}")
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise InsertionError(f"where holds {pattern!r}; it is a pattern, a list of names, or a predicate on a Site")
        if not any(matches(site.name, pattern) for site in found):
            hint = did_you_mean(pattern, [site.name for site in found], ".")
            raise InsertionError(f"where={pattern!r} matches no site{hint} The sites are {_listed(found)}")
    return [site for site in found if any(matches(site.name, pattern) for pattern in patterns)]


def matches(name: str, pattern: str) -> bool:
    """Whether a name is the pattern, which may hold brackets as a name, or matches it as fnmatch's."""
    return name == pattern or fnmatchcase(name, pattern)


def by_part(found: Sequence[Site]) -> dict[str, list[Site]]:
    """Sites grouped by the top-level part of the network, in the order of the run.

    A detector may number its parts, `model.0` to `model.22`; the level above them is then skipped.
    Neighbours with the same channels and stage form a range: "model.4 to model.6".
    """
    names = [site.name.split(".") for site in found]
    depth = 0
    while len({tuple(name[: depth + 1]) for name in names}) == 1 and min(map(len, names), default=0) > depth + 1:
        depth += 1
    numbered = all(name[depth].isdecimal() for name in names if len(name) > depth)
    parts: list[tuple[list[str], list[Site]]] = []
    for name, site in zip(names, found, strict=True):
        part = ".".join(name[: depth + 1])
        last = parts[-1] if parts else ([], [])
        alike = numbered and last[1] and (last[1][-1].stage, last[1][-1].channels) == (site.stage, site.channels)
        if part in last[0] or alike:
            last[0].append(part)
            last[1].append(site)
        else:
            parts.append(([part], [site]))
    grouped: dict[str, list[Site]] = {}
    for keys, sites in parts:
        title = keys[0] if keys[0] == keys[-1] else f"{keys[0]} to {keys[-1]}"
        grouped.setdefault(title, []).extend(sites)
    return grouped


def _listed(found: Sequence[Site]) -> str:
    return listed([site.name for site in found], 40)
