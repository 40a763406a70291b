"""A report as values and as one HTML file without requests, with sortable tables and inline SVG figures."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from senet._version import __version__
from senet.errors import InputError
from senet.files.atomic import atomic_write
from senet.files.paths import expanded
from senet.report.figures import inline_svg, save_figure
from senet.report.table import Plain, Table, csv_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Chart", "Facts", "Page", "Section", "Text", "machine_facts", "render", "settings_facts", "write_page"]

_SAFE = "/,:;()@!*"  # unescaped in a data: link; all others are written as %XX
_ERRORS = "backslashreplace"  # a path need not be UTF-8


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure with its numbers.

    Attributes:
        name: the name of its files, without the suffix.
        title: the heading, and the text for screen readers.
        figure: matplotlib's figure.
        data: the numbers, as rows that share their keys.
        note: the text below it.
    """

    name: str
    title: str
    figure: Figure
    data: Sequence[Mapping[str, Plain]]
    note: str = ""

    def csv(self) -> str:
        """The numbers as CSV, unrounded."""
        keys = list(self.data[0]) if self.data else []
        return csv_text(keys, [list(row.values()) for row in self.data])


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclasses.dataclass(frozen=True)
class Facts:
    """Names with values, such as settings or the machine."""

    rows: Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a report with its own heading."""

    title: str
    parts: Sequence[Text | Facts | Table | Chart]


@dataclasses.dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: the title.
        lead: the outcome, in a few sentences.
        sections: the sections in reading order.
        command: the command that makes the report; "" if there is none.
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


def machine_facts(machine: Mapping[str, object]) -> Facts:
    """The machine that a study or a measurement ran on, from `senet.console.machine.machine`, for a page."""
    return Facts([(name, str(value)) for name, value in machine.items() if name != "command"])


def settings_facts(settings: Mapping[str, Any]) -> Facts:
    """Settings for readers: keys as words, yes and no for booleans, and unset ones left out."""
    return Facts([(name.replace("_", " "), words) for name, value in settings.items() if (words := _words(value))])


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        if set(value) == {"name", "content"}:
            return _words(value["name"]) or "none"
        parts = ((key.replace("_", " "), _words(each)) for key, each in value.items())
        return ", ".join(f"{key} {words}" for key, words in parts if words)
    if isinstance(value, list | tuple):
        numbers = all(isinstance(each, int | float) for each in value)
        return (" " if numbers else ", ").join(map(_words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value)


def render(page: Page) -> str:
    """The page as HTML. Every text, including names from user data, is escaped."""
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
    environment.filters["as_data"] = _as_data
    environment.filters["anchor"] = lambda text: re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    environment.filters["whole"] = _whole
    script, style = _asset("script.js"), _asset("style.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    template = environment.get_template("page.html")
    return template.render(page=page, script=script, style=style, policy=policy, version=__version__)


def write_page(page: Page, folder: str | Path) -> Path:
    """Write the page with its figures (.png, .svg) and numbers (.csv) beside it; return the HTML file's path.

    Files are written atomically and replace those of an earlier call.

    Raises:
        ValueError: two parts of the page share a name, or a name is not valid for a file.
        OSError: the folder is missing or cannot be written.
    """
    folder = expanded(folder)
    parts: list[Chart | Table] = [*page.charts, *page.tables]
    names = [part.name for part in parts]
    for wrong in (n for n in names if names.count(n) > 1 or not re.fullmatch(r"[\w-]+", n)):
        raise InputError(f"a part of a report is named {wrong!r}; names are unique, of letters, digits, _ and -")
    for chart in page.charts:
        for kind in ("png", "svg"):
            save_figure(chart.figure, folder / f"{chart.name}.{kind}")
    for part in parts:
        _write(folder / f"{part.name}.csv", part.csv())
    path = folder / "report.html"
    _write(path, render(page))
    return path


def _as_data(part: Chart | Table) -> str:
    return f"data:text/csv;charset=utf-8,{quote(part.csv(), safe=_SAFE, errors=_ERRORS)}"


def _write(path: Path, text: str) -> None:
    with atomic_write(path, follow=False) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=_ERRORS, newline="")


def _asset(name: str) -> str:
    return (files("senet.report") / "assets" / name).read_text(encoding="utf-8")


def _whole(number: str) -> str:
    """A number in a narrow column: a line ends behind a value, before its interval, and not within either."""
    within = r"(?<=\d) (?=%|±|to [+−\d])|(?<=%) (?=to )|(?<=±) (?=\d)|(?<= to) (?=[+−\d])"
    return re.sub(within, "\u00a0", number)
