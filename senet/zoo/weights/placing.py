"""Insert SE into a plain network to match a state dict, `torch.save(se.state_dict())` from a user's own loop."""

from __future__ import annotations

import contextlib
import dataclasses

from torch import Tensor, nn

from senet.block import SESpec
from senet.errors import WeightsError
from senet.insertion import InsertionError, Site, attach, sites
from senet.words import counted, listed
from senet.zoo.weights.adapt import spec_like
from senet.zoo.weights.dialects import ENDS, SENET, SELayers, se_layers
from senet.zoo.weights.reading import WeightsFile

__all__ = ["place_se"]

_PLACEMENTS = ("standard", "post", "pre", "identity", "inner")
_KNOBS = ("squeeze", "gate")


def place_se(model: nn.Module, file: WeightsFile, example: Tensor, asked: SESpec | None = None) -> str:
    """Join the SE blocks of `file` that `model` lacks.

    A state dict says where a block is, how wide it is, and whether its layers have biases. What it squeezes by, and
    which gate it has, only `torch.save(se.state_dict())` says: elsewhere they are those of `asked`.

    Args:
        model: the plain network, changed in place.
        file: a file with only tensors.
        example: an input of the network, to find its sites.
        asked: the SE with which the network was trained; None means the default mean and sigmoid.

    Returns:
        What was joined, in words; "" if the file has no SE of ours that the network lacks.

    Raises:
        WeightsError: the file's SE is at none of the network's sites, or differs from the requested SE.
    """
    if file.dialect is not SENET:
        return ""
    tensors, _ = file.named_for(model)
    state = model.state_dict()
    held = {_host(name): layers for name, layers in se_layers(tensors).items() if f"{name}.fc1.weight" not in state}
    if not held:
        return ""
    found, placement = _sites_for(model, held, example, file.source)
    spec = dataclasses.replace(asked or SESpec(), placement=placement)
    kinds = {_host(name): kind for name, kind in file.kinds_for(model).items() if name.endswith(ENDS)}
    joined = {name: spec_like(spec, layers, kinds.get(name)) for name, layers in held.items()}
    if asked is not None:
        _check_asked(asked, placement, held, joined, file.source)
    for name, own in joined.items():
        attach(model, found[name], own)
    squeezes, gates = (" and ".join({getattr(own, knob): 0 for own in joined.values()}) for knob in _KNOBS)
    said = (
        f"{counted(len(held), 'SE block')} of {file.source} joined ({placement} placement), with {squeezes} squeeze "
        f"and {gates} gate"
    )
    if held.keys() <= kinds.keys():
        return f"{said}, as the file says"
    if asked is not None:
        return f"{said}, as asked for"
    typed = "senet insert --model NETWORK --weights FILE --squeeze KIND --gate KIND --out se.safetensors"
    return (
        f"{said}: the file does not say which. Where it was trained with others, write a file that says so ({typed}; "
        "in Python load it into senet.insert(model, example, SESpec(...)), and senet.save that)"
    )


def _host(block: str) -> str:
    """The module that holds an inserted block."""
    return block.rpartition(".")[0]


# A default may not have been requested, so the file's value applies.
def _check_asked(
    asked: SESpec, placement: str, held: dict[str, SELayers], joined: dict[str, SESpec], source: str
) -> None:
    """Refuse a spec that differs from the file's."""
    usual = SESpec()
    wrong: dict[str, object] = {}
    if asked.placement not in (usual.placement, placement):
        wrong["placement"] = placement
    if asked.bias and not all(layers.bias for layers in held.values()):
        wrong["bias"] = False
    for knob in ("reduction_ratio", "width", "least_width", "squeeze", "gate"):
        own = next((spec for spec in joined.values() if getattr(spec, knob) != getattr(asked, knob)), None)
        if own is not None and getattr(asked, knob) != getattr(usual, knob):
            wrong[knob] = getattr(own, knob)
    for knob, value in wrong.items():
        raise WeightsError(
            f"{source} has SE with {knob}={value!r}, and {knob}={getattr(asked, knob)!r} was asked for: leave {knob} "
            "out, and the file's is taken"
        )


def _sites_for(
    model: nn.Module, held: dict[str, SELayers], example: Tensor, source: str
) -> tuple[dict[str, Site], str]:
    """The sites, by name, of the placement that contains all of the file's blocks."""
    for placement in _PLACEMENTS:
        with contextlib.suppress(InsertionError):
            found = {site.name: site for site in sites(model, example, placement=placement)}
            if all(name in found and found[name].channels == layers.channels for name, layers in held.items()):
                return found, placement
    raise WeightsError(
        f"{source} has SE at {listed(list(held), 3)}, where this {type(model).__name__} has no place for it: "
        "give the network that it was inserted into, or a file that senet.save wrote"
    )
