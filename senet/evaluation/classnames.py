"""What the classes of a network are called: by a file, by the run that trained it, or by the library that has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from senet.data.image_folders import class_table
from senet.evaluation.networks import metadata_of
from senet.zoo.names.naming import is_saved

if TYPE_CHECKING:
    from pathlib import Path

    from senet.evaluation.networks import NetworkSpec

__all__ = ["names_in", "published_classes", "trained_classes"]


def trained_classes(arm: NetworkSpec) -> list[str] | None:
    """The class names that a run saved with the network."""
    for name in (arm.weights, arm.model):
        if name and is_saved(name) and (found := metadata_of(name).get("classes")):
            return list(found)
    return None


def names_in(path: str | Path, offset: int = 0) -> dict[int, str]:
    """The name of each class index by a classes file, `offset` added to each index.

    Raises:
        DataError: where it is no such file.
    """
    return {index + offset: name for name, index in class_table(path).items()}


def published_classes(arm: NetworkSpec, count: int) -> list[str] | None:
    """The names of the `count` classes of weights that torchvision or timm publishes, where they say them."""
    library, _, name = arm.model.partition(":")
    if library == "torchvision":
        from torchvision import models

        if name not in models.list_models():
            return None
        known = models.get_model_weights(name)
        file = (arm.weights or "").rpartition("/")[2]  # the file's name ends with a digest of its content
        for weights in known:
            chosen = weights is known.DEFAULT if arm.weights == "pretrained" else weights.url.endswith(f"/{file}")
            if file and chosen and len(weights.meta.get("categories", ())) == count:
                return list(weights.meta["categories"])
    if library == "timm" and arm.weights == "pretrained":
        from timm.data import imagenet_info

        if subset := imagenet_info.infer_imagenet_subset({"num_classes": count}):  # as timm's own programs do
            return list(imagenet_info.ImageNetInfo(subset).label_descriptions())
    return None
