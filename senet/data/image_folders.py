"""Read folders of class folders: the images, their classes and their splits."""

from __future__ import annotations

import collections
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np

from senet.data.decoding import EXTENSIONS
from senet.data.images import BadFile, FileImages, text_of
from senet.errors import DataError
from senet.files.classes import class_pairs
from senet.words import counted, listed, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "OWN",
    "Found",
    "class_indices",
    "files_below",
    "named_otherwise",
    "read_folder",
    "split_of",
    "stratified_split",
]

OWN = ("digits", "context", "context-random")
"""The names of senet's own data, which are no folders."""

_SETS = "CIFAR10 CIFAR100 FashionMNIST MNIST KMNIST SVHN STL10 Flowers102 Food101 OxfordIIITPet ImageNet".split()
"""Torchvision's data sets that people name without their library."""

SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""Names of split folders, in any case and with "set", "data", "images" or "split" appended (`Train_Set`)."""

_HELD_OUT = 0.2  # of the images, in a split that we draw
_BEHIND = re.compile(r"[-_. ]*(set|data|images|split)$")
_TABLES = (".csv", ".tsv", ".json", ".xlsx", ".xls", ".mat", ".txt")
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".parquet", ".arrow", ".h5", ".hdf5")
_CONVERTIBLE = (".heic", ".heif", ".jxl", ".psd", ".dng", ".cr2", ".nef")
_OTHERWISE = "; senet judge takes a training that reads them"
_ANNOTATIONS = ("annotations", "labels")
_LITTER = frozenset({"desktop.ini", "thumbs.db"})
_OTHER_PROGRAMS = frozenset({"$recycle.bin", "#recycle", "@eadir", "lost+found", "system volume information"})


def stratified_split(
    labels: Sequence[int], names: Sequence[str], *, seed: int = 0, twins: Sequence[Sequence[int]] = ()
) -> tuple[list[int], list[int]]:
    """Indices of training images and of held-out images: a fifth of each class, at least one.

    The same labels and seed give the same split on every machine. Images of one group of `twins`
    are held out together or not at all, and never if their classes differ.

    Raises:
        DataError: a class has only one image; `names` are the classes' names in the message.
    """
    of_class: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        of_class.setdefault(label, []).append(index)
    lonely = [names[label] for label, members in sorted(of_class.items()) if len(members) < 2]
    if lonely:
        raise DataError(
            f"a split needs at least 2 images of each class, and there is one of {_listed(lonely)}: "
            "add images, or lay out train/ and val/ yourself"
        )
    held: list[int] = []
    copies = {index: group for group in twins for index in group}
    for label, members in of_class.items():
        order = [members[i] for i in np.random.default_rng([seed, label]).permutation(len(members))]
        count = max(1, round(_HELD_OUT * len(members)))
        whole: dict[int, None] = {}
        for index in order:
            group = copies.get(index, (index,))
            one_class = all(labels[each] == label for each in group)
            if len(whole) < count and index not in whole and one_class and len(whole) + len(group) < len(members):
                whole |= dict.fromkeys(group)
        held += list(whole) or order[:count]  # a class of copies only has them on both sides, and they are counted
    chosen = set(held)
    return [i for i in range(len(labels)) if i not in chosen], sorted(chosen)


def class_indices(path: str | Path, folders: Sequence[str], offset: int = 0) -> dict[str, int]:
    """The network's class index of each folder name, from a JSON file.

    Args:
        path: the file that `class_pairs` reads.
        folders: the folder names to look up.
        offset: a number added to each index, for networks whose classes do not start at 0.

    Raises:
        DataError: the file is not such a file, lacks a name, or lists one twice.
    """
    pairs = class_pairs(path)
    often = collections.Counter(name for name, _ in pairs)
    if missing := [name for name in folders if not often[name]]:
        hint = "".join(f"; the nearest to {missing[0]!r} is {near!r}" for near in nearest(missing[0], often))
        raise DataError(f"the classes file {path} does not name {_listed(missing)}{hint}")
    if twice := [name for name in folders if often[name] > 1]:  # ImageNet has two cranes, a bird and a machine
        raise DataError(
            f"the classes file {path} lists {_listed(twice)} more than once: say which with an object name -> index"
        )
    table = dict(pairs)
    return {name: table[name] + offset for name in folders}


class Found(NamedTuple):
    """The content of a folder: sorted class names, the images of each split, and files that are not images by name."""

    classes: tuple[str, ...]
    splits: dict[str, FileImages]
    others: tuple[BadFile, ...]


def read_folder(root: Path) -> Found:
    """Find the images of a folder of class folders by file name.

    A folder without train/, val/ or test/ is the single split "all", ordered by class and file name.

    Raises:
        DataError: the folder is missing or empty, has one class, a class without images, or splits
            with different classes.
    """
    if not root.is_dir():
        raise DataError(_missing(root))
    found = {split: _split_folder(root, split) for split in SPLITS}
    splits = {split: folder for split, folder in found.items() if folder is not None}
    left_out = [other for folder in (root, *splits.values()) for other in _beside_classes(folder, root)]
    if not splits:
        classes = _classes(root)
        _check_no_splits(root, classes)
        _check_not_inside_out(root, classes)
        images, strange = _images(root, root, classes)
        return Found(classes, {"all": images}, (*left_out, *strange))
    _check_apart(root, splits.values())
    _check_strangers(root, [folder.name for folder in splits.values()])
    left_out += [_in_no_class(p, root) for p in _folders(root) if p not in splits.values() and files_below(p)[0]]
    named = {split: _classes(folder) for split, folder in splits.items()}
    first, *others = named
    for other in others:
        _check_same(root, (splits[first].name, named[first]), (splits[other].name, named[other]))
    classes = named[first]
    inside = {split: _images(folder, root, classes) for split, folder in splits.items()}
    strangers = [other for _, others in inside.values() for other in others]
    return Found(classes, {split: images for split, (images, _) in inside.items()}, (*left_out, *strangers))


def _missing(root: Path) -> str:
    if root.exists() and root.name.lower().endswith(_ARCHIVES):
        shards = f", or name shards of WebDataset as wds:{root}" if root.suffix == ".tar" else ""
        return f"the data {root} is an archive: unpack it{shards}"
    if root.exists():
        return f"the data {root} is a file; it should be a folder with one folder of images for each class"
    beside = [p.name for p in root.parent.iterdir() if p.is_dir() and p.name[0] != "."] if root.parent.is_dir() else []
    sets = [f"torchvision:{name}" for name in nearest(root.name, _SETS)] if root.parent == Path() else []
    near = [*nearest(root, OWN), *sets, *(str(root.parent / name) for name in nearest(root.name, beside))]
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    kinds = "data is 'digits', 'context', a folder of class folders, 'torchvision:NAME' or 'wds:SHARDS'"
    return f"there is no data folder {root}{hint} ({kinds})"


def _folders(root: Path) -> list[Path]:
    return sorted((p for p in root.iterdir() if p.is_dir() and not _is_other_programs(p.name)), key=lambda p: p.name)


def _is_other_programs(name: str) -> bool:
    """Whether a folder is hidden or belongs to a program: thumbnails, recycle bins, resource forks."""
    return name.startswith((".", "__")) or name.lower() in _OTHER_PROGRAMS


def _left_out(folder: Path) -> list[Path]:
    """The direct subfolders that are left out although they hold images."""
    inside = [p for p in folder.iterdir() if _is_other_programs(p.name) and p.is_dir() and not p.is_symlink()]
    return sorted((p for p in inside if _holds_pictures(p)), key=lambda p: p.name)


def _beside_classes(folder: Path, root: Path) -> list[BadFile]:
    """Entries beside class folders that are left out: other programs' folders, loose images, broken links."""
    found = [named_otherwise(path, root) for path in _left_out(folder)]
    if _folders(folder) and any(path.suffix.lower() in EXTENSIONS for path in folder.iterdir() if path.is_file()):
        found.append(_in_no_class(folder, root))
    broken = sorted(path for path in folder.iterdir() if path.is_symlink() and not path.exists())
    return [
        *found,
        *(BadFile(text_of(path.relative_to(root)), "left out: a link that leads nowhere") for path in broken),
    ]


