"""The pictures of the studies, unpacked where they are not yet, and named alike on every machine."""

from __future__ import annotations

import contextlib
import dataclasses
import tarfile
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import senet.study

if TYPE_CHECKING:
    from senet.data.source import DataSource

__all__ = ["SOURCES", "opened"]

ARCHIVES = Path("../shared/data")
SOURCES = {"tiny100": "tiny100.tar.gz", "caltech20-10": "caltech20.tar"}
"""Names of data, and the archives that hold them."""

_FEW = 10  # photos a class


def opened(name: str, folder: Path) -> DataSource:
    """The pictures of a study; `folder` is where archives are unpacked."""
    whole = name.removesuffix(f"-{_FEW}")
    if not (folder / whole).is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        # Whole or not there: of a folder that another process is still filling, some pictures would be missing.
        with tempfile.TemporaryDirectory(dir=folder) as making, tarfile.open(ARCHIVES / SOURCES[name]) as archive:
            archive.extractall(Path(making) / whole, filter="data")
            with contextlib.suppress(OSError):  # another process was faster
                (Path(making) / whole).rename(folder / whole)
    source = dataclasses.replace(senet.study.open_data(folder / whole), name=name)
    return source if name == whole else _few(source)


def _few(source: DataSource) -> DataSource:
    """The first ten photos of each class to train on, and all others to measure on."""
    from senet.data.images import ChosenImages, JoinedImages

    every = JoinedImages([images for images in (source.train, source.val, source.test) if images is not None])
    seen: Counter[int] = Counter()
    sides: tuple[list[int], list[int]] = [], []
    for index, label in enumerate(every.labels.tolist()):
        sides[seen[label] >= _FEW].append(index)
        seen[label] += 1
    few, rest = (ChosenImages(every, indices) for indices in sides)
    return dataclasses.replace(source, train=few, val=rest, test=None)
