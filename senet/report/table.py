"""One table with four renderings: in a terminal (rich), on a page (HTML), as Markdown, and as CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from senet.files.records import inert
from senet.words import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Cell", "Column", "Plain", "Table", "cell", "csv_text"]

Plain = str | int | float | bool | None
NOTHING = "–"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell's text, and the value for sorting and for the CSV.

    Attributes:
        text: the text on a page.
        value: the unrounded value; a fraction if the text is in per cent or points.
        short: the text in a terminal and in Markdown, if it differs.
    """

    text: str
    value: Plain = None
    short: str | None = None


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: the heading, with the text's unit.
        number: whether it is right-aligned.
        help: an explanation in a sentence, shown below the table on a page.
        csv: the heading in the CSV, with the value's unit; by default the title. "" leaves the column out.
        short: the heading in a terminal and in Markdown; by default the title. "" leaves the column out.
        shown: False if it appears only in the CSV.
    """

    title: str
    number: bool = True
    help: str = ""
    csv: str | None = None
    short: str | None = None
    shown: bool = True

    @property
    def brief(self) -> str:
        """The heading in a terminal."""
        return self.title if self.short is None else self.short


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as values, rendered by rich (`__rich__`), by a page, or by `markdown()` and `csv()`.

    Attributes:
        name: the name of its CSV file, without the suffix.
        title: the heading.
        columns: the columns from left to right.
        rows: rows of cells or of plain values.
        note: the text below it on a page.
        foot: final rows, such as a mean, which are not in the CSV and stay last when a page sorts.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell | Plain]]
    note: str = ""
    foot: Sequence[Sequence[Cell | Plain]] = ()

    @classmethod
    def of(cls, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: range) -> Table:
        """A table of texts; the columns in `numbers` are right-aligned."""
        return cls("table", title, [Column(each, index in numbers) for index, each in enumerate(columns)], rows)

    def _part(self, keep: Callable[[Column], bool], *, foot: bool = True) -> tuple[list[Column], list[list[Cell]]]:
        """Some of the columns, and the rows reduced to them."""
        kept = [index for index, column in enumerate(self.columns) if keep(column)]
        found = [*self.rows, *self.foot] if foot else self.rows
        rows = [[each if isinstance(each, Cell) else cell(each) for each in row] for row in found]
        return [self.columns[index] for index in kept], [[row[index] for index in kept] for row in rows]

    def on_page(self) -> tuple[list[Column], list[list[Cell]]]:
        """The columns that a page shows, and the rows."""
        return self._part(lambda column: column.shown)

    def _brief(self) -> tuple[list[Column], list[list[str]]]:
        columns, rows = self._part(lambda column: column.shown and column.short != "")
        return columns, [[each.text if each.short is None else each.short for each in row] for row in rows]

    def __rich__(self) -> RenderableType:
        from rich import box
        from rich.console import Group
        from rich.table import Table as Drawn
        from rich.text import Text

        columns, rows = self._brief()
        drawn = Drawn(box=box.SIMPLE_HEAD, show_edge=False)
        for index, column in enumerate(columns):
            if column.number:
                drawn.add_column(column.brief, justify="right", no_wrap=True)
            else:
                drawn.add_column(column.brief, overflow="fold", style="cyan" if index == 0 else None)
        for row in rows:
            drawn.add_row(*map(printable, row))
        # rich would wrap a title at the table's width
        return Group(Text(printable(self.title), style="bold"), drawn, "")

    def markdown(self) -> str:
        """The table as Markdown."""
        columns, rows = self._brief()
        rule = ["---:" if column.number else "---" for column in columns]
        lines = [[column.brief for column in columns], rule, *rows]
        return "\n".join("| " + " | ".join(each.replace("|", "\\|") for each in line) + " |" for line in lines)

    def csv(self) -> str:
        """The unrounded values; a cell without one gives its text, and a dash gives nothing."""
        columns, rows = self._part(lambda column: column.csv != "", foot=False)
        values = [[_value(each) for each in row] for row in rows]
        return csv_text([column.title if column.csv is None else column.csv for column in columns], values)


def cell(value: Plain, text: str | None = None) -> Cell:
    """A cell that shows `text`, or the formatted value; a missing value shows a dash."""
    if text is None:
        if value is None:
            text = NOTHING
        elif isinstance(value, float):
            text = f"{value:.4g}".replace("-", "−") if math.isfinite(value) else NOTHING
        elif isinstance(value, bool):
            text = "yes" if value else "no"
        else:
            text = str(value)
    return Cell(text, value if not isinstance(value, float) or math.isfinite(value) else None)


def csv_text(keys: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """CSV text with a header."""
    with io.StringIO() as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(inert, keys))
        writer.writerows(map(inert, row) for row in rows)
        return file.getvalue()


def _value(shown: Cell) -> Plain:
    return shown.text if shown.value is None and shown.text != NOTHING else shown.value
