"""The record of inserted SE in a network, from which a loss is noticed and reported.

The module given to `insert` keeps a record of which module holds which block. Before each forward
pass a hook compares the record with the existing modules. Only structure is compared, so a branch
that does not run, an early exit or an auxiliary head raises no alarm.
"""

from __future__ import annotations

import dataclasses
import uuid
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from senet.errors import warn
from senet.fused.switch import unobtrusive
from senet.insertion.staying.joined import OUT, TOLD, Attachment, attached, attachment, is_joined, moved, uses_in
from senet.insertion.staying.rebuilt import watch
from senet.words import kind_of, listed

__all__ = ["Entry", "Lost", "Record", "forget", "forget_all", "full_name", "lost", "records", "remember", "tell"]

_RECORD = "_senet_record"  # in the __dict__ of the module that SE was inserted into
_MOST_NAMES = 5

_Step = tuple[nn.Module | None, str, nn.Module | None, type | None]
"""A parent (None for the network), a child's name, the child, and for a host its class, which applies the SE."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One inserted block.

    Attributes:
        attachment: its site and the kind of block.
        block: the block, which is kept if its host is lost.
        base: the full name of the host's class.
        around: enclosing modules that returned the same value, innermost first.
    """

    attachment: Attachment
    block: nn.Module
    base: str
    around: tuple[str, ...] = ()


_living: weakref.WeakSet[Record] = weakref.WeakSet()


class Lost(NamedTuple):
    """A block that no module of the network applies any more: the name of its old host, and what happened to it."""

    name: str
    entry: Entry
    why: str


class Record:
    """The blocks inserted into a network, and the modules that were there at the last comparison.

    Attributes:
        entries: each block with its host's current name, once for each name of the host.
        family: a key that this network's record shares with those of its copies.
        own: a key of this record alone.
    """

    def __init__(self, root: nn.Module) -> None:
        self.entries: tuple[tuple[str, Entry], ...] = ()
        self.family = self.own = uuid.uuid4().hex
        self._new: frozenset[str] = frozenset()  # hosts that may also have other names
        self._seen: tuple[_Step, ...] | None = None
        self._doubled: frozenset[str] = frozenset()  # places that were reported to run another's SE
        self._root: weakref.ref[nn.Module] | None = weakref.ref(root)
        _living.add(self)

    def __getstate__(self) -> dict[str, Any]:
        return {"entries": self.entries, "new": self._new, "family": self.family, "root": self.root}

    def __setstate__(self, state: dict[str, Any]) -> None:
        watch()
        self.entries, self._new, self._seen = state["entries"], state["new"], None
        self._doubled = frozenset()
        root = state.get("root")  # pickles of 0.1.0 have neither root nor family
        self.own = uuid.uuid4().hex
        self.family = state.get("family", self.own)
        self._root = None if root is None else weakref.ref(root)
        _living.add(self)

    @property
    def root(self) -> nn.Module | None:
        """The network, if it is known and still exists."""
        return None if self._root is None else self._root()

    def enter(self, entry: Entry) -> None:
        """Enter a block under the name of its host."""
        name = entry.attachment.site.name
        self.entries = (*(each for each in self.entries if each[0] != name), (name, entry))
        self._new |= {name}
        self._seen = None

    def drop(self, lost: Lost) -> None:
        """Drop an entry that is about to be made again."""
        self.entries = tuple(each for each in self.entries if each != lost[:2])

    def unchanged(self, root: nn.Module) -> bool:
        """Whether every module on the path to a host is the same as at the last comparison."""
        if self._seen is None:
            return False
        for parent, name, child, kind in self._seen:
            found = (root if parent is None else parent)._modules.get(name) if name else root
            if (found is not child and name) or (kind is not None and type(found) is not kind):
                return False
        return True

    # DataParallel's replicas compare at the same time, so entries are replaced and never mutated.
    def compare(self, root: nn.Module) -> list[Lost]:
        """The lost blocks. Hosts that moved are followed, and blocks removed on request are forgotten."""
        entries = [(name, entry) for name, entry in self.entries if OUT not in entry.block.__dict__]
        here = {(name, id(entry.attachment)) for name, entry in entries if _is_at(root, name, entry.attachment)}
        if new := {name for name, _ in here if name in self._new}:
            entries += _other_names(root, [each for each in entries if each[0] in new], here)
        self._new = frozenset()
        if len(here) < len(entries):  # a host may have moved with the part that contains it
            places: dict[int, list[str]] = {}
            for name, host, _ in attached(root):
                if is_joined(host) and (name, id(attachment(host))) not in here:
                    places.setdefault(id(attachment(host)), []).append(name)
            entries = [
                (name if (name, key) in here or not places.get(key) else places[key].pop(0), entry)
                for name, entry in entries
                for key in [id(entry.attachment)]
            ]
        self.entries, self._seen = tuple(entries), tuple(dict.fromkeys(_steps(root, entries)))
        if getattr(root, "_is_replica", False):  # its copies of the weights live for one forward pass
            self._seen = None
        checked = (Lost(name, entry, _why_lost(root, name, entry.attachment)) for name, entry in entries)
        return [each for each in checked if each.why]

    def doubled(self, root: nn.Module) -> dict[str, str]:
        """The places, not told of before, where a module that replaced a host also stands: by each, the host's name."""
        hosts: dict[nn.Module, dict[tuple[nn.Module | None, str], str]] = {}
        for name, entry in self.entries:
            host, (above, _, child) = _at(root, name), name.rpartition(".")
            if host is not None and is_joined(host) and full_name(uses_in(host)[-1].base) != entry.base:
                hosts.setdefault(host, {})[_at(root, above), child] = name
        found = {}
        for above, parent in root.named_modules() if hosts else ():
            for child, module in parent._modules.items():
                if module in hosts and (parent, child) not in hosts[module]:
                    found[f"{above}.{child}".lstrip(".")] = next(iter(hosts[module].values()))
        new = {place: name for place, name in found.items() if place not in self._doubled}
        self._doubled |= new.keys()
        return new


