"""Where SE belongs in a network's dataflow: one rule per kind of network.

A rule reads the graph and yields a finding for everything it looked at: a place for SE, or the reason why it is
none. `find` asks the rules in turn and makes the Sites.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from senet.insertion.dataflow import Dataflow
from senet.insertion.errors import InsertionError
from senet.insertion.placements import options_for
from senet.insertion.site import Site
from senet.insertion.walk import (
    Join,
    Option,
    activation_after,
    holds_spatial_convolution,
    is_linear,
    kernels,
    only_upsampled,
    part,
    splits_channels,
    stage,
    unique,
)

__all__ = ["RULES", "Finding", "find"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a rule says of one place: `join` where SE belongs, else None, and why.

    Attributes:
        value: the value looked at, which gives the order of the sites.
        reason: in words.
        join: the branch and its shortcut.
        rule: the rule's name.
    """

    value: int
    reason: str
    join: Join | None = None
    rule: str = ""


Rule = Callable[[Dataflow, frozenset[int]], Iterator[Finding]]


def residual(flow: Dataflow, squeezed: frozenset[int]) -> Iterator[Finding]:
    """Additions of a branch of convolutions to a shortcut: the block's input itself, or a projection of it.

    `squeezed` are the values made by SE blocks that are there already.
    """
    for value in flow.values:
        if value.op != "add" or len(value.operands) != 2 or len(value.shape) < 3:
            continue
        a, b = value.operands
        if a == b or flow.values[a].shape != flow.values[b].shape or value.index in squeezed:
            continue
        paths = part(flow, a, b)
        if paths is None:
            yield Finding(value.index, "what it adds comes from different inputs")
            continue
        counts = [len(kernels(flow, own)) for own in paths.own]
        longer = 0 if counts[0] > counts[1] else 1
        own_branch, own_shortcut = paths.own[longer], paths.own[1 - longer]
        join = Join(value.index, (a, b)[longer], (b, a)[longer], paths.fork, own_branch, own_shortcut)
        problem = _why_not_residual(flow, join, counts[longer], counts[1 - longer], squeezed)
        if problem:
            yield Finding(value.index, problem)
            continue
        n = counts[longer]
        to = "a projection of the block's input" if counts[1 - longer] else "the block's input"
        yield Finding(
            value.index,
            f"a branch of {_count(n, 'convolution')} is added to {to}",
            join,
            "residual",
        )


def _why_not_residual(flow: Dataflow, join: Join, in_branch: int, in_shortcut: int, squeezed: frozenset[int]) -> str:
    if in_branch == 0:
        return "neither side holds a convolution"
    if not holds_spatial_convolution(flow, join.own_branch):
        return "its branch holds no spatial convolution, only 1×1"
    if in_branch == in_shortcut:
        return "a sum of parallel branches, none of them a shortcut"
    if in_shortcut > 1:
        return f"both sides hold convolutions ({in_branch} and {in_shortcut}): a fusion, not a shortcut"
    if splits_channels(flow, join.own_shortcut):
        return "a sum inside a block that splits its channels"
    if is_linear(flow, join.own_branch):
        return "its branches are linear: twins that can be merged into one convolution, or a position"
    if only_upsampled(flow, join.fork, join.branch, join.own_branch) and not only_upsampled(
        flow, join.fork, join.shortcut, join.own_shortcut
    ):
        return "a fusion across scales: one side comes back from a smaller map"
    if join.own_branch & squeezed:
        return "its branch holds SE already"
    if join.own_shortcut & squeezed:
        return "its shortcut holds SE already"
    return ""


RULES: Sequence[Rule] = (residual,)


def find(flow: Dataflow, placement: str, squeezed: frozenset[int], network: str) -> list[Site]:
    """The sites of a network, in the order of the run.

    Args:
        flow: the network's dataflow.
        placement: which of the paper's placements.
        squeezed: the values made by SE blocks that are there already.
        network: what to call it in an error.

    Raises:
        InsertionError: where there is none, with what was looked at and why each was no site; where a branch
            was found to which SE cannot be joined as asked.
    """
    findings = sorted((f for rule in RULES for f in rule(flow, squeezed)), key=lambda finding: finding.value)
    if placement == "post":
        findings = [_unless_squeezed_after(flow, finding, squeezed) for finding in findings]
    places = [(finding, finding.join) for finding in findings if finding.join is not None]
    options = [list(options_for(flow, join, placement)) for _, join in places]
    chosen = unique(flow, options)
    found: dict[tuple[str, str], Site] = {}
    refused = [(f.value, f.reason) for f in findings if f.join is None]
    for (finding, _), option in zip(places, chosen, strict=True):
        if option is None:
            refused.append((finding.value, f"{finding.reason}, but {_unattachable(placement)}"))
            continue
        site = _site(flow, finding, option, placement)
        found.setdefault((site.name, site.position), site)
    if not found:
        raise InsertionError(_nothing_found(flow, refused, placement, network))
    return list(found.values())


def _unless_squeezed_after(flow: Dataflow, finding: Finding, squeezed: frozenset[int]) -> Finding:
    behind = flow.consumers[activation_after(flow, finding.value)[-1]]
    if finding.join is None or not squeezed.intersection(behind):
        return finding
    return dataclasses.replace(finding, join=None, reason="its block's output goes through SE already")


def _site(flow: Dataflow, finding: Finding, option: Option, placement: str) -> Site:
    values = option.call.inputs if option.position == "input" else option.call.outputs
    shape = flow.values[values[0]].shape
    return Site(
        name=option.call.name,
        channels=option.channels,
        stage=stage(flow, shape, option.channel_dim),
        rule=finding.rule,
        reason=f"{finding.reason}, in {where_made(flow, finding.value)}",
        placement=placement,
        position=option.position,
        channel_dim=option.channel_dim,
        source=option.source.name if option.source else "",
    )


def where_made(flow: Dataflow, value: int) -> str:
    """The innermost module whose own code made a value, by name."""
    call = flow.made_in[value]
    return (call.name or type(call.module).__name__) if call else "the network's code"


def _unattachable(placement: str) -> str:
    return {
        "standard": "no module of its own makes that branch's output",
        "pre": "no module of its own takes that branch's input",
        "post": "no module of its own makes the block's output",
        "identity": "no module hands on its shortcut",
        "inner": "no module of its own makes the output of its last spatial convolution",
    }[placement]


def _nothing_found(flow: Dataflow, refused: list[tuple[int, str]], placement: str, network: str) -> str:
    kind = f"place for SE (placement {placement!r})" if placement != "standard" else "place for SE"
    if not refused:
        counted = len(kernels(flow, range(len(flow.values))))
        return (
            f"{network} has no {kind}: of its {counted} convolutions none stands in a branch that is added to a "
            f"shortcut. Looked at: every addition of two maps of one shape; there is none"
        )
    lines = [f"in {where_made(flow, value)}: {reason}" for value, reason in sorted(set(refused))]
    more = f"; and {len(lines) - 12} more" if len(lines) > 12 else ""
    if all("SE already" in reason for _, reason in refused):
        return (
            f"{network} holds SE already wherever it could go ({len(lines)} places: {'; '.join(lines[:3])}"
            f"{'; ...' if len(lines) > 3 else ''}). `senet.remove` takes inserted SE out"
        )
    return f"{network} has no {kind}. Looked at {_count(len(lines), 'addition')}: {'; '.join(lines[:12])}{more}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"
