"""Pages of documentation as tests see them: their blocks of code, run as they stand, and their links."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

DOCS = Path(__file__).resolve().parents[1] / "docs"
_BLOCK = re.compile(r"^(?:<!-- test: ([^\n]*?) -->\n+)?```([^\s`]+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"^```.*?^```$|`[^`\n]*`|<!--.*?-->", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A block of a page: what the comment above it tells the tests, its language, the words behind that, its text."""

    note: str
    language: str
    words: str
    text: str

    @property
    def runs(self) -> bool:
        """Whether it is Python, of a page or of a notebook, that nothing keeps from being run."""
        return self.language in ("python", "{code-cell}") and not self.note.startswith("not run")


class Ran(NamedTuple):
    """A block that was run, what it printed, and what the page says it prints; None where it does not say."""

    code: str
    printed: str
    expected: str | None


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, from top to bottom."""
    return [Block(*(part or "" for part in found.groups())) for found in _BLOCK.finditer(page.read_text("utf-8"))]


def needs(page: Path) -> set[str]:
    """The marks of a page that is not run with the fast tests: `<!-- test: long -->`, `<!-- test: frameworks -->`."""
    return set(re.findall(r"^<!-- test: (long|frameworks) -->$", page.read_text("utf-8"), re.MULTILINE))


def run(page: Path, names: dict[str, object] | None = None) -> list[Ran]:
    """Run the Python of a page in the folder where we are, in one namespace, from top to bottom.

    A block of a file, `file=mine.py` behind its language, is written there too, and can be imported.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = blocks(page)
    names = {"__name__": page.stem, **(names or {})}
    done = []
    files = [block.words.removeprefix(" file=") for block in found if block.words.startswith(" file=")]
    sys.path.insert(0, str(Path.cwd()))
    try:
        for block, following in zip(found, [*found[1:], None], strict=True):
            if not block.runs:
                continue
            if block.words.startswith(" file="):
                Path(block.words.removeprefix(" file=")).write_text(block.text, encoding="utf-8")
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block.text, page.name, "exec"), names)
            says = following is not None and (following.language, following.words) == ("text", "")
            done.append(Ran(block.text, printed.getvalue(), following.text if following and says else None))
    finally:
        torch.set_num_threads(threads)
        sys.path.remove(str(Path.cwd()))
        for file in files:
            sys.modules.pop(file.removesuffix(".py"), None)
    return done


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Every `senet` command of a page in words, with the note above its block. One with `...` in it is a sketch."""
    for block in blocks(page):
        if block.language != "sh":
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["senet"] and "..." not in words:
                yield block.note, words[1:]


def links(page: Path) -> list[str]:
    """Where the links and pictures of a page lead, but for addresses on the web."""
    text = _CODE.sub("", page.read_text("utf-8"))
    targets = re.findall(r"!?\[[^\]]*\]\(([^)\s]+)\)", text)
    return [target for target in targets if not re.match(r"\w+:", target)]


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ +(.*?) *$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def unexplained(folder: Path, unit: str = "") -> set[str]:
    """The files in a folder of ours, and the columns of its tables, that the page on files does not name."""
    explained = set(re.findall(r"`([^`]+)`", (DOCS / "reference/files.md").read_text("utf-8")))
    ends = r", (low|high) \(fraction\)$"
    known = {re.sub(ends, " (fraction)", each) for each in explained}
    found = set()
    for file in sorted(folder.rglob("*.*")):
        kind = re.sub(r"_\d+(?=\.)", "_N", file.name.replace(".svg", ".png"))
        kind = re.sub(r"^\d+_", "", kind)  # of one of several studies
        kind = re.sub(r"^ablation_[a-z-]+", "ablation_NAME", kind)
        figure = file.suffix in (".png", ".svg") and file.with_suffix(".csv").exists()
        if not (figure or "tensorboard" in file.parts or kind in explained):
            found.add(file.name)
        if file.suffix == ".csv" and file.name != "confusion.csv":
            for column in next(csv.reader(file.read_text("utf-8").splitlines())):
                own = re.sub(ends, " (fraction)", column.removesuffix(f" ({unit})"))
                same = re.sub(r"_[2-5]$", "_2", own)
                if not (same in known or own.startswith("class ") or ": top-" in own):
                    found.add(f"{file.name}: {column}")
    return found


def undocumented(file: Path) -> set[str]:
    """The fields of a JSON file of a study, those of what it holds too, that the page on files does not name."""
    text = (DOCS / "reference/files.md").read_text("utf-8").partition("## JSON")[2]
    named = {part for name in re.findall(r"`([a-z_0-9.]+)`", text) for part in name.split(".")}

    def fields(value: object, own: bool = True) -> Iterator[str]:
        for name, inner in value.items() if isinstance(value, dict) else ():
            if own:
                yield name
            if name not in ("settings", "machine", "classes", "tables"):
                yield from fields(inner, own=name not in ("cells", "se"))
        for inner in value if isinstance(value, list) else ():
            yield from fields(inner)

    return set(fields(json.loads(file.read_text("utf-8")))) - named
