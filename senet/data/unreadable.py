"""Unreadable image files: found before a training begins, skipped, counted and listed."""

from __future__ import annotations

import dataclasses
import io
import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL

from senet.console.machine import usual_workers
from senet.console.progress import Progress
from senet.data.decoding import depth_of, to_mode
from senet.data.images import ArrayImages, BadFile, ChosenImages, Images, TorchvisionImages, base_of, prepared, twins_in
from senet.errors import BadImageError, DataError
from senet.files.cache import remembered
from senet.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from senet.data.source import DataSource

__all__ = [
    "MAX_BAD",
    "BadFile",
    "allowed",
    "check_bad",
    "check_range",
    "checked",
    "from_json",
    "listed",
    "to_json",
    "value_range",
]

MAX_BAD = 0.2
"""The default share of images that may be unreadable. Beyond one in five it is the wrong folder, or
a format that has to be converted first."""

FEW = 1000
"""Checking fewer images takes seconds, so its result is not cached."""

SHOWN = 50
"""The number of files named on the screen; result.json has all."""

_VERSION = 1  # of the rules for what is readable: a new version checks everything again
_CHUNK = 64
_DEEP = (".png", ".tif", ".tiff", ".pgm", ".pnm", ".jp2", ".webp", ".avif")  # formats that may have more than 8 bits


def allowed(max_bad: float | str, count: int) -> int:
    """How many of `count` images may be unreadable, from a whole number or a share (0.05 or "5%").

    Raises:
        DataError: it is neither.
    """
    text = str(max_bad).strip()
    try:
        if text.isdecimal():
            return int(text)
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise DataError(f"max_bad is a number of files (40) or a share of them (0.05 or 5%), not {max_bad!r}")
    return int(share * count + 1e-9)


def check_bad(bad: Sequence[BadFile], count: int, max_bad: float | str, name: str) -> None:
    """Check that no more of `count` images are unreadable than allowed.

    Raises:
        DataError: more are, or `max_bad` is neither a number nor a share.
    """
    most = allowed(max_bad, count)
    if len(bad) > most:
        raise DataError(
            f"{len(bad)} or more of the {count} images of {name} cannot be read, and max_bad ({max_bad}) allows "
            f"{most}: {'; '.join(map(str, bad[:3]))}; … Mend or remove them, or allow more"
        )


def checked(source: DataSource, *, max_bad: float | str = MAX_BAD, progress: Progress | None = None) -> DataSource:
    """The source without its unreadable images, which move to its `bad`.

    Every image is decoded once before the training begins. So an epoch's content depends only on
    the files, not on the number of workers or on interruptions. The result is cached in the user's
    cache folder until a file changes.

    Args:
        source: the images.
        max_bad: how many images may be unreadable, a number or a share.
        progress: shows how far the check is.

    Raises:
        DataError: more images are unreadable, or a class has no training image left.
    """
    splits, bad = source.splits, list(source.bad)
    total = sum(map(len, splits.values())) + len(bad)
    check_bad(bad, total, max_bad, source.name)
    if source.checked:
        return source
    shown = progress or Progress(False)
    files = sum(len(images) for images in splits.values() if _can_fail(images))
    if files >= FEW:
        shown.note(f"checking that {files} images can be read")
    with shown.steps(files):
        shown.run(f"checking {files} images")
        for name, images in splits.items():
            found = _unreadable(images, bad, total, max_bad, source.name, shown)
            bad += [BadFile(images.names[index], reason) for index, reason in found]
            check_bad(bad, total, max_bad, source.name)  # what an earlier check found, it may have been allowed
            splits[name] = _without(images, [index for index, _ in found], name, source)
    bad.sort(key=lambda file: file.name)  # independent of the splits, which we may draw
    notes = (*source.notes, *_copies(splits))
    return dataclasses.replace(source, **splits, bad=tuple(bad), checked=True, notes=notes)  # type: ignore[arg-type]


def value_range(source: DataSource) -> tuple[float, float] | None:
    """The values of black and white for grey of more than 8 bits, from the training images; None if all have 8 bits.

    Integers from 0 on take the least bit depth that holds them, and shares of 1 stay shares.
    Anything else spans from the least to the greatest value.

    Raises:
        DataError: some training images have 8 bits and some more.
    """
    if source.train is None:
        return None  # whoever trains on it is told
    deep = [index for index in range(len(source.train)) if _depth(source.train, index) in ("I", "F")]
    if not deep:
        return None
    if len(deep) < len(source.train):
        raise DataError(
            f"{len(deep)} of the {len(source.train)} pictures to train on have more than 8 bits ("
            f"{source.train.names[deep[0]]} is the first): say with range (--range LOW HIGH) what is black and "
            "white in them"
        )
    low, high, whole = math.inf, -math.inf, True
    for index in deep:
        grey = np.asarray(source.train.load(index))
        low, high, whole = min(low, float(grey.min())), max(high, float(grey.max())), whole and grey.dtype != np.float32
    if low >= 0 and whole:
        return 0.0, float(2 ** max(8, int(high).bit_length()) - 1)
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    if not low < high < math.inf:
        raise DataError(
            f"the grey values of {source.name} reach from {low:g} to {high:g}: say with range (--range LOW HIGH) "
            "what is black and white"
        )
    return low, high


