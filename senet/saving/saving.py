"""`save` and `load`: a network with its SE in one safetensors file that describes it.

Loading executes nothing from a file. The file names a network of the zoo, torchvision or timm, or
the caller supplies it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from senet.block import SESpec, hidden_width
from senet.block.made import MadeSpec, Make
from senet.errors import ChangedWarning, InputError, InputTypeError, WeightsError
from senet.files import fileformat
from senet.files.atomic import atomic_write
from senet.files.fileformat import Header, plain_json
from senet.files.hub import fetched, is_on_hub
from senet.files.paths import expanded
from senet.insertion import InsertionError, Site, attach, inserted, tell_of_lost
from senet.insertion.joining.attach import detach_all
from senet.insertion.joining.constant import pruned, replace
from senet.insertion.staying.joined import attached
from senet.insertion.staying.wrapped import named_outside, outside, unwrapped
from senet.running import copy_of, devices_of, set_training
from senet.saving.bounded import TooLargeError, bounded, check_sizes, numbers_in
from senet.saving.made import Spec, described, with_makers
from senet.words import counted, kind_of, with_article
from senet.zoo.names.naming import SAVED, changed_since, mark, origin, resolve
from senet.zoo.names.sources import FileSource
from senet.zoo.names.structure import alike, difference, structure_of
from senet.zoo.weights.compatibility import compare
from senet.zoo.weights.load import note_preprocessing, noted_preprocessing, say_not_finite

__all__ = ["load", "read_metadata", "save", "write_network"]

_MOST_CHANGES = 100  # that a file lists


def save(model: nn.Module, path: str | os.PathLike[str], *, metadata: Mapping[str, Any] | None = None) -> None:
    """Write `model`, with its SE, to one safetensors file that `load` can read.

    If `create` made the network, the file has its name and options. It lists the sites of the
    inserted SE, each with a SESpec of the block's present sizes, squeeze and gate. For a made block
    it has the names of the maker and the class, but no code.

    It holds every tensor of the state dict in its dtype, tied tensors once. Memory format, device
    and `requires_grad` are not saved. A network in DistributedDataParallel,
    AveragedModel, torch.compile or Lightning Fabric is saved unwrapped, and so are parts in
    torch.compile or activation checkpointing. With FSDP2 every process calls this, and the first one writes.

    The write is atomic: if it fails or is killed, an existing file stays intact.

    Args:
        model: any network.
        path: the file; its folder exists.
        metadata: JSON values kept for the caller, such as class names; `read_metadata` returns
            them. `preprocessing` is by default that of the weights' file, if known (a
            `.caffemodel`'s is BGR).

    Raises:
        ValueError: JSON cannot hold the metadata or an option of the network, or a tensor has no
            values. Nothing is written.
        OSError: the file cannot be written.
    """
    write_network(model, path, metadata)


def write_network(
    model: nn.Module, path: str | os.PathLike[str], metadata: Mapping[str, Any] | None, *, follow: bool = True
) -> None:
    """`save`, with the choice not to `follow` a link at `path`, as in a run's folder."""
    if not isinstance(model, nn.Module):
        raise InputTypeError(f"a network to save is an nn.Module, not {type(model).__name__}")
    model = unwrapped(model)
    tell_of_lost(model)
    if metadata is not None and not isinstance(metadata, Mapping):
        raise InputError(f"metadata is a mapping, not {kind_of(metadata)}")
    known = {"preprocessing": preprocessing} if (preprocessing := noted_preprocessing(model)) else {}
    header = _header(model, plain_json({**known, **(metadata or {})}, "metadata"))
    state, writes = _gathered({outside(name): value for name, value in model.state_dict().items()})
    _check_held(model, state)
    if writes:
        with atomic_write(path, follow=follow) as temporary:
            fileformat.write(temporary, state, header)


