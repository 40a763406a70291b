"""Reports: one HTML file that needs nothing else, beside its pictures (PNG) and its data (CSV)."""

from senet.report.figures import COLOURS, INK, drawing
from senet.report.page import (
    Cell,
    Chart,
    Column,
    Facts,
    Page,
    Section,
    Table,
    Text,
    cell,
    machine_facts,
    render,
    write_page,
)

__all__ = [
    "COLOURS",
    "INK",
    "Cell",
    "Chart",
    "Column",
    "Facts",
    "Page",
    "Section",
    "Table",
    "Text",
    "cell",
    "drawing",
    "machine_facts",
    "render",
    "write_page",
]
