"""Reports: one self-contained HTML file, with its figures (PNG, SVG) and numbers (CSV) beside it."""

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
