"""WebDataset shards: tar files of images and labels, read in any order through an index."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from senet.data.decoding import decode_bytes, reason_of
from senet.data.image_folders import split_of
from senet.data.images import BadFile, Images, digest, text_of
from senet.data.shards.index import index_of, state_of
from senet.errors import BadImageError, DataError
from senet.files.paths import expanded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from PIL import Image

__all__ = ["ShardImages", "Shards", "read_shards"]

MOST_SHARDS = 100_000
OTHER_LABELS = (
    ". A label is one class: for captions, several labels or numbers senet judge takes a training of your own"
)

CLASSES = "classes.json"
"""A file beside the shards with the class names in order."""


class Shards(NamedTuple):
    """The content of shards: class names, the images of each split, and unusable samples."""

    classes: tuple[str, ...]
    splits: dict[str, ShardImages]
    bad: tuple[BadFile, ...]


class ShardImages(Images):
    """Images in tar files.

    Args:
        shards: the tar files.
        root: the prefix of their paths that `names` leaves out.
        places: (n, 3) int64, for each image: the shard's number, the first byte, and the size in bytes.
        labels: the class indices.
        names: the images' names within their shards.
    """

    concurrent = True  # threads may load several at once

    def __init__(
        self,
        shards: Sequence[Path],
        root: Path,
        places: np.ndarray[Any, np.dtype[np.int64]],
        labels: Sequence[int],
        names: Sequence[str],
    ) -> None:
        self.shards = tuple(shards)
        self.places = places
        self.labels = torch.tensor(labels, dtype=torch.int64)
        within = [text_of(shard.relative_to(root)) for shard in self.shards]
        self.names: Sequence[str] = [f"{within[int(at)]}/{name}" for at, name in zip(places[:, 0], names, strict=True)]

    def load(self, index: int) -> Image.Image:
        """Image `index`; raises a BadImageError that names it if it cannot be read or decoded."""
        try:
            content = self.content(index)
        except OSError as error:
            name, why = self.names[index], reason_of(error)
            raise BadImageError(f"{name} cannot be read as an image ({why})", why, lasting=False) from error
        return decode_bytes(content, self.names[index])

    def content(self, index: int, most: int = -1) -> bytes:
        """The first `most` bytes of image `index`, or all of them."""
        shard, offset, size = self.places[index].tolist()
        with self.shards[shard].open("rb", buffering=0) as file:
            file.seek(offset)
            return _all_of(file, size if most < 0 else min(size, most))

    def size(self, index: int) -> int:
        """The size of image `index` in bytes."""
        return int(self.places[index, 2])

    def fingerprint(self) -> str:
        """Names, sizes in bytes and labels."""
        sizes = self.places[:, 2].tolist()
        return digest(self.labels, [f"{name}:{size}".encode() for name, size in zip(self.names, sizes, strict=True)])

    def state(self) -> bytes:
        """A value that changes when any of the shards is rewritten."""
        return b"\0".join((*map(state_of, self.shards), self.places.tobytes(), self.labels.numpy().tobytes()))


def _all_of(file: Any, size: int) -> bytes:
    """The next `size` bytes, or fewer at the end of the file."""
    parts: list[bytes] = []
    while size > 0 and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def read_shards(pattern: str) -> Shards:
    """Read the images of shards in stored order.

    As in webdataset, a sample is a run of members with one key: an image (`.jpg`, `.png`, `.webp`,
    ...) and its class. The class is a number or name in `.cls` or `.json`; in a JSON object it is
    "label", "cls", "class", "class_id" or "target". classes.json beside the shards may name
    numbered classes. A shard whose name begins with train, val or test, or whose folder is so
    named, belongs to that split, in any case; so does one with such a word in its name, if all have one.

    Args:
        pattern: local tar files, as a folder or with {0000..0099} and *.

    Raises:
        DataError: there are none, or they do not hold labelled images of at least two classes.
    """
    shards = _found(pattern)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        indices = list(pool.map(index_of, shards))
    root = Path(os.path.commonpath([shard.parent for shard in shards]))
    samples = [sample for index in indices for sample in index]
    bad = [
        BadFile("/".join(filter(None, (text_of(shard.relative_to(root)), sample.name))), sample.problem)
        for shard, index in zip(shards, indices, strict=True)
        for sample in index
        if sample.problem
    ]
    labels = {sample.label for sample in samples if sample.label is not None and not sample.problem}
    if not labels:
        first = f"; the first: {bad[0]}" if bad else ""
        raise DataError(f"{pattern} holds no picture with a label (.cls or .json){first}{OTHER_LABELS * bool(bad)}")
    names, number = _numbers(labels, shards, root, pattern)
    splits: dict[str, ShardImages] = {}
    for split, members in _splits(shards, pattern).items():
        good = [(at, s) for at in members for s in indices[at] if not s.problem and s.label is not None]
        if not good:
            raise DataError(f"the shards of {split} in {pattern} hold no picture with a label (.cls or .json)")
        places = np.array([(at, sample.offset, sample.size) for at, sample in good], dtype=np.int64)
        here = [number[sample.label] for _, sample in good if sample.label is not None]
        splits[split] = ShardImages(shards, root, places, here, [sample.name for _, sample in good])
    return Shards(tuple(names), splits, tuple(bad))


def _numbers(
    labels: set[int | str], shards: Sequence[Path], root: Path, pattern: str
) -> tuple[Sequence[str], dict[int | str, int]]:
    """The class names in order, and the number of each label."""
    words = sorted(label for label in labels if isinstance(label, str))
    numbers = [label for label in labels if isinstance(label, int)]
    if words and numbers:
        raise DataError(
            f"some labels of {pattern} are numbers ({numbers[0]}) and some are names ({words[0]!r}): use one of them"
        )
    file = next((at / CLASSES for at in (shards[0].parent, root) if (at / CLASSES).is_file()), None)
    names: Sequence[str] | None = None if file is None else _names(file)
    if words:
        names = names or words
        unknown = sorted(set(words) - set(names))
        if unknown:
            raise DataError(f"{file} does not name the class {unknown[0]!r} of {pattern}")
    else:
        names = names or [str(index) for index in range(max(numbers) + 1)]
        if max(numbers) >= len(names):
            raise DataError(f"{pattern} has class {max(numbers)} (from 0), and {file} names {len(names)}")
    if len(names) < 2:
        raise DataError(f"{pattern} has one class, {names[0]!r}: a classifier needs at least two")
    given: Iterable[int | str] = names if words else range(len(names))
    return names, {label: index for index, label in enumerate(given)}


def _names(file: Path) -> list[str]:
    try:
        names = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read ({error})") from error
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names) and names):
        raise DataError(f"{file} should be a list of the classes' names in order")
    return names


def _found(pattern: str) -> list[Path]:
    if "://" in pattern or pattern.startswith("pipe:"):
        raise DataError(
            f"wds:{pattern} is not on this machine: shards are read in any order; copy them to a disk first"
        )
    shards: list[Path] = []
    for name in _expanded(pattern):
        path = expanded(name)
        if path.is_dir():
            here = sorted(path.rglob("*.tar"), key=lambda p: p.as_posix())
        elif any(sign in name for sign in "*?["):
            base = Path(path.anchor)
            here = sorted(base.glob(str(path.relative_to(base))), key=lambda p: p.as_posix())
        else:
            here = [path]
        shards += here
        if not here:
            raise DataError(f"there is no .tar file in wds:{name}")
    missing = [shard for shard in shards if not shard.is_file()]
    if missing:
        raise DataError(f"{len(missing)} of the {len(shards)} shards are not there, the first: {missing[0]}")
    packed = next((shard for shard in shards if shard.suffix in (".gz", ".tgz", ".bz2", ".xz", ".zst")), None)
    if packed is not None:
        raise DataError(f"{packed} is compressed, and shards are read in any order: unpack it to a .tar")
    return list(dict.fromkeys(shards))


def _expanded(pattern: str) -> list[str]:
    """Expand braces as a shell does: {0000..0099} keeps its zeros, {a,b} is a choice."""
    pieces = re.split(r"[{]([^{}]*)[}]", pattern)  # every second part was in braces
    if any(sign in piece for piece in pieces for sign in "{}"):
        raise DataError(f"wds:{pattern} has a brace too many; shards are named as in path/{{0000..0099}}.tar")
    choices = [_choices(piece) if at % 2 else [piece] for at, piece in enumerate(pieces)]
    # Count before expanding: {0..99999999} would fill the memory.
    if not 0 < math.prod(map(len, choices)) <= MOST_SHARDS:
        raise DataError(f"wds:{pattern} names no shards or more than {MOST_SHARDS:,}")
    return ["".join(name) for name in itertools.product(*choices)]


def _choices(inside: str) -> Sequence[str]:
    found = re.fullmatch(r"(\d{1,9})[.][.](\d{1,9})", inside)
    if found is None:
        return inside.split(",")
    first, last = map(int, found.groups())
    width = max(map(len, found.groups())) if inside.startswith("0") else 0
    return [f"{number:0{width}}" for number in range(first, min(last, first + MOST_SHARDS) + 1)]


def _splits(shards: Sequence[Path], pattern: str) -> Mapping[str, list[int]]:
    """The indices of each split's shards; "all" if their names have no split."""
    of = [_named_split(shard) for shard in shards]
    within = [split or _split_within(shard) for split, shard in zip(of, shards, strict=True)]
    if all(within):  # else `train` in steam-train-0.tar is part of a class's name
        of = within
    splits: dict[str, list[int]] = {}
    for at, name in enumerate(of):
        splits.setdefault(name or "all", []).append(at)
    if "all" in splits and len(splits) > 1:
        named = ", ".join(sorted(set(splits) - {"all"}))
        raise DataError(f"some shards of {pattern} are of {named}, and {shards[splits['all'][0]]} says nothing of that")
    return splits


def _named_split(shard: Path) -> str | None:
    """The split of a shard whose name begins with one, or whose folder is called so."""
    first = re.split(r"[^a-z]", shard.stem.lower(), maxsplit=1)[0]
    return split_of(first) or split_of(shard.parent.name)


def _split_within(shard: Path) -> str | None:
    """The split that is one of the words of a shard's name, as in imagenet-train-0000.tar."""
    found = {split for word in re.split(r"[^a-z]+", shard.stem.lower()) if (split := split_of(word))}
    return found.pop() if len(found) == 1 else None