def _in_no_class(folder: Path, root: Path) -> BadFile:
    """The loose images beside class folders, or in their place."""
    inside = [path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")]
    name = text_of(folder.relative_to(root))
    return BadFile(name, f"left out: {counted(len(inside), 'picture')} in no class folder")


def _holds_pictures(folder: Path) -> bool:
    return any(Path(name).suffix.lower() in EXTENSIONS for _, _, names in os.walk(folder) for name in names)


def files_below(root: Path) -> tuple[list[Path], list[Path]]:
    """Files below `root` that are images by name, and all others, both sorted by path.

    Hidden files and those of a file browser are left out. Links are followed, except in cycles.
    Other programs' folders with images, and resource forks (`._photo.jpg`), count among the others.

    Raises:
        DataError: a folder cannot be listed, so that images would be missing.
    """
    files: list[Path] = []
    left_out: list[Path] = []
    seen = {os.path.realpath(root)}
    for folder, inside, names in os.walk(root, onerror=_refuse, followlinks=True):
        left_out += _left_out(Path(folder))
        left_out += [Path(folder, name) for name in names if name.startswith("._")]
        inside[:] = sorted(name for name in inside if not _is_other_programs(name))
        for name in list(inside):  # a link to an enclosing folder would never end
            place = os.path.realpath(os.path.join(folder, name))  # noqa: PTH118 os.walk gives text
            if place in seen:
                inside.remove(name)
            seen.add(place)
        files += [Path(folder, name) for name in names if not name.startswith(".") and name.lower() not in _LITTER]
    images = [path for path in files if path.suffix.lower() in EXTENSIONS]
    others = [*left_out, *(path for path in files if path.suffix.lower() not in EXTENSIONS)]
    images.sort(key=lambda path: path.relative_to(root).as_posix())
    others.sort(key=lambda path: path.relative_to(root).as_posix())
    return images, others


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"the folder {error.filename} cannot be read: {error.strerror or error}") from error


