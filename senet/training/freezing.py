"""Train only SE in a network that is otherwise fixed."""

from __future__ import annotations

from torch import nn

from senet.errors import StudyError
from senet.insertion.staying.joined import attached

__all__ = ["freeze_plain"]


def freeze_plain(network: nn.Module, classes: int) -> None:
    """Freeze everything but inserted SE and the classifier, in place.

    The classifier is also trained in the plain network: it is usually fresh, and otherwise nothing
    would be trainable there.

    Raises:
        StudyError: no last layer has that many outputs.
    """
    heads = [module for module in network.modules() if _outputs(module) == classes]
    if not heads:
        raise StudyError(f"freeze='plain' trains SE and the classifier, and no layer here has {classes} outputs")
    network.requires_grad_(False)
    for module in (heads[-1], *(module.get_submodule(found.child) for _, module, found in attached(network))):
        module.requires_grad_(True)


def _outputs(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, nn.Conv2d) else None
