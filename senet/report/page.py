"""A report as values, and as one HTML file: no request leaves it, tables sort, figures are SVG with their data."""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from senet._version import __version__
from senet.errors import InputError
from senet.files.atomic import atomic_write
from senet.report.figures import inline_svg, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Cell",
    "Chart",
    "Column",
    "Facts",
    "Page",
    "Section",
    "Table",
    "Text",
    "cell",
    "machine_facts",
    "render",
    "write_page",
]

_SAFE = "/,:;()@!*"  # in the data of a link; the rest is written as %XX
_NOTHING = "–"
Plain = str | int | float | bool | None


@dataclasses.dataclass(frozen=True)
class Cell:
    """What a table shows, and the value it sorts by and writes into the CSV."""

    text: str
    value: Plain = None


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: its heading, with the unit.
        number: whether it is set to the right.
        help: what it is, in a sentence, shown below the table.
    """

    title: str
    number: bool = True
    help: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table that the reader can sort and download.

    Attributes:
        name: of its CSV file, without the suffix.
        title: above it.
        columns: from left to right.
        rows: of cells, or of plain values.
        note: below it.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell | Plain]]
    note: str = ""

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows, all of cells."""
        return [[value if isinstance(value, Cell) else cell(value) for value in row] for row in self.rows]

    def csv(self) -> str:
        """The values, unrounded."""
        rows = [[_raw(each) for each in row] for row in self.cells]
        return _csv([column.title for column in self.columns], rows)


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure with the numbers that it shows.

    Attributes:
        name: of its files, without the suffix.
        title: above it, and what a screen reader says.
        figure: the drawing.
        data: the numbers, as rows that share their keys.
        note: below it.
    """

    name: str
    title: str
    figure: Figure
    data: Sequence[Mapping[str, Plain]]
    note: str = ""

    def csv(self) -> str:
        """The numbers, unrounded."""
        keys = list(self.data[0]) if self.data else []
        return _csv(keys, [list(row.values()) for row in self.data])


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclasses.dataclass(frozen=True)
class Facts:
    """Names with their values: settings, the machine."""

    rows: Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a report, with its own heading."""

    title: str
    parts: Sequence[Text | Facts | Table | Chart]


@dataclasses.dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: what it is about.
        lead: its outcome, in a sentence or a few.
        sections: in the order in which they are read.
        command: that makes it again; "" where there is none.
    """

    title: str
    lead: Sequence[str]
    sections: Sequence[Section]
    command: str = ""

    @property
    def charts(self) -> list[Chart]:
        """All figures."""
        return [part for section in self.sections for part in section.parts if isinstance(part, Chart)]

    @property
    def tables(self) -> list[Table]:
        """All tables."""
        return [part for section in self.sections for part in section.parts if isinstance(part, Table)]


def cell(value: Plain, text: str | None = None) -> Cell:
    """A cell that shows `text`, or the value as people write it; a value that is not there is a dash."""
    if text is None:
        if value is None:
            text = _NOTHING
        elif isinstance(value, float):
            text = f"{value:.4g}".replace("-", "−") if math.isfinite(value) else _NOTHING
        elif isinstance(value, bool):
            text = "yes" if value else "no"
        else:
            text = str(value)
    return Cell(text, value if not isinstance(value, float) or math.isfinite(value) else None)


def machine_facts(machine: Mapping[str, object]) -> Facts:
    """What a study or a measurement ran on, as `senet.console.machine.machine` has it, for a page."""
    return Facts([(name, str(value)) for name, value in machine.items()])


def render(page: Page) -> str:
    """The page as HTML. Every text in it, names from user data among them, is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["kind"] = lambda part: type(part).__name__
    environment.filters["svg"] = lambda chart: inline_svg(chart.figure, chart.name, chart.title)
    environment.filters["as_data"] = lambda part: f"data:text/csv;charset=utf-8,{quote(part.csv(), safe=_SAFE)}"
    environment.filters["anchor"] = _anchor
    script, style = _asset("script.js"), _asset("style.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    template = environment.get_template("page.html")
    return template.render(page=page, script=script, style=style, policy=policy, version=__version__)


def write_page(page: Page, folder: str | Path, name: str = "report") -> Path:
    """Write the page with its pictures (.png, .svg) and numbers (.csv) beside it; returns the HTML file's path.

    Files are written whole or not at all, and those of an earlier call are replaced.

    Raises:
        ValueError: where two parts of the page share a name, or a name is no file's.
        OSError: where the folder is missing or cannot be written.
    """
    folder = Path(folder)
    parts: list[Chart | Table] = [*page.charts, *page.tables]
    names = [part.name for part in parts]
    for wrong in (n for n in names if names.count(n) > 1 or not re.fullmatch(r"[\w-]+", n)):
        raise InputError(f"a part of a report is named {wrong!r}; names are unique, of letters, digits, _ and -")
    for chart in page.charts:
        for kind in ("png", "svg"):
            save_figure(chart.figure, folder / f"{chart.name}.{kind}")
    for part in parts:
        _write(folder / f"{part.name}.csv", part.csv())
    path = folder / f"{name}.html"
    _write(path, render(page))
    return path


def _raw(shown: Cell) -> Plain:
    """A cell's value for the CSV; its text where it has no value but says something."""
    return shown.text if shown.value is None and shown.text != _NOTHING else shown.value


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def _asset(name: str) -> str:
    return (files("senet.report") / "assets" / name).read_text(encoding="utf-8")


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _csv(keys: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    with io.StringIO() as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(keys)
        writer.writerows(rows)
        return file.getvalue()
