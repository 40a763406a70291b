"""Open data by name: the embedded digits, folders of class folders, WebDataset shards, torchvision's data sets."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from senet.data.context import CLASSES, SIDE, draw_context
from senet.data.image_folders import OWN, class_indices, read_folder, stratified_split
from senet.data.images import ArrayImages, ChosenImages, Images, TorchvisionImages, side_of, twins_in
from senet.data.pytorch.datasets import class_names, from_datasets, keeps_class_mirrored
from senet.data.shards.shards import read_shards
from senet.data.source import DataSource
from senet.errors import DataError
from senet.extras import how_to_install
from senet.files.cache import alone, cache_folder
from senet.files.paths import expanded
from senet.files.run_folder import SETTINGS
from senet.words import did_you_mean, listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["DataError", "DataSource", "folder_of", "open_data", "renumbered"]

_NO_DATA_SETS = ("DatasetFolder", "ImageFolder", "VisionDataset", "wrap_dataset_for_transforms_v2")


def open_data(
    name: str | Path | Sequence[Any] | DataSource,
    *,
    classes: str | Path | None = None,
    class_offset: int = 0,
    data_root: str | Path | None = None,
    split_seed: int = 0,
) -> DataSource:
    """Open labelled images by name. Only one image of each class is decoded, as a check.

    Args:
        name: `digits` (scikit-learn's 1,797 handwritten digits of 8×8 pixels, embedded in it), `context` (a made
            task that only a view of the whole picture can solve: `senet.data.context`), `context-random` (its
            pictures with labels drawn at random), a folder of class folders (with train/ and val/ and/or test/
            inside, or else split by us, 80/20 within each class), `torchvision:NAME`, or `wds:` with WebDataset's
            shards, such as `wds:path/{0000..0099}.tar`. Or two
            of PyTorch's data sets, to train on and to measure on: `senet.data.pytorch.datasets` says of what. Or
            data that is open already.
        classes: for evaluation: a JSON file with the network's classes in order (or name -> index),
            which maps folder names to class indices. By default classes are numbered by sorted
            name.
        class_offset: a number added to each class index.
        data_root: the folder of torchvision's data sets, to which missing ones are downloaded;
            ~/.cache/senet/data by default.
        split_seed: the seed of a split that we make.

    Raises:
        DataError: the data is missing, empty, has one class or splits with different classes, or
            cannot be read or downloaded.
    """
    if data_root is not None and not str(name).startswith("torchvision:"):
        raise DataError(
            "data_root (--data-root) is the folder of torchvision's data sets, and this is none of them: leave it out"
        )
    if isinstance(name, DataSource):
        return name if classes is None and class_offset == 0 else renumbered(name, classes, class_offset)
    if not isinstance(name, str | Path):
        source = from_datasets(name)
    elif (root := folder_of(name)) is not None:
        source = _folder(root, split_seed)
    elif str(name).startswith("wds:"):
        source = _shards(str(name), split_seed)
    elif str(name).startswith("torchvision:"):
        where = cache_folder() / "data" if data_root is None else expanded(data_root)
        source = _torchvision(str(name), where, split_seed)
    else:
        source = _digits(split_seed) if str(name) == "digits" else _context(str(name))
        if (here := Path(name)).is_dir() and not (here / SETTINGS).is_file():
            note = f"{name} is a data set of senet's own: the folder of that name is ./{name}"
            source = dataclasses.replace(source, notes=(note,))
    if empty := _without_images(source):
        source = dataclasses.replace(source, notes=(*source.notes, empty))
    return source if classes is None and class_offset == 0 else renumbered(source, classes, class_offset)


def folder_of(data: object) -> Path | None:
    """The folder of class folders that data is named by, or was opened from; None for data of another kind."""
    if isinstance(data, DataSource):
        return data.root
    if not isinstance(data, str | Path) or str(data) in OWN or str(data).startswith(("wds:", "torchvision:")):
        return None
    return expanded(data)


def _folder(root: Path, split_seed: int) -> DataSource:
    classes, splits, others = read_folder(root)
    found = _with_held_out(splits, classes, split_seed)
    name = f"./{root}" if str(root) in OWN else str(root)  # Path drops the ./ that tells it from ours
    side = _side_of_first(splits, classes)
    return DataSource(name, classes, *_in_order(found), native_size=side, others=others, root=root)


def _shards(name: str, split_seed: int) -> DataSource:
    classes, splits, bad = read_shards(name.removeprefix("wds:"))
    found = _with_held_out(splits, classes, split_seed)
    return DataSource(name, classes, *_in_order(found), native_size=_side_of_first(splits, classes), bad=bad)


def _without_images(source: DataSource) -> str:
    """What is worth saying of classes that have no images to train on: numbers from 1 leave class 0 empty."""
    here = set(range(len(source.classes)) if source.train is None else source.train.labels.tolist())
    empty = [name for index, name in enumerate(source.classes) if index not in here]
    many = f"{len(empty)} of the {len(source.classes)} classes"
    return f"there is no image to train on in {many}: {listed(empty, 8)}" if empty else ""


def _side_of_first(splits: Mapping[str, Images], classes: Sequence[str]) -> int | None:
    """The side of the first readable images of each class and split if all are squares of one size, else None."""
    here = [(images, label) for images in splits.values() for label in sorted(set(images.labels.tolist()))]
    return side_of(_first_image(images, label, classes[label]) for images, label in here)


def _in_order(splits: Mapping[str, Images]) -> tuple[Images | None, Images | None, Images | None]:
    return splits.get("train"), splits.get("val"), splits.get("test")


def _with_held_out(splits: Mapping[str, Images], classes: tuple[str, ...], split_seed: int) -> Mapping[str, Images]:
    """The splits; if there is only train or no split at all, we divide the images."""
    if set(splits) in ({"all"}, {"train"}):
        return _divided(next(iter(splits.values())), classes, split_seed)
    return splits


def _divided(images: Images, classes: tuple[str, ...], split_seed: int) -> dict[str, Images]:
    twins = [[index for _, index in group] for group in twins_in([images])]
    train, held = stratified_split(images.labels.tolist(), classes, seed=split_seed, twins=twins)
    return {"train": ChosenImages(images, train), "val": ChosenImages(images, held)}


def _first_image(images: Images, label: int, name: str) -> tuple[int, int]:
    """The size of a class's first readable image."""
    failure: DataError | None = None
    for index in torch.nonzero(images.labels == label).flatten().tolist():
        try:
            return images.load(index).size
        except DataError as error:
            failure = failure or error
    raise DataError(f"no image of class {name!r} can be read; the first: {failure}")


