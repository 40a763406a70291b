"""Choose the rule that fits a network, and turn its findings into sites.

There is one rule per kind of network. A rule reads the graph and yields a finding for each place it
examined: a unit for SE, or the reason why it is none. `find` takes the rule that covers most of the
network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import torch

from senet.errors import InsertionError
from senet.insertion.reading.dataflow import Dataflow
from senet.insertion.reading.layout import stage
from senet.insertion.reading.operations import attends, convolutions, spatial_convolutions
from senet.insertion.reading.walk import Option, activation_after, unique
from senet.insertion.rules.concatenating import aggregated, dense
from senet.insertion.rules.findings import Finding
from senet.insertion.rules.placements import options_for, why_none
from senet.insertion.rules.plain import plain
from senet.insertion.rules.residual import residual
from senet.insertion.rules.site import Site
from senet.words import counted, listed

__all__ = ["RULES", "find"]

Rule = Callable[[Dataflow, frozenset[int]], Iterator[Finding]]
RULES: Mapping[str, Rule] = {"residual": residual, "aggregated": aggregated, "dense": dense, "plain": plain}
_ENOUGH = 0.25  # of the spatial convolutions: then a rule is what the network is built on
_ENOUGH_RESIDUAL = 0.2  # a detector's neck and heads have convolutions of their own: 23 of YOLOv5's 30


def find(flow: Dataflow, placement: str, squeezed: frozenset[int], network: str) -> list[Site]:
    """The sites of a network, in the order of the run.

    Args:
        flow: the network's dataflow.
        placement: which of the paper's placements.
        squeezed: the values made by SE blocks that the network already holds.
        network: the network's name in an error.

    Raises:
        InsertionError: there is no site; the places examined are listed with reasons.
    """
    findings, looked_at = _kind_of_network(flow, squeezed)
    if placement == "post":
        findings = [_unless_squeezed_after(flow, finding, squeezed) for finding in findings]
    places = [(finding, finding.unit) for finding in findings if finding.unit is not None and finding.is_site]
    options = [list(options_for(flow, unit, placement)) for _, unit in places]
    found: dict[tuple[str, str], Site] = {}
    refused = [(f.value, f.reason) for f in looked_at if not f.is_site]
    for (finding, unit), option in zip(places, unique(flow, options), strict=True):
        problem = why_none(placement, unit.rule) if option is None else ""
        if flow.values[unit.value].dtype.is_complex:
            problem = "its map is complex, and SE squeezes and rescales real numbers"
        if option is None or problem:
            refused.append((finding.value, f"{finding.reason}, but {problem}"))
            continue
        site = _site(flow, finding, unit.rule, option, placement)
        found.setdefault((site.name, site.position), site)
    if not found:
        raise InsertionError(_nothing_found(flow, findings, refused, placement, network))
    return list(found.values())


def _kind_of_network(flow: Dataflow, squeezed: frozenset[int]) -> tuple[list[Finding], list[Finding]]:
    """The findings of the rule that fits the network, and those of all rules.

    Residual, if its branches hold a fifth of the spatial convolutions. Else the concatenating rule
    that holds most of them, if at least a quarter. Else plain. Else, in a network without
    attention, residual with branches of only 1×1 convolutions. Else any rule that found something.
    """
    findings = {name: sorted(rule(flow, squeezed), key=lambda f: f.value) for name, rule in RULES.items()}
    everything = _layers(flow, (i for i in range(len(flow.values)) if i not in squeezed))
    share = {name: _share(flow, found, everything) for name, found in findings.items()}
    best = max(("aggregated", "dense"), key=lambda name: share[name])
    enough = {"residual": _ENOUGH_RESIDUAL, best: _ENOUGH, "plain": _ENOUGH}
    kind = next((name for name in enough if share[name] >= enough[name]), max(share, key=lambda name: share[name]))
    if share[kind] < _ENOUGH and not attends(flow):  # RepViT: its spatial convolutions lie outside the branches
        mixers = list(residual(flow, squeezed, pointwise=True))
        if any(finding.unit is not None for finding in mixers):
            return mixers, mixers
    looked_at = [finding for name in ("residual", "aggregated", "dense") for finding in findings[name]]
    return findings[kind], findings[kind] if share[kind] > 0 else looked_at


def _layers(flow: Dataflow, values: Iterator[int] | frozenset[int]) -> set[int]:
    """The spatial convolutions among `values`; a layer that is called several times counts once."""
    return {id(call.module) for i in spatial_convolutions(flow, values) if (call := flow.made_in[i]) is not None}


def _share(flow: Dataflow, findings: list[Finding], everything: set[int]) -> float:
    held: set[int] = set()
    for finding in findings:
        if finding.unit is not None:
            held |= _layers(flow, finding.unit.own)
    return len(held) / len(everything) if everything else 0.0


def _unless_squeezed_after(flow: Dataflow, finding: Finding, squeezed: frozenset[int]) -> Finding:
    behind = flow.consumers[activation_after(flow, finding.value)[-1]]
    if finding.unit is None or not squeezed.intersection(behind):
        return finding
    return dataclasses.replace(finding, squeezed=True, reason="its block's output goes through SE already")


def _site(flow: Dataflow, finding: Finding, rule: str, option: Option, placement: str) -> Site:
    values = option.call.inputs if option.position == "input" else option.call.outputs
    shape = flow.values[values[0]].shape
    return Site(
        name=option.call.name,
        channels=option.channels,
        stage=stage(flow, shape, option.channel_dim),
        rule=rule,
        reason=f"{finding.reason}, in {_where_made(flow, finding.value)}",
        placement=placement,
        position=option.position,
        channel_dim=option.channel_dim,
        source=option.source.name if option.source else "",
    )


def _where_made(flow: Dataflow, value: int) -> str:
    """The name of the innermost module whose own code made a value."""
    call = flow.made_in[value]
    return (call.name or type(call.module).__name__) if call else "the network's code"


def _nothing_found(
    flow: Dataflow, findings: list[Finding], refused: list[tuple[int, str]], placement: str, network: str
) -> str:
    kind = f"place for SE (placement {placement!r})" if placement != "standard" else "place for SE"
    units = [finding for finding in findings if finding.unit is not None]
    places: dict[str, list[str]] = {}
    for value, reason in sorted(set(refused)):
        places.setdefault(reason, []).append(_where_made(flow, value))
    looked_at = "; ".join(f"{reason} (in {listed(names, 3)})" for reason, names in list(places.items())[:8])
    if units and all(finding.squeezed for finding in units):
        return (
            f"{network} holds SE already wherever it could go ({counted(len(units), 'place')}): {looked_at}. "
            f"`senet.remove` takes out SE that is a module of its own"
        )
    dtypes = {value.dtype for value in flow.values if len(value.shape) > 2}
    if any(dtype.is_complex for dtype in dtypes):
        return f"{network} has no {kind}: its maps are complex, and SE squeezes and rescales real numbers"
    if dtypes & {torch.quint8, torch.qint8}:
        return f"{network} has no {kind}: its maps are quantised. Insert into the network before it is quantised"
    if not places:
        layers = counted(len(convolutions(flow, range(len(flow.values)))), "convolution")
        return (
            f"{network} has no {kind}: it has {layers}, no branch that is added or concatenated to anything, and no "
            f"spatial convolution with an activation. SE rescales the channels of convolutional units"
        )
    return f"{network} has no {kind}. Looked at {counted(sum(map(len, places.values())), 'join')}: {looked_at}"