def split_of(name: str) -> str | None:
    """The split that a folder's name stands for."""
    plain = _BEHIND.sub("", name.lower())
    return next((split for split, names in SPLITS.items() if plain in names), None)


def _split_folder(root: Path, split: str) -> Path | None:
    """The folder of a split; a folder without subfolders is a class of that name instead."""
    here = [folder for folder in _folders(root) if split_of(folder.name) == split and _folders(folder)]
    if len(here) > 1:
        raise DataError(f"{root} has {_listed([p.name for p in here])}, which mean the same: keep one of them")
    return here[0] if here else None


def _check_apart(root: Path, splits: Iterable[Path]) -> None:
    """Refuse two splits that are the same folder through a link: the test images would be training images."""
    seen: dict[str, str] = {}
    for folder in splits:
        place = os.path.realpath(folder)
        if place in seen:
            raise DataError(f"{seen[place]}/ and {folder.name}/ of {root} are one folder: hold other images out")
        seen[place] = folder.name


def _check_no_splits(root: Path, classes: Sequence[str]) -> None:
    """Refuse folders that are all named like splits but hold no class folders, as in contests with a label table."""
    if all(map(split_of, classes)):
        hint = next(filter(None, (_hint(folder) for folder in (root, *(root / name for name in classes)))), "")
        raise DataError(
            f"{_listed(classes)} of {root} hold no class folders{hint}: a split holds one folder of images for "
            "each class"
        )


def _check_not_inside_out(root: Path, classes: Sequence[str]) -> None:
    """Refuse class folders that all hold the same subfolders: splits and classes are then nested the wrong way.

    A single subfolder that is not a split may recur in all: tiny-imagenet has NAME/images/.
    """
    inside = [{folder.name for folder in _folders(root / name)} for name in classes]
    same = inside[0]
    if any(names != same for names in inside) or (len(same) < 2 and not any(map(split_of, same))):
        return
    inner, outer = sorted(same)[0], classes[0]
    raise DataError(
        f"the folders of {root} ({_listed(classes)}) all hold the same folders ({_listed(sorted(same))}): a split "
        f"(train, val, test) holds the classes, so {outer}/{inner} should be {inner}/{outer} or {outer} be called train"
    )