def load(
    path: str | os.PathLike[str], model: nn.Module | None = None, *, make: Make | Mapping[str, Make] | None = None
) -> nn.Module:
    """Load the network of a file that `save` wrote, in eval mode, on the CPU or on the device of `model`.

    Args:
        path: the file, a run folder, or `hf:owner/name` on the Hugging Face Hub, optionally with
            `@revision`.
        model: the plain network that takes the file's SE and tensors. It is needed if the file
            names no network, or a `file.py:function`, since a file never makes us run code. It is
            not changed: a copy is returned. Inserted SE in it is replaced by the file's.
        make: the maker of blocks that were inserted with `make`, as in `insert`; several as a
            mapping from their names in the file. Timm's need none.

    Raises:
        WeightsError: (a ValueError) the file is missing, damaged, not written by `save`, or needs
            `model` or `make`; or its tensors, sites or blocks do not fit the network.
        ImportError: the file names a network of torchvision or timm, which is not installed.
    """
    file = _existing(path)
    tensors, header = fileformat.read(file)
    if header is None:
        raise WeightsError(_not_ours(file))
    sites = with_makers(_sites(header, tensors, file), make, file)
    network = _rebuilt(header, tensors, file) if model is None else _plain_copy(model)
    _check_changes(network, header, file)
    try:
        for site, spec in sites:
            _join(network, site, spec, file)
        for name, kind in header.pruned.items():
            gates = tensors.get(f"{name}.gates")
            replace(network, name, kind, 0 if gates is None else gates.numel())
    except InsertionError as error:
        raise WeightsError(f"{file} has SE where this {type(network).__name__} has no place: {error}") from error
    names = {outside(name): name for name in network.state_dict()}  # parts of it may be wrapped
    tensors = {names.get(name, name): tensor for name, tensor in tensors.items()}
    difference = compare(network, tensors)
    if difference:
        makers = {f"make={spec.name}" for _, spec in sites if isinstance(spec, MadeSpec)}
        with_blocks = f" with the blocks of {' and '.join(sorted(makers))}" if makers else ""
        raise WeightsError(f"{file} does not fit this {type(network).__name__}{with_blocks}: {difference}")
    say_not_finite(tensors, file)
    _fill(network, tensors)
    preprocessing = header.metadata.get("preprocessing")
    note_preprocessing(network, preprocessing if isinstance(preprocessing, dict) else {})
    return set_training(network, False)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the description in a file that `save` wrote, without its tensors.

    Returns:
        `model` and `options`: the network, None and {} if `create` did not make it; `sites`: a list
        of mappings with `site` and `spec`; `pruned`: the pruned SE blocks by name; `changed`:
        changes by hand after `create`, else {}; `metadata`: the caller's own; `senet` and `torch`:
        versions; and `format`.

    Raises:
        WeightsError: the file is missing, damaged, or not written by `save`.
    """
    file = _existing(path)
    header = fileformat.read_header(file)
    if header is None:
        raise WeightsError(_not_ours(file))
    return {name: value for name, value in header.fields().items() if name != "aliases"}


def _check_held(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Refuse a network whose SE is not in its state, since nothing could load such a file."""
    for name, _, at in attached(model):
        block = f"{outside(name)}.{at.child}.".removeprefix(".")
        if not any(key.startswith(block) for key in state):
            raise InputError(
                f"the state of this {type(model).__name__} lacks the SE that was joined to {name}: give the network "
                f"that it wraps, or, if the block was exchanged by hand, take it out by senet.remove"
            )


