"""SE put into a plain network as a state dict has it: `torch.save(se.state_dict())`, from a person's own loop."""

from __future__ import annotations

import contextlib

from torch import Tensor, nn

from senet.block import SESpec
from senet.errors import WeightsError
from senet.insertion import InsertionError, Site, attach, sites
from senet.words import counted
from senet.zoo.weights.adapt import spec_like
from senet.zoo.weights.dialects import SENET, SELayers, se_layers
from senet.zoo.weights.reading import WeightsFile

__all__ = ["place_se"]

_PLACEMENTS = ("standard", "post", "pre", "identity", "inner")
_END = ".se"


def place_se(model: nn.Module, file: WeightsFile, example: Tensor) -> str:
    """Join SE blocks to `model` wherever `file` has some that it has not.

    A state dict says where a block is, how wide it is, and whether its layers have biases. It does not say what it
    squeezes by, or which gate it has; the mean and the sigmoid are taken, as the default has them.

    Args:
        model: the plain network; it is changed.
        file: of tensors alone.
        example: one input that the network takes, by which its sites are found.

    Returns:
        What was joined, in words; "" where the file has no SE of ours that the network has not.

    Raises:
        WeightsError: where the file has SE at none of the network's sites.
    """
    if file.dialect is not SENET:
        return ""
    tensors, _ = file.named_for(model)
    state = model.state_dict()
    held = {
        name.removesuffix(_END): layers
        for name, layers in se_layers(tensors).items()
        if f"{name}.fc1.weight" not in state
    }
    if not held:
        return ""
    found, placement = _sites_for(model, held, example, file.source)
    for name, layers in held.items():
        attach(model, found[name], spec_like(SESpec(placement=placement), layers))
    first = spec_like(SESpec(placement=placement), next(iter(held.values())))
    return (
        f"{counted(len(held), 'SE block')} joined as {file.source} has them ({placement} placement, {first.squeeze} "
        f"squeeze, {first.gate} gate): a state dict does not say squeeze and gate, and a file of senet.save does"
    )


def _sites_for(
    model: nn.Module, held: dict[str, SELayers], example: Tensor, source: str
) -> tuple[dict[str, Site], str]:
    """The sites of the placement that all of the file's blocks are at, by name."""
    for placement in _PLACEMENTS:
        with contextlib.suppress(InsertionError):
            found = {site.name: site for site in sites(model, example, placement=placement)}
            if all(name in found and found[name].channels == layers.channels for name, layers in held.items()):
                return found, placement
    some = ", ".join(list(held)[:3])
    raise WeightsError(
        f"{source} has SE at {some}{', …' * (len(held) > 3)}, where this {type(model).__name__} has no place for it: "
        "give the network that it was inserted into, or a file that senet.save wrote"
    )
