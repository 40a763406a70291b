"""What became of a network's SE: what is there, what runs, what was lost; and how it is joined again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from senet.errors import InputTypeError, InsertionError
from senet.insertion.joining.attach import join, place_of, why_not
from senet.insertion.recognise import InlineSE, blocks
from senet.insertion.staying.joined import as_it_is, attached, become, is_joined, moved, moved_along
from senet.insertion.staying.record import Entry, lost, records
from senet.report.table import Table
from senet.running import meant, run, set_training, untouched
from senet.words import counted

__all__ = ["Check", "check", "rejoin"]


@dataclasses.dataclass(frozen=True, repr=False)
class Check:
    """What became of a network's SE; `str()` and `repr()` are a table.

    Attributes:
        there: names of the SE blocks, as `senet.blocks` lists them, whoever built them.
        runs: those of them that ran on the example; None without one.
        lost: for each module that held inserted SE which no longer runs, what became of the module.
    """

    there: tuple[str, ...]
    runs: tuple[str, ...] | None
    lost: Mapping[str, str]

    @property
    def idle(self) -> tuple[str, ...]:
        """Blocks that are there and did not run on the example: of a branch that was skipped, perhaps."""
        return () if self.runs is None else tuple(name for name in self.there if name not in self.runs)

    @property
    def title(self) -> str:
        """The finding in one line."""
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
    """Say what SE a network holds, what of it runs, and what was lost since it was inserted.

    What was inserted is known from the record that `insert` leaves in a network. A network from a
    file of an earlier version has none; there is then nothing to miss, and what is there is listed
    all the same.

    Args:
        model: any network.
        example: what it takes: a tensor, a tuple of positional arguments or a dict of keyword
            arguments. The network is then run on it once more, in eval mode and leaving no trace.

    Raises:
        InsertionError: where the network does not run on the example.
    """
    if not isinstance(model, nn.Module):
        raise InputTypeError(f"model is an nn.Module, not {type(model).__name__}{meant(model)}")
    gone = lost(model)
    found = blocks(model, example, tell=False)
    if example is None:
        return Check(tuple(found), None, gone)
    ran: dict[nn.Module, int] = {}

    def count(module: nn.Module, _: Any) -> None:
        ran[module] = ran.get(module, 0) + 1

    hosts = {name: (module, module.get_submodule(at.child)) for name, module, at in attached(model)}
    own = {name: block for name, block in found.items() if not isinstance(block, InlineSE)}
    watched = dict.fromkeys([*own.values(), *(module for pair in hosts.values() for module in pair)])
    hooks = [module.register_forward_pre_hook(count) for module in watched]
    try:
        with untouched(model):
            run(model, example)
    finally:
        for hook in hooks:
            hook.remove()
    passed = {name: "passed by" for name, (host, block) in hosts.items() if host in ran and block not in ran}
    runs = tuple(name for name, block in found.items() if name not in own or block in ran)
    return Check(tuple(found), runs, {**passed, **gone})


def rejoin(model: nn.Module) -> nn.Module:
    """Join inserted SE that was lost to the network again, in place: the same blocks with what they have learnt.

    A block goes to the module of its name where that is of the old kind, another normalisation or
    an identity. Where it is none, or gone, the block goes to the nearest module around it that
    returned the very same value.

    Args:
        model: a network of which `senet.check` says that SE was lost.

    Returns:
        `model`.

    Raises:
        InsertionError: where a block has no such place, with all that have none. The network is
            then as it was.
    """
    if not isinstance(model, nn.Module):
        raise InputTypeError(f"model is an nn.Module, not {type(model).__name__}{meant(model)}")
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
    """The module that can hold a block that was lost: its own, or the first around it; None where there is none."""
    site = moved(entry.attachment.site, name)
    for each in (name, *(moved_along(outer, entry.attachment.site.name, name) for outer in entry.around)):
        try:
            module = root.get_submodule(each)
            if site.position == "shortcut":
                root.get_submodule(site.source)
        except AttributeError:
            continue
        if module.__dict__.get("_senet_attachment") == entry.attachment:
            return each
        child = getattr(module, entry.attachment.child, None)
        free = child is None or child is entry.block
        if free and not why_not(module, exchanged=True) and (each != name or _is_like(module, entry)):
            return each
    return None


def _is_like(module: nn.Module, entry: Entry) -> bool:
    """Whether a module that has the name of a lost host does the same: its class, a normalisation, or nothing."""
    kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__}
    channels = getattr(module, "num_features", getattr(module, "num_channels", None))
    now = as_it_is(entry.attachment, entry.block)
    return entry.base in kinds or type(module) is nn.Identity or channels == now.site.channels
