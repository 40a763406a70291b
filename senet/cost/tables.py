"""Tables of a network's cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from senet.console.display import bytes_of, count, share
from senet.report.table import Table

if TYPE_CHECKING:
    from senet.cost.cost import Cost

__all__ = ["blocks_table", "comparison_table", "cost_tables", "more"]


def cost_tables(cost: Cost) -> list[Table]:
    """Tables of a network's cost and SE's share, in all and per SE block."""
    kept = (bytes_of(cost.activation_bytes), bytes_of(cost.se_activation_bytes), share(cost.se_activation_bytes_share))
    rows = [
        ("parameters", count(cost.parameters), count(cost.se_parameters), share(cost.se_parameters_share)),
        ("multiply-adds", count(cost.multiply_adds), count(cost.se_multiply_adds), share(cost.se_multiply_adds_share)),
        ("rescaling (multiplications beside these)", "", count(cost.rescaling), ""),
        (_activations(cost), *kept),
    ]
    if cost.latency_ratio is not None:
        rows.append(("time of a forward pass, over that without SE", f"{cost.latency_ratio:.3f} ×", "", ""))
    columns = ("", "in all", "in SE", "share")
    tables = [Table.of(f"Cost on {cost.example}", columns, rows, numbers=range(1, 4))]
    return [*tables, blocks_table(cost)] if cost.blocks else tables


def blocks_table(cost: Cost) -> Table:
    """A table of the SE blocks' cost with one row per block."""
    rows = [
        (
            block.name,
            "–" if block.channels is None else str(block.channels),
            "–" if block.width is None else str(block.width),
            count(block.parameters),
            count(block.multiply_adds),
            count(block.rescaling),
            bytes_of(block.activation_bytes),
        )
        for block in cost.blocks
    ]
    columns = ("block", "channels", "width", "parameters", "multiply-adds", "rescaling", "activations")
    title = f"The {len(rows)} SE blocks" if len(rows) > 1 else "The SE block"
    return Table.of(title, columns, rows, numbers=range(1, 7))


def comparison_table(plain: Cost, se: Cost, title: str, block: str = "SE") -> Table:
    """A table of the cost without and with `block`, side by side."""
    counts = (
        ("parameters", plain.parameters, se.parameters, count),
        ("multiply-adds", plain.multiply_adds, se.multiply_adds, count),
        (_activations(se), plain.activation_bytes, se.activation_bytes, bytes_of),
    )
    rows = [(what, shown(before), shown(after), more(before, after)) for what, before, after, shown in counts]
    rows.insert(2, ("rescaling (multiplications beside these)", count(plain.rescaling), count(se.rescaling), ""))
    if se.latency_ratio is not None:
        added = more(1, se.latency_ratio)
        rows.append(("time of a forward pass, measured in turn", "1", f"{se.latency_ratio:.3f}", added))
    return Table.of(title, ("", "plain", f"with {block}", "difference"), rows, numbers=range(1, 4))


def _activations(cost: Cost) -> str:
    mode = "" if cost.activation_mode == "training" else f", in {cost.activation_mode} mode"
    return f"activations kept for the backward pass{mode}"


def more(plain: float, se: float) -> str:
    """By what share of `plain` the other is more, or less: "+0.26 %"; "" where the plain network has none."""
    if not plain:
        return ""
    fraction = se / plain - 1
    return ("+" if fraction > 0 else "−" if fraction < 0 else "±") + share(abs(fraction))