def full_name(kind: type) -> str:
    """The name of a class with its module, as it is kept in files and pickles."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _is_at(root: nn.Module, name: str, found: Attachment) -> bool:
    host = _at(root, name)
    return host is not None and attachment(host) == found


def _other_names(
    root: nn.Module, entries: Sequence[tuple[str, Entry]], here: set[tuple[str, int]]
) -> list[tuple[str, Entry]]:
    """The same entries under every other name of their host, since one name can be lost alone."""
    by_attachment = {id(entry.attachment): entry for _, entry in entries}
    named = [(name, id(attachment(module))) for name, module in root.named_modules(remove_duplicate=False)]
    others = [(name, key) for name, key in named if key in by_attachment and (name, key) not in here]
    here.update(others)
    return [(name, by_attachment[key]) for name, key in others]


def _steps(root: nn.Module, entries: Sequence[tuple[str, Entry]]) -> Iterator[_Step]:
    """Each step from the network to a host. The network is None, which avoids a reference cycle."""
    for name, entry in entries:
        site = moved(entry.attachment.site, name)
        for path in (name, site.source) if site.position == "shortcut" else (name,):
            if not path:
                yield None, "", None, type(root)
                continue
            parent: nn.Module | None = root
            parts = path.split(".")
            for depth, part in enumerate(parts):
                child = None if parent is None else parent._modules.get(part)
                kind = type(child) if child is not None and depth + 1 == len(parts) else None
                yield None if parent is root else parent, part, child, kind
                parent = child
                if child is None:
                    break


def _why_lost(root: nn.Module, name: str, found: Attachment) -> str:
    """What happened to a host, in words; "" if it still holds what `found` says."""
    host = _at(root, name)
    if host is None:
        return "gone"
    if attachment(host) != found:
        return f"replaced by {kind_of(host)}"
    if not is_joined(host):
        return f"its class was changed to {type(host).__name__}"
    if found.site.position == "shortcut":
        name = moved(found.site, name).source
        source = _at(root, name)
        if source is None or not any(use.position == "source" for use in uses_in(source)):
            return f"without its shortcut, as {name} was replaced"
    return ""


def _at(root: nn.Module, name: str) -> nn.Module | None:
    module: nn.Module | None = root
    for part in name.split(".") if name else ():
        module = None if module is None else module._modules.get(part)
    return module


def _record(module: nn.Module) -> Record | None:
    found = module.__dict__.get(_RECORD)
    return found if isinstance(found, Record) else None


def records(model: nn.Module) -> Iterator[tuple[str, nn.Module, Record]]:
    """The records of `model` and of parts that SE was inserted into: name, part, record."""
    for name, module in model.named_modules():
        found = _record(module)
        if found is not None:
            yield name, module, found


@unobtrusive
def _look(root: nn.Module, _: Any) -> None:
    """Before a forward pass, warn once of what was lost since the last one."""
    record = _record(root)
    if record is None:
        return
    if torch.compiler.is_compiling():
        # A graph compiled for a network that lost SE must not serve another, which would lose the
        # same SE in silence. Dynamo guards the name that is compared.
        if _tell_family(record.family) and record.own == "":
            return
    elif not record.unchanged(root):
        _tell_new(root, record)


# The compiler runs this while tracing and takes the result for a constant, so the compiled network
# does not check. Dynamo guards the modules on the path to a host, so a loss triggers a new trace.
# The network is no argument, because Dynamo would guard its identity and compile once per copy.
def _tell_family(family: str) -> bool:
    """Warn once of SE lost in the networks of a family, the traced one included; return whether any was lost."""
    found = [record for record in list(_living) if record.family == family]
    gone = [_tell_new(root, record) for record in found if (root := record.root) is not None]
    return any(gone)


# The same as torch.compiler.assume_constant_result, which would import Dynamo at every `import senet`.
_tell_family._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _tell_new(root: nn.Module, record: Record) -> bool:
    """Warn of losses that were not yet reported; return whether anything is lost."""
    gone = record.compare(root)
    new = [each for each in gone if TOLD not in each.entry.block.__dict__]
    for each in new:
        each.entry.block.__dict__[TOLD] = True
    if new:
        _warn({each.name: each.why for each in new})
    if twice := record.doubled(root):
        named = [f"{place} is the module that holds the SE of {name}" for place, name in twice.items()]
        warn(f"inserted SE runs where it was not put: {listed(named, _MOST_NAMES)}. Put another module there")
    return bool(gone)


def remember(model: nn.Module, entry: Entry) -> None:
    """Enter a block into the record of `model`."""
    watch()
    record = _record(model)
    if record is None:
        record = model.__dict__[_RECORD] = Record(model)
        model.register_forward_pre_hook(_look)
    for mark in (OUT, TOLD):
        entry.block.__dict__.pop(mark, None)
    record.enter(entry)


def forget(model: nn.Module, found: Attachment, block: nn.Module) -> None:
    """Drop a block that was removed on request from the records of `model` and from every other record."""
    block.__dict__[OUT] = True
    for _, root, record in list(records(model)):
        for _, entry in record.entries:
            if entry.attachment == found:  # its block may have been replaced, as by a constant gate
                entry.block.__dict__[OUT] = True
        record.compare(root)
        if not record.entries:
            _end(root)


def forget_all(model: nn.Module) -> None:
    """Drop the records of `model`: what is lost there is missed no longer."""
    for _, root, _ in list(records(model)):
        _end(root)


def _end(root: nn.Module) -> None:
    del root.__dict__[_RECORD]
    for key, hook in list(root._forward_pre_hooks.items()):
        if hook is _look:
            del root._forward_pre_hooks[key]


def lost(model: nn.Module) -> dict[str, str]:
    """The lost SE: what happened to each module that held it.

    It counts as reported: the next forward pass does not warn.
    """
    missing = {}
    for prefix, root, record in records(model):
        for name, entry, why in record.compare(root):
            entry.block.__dict__[TOLD] = True
            missing[f"{prefix}.{name}" if prefix and name else prefix or name] = why
    for name, module, _ in attached(model):
        if not is_joined(module):
            missing[name] = f"its class was changed to {type(module).__name__}"
    return missing


def tell(model: nn.Module) -> None:
    """Warn if inserted SE is lost; the next forward pass then does not."""
    missing = lost(model)
    if missing:
        _warn(missing)


def _warn(missing: Mapping[str, str]) -> None:
    named = [f"{name or 'the network itself'} ({why})" for name, why in missing.items()]
    warn(
        f"inserted SE is lost and does not run: {listed(named, _MOST_NAMES)}. senet.check(model) says what is left; "
        f"senet.rejoin(model) joins it again"
    )