def renumbered(source: DataSource, classes: str | Path | None, offset: int) -> DataSource:
    """The source with the class indices of a network as its labels; see `open_data`."""
    if type(offset) is not int or offset < 0:
        raise DataError(f"class_offset is a whole number of at least 0, not {offset!r}")
    if classes is None:
        index_of = {name: index + offset for index, name in enumerate(source.classes)}
    else:
        index_of = class_indices(classes, source.classes, offset)
    indices = tuple(index_of[name] for name in source.classes)
    splits = {name: source.relabelled(images, indices) for name, images in source.splits.items()}
    return dataclasses.replace(source, **splits, indices=indices)  # type: ignore[arg-type]


def _digits(split_seed: int) -> DataSource:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(f"the embedded digits come with scikit-learn: {how_to_install('study')}") from error
    grey, labels = load_digits(return_X_y=True)
    pixels = np.round(grey.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    images = ArrayImages(np.repeat(pixels[..., None], 3, axis=3), labels.tolist())
    classes = tuple("0123456789")
    train, val, test = _in_order(_divided(images, classes, split_seed))
    return DataSource("digits", classes, train, val, test, native_size=8, flip=False)


def _context(name: str) -> DataSource:
    train, val = (
        ArrayImages(*draw_context(count, seed, random_labels=name == "context-random"))
        for count, seed in ((2400, 0), (600, 1))
    )
    return DataSource(name, CLASSES, train, val, None, native_size=SIDE, flip=False, shift=False)


def _torchvision(name: str, root: Path, split_seed: int) -> DataSource:
    try:
        from torchvision import datasets
    except ImportError as error:
        raise DataError(f"{name} needs torchvision: {how_to_install('study')}") from error
    short = name.removeprefix("torchvision:")
    known = [each for each in datasets.__all__ if each not in _NO_DATA_SETS]
    if short not in known:
        raise DataError(f"torchvision has no data set {short!r}{did_you_mean(short, known, '')}")
    kind = getattr(datasets, short)
    parameters = inspect.signature(kind).parameters
    needed = [p.name for p in parameters.values() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if more := [each for each in needed if each not in ("root", "split", "train")]:
        raise DataError(
            f"torchvision's {short} needs {', '.join(more)} too: make two in Python, to train on and to measure on"
        )
    choices: dict[str, list[dict[str, Any]]]
    if "train" in parameters:
        choices = {"train": [{"train": True}], "test": [{"train": False}]}
    elif "split" in parameters:
        names = {"train": ("train", "trainval"), "val": ("val", "valid"), "test": ("test",)}
        choices = {split: [{"split": s} for s in options] for split, options in names.items()}
    else:
        choices = {"all": [{}]}
    sets = {}
    with alone(cache_folder() / f"{short}.lock"):  # the processes of a training all come here, and one downloads
        for split, options in choices.items():
            for option in options:
                dataset = _made(kind, root, option, "download" in parameters)
                if dataset is not None:
                    sets[split] = dataset
                    break
    if not sets:
        raise DataError(f"torchvision's {short} has no split that we know to train or to measure on")
    labels = {split: _labels(dataset, short) for split, dataset in sets.items()}
    count = max(max(each) for each in labels.values()) + 1
    classes = class_names(next(iter(sets.values())), count)
    if len(classes) != count:
        classes = tuple(map(str, range(count)))
    splits: Mapping[str, Images] = {s: TorchvisionImages(dataset, labels[s]) for s, dataset in sets.items()}
    sizes = {splits[next(iter(splits))].load(index).size for index in (0, -1)}
    splits = _with_held_out(splits, classes, split_seed)
    return DataSource(name, classes, *_in_order(splits), native_size=side_of(sizes), flip=keeps_class_mirrored(short))


def _made(kind: Any, root: Path, option: dict[str, Any], can_download: bool) -> Any | None:
    """One split of a data set, downloaded if missing; None if it has no such split."""
    takes_root = "root" in inspect.signature(kind).parameters
    arguments: dict[str, Any] = {"root": root, **option} if takes_root else option
    try:
        return kind(**arguments)
    except ValueError as error:
        if "split" in option and "Unknown value" in str(error):
            return None
        raise DataError(f"torchvision's {kind.__name__} cannot be opened: {error}") from error
    except (RuntimeError, OSError, ImportError) as error:
        if not can_download or isinstance(error, ImportError):
            raise DataError(f"torchvision's {kind.__name__} is not in {root} as it expects: {error}") from error
    try:
        root.mkdir(parents=True, exist_ok=True)
        return kind(**arguments, download=True)
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"torchvision's {kind.__name__} is not in {root} and could not be downloaded ({error}): "
            "put it there, name its folder with data_root, or go online"
        ) from error


def _labels(dataset: Any, name: str) -> list[int]:
    for attribute in ("targets", "labels", "_labels", "y"):
        values = getattr(dataset, attribute, None)
        if values is not None and len(values) == len(dataset):
            break
    else:
        values = [dataset[index][1] for index in range(len(dataset))]
    try:
        return [int(value) for value in values]
    except (RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"torchvision's {name} is not for classification: its labels are not classes") from error
