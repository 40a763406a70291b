"""Reports: one HTML file that needs nothing else, beside its pictures (PNG) and its data (CSV)."""

from senet.report.bench import Timing, bench_page, machine_facts
from senet.report.figures import COLOURS, INK, drawing
from senet.report.page import Cell, Chart, Column, Facts, Page, Section, Table, Text, cell, render, write_page

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
    "Timing",
    "bench_page",
    "cell",
    "drawing",
    "machine_facts",
    "render",
    "write_page",
]