def _check_strangers(root: Path, known: Sequence[str]) -> None:
    others = [
        p.name for p in _folders(root) if p.name not in known and any(files_below(inside)[0] for inside in _folders(p))
    ]
    if others:
        raise DataError(
            f"{root} has {_listed(known)} and beside it {_listed(others)}, which is not a split: "
            "splits are called train, val and test"
        )


def _classes(folder: Path) -> tuple[str, ...]:
    folders = _folders(folder)
    if not folders:
        loose = len(files_below(folder)[0])
        held = "holds no images" if any(folder.iterdir()) else "is empty"
        held = f"holds {loose} images but no class folders" if loose else held
        raise DataError(f"{folder} {held}{_hint(folder)}: images belong in one folder for each class")
    if len(folders) == 1:
        below = [path.name for path in _folders(folders[0]) if files_below(path)[0]]
        if len(below) > 1 or any(map(split_of, below)):
            raise DataError(f"{folder} holds one folder, and that the folders {_listed(below)}: give {folders[0]}")
        raise DataError(f"{folder} has one class, {folders[0].name!r}{_hint(folder)}: a classifier needs at least two")
    return tuple(p.name for p in folders)


def _hint(folder: Path) -> str:
    """A hint at unread files that the user may have meant: label tables, archives."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    tables = [name for name in names if name.lower().endswith(_TABLES)]
    archives = [name for name in names if name.lower().endswith(_ARCHIVES)]
    if archives:
        tar = any(name.lower().endswith(".tar") for name in archives)
        shards = f", or name shards of WebDataset as wds:{folder}" if tar else ""
        return f" ({_listed(archives, 2)}: archives are not read; unpack them{shards})"
    return f" ({_listed(tables, 2)}: labels in a table are not read{_OTHERWISE})" if tables else ""


def _check_same(root: Path, one: tuple[str, Sequence[str]], other: tuple[str, Sequence[str]]) -> None:
    differing = []
    for (name, classes), (_, theirs) in ((one, other), (other, one)):
        only = sorted(set(classes) - set(theirs))
        if only:
            differing.append(f"only in {name}/: {_listed(only)}")
    if differing:
        raise DataError(f"{one[0]}/ and {other[0]}/ of {root} have different classes; {'; '.join(differing)}")


def _images(folder: Path, root: Path, classes: Sequence[str]) -> tuple[FileImages, list[BadFile]]:
    found = [files_below(folder / name) for name in classes]
    files = [images for images, _ in found]
    if not any(files):
        kinds = sorted({path.suffix.lower() for _, strangers in found for path in strangers if path.suffix})
        there = f", and files that end in {', '.join(kinds[:4])}: convert them{_how(kinds)}" if kinds else ""
        raise DataError(f"the class folders of {folder} hold no images (of {', '.join(sorted(EXTENSIONS))}){there}")
    empty = [name for name, inside in zip(classes, files, strict=True) if not inside]
    if empty:
        hint = f" (labels in files are not read{_OTHERWISE})" if empty[0].lower() in _ANNOTATIONS else ""
        raise DataError(f"no images in these class folders of {folder}: {_listed(empty)}{hint}")
    labels = [label for label, inside in enumerate(files) for _ in inside]
    others = [named_otherwise(path, root) for _, strangers in found for path in strangers]
    return FileImages([path for inside in files for path in inside], labels, root), others


def _how(kinds: Sequence[str]) -> str:
    """How files of these kinds become images, where a usual program makes images of them."""
    kind = next((kind for kind in kinds if kind in _CONVERTIBLE), None)
    return ", such as to .png" + ("" if kind is None else f" (by ImageMagick: magick mogrify -format png *{kind})")


def named_otherwise(path: Path, root: Path) -> BadFile:
    """Why a file, or another program's folder, is left out."""
    name = text_of(path.relative_to(root))
    if path.name.startswith("._") or _is_other_programs(path.name):
        return BadFile(name, "left out: hidden, or made by another program")
    kind = f"its name ends in {text_of(path.suffix)}" if path.suffix else "its name has no ending"
    return BadFile(name, f"not an image by its name: {kind}")


def _listed(names: Sequence[str], most: int = 8) -> str:
    return listed([*map(repr, names)], most)
