"""Find a network's class names (in a file, its run, or its library) and its library's preprocessing."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from senet.errors import WeightsError
from senet.evaluation.networks import metadata_of
from senet.files.classes import class_pairs
from senet.words import printable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from senet.data.transforms import Preprocessing
    from senet.evaluation.networks import NetworkSpec

__all__ = ["names_in", "published_classes", "published_preprocessing", "spoken", "trained_classes"]

_IMAGENET = "791ce0333040dd249d13133f90d28ef0263ffc01e5de0afd85b3e32048d7d456"
"""SHA-256 of ImageNet's 1000 identifiers in order, separated by spaces."""


def trained_classes(spec: NetworkSpec) -> list[str] | None:
    """The class names that a run saved with the network.

    Raises:
        WeightsError: the file's classes are not a list of names.
    """
    for name in spec.saved:
        if found := metadata_of(name).get("classes"):
            if not (isinstance(found, list) and all(isinstance(each, str) for each in found)):
                raise WeightsError(f"{name} is damaged: its classes are {repr(found)[:60]}, not a list of names")
            return [printable(each) for each in found]
    return None


def names_in(path: str | Path, offset: int = 0) -> dict[int, str]:
    """The name of each class index from a classes file, with `offset` added to each index.

    Raises:
        DataError: it is not such a file.
    """
    return {index + offset: name for name, index in class_pairs(path)}


def published_classes(spec: NetworkSpec, count: int) -> list[str] | None:
    """The names of the `count` classes of published torchvision or timm weights, if these give them."""
    if (weights := _of_torchvision(spec)) is not None:
        names = weights.meta.get("categories", ())
        return list(names) if len(names) == count else None
    if spec.model.startswith("timm:") and spec.weights == "pretrained":
        from timm.data import imagenet_info

        if subset := imagenet_info.infer_imagenet_subset({"num_classes": count}):  # as timm's own scripts do
            return list(imagenet_info.ImageNetInfo(subset).label_descriptions())
    return None


def published_preprocessing(spec: NetworkSpec) -> Preprocessing | None:
    """The preprocessing of published torchvision weights of a classifier of images."""
    weights = _of_torchvision(spec)
    how: Any = None if weights is None else weights.transforms()
    if type(how).__name__ != "ImageClassification":
        return None
    from senet.data.transforms import Preprocessing

    return Preprocessing(how.crop_size[0], how.resize_size[0], how.mean, how.std, how.interpolation.value)


def _of_torchvision(spec: NetworkSpec) -> Any:
    """The published weights of torchvision, known by their file's name too; None for others."""
    library, _, name = spec.model.partition(":")
    if library != "torchvision" or not spec.weights:
        return None
    from torchvision import models

    if name not in models.list_models():
        return None
    known = models.get_model_weights(name)
    if spec.weights == "pretrained":
        return known.DEFAULT
    file = spec.weights.rpartition("/")[2]  # its name ends with a digest of its content
    return next((weights for weights in known if weights.url.endswith(f"/{file}")), None)


def spoken(names: Mapping[int, str]) -> dict[int, str]:
    """The same names, with ImageNet's identifiers replaced by words: "tench" for "n01440764".

    Only the complete ordered list of 1000 identifiers counts as ImageNet. The words are torchvision's.
    """
    identifiers = [names[index] for index in sorted(names)]
    if hashlib.sha256(" ".join(identifiers).encode()).hexdigest() != _IMAGENET:
        return dict(names)
    from torchvision.models import ResNet18_Weights

    return dict(zip(sorted(names), ResNet18_Weights.IMAGENET1K_V1.meta["categories"], strict=True))
