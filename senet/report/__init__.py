"""Reports: one HTML file that needs nothing else, beside its pictures (PNG) and its data (CSV)."""

from senet.report.figures import COLOURS, INK, Series, drawing, forest
from senet.report.page import Chart, Facts, Page, Section, Text, machine_facts, render, settings_facts, write_page
from senet.report.table import Cell, Column, Table, cell

__all__ = [
    "COLOURS",
    "INK",
    "Cell",
    "Chart",
    "Column",
    "Facts",
    "Page",
    "Section",
    "Series",
    "Table",
    "Text",
    "cell",
    "drawing",
    "forest",
    "machine_facts",
    "render",
    "settings_facts",
    "write_page",
]
