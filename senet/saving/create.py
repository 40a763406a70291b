"""`create`: make a network by name, or from a file that `save` wrote."""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from senet.block import SESpec
from senet.block.made import Make
from senet.errors import ModelError
from senet.saving.saving import load
from senet.zoo.names import create as named
from senet.zoo.names.naming import is_saved, origin

__all__ = ["create"]


def create(
    name: str,
    *,
    num_classes: int = named.CLASSES,
    weights: str | os.PathLike[str] | None = None,
    spec: SESpec | None = None,
    make: Make | None = None,
    **options: Any,
) -> nn.Module:
    """Make a network by name, in training mode, as PyTorch's constructors do.

    Under `with torch.device("meta"):` it has shapes but no values, SE included, which is enough for counting.

    Args:
        name: one of these:

            - a network of the zoo: `resnet20`, or `se_resnet20` for the same with SE as the authors released it,
              with biases;
            - `torchvision:mobilenet_v2`, `timm:convnext_tiny`;
            - `path/to/file.py:function`; the file is run;
            - a file that `save` wrote, a run folder, or one of these on the Hugging Face Hub, `hf:owner/name` or
              `hf:owner/name@revision`. It is complete, so it takes no weights, spec or options.
        num_classes: the size of the classifier. The default is the weights' own, or without weights
            the network's: 1000, or the default of torchvision, timm or the function. A function
            without this parameter is called without it. A saved network keeps its own.
        weights: one of these; nothing else is ever downloaded:

            - a path: `.safetensors`, `.pth`, or the authors' `.caffemodel`, in every dialect that
              `senet.zoo.load_weights` knows;
            - "pretrained": the weights of torchvision or timm, which may be downloaded;
            - `hf:owner/name` on the Hugging Face Hub.

            If `num_classes` differs from the weights', the classifier starts fresh. The log "senet" says so.
        spec: insert SE of this kind. `start=None` means the paper's initialisation, or the identity
            start with weights of the plain network. By default the blocks of a `se_` network take
            width and biases from the weights.
        make: insert the blocks that it makes instead of SE, as `senet.insert` does; of `spec` only
            placement and start then apply. For a saved network it makes the blocks of that network.
        options: arguments for the network's builder.

    Raises:
        ModelError: there is no such network (the message names the nearest), or it refuses the options.
        WeightsError: the weights cannot be read, or are of another network.
        MissingPackageError: torchvision or timm is missing; the message is the command that installs it.
    """
    if not isinstance(name, str | os.PathLike) or not is_saved(os.fspath(name)):
        return named.create(name, num_classes=num_classes, weights=weights, spec=spec, make=make, **options)
    name = os.fspath(name)
    classes = named.requested_classes(name, num_classes)
    for what, given in (("weights", weights), ("spec", spec), *options.items()):
        if given is not None:
            raise ModelError(f"{name} is a saved network, complete with weights, SE and options; it takes no {what}=")
    model = load(name, make=make)
    network, saved = origin(model)
    if classes is not None and saved.get("num_classes", classes) != classes:
        raise ModelError(
            f"{name} has {saved['num_classes']} classes, not {classes}; for a fresh classifier on its weights "
            f"create {network!r} with weights={name!r}"
        )
    return model.train()
