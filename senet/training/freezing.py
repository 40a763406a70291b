"""Train only SE in a network that is otherwise fixed."""

from __future__ import annotations

from torch import nn

from senet.errors import StudyError
from senet.insertion.staying.joined import attached

__all__ = ["classifier_of", "freeze_plain", "modules_in_se"]


def freeze_plain(network: nn.Module, classes: int) -> None:
    """Freeze everything but inserted SE and the classifier, in place.

    The classifier is also trained in the plain network: it is usually fresh, and otherwise nothing
    would be trainable there.

    Raises:
        StudyError: there is no classifier.
    """
    head = classifier_of(network, classes)
    network.requires_grad_(False)
    for module in (head, *modules_in_se(network)):
        module.requires_grad_(True)


def classifier_of(network: nn.Module, classes: int) -> nn.Module:
    """The classifier that `freeze="plain"` trains: the last layer outside SE with that many outputs.

    Raises:
        StudyError: no layer outside SE has that many outputs.
    """
    inside = modules_in_se(network)
    heads = [module for module in network.modules() if module not in inside and _outputs(module) == classes]
    if not heads:
        raise StudyError(f"freeze='plain' trains SE and the classifier, and no layer here has {classes} outputs")
    return heads[-1]


def modules_in_se(network: nn.Module) -> set[nn.Module]:
    """The modules of all inserted blocks."""
    return {inner for _, host, found in attached(network) for inner in host.get_submodule(found.child).modules()}


def _outputs(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, nn.Conv2d) else None
