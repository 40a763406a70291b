"""Tables in files: CSV for any program, Parquet for large tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.errors import StudyError
from senet.extras import how_to_install
from senet.files.atomic import atomic_write, check_writable
from senet.files.paths import expanded
from senet.files.records import write_csv

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["KINDS", "check_table", "write_table"]

KINDS = ("csv", "parquet")


def check_table(path: str | Path) -> Path:
    """Check that a table can be written there, and return its path.

    Raises:
        StudyError: its name ends in neither .csv nor .parquet, it cannot be written, or pyarrow is not installed.
    """
    file = expanded(path)
    if file.suffix.lower().removeprefix(".") not in KINDS:
        raise StudyError(f"a table is written to a file whose name ends in .csv or .parquet, not to {path}")
    try:
        check_writable(file)
    except OSError as error:
        raise StudyError(f"{error.strerror or error}") from error
    if file.suffix.lower() == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise StudyError(f"Parquet needs pyarrow: {how_to_install('study')}, or write a .csv") from error
    return file


def write_table(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows that share their keys atomically, in the format of the file's name; None is an empty field.

    Raises:
        StudyError: as in `check_table`.
    """
    file = check_table(path)
    if file.suffix.lower() == ".csv":
        write_csv(file, rows, follow=True)
        return
    import pyarrow
    from pyarrow import parquet

    with atomic_write(file) as temporary:
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), temporary)