def check_range(source: DataSource, values: tuple[float, float]) -> None:
    """Check that no image of the source has values outside `values`.

    Raises:
        DataError: an image has such values; it is named.
    """
    for images in source.splits.values():
        for index in range(len(images)):
            if _depth(images, index) in ("I", "F"):
                prepared(images, partial(to_mode, mode="RGB", values=values), index)


def _depth(images: Images, index: int) -> str:
    base, chosen = base_of(images)
    if (modes := getattr(base, "modes", None)) is not None:
        return str(modes[chosen[index]])
    if not images.names[index].lower().endswith(_DEEP) or not hasattr(base, "content") or base.size(chosen[index]) < 1:
        return ""
    return depth_of(io.BytesIO(base.content(chosen[index])), images.names[index])


def _copies(splits: Mapping[str, Images]) -> list[str]:
    """One line for each held-out split with files that are also training images."""
    notes = []
    for name, images in splits.items():
        if name != "train" and "train" in splits:
            groups = twins_in([splits["train"], images])
            count = sum(place for group in groups for place, _ in group)
            if count:
                first = images.names[next(index for place, index in groups[0] if place)]
                notes.append(
                    f"{count} of the {len(images)} images of {name} are byte for byte images of train ({first} is the "
                    "first): the network has seen what it is measured on"
                )
    return notes


def _without(images: Images, bad: Sequence[int], split: str, source: DataSource) -> Images:
    if not bad:
        return images
    gone = set(bad)
    good = ChosenImages(images, [index for index in range(len(images)) if index not in gone])
    wanted = set(images.labels.tolist()) if split == "train" else set()
    missing = sorted(wanted - set(good.labels.tolist()))
    if missing or not len(good):
        what = f"class {source.classes[missing[0]]!r}" if missing else "any class"
        raise DataError(f"no image of {what} in {split} of {source.name} can be read")
    return good


def _can_fail(images: Images) -> bool:
    """Whether the images need decoding, rather than lie in memory."""
    base, _ = base_of(images)
    return not (isinstance(base, ArrayImages) or (isinstance(base, TorchvisionImages) and base.in_memory))


def _unreadable(
    images: Images, before: Sequence[BadFile], total: int, max_bad: float | str, name: str, shown: Progress
) -> list[tuple[int, str]]:
    """The index of each unreadable image, in order, with the reason."""
    if not _can_fail(images):
        return []
    worked = False

    def look() -> tuple[list[tuple[int, str]], bool]:
        nonlocal worked
        worked = True
        found: list[tuple[int, str]] = []
        lasting = True
        several = getattr(base_of(images)[0], "concurrent", False)
        pool = ThreadPoolExecutor(usual_workers() if several else 1)
        try:
            starts = range(0, len(images), _CHUNK)
            for start, errors in zip(starts, pool.map(lambda at: _errors(images, at), starts), strict=True):
                found += [(index, error.reason) for index, error in errors]
                lasting &= all(error.lasting for _, error in errors)
                if errors:
                    bad = (BadFile(images.names[index], reason) for index, reason in found)
                    check_bad([*before, *bad], total, max_bad, name)
                shown.step(min(_CHUNK, len(images) - start))
        finally:
            pool.shutdown(cancel_futures=True)
        return found, lasting

    state = _state(images)
    if len(images) < FEW or state is None:
        return look()[0]
    found = [(int(index), str(reason)) for index, reason in remembered("checked", state, look)]
    if not worked:
        shown.step(len(images), worked=False)
    return found


def _errors(images: Images, start: int) -> list[tuple[int, BadImageError]]:
    errors = []
    for index in range(start, min(start + _CHUNK, len(images))):
        try:
            images.load(index)
        except BadImageError as error:
            errors.append((index, error.with_traceback(None)))
    return errors


def _state(images: Images) -> bytes | None:
    """A value that changes whenever the check's result may; None if that cannot be known."""
    base, chosen = base_of(images)
    if not hasattr(base, "state"):
        return None
    return b"\0".join((f"{_VERSION} {PIL.__version__}".encode(), base.state(), np.array(chosen, np.int64).tobytes()))


def listed(bad: Sequence[BadFile], *, recorded: bool = True) -> list[str]:
    """Lines with the number of skipped files and the first names; `recorded` if result.json has all of them."""
    if not bad:
        return []
    more = [f"  and {len(bad) - SHOWN} more{', in result.json' * recorded}"] if len(bad) > SHOWN else []
    return [
        f"{counted(len(bad), 'file')} {'was' if len(bad) == 1 else 'were'} skipped:",
        *(f"  {file}" for file in bad[:SHOWN]),
        *more,
    ]


def to_json(bad: Sequence[BadFile]) -> list[dict[str, Any]]:
    """Plain values for result.json."""
    return [dataclasses.asdict(file) for file in bad]


def from_json(values: Sequence[dict[str, str]]) -> tuple[BadFile, ...]:
    """The files from the `values` of `to_json`."""
    return tuple(BadFile(value["name"], value["reason"]) for value in values)
