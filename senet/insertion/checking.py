"""Check which of a network's SE blocks are present, run or were lost, and join lost ones again."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from senet.errors import InsertionError
from senet.insertion.joining.attach import join, place_of, why_not
from senet.insertion.recognise import InlineSE, blocks
from senet.insertion.staying.joined import as_it_is, attached, attachment, become, is_joined, moved, moved_along
from senet.insertion.staying.record import Entry, full_name, lost, records
from senet.report.table import Table
from senet.running import check_module, run, set_training, untouched
from senet.words import counted

__all__ = ["Check", "check", "rejoin"]


@dataclasses.dataclass(frozen=True, repr=False)
class Check:
    """The state of a network's SE blocks; `str()` and `repr()` show it as a table.

    Attributes:
        there: names of the SE blocks in the network, as `senet.blocks` lists them.
        runs: the blocks that ran on the example; None if no example was given.
        lost: modules whose inserted SE no longer runs, each with the reason.
    """

    there: tuple[str, ...]
    runs: tuple[str, ...] | None
    lost: Mapping[str, str]

    @property
    def idle(self) -> tuple[str, ...]:
        """Blocks that are present but did not run on the example, for instance on a skipped branch."""
        return () if self.runs is None else tuple(name for name in self.there if name not in self.runs)

    @property
    def title(self) -> str:
        """A one-line summary."""
        ran = "" if self.runs is None else f", {len(self.runs)} of them ran on the example"
        gone = f"{len(self.lost)} lost" if self.lost else "none lost"
        return f"SE: {counted(len(self.there), 'block')} there{ran}; {gone}"

    def table(self) -> Table:
        """One row per block, and one per module that lost its SE."""
        state = "there" if self.runs is None else "runs"
        rows = [(name, "did not run on the example" if name in self.idle else state) for name in self.there]
        rows += [(name or "the network itself", f"lost: {why}") for name, why in self.lost.items()]
        return Table.of(self.title, ("SE", "state"), rows, numbers=range(0))

    def __str__(self) -> str:
        from senet.console import display

        return display.plain_text(self.table())

    __repr__ = __str__


@torch.inference_mode(False)
def check(model: nn.Module, example: Any = None) -> Check:
    """Report which SE blocks a network holds, which of them run, and which were lost after insertion.

    Lost blocks are found by comparing the network with the record that `insert` keeps in it. A
    network from a file of an earlier version has no record: its blocks are listed, but none is
    reported as lost.

    Args:
        model: any network.
        example: the network's input: a tensor, a tuple of positional arguments or a dict of keyword
            arguments. The network runs on it once in eval mode, and its state is restored.

    Raises:
        InsertionError: the network does not run on the example.
    """
    check_module(model)
    gone = lost(model)
    found = blocks(model, example, tell=False)
    if example is None:
        return Check(tuple(found), None, gone)
    ran: set[nn.Module] = set()

    def note(module: nn.Module, _: Any) -> None:
        ran.add(module)

    hosts = {name: (module, module.get_submodule(at.child)) for name, module, at in attached(model)}
    own = {name: block for name, block in found.items() if not isinstance(block, InlineSE)}
    watched = dict.fromkeys([*own.values(), *(module for pair in hosts.values() for module in pair)])
    with contextlib.ExitStack() as hooks, untouched(model):
        for module in watched:
            hooks.enter_context(module.register_forward_pre_hook(note))
        run(model, example)
    passed = {name: "passed by" for name, (host, block) in hosts.items() if host in ran and block not in ran}
    runs = tuple(name for name, block in found.items() if name not in own or block in ran)
    return Check(tuple(found), runs, {**passed, **gone})


def rejoin(model: nn.Module) -> nn.Module:
    """Join lost SE blocks to the network again, in place, with the weights they have learnt.

    A block returns to the module of its old name if that module has the old class, or is a
    normalisation or an identity. Otherwise it goes to the nearest enclosing module that returned
    the same value.

    Args:
        model: a network of which `senet.check` says that SE was lost.

    Returns:
        `model`.

    Raises:
        InsertionError: some blocks have no such place. All of them are named, and the network is
            unchanged.
    """
    check_module(model)
    plan, problems = [], []
    for prefix, root, record in records(model):
        for gone in record.compare(root):
            host = _host(root, gone.entry, gone.name)
            if host is None:
                problems.append(f"{prefix}.{gone.name} ({gone.why})" if prefix else f"{gone.name} ({gone.why})")
            else:
                plan.append((root, record, gone, host))
    if problems:
        raise InsertionError(
            f"there is no place to join the SE of {', '.join(problems)} to again: take what is left out by "
            f"senet.remove, and insert into the network as it now is"
        )
    for root, record, gone, host in plan:
        record.drop(gone)
        name, entry, _ = gone
        device, dtype = place_of(root, host)
        found = entry.attachment
        around = tuple(moved_along(each, found.site.name, name) for each in entry.around)
        found = dataclasses.replace(found, site=dataclasses.replace(moved(found.site, name), name=host))
        set_training(entry.block.to(device, dtype), root.get_submodule(host).training)
        join(root, found, entry.block, entry.base, around)
    for _, module, at in attached(model):
        if not is_joined(module):
            become(module, at.site.position, at.child, at.site.channel_dim)
    return model


def _host(root: nn.Module, entry: Entry, name: str) -> str | None:
    """The module that can hold a lost block: its old host, else the nearest enclosing one; None if there is none."""
    site = moved(entry.attachment.site, name)
    for each in (name, *(moved_along(outer, entry.attachment.site.name, name) for outer in entry.around)):
        try:
            module = root.get_submodule(each)
            if site.position == "shortcut":
                root.get_submodule(site.source)
        except AttributeError:
            continue
        if attachment(module) == entry.attachment:
            return each
        child = getattr(module, entry.attachment.child, None)
        free = child is None or child is entry.block
        if free and not why_not(module, exchanged=True) and (each != name or _is_like(module, entry)):
            return each
    return None


def _is_like(module: nn.Module, entry: Entry) -> bool:
    """Whether a module can replace a lost host of the same name: same class, as many channels, or an identity."""
    kinds = {full_name(kind) for kind in type(module).__mro__}
    channels = getattr(module, "num_features", getattr(module, "num_channels", None))
    now = as_it_is(entry.attachment, entry.block)
    return entry.base in kinds or type(module) is nn.Identity or channels == now.site.channels