def _gathered(state: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The full tensors of an FSDP2-sharded state, and whether this process writes."""
    if not any(hasattr(value, "full_tensor") for value in state.values()):
        return state, True
    whole = {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in state.items()}
    return whole, torch.distributed.get_rank() == 0


def _header(model: nn.Module, metadata: dict[str, Any]) -> Header:
    from senet._version import __version__

    name, options = origin(model)
    changed = _changed(model, name, options)
    if changed:
        name, options = None, {}
    try:
        options = {key: plain_json(value, key, nested=False) for key, value in options.items()}
    except ValueError as error:
        raise InputError(
            f"{name} was made with an option that no file can name: {error}. Make it by a function of your own, "
            f"path/to/file.py:function, and load it with senet.load(path, model=...)"
        ) from None
    return Header(
        model=name,
        options=options,
        sites=tuple((dataclasses.asdict(named_outside(at)), spec.to_json()) for at, spec in inserted(model).values()),
        metadata=metadata,
        aliases={},
        pruned={outside(name): kind for name, kind in pruned(model).items()},
        changed=changed,
        senet=__version__,
        torch=torch.__version__,
    )


def _changed(model: nn.Module, name: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The header's entry for a network that was changed after `create`; also warns of it."""
    modules = changed_since(model)
    if not modules:
        return {}
    known = {"network": name, "options": {key: repr(value) for key, value in options.items()}}
    changed = {**known, "modules": {key: list(pair) for key, pair in [*modules.items()][:_MOST_CHANGES]}}
    warnings.warn(
        f"this {name} was changed after it was made: {_first_change(changed)}. Its file does not name it: load "
        f"it with senet.load(path, model=NETWORK), NETWORK changed in the same way",
        ChangedWarning,
        stacklevel=5,
    )
    return changed


def _first_change(changed: Mapping[str, Any]) -> str:
    """The first change in words."""
    (name, (was, now)), *others = changed["modules"].items()
    more = f", and {counted(len(others), 'more module')}" if others else ""
    return f"{name or 'the network itself'}: {difference(was, now)}{more}"


def _check_changes(network: nn.Module, header: Header, file: Path) -> None:
    """Check that the given network has the file's changes, since tensors do not show a stride or an activation."""
    modules = header.changed.get("modules", {})
    now = structure_of(network) if modules else {}
    for name, (_, wanted) in modules.items():
        if not alike(now.get(name, ""), wanted):
            raise WeightsError(
                f"{file} holds {header.changed.get('network')} changed by hand, and not as the network given is. "
                f"{name or 'The network itself'}: from this to that, {difference(now.get(name, ''), wanted)}"
            )


def _existing(path: str | os.PathLike[str]) -> Path:
    file = expanded(fetched(path, [SAVED]) if isinstance(path, str) and is_on_hub(path) else path)
    if file.is_dir():
        file = file / SAVED
    if not file.is_file():
        raise WeightsError(f"{file} does not exist; load takes a file that senet.save wrote, or a run folder")
    return file


def _not_ours(file: Path) -> str:
    return (
        f"{file} holds weights but does not say of which network: senet.save did not write it. Use "
        f"senet.create(NAME, weights=...) or senet.zoo.load_weights(model, ...)"
    )


def _rebuilt(header: Header, tensors: Mapping[str, Tensor], file: Path) -> nn.Module:
    """The plain network that the header names, from the zoo, torchvision or timm and nowhere else."""
    name, options = header.model, dict(header.options)
    if header.changed.get("modules"):
        raise WeightsError(
            f"{file} holds {header.changed.get('network')} that was changed after it was made: "
            f"{_first_change(header.changed)}. Make that network and give it, senet.load(path, model=...)"
        )
    if name is None:
        raise WeightsError(
            f"{file} does not say which network it is: make that and give it, senet.load(path, model=...)"
        )
    try:
        source, spec = resolve(name)
    except (ValueError, OSError) as error:
        raise WeightsError(f"{file} says that it is {name!r}, but {error}") from error
    if isinstance(source, FileSource):
        raise WeightsError(
            f"{file} says that it is {name!r} with {options}; a file never makes us run code that it names: make "
            f"the network and give it, senet.load(path, model=...)"
        )
    if spec is not None:
        raise WeightsError(f"{file} is damaged: its network is {name!r}, where a plain one should be")
    classes = options.pop("num_classes", None)
    check_sizes(numbers_in([classes, *options.values()]), tensors, file)
    try:
        # First without values: the shapes show the size that a width factor or a product of two sizes asks for.
        with contextlib.suppress(NotImplementedError, RuntimeError), bounded(tensors, file), torch.device("meta"):
            source.build(classes, options)
        with bounded(tensors, file):
            built = source.build(classes, options)
    except (ImportError, TooLargeError):
        raise
    except Exception as error:  # options that no builder accepts, and any error inside it
        words = str(error).partition("\n")[0]
        raise WeightsError(f"{file} says that it is {name!r} with {header.options}, but {words:.300}") from error
    mark(built.model, source.name, built.options)
    return built.model


def _plain_copy(model: nn.Module) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise InputTypeError(f"model is the plain network, an nn.Module, not {type(model).__name__}")
    if any(device.type == "meta" for device in devices_of(model)):
        raise WeightsError(f"this {type(model).__name__} is on the meta device, without values: make it on the CPU")
    network = copy_of(model, "make it anew")
    detach_all(network)
    return network


def _join(network: nn.Module, site: Site, spec: Spec, file: Path) -> None:
    """Join the block of a file at its site; a made block must have the class that it was saved with.

    Raises:
        InsertionError: the network has no such place.
        WeightsError: the block cannot be made, or has another class.
    """
    if not isinstance(spec, MadeSpec):
        attach(network, site, spec)
        return
    try:
        block = attach(network, site, spec)
    except InsertionError as error:
        raise WeightsError(f"{file} has a made block at {site.name}: {error}") from error
    given = spec.of(block).module
    if given != spec.module:
        raise WeightsError(
            f"{file} has {with_article(spec.module)} at {site.name}, and make={spec.name} makes {with_article(given)}"
        )


def _sites(header: Header, tensors: Mapping[str, Tensor], file: Path) -> list[tuple[Site, Spec]]:
    """The sites and specs of a header, whose blocks the tensors can fill."""
    found = [described(site, spec, file) for site, spec in header.sites]
    sizes = 0
    for site, spec in found:
        width = 0
        if isinstance(spec, SESpec):
            width = hidden_width(site.channels, spec.reduction_ratio, spec.width, spec.least_width)
        sizes += site.channels * (width + 1)
        check_sizes([sizes], tensors, file)
    return found


@torch.no_grad()
def _fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load the tensors, all of which were compared before, in the file's dtypes."""
    state = network.state_dict(keep_vars=True)
    for name, tensor in state.items():
        if isinstance(tensor, Tensor) and tensor.dtype != tensors[name].dtype:
            tensor.data = tensor.data.to(tensors[name].dtype)
    state.update(tensors)  # with the network's own versions in its metadata
    network.load_state_dict(state)  # by the modules themselves: one may have an extra state, or another form of it
