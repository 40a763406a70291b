"""The index of a shard: the position of each sample's image in the tar file, and its label."""

from __future__ import annotations

import json
import os
import re
import tarfile
from typing import TYPE_CHECKING, Any, NamedTuple

from senet.data.decoding import EXTENSIONS, reason_of
from senet.data.images import text_of
from senet.files.cache import remembered

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["Sample", "index_of", "state_of"]

KEPT = 2**24
"""The size in bytes above which a shard's index is cached; a smaller shard is indexed quickly."""

MOST_CLASSES = 100_000
"""Larger labels count as damaged."""

_LABELS = ("label", "cls", "class", "class_id", "target")  # keys of the label in a sample's JSON object
_VERSION = 2  # of the index's content
_DAMAGED = (tarfile.TarError, ArithmeticError, RecursionError, ValueError)  # what tarfile raises on headers


class Sample(NamedTuple):
    """The position of a sample's image in its shard, and its label; or what is wrong with it."""

    name: str
    offset: int
    size: int
    label: int | str | None
    problem: str


def state_of(shard: Path) -> bytes:
    """A value that changes when the file is rewritten."""
    try:
        info = shard.stat()
    except OSError:
        return b"?"
    return f"{os.path.realpath(shard)}:{info.st_size}:{info.st_mtime_ns}".encode(errors="backslashreplace")


def index_of(shard: Path) -> list[Sample]:
    """The samples of a shard in order, from the cache if it was indexed before."""
    if shard.stat().st_size < KEPT:
        return list(_samples(shard))
    key = f"{_VERSION}:".encode() + state_of(shard)
    return [Sample(*values) for values in remembered("shards", key, lambda: (list(_samples(shard)), True))]


def _samples(shard: Path) -> Iterator[Sample]:
    """One entry per key, and one without a name if the shard is damaged."""
    total = shard.stat().st_size
    key, members = "", dict[str, tuple[int, int]]()
    problem, before = "", -1
    try:
        with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            try:
                for member in tar:
                    # A negative size, which a pax header may hold, leads back to the same members endlessly.
                    if member.offset <= before or member.size < 0:
                        raise tarfile.ReadError("a header leads back")
                    before = member.offset
                    name = member.name
                    found = _split(name)
                    if not member.isreg() or found is None or (name.startswith("__") and name.endswith("__")):
                        continue
                    if found[0] != key and members:
                        yield _sample(key, members, total, shard)
                        members = {}
                    key, suffix = found[0], found[1].lower()
                    twice = suffix in members
                    members[suffix] = (-1, 0) if twice else (member.offset_data, member.size)
                    tar.members = []  # type: ignore[attr-defined] # it would keep all of them
            except _DAMAGED as error:
                problem = f"damaged, what follows is lost ({reason_of(error)})"
    except _DAMAGED as error:
        problem = f"not a tar file ({reason_of(error)})"
    if members:
        yield _sample(key, members, total, shard)
    if problem:
        yield Sample("", 0, 0, None, problem)


def _split(name: str) -> tuple[str, str] | None:
    """Split a member's name as webdataset does: the key up to the first dot of the last part, and the suffix.

    A regular expression would take minutes on a name with 200,000 slashes.
    """
    folder, slash, last = name.rpartition("/")
    stem, dot, suffix = last.partition(".")
    if not dot:
        return None
    if not stem:  # a hidden name is a suffix; its key is the folder, unless that is hidden or has a dot
        inner = folder.rpartition("/")[2] if folder.strip("/") else ""
        if not slash or "." in inner:
            return None
    return name[: len(name) - len(suffix) - 1], suffix


def _sample(key: str, members: Mapping[str, tuple[int, int]], total: int, shard: Path) -> Sample:
    key = text_of(key)
    pictures = _of_kind(members, EXTENSIONS)
    if len(pictures) != 1:
        few = "no picture" if not pictures else f"several pictures ({', '.join(pictures)})"
        return Sample(key, 0, 0, None, f"{few} in this sample")
    suffix = pictures[0]
    offset, size = members[suffix]
    name = f"{key}.{text_of(suffix)}"
    if offset < 0:
        return Sample(name, 0, 0, None, "stands twice in this shard")
    if offset + size > total:
        return Sample(name, 0, 0, None, "the shard ends early")
    for kind in (".cls", ".json"):
        label = next(iter(_of_kind(members, {kind})), None)
        if label is not None:
            at, length = members[label]
            break
    else:
        text = "; .txt is taken for a caption" if _of_kind(members, {".txt"}) else ""
        return Sample(name, 0, 0, None, f"no label (.cls or .json{text})")
    if at < 0 or at + length > total or length > 2**20:
        return Sample(name, 0, 0, None, f"its label (.{label}) is damaged")
    with shard.open("rb") as file:
        file.seek(at)
        value = _label(file.read(length), is_json=kind == ".json")
    if value is None:
        return Sample(name, 0, 0, None, f"its label (.{label}) is not a class")
    return Sample(name, offset, size, value, "")


def _of_kind(members: Mapping[str, Any], kinds: set[str] | frozenset[str]) -> list[str]:
    """The members with exactly such a suffix, else those whose suffix ends so."""
    exact = [suffix for suffix in members if f".{suffix}" in kinds]
    return exact or [suffix for suffix in members if f".{suffix.rpartition('.')[2]}" in kinds]


def _label(content: bytes, *, is_json: bool) -> int | str | None:
    try:
        text = content.decode("utf-8").strip()
        value: Any = json.loads(text) if is_json else text
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        value = next((value[name] for name in _LABELS if name in value), None)
    if isinstance(value, str):
        value = value.strip()
        if not re.fullmatch(r"\d{1,9}", value):  # a number that is no class's is no name either, but E is a letter
            return None if re.fullmatch(r"[-+\d.]*|[-+\d.]+[eE][-+]?\d+", value) else value
        value = int(value)
    return value if type(value) is int and 0 <= value < MOST_CLASSES else None
