"""JSON and CSV files of a study: written atomically, and read as untrusted, since anyone may have edited them."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from senet.errors import StudyError
from senet.files.atomic import atomic_write
from senet.words import kind_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

__all__ = ["Record", "inert", "read_csv", "read_json", "read_text", "write_csv", "write_json"]

MOST = 2**28
"""The most bytes of a file that is read. The predictions of a million images take a third of that."""

# A spreadsheet executes a cell that begins so. An apostrophe before it makes it text; reading removes it.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def write_json(path: Path, content: Any) -> None:
    """Write `content` to `path` atomically; a link there is replaced by a file.

    Raises:
        ValueError: a number is not finite, for which JSON has no notation.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_write(path, follow=False) as temporary:
        # A path need not be UTF-8. Its other bytes are lone surrogates, whose escape is Python's and JSON's alike.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_json(path: Path) -> Any:
    """Read a file that `write_json` wrote.

    Raises:
        StudyError: it is missing, not a regular file, too large, not UTF-8 or not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError, MemoryError) as error:
        words = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise StudyError(f"{path} cannot be read ({words}): the folder is not a study's, or damaged") from error


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], *, follow: bool = False) -> None:
    """Write rows that share their keys atomically, with unrounded numbers.

    A text that a spreadsheet would execute, such as a class called "=1+1", gets an apostrophe before it.

    Args:
        path: the file.
        rows: the rows.
        follow: whether to follow a link at `path`; False replaces it by a file.
    """
    with atomic_write(path, follow=follow) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [inert(name) for name in rows[0]] if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows({inert(name): inert(value) for name, value in row.items()} for row in rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read the rows of a file that `write_csv` wrote, as text.

    Raises:
        StudyError: it is missing, not CSV, or a row has more or fewer fields than the head.
    """
    text = io.StringIO(read_text(path), newline="")  # splitlines would also end a row at U+2028 within a name
    try:
        rows = list(csv.reader(text, strict=True))
    except csv.Error as error:
        raise StudyError(f"{path} cannot be read ({error}): the run's folder is damaged") from error
    if not rows:
        return []
    head, *rows = [[_as_written(cell) for cell in row] for row in rows]
    if len(set(head)) != len(head):
        raise StudyError(f"{path} names a column twice: the run's folder is damaged")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(head):
            raise StudyError(f"{path}, row {number}: {len(row)} fields, where the head has {len(head)}: it was edited")
    return [dict(zip(head, row, strict=True)) for row in rows]


def read_text(path: Path, most: int = MOST) -> str:
    """Read the text of a regular file of at most `most` bytes; a pipe is refused, not waited for.

    Raises:
        StudyError: it is missing, not a regular file, larger, or not UTF-8.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as file:  # noqa: PTH123 a descriptor
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise StudyError(f"{path} is not a file: the folder is not a study's, or damaged")
            if status.st_size > most:
                raise StudyError(f"{path} has {status.st_size} bytes, and no study writes more than {most}")
            return file.read(most).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        words = (error.strerror or str(error)) if isinstance(error, OSError) else "it is not in UTF-8"
        raise StudyError(f"{path} cannot be read ({words}): the folder is not a study's, or damaged") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that a study writes")


def inert(value: Any) -> Any:
    """A CSV cell that no spreadsheet executes; `read_csv` removes the apostrophe."""
    if not (isinstance(value, str) and _FORMULA.match(value)):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def _as_written(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


class Record:
    """The fields of a file, or of one of its rows, each validated as it is read.

    Args:
        where: the file's name in messages.
        fields: the content.

    Raises:
        StudyError: in every method, if the field is missing or invalid; the message names file and field.
    """

    def __init__(self, where: object, fields: object) -> None:
        self.where = where
        if not isinstance(fields, Mapping):
            raise StudyError(f"{where} holds {_short(fields)} where fields with names should be: it was edited")
        self.fields: Mapping[str, Any] = fields

    def wrong(self, name: str, should: str) -> StudyError:
        """The error that states a field's value and what it should be."""
        held = _short(self.fields[name]) if name in self.fields else "missing"
        return StudyError(f"{self.where}: {name} is {held}, not {should}: it was edited, or is of another program")

    def number(self, name: str, low: float = -math.inf, high: float = math.inf, *, finite: bool = True) -> float:
        """A number within [low, high], also from text; without `finite`, inf and nan are allowed too."""
        value = self.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise self.wrong(name, "a number")
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise self.wrong(name, "a number") from None
        if not finite:
            return number
        if not (math.isfinite(number) and low <= number <= high):
            upper = "" if high == math.inf else f" and at most {high:g}"
            raise self.wrong(name, "a finite number" + (f" of at least {low:g}{upper}" if low > -math.inf else ""))
        return number

    def flag(self, name: str) -> bool:
        """True or False."""
        value = self.fields.get(name)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def count(self, name: str, least: int = 0) -> int:
        """A whole number of at least `least`."""
        value = self.fields.get(name)
        if type(value) is not int or value < least:
            raise self.wrong(name, f"a whole number of at least {least}")
        return value

    def text(self, name: str, among: Collection[str] = ()) -> str:
        """A text; one of `among` if given."""
        value = self.fields.get(name)
        if not isinstance(value, str) or (among and value not in among):
            raise self.wrong(name, f"one of {', '.join(among)}" if among else "a text")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        value = self.fields.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(name, "a list of texts")
        return tuple(value)

    def numbers(self, name: str, low: float = -math.inf, high: float = math.inf) -> tuple[float, ...]:
        """A list of finite numbers within [low, high]."""
        value = self.fields.get(name)
        if not isinstance(value, list):
            raise self.wrong(name, "a list of numbers")
        each = Record(self.where, {f"{name}[{index}]": item for index, item in enumerate(value)})
        return tuple(each.number(key, low, high) for key in each.fields)

    def record(self, name: str) -> Record:
        """A nested record."""
        return Record(f"{self.where}, {name}", self.fields.get(name))

    def records(self, name: str, *, optional: bool = False) -> list[Record]:
        """A list of records; empty if the field is missing and `optional`."""
        value = self.fields.get(name, [] if optional else None)
        if not isinstance(value, list):
            raise self.wrong(name, "a list")
        return [Record(f"{self.where}, {name}[{index}]", item) for index, item in enumerate(value)]


def _short(value: object, most: int = 60) -> str:
    if isinstance(value, Mapping | list) and len(value) > 8:
        return f"a {'list' if isinstance(value, list) else 'mapping'} of {len(value)}"
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # an integer with more digits than Python converts
        return kind_of(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"
