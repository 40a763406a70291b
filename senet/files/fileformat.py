"""The file that `save` writes: safetensors whose metadata says which network it holds. Nothing in it is run.

The key "senet" of the metadata is a JSON mapping with `format`, `senet` and `torch` (versions), `model` and
`options` (which network; null for one of the caller's own), `sites` (each with its SESpec), `aliases` (tied
tensors are stored once: other name -> stored name) and `metadata` (the caller's own). Two more keys are there where
they say something: `pruned` (what stands in the place of each pruned SE block, by name), and `changed` (what a network
was before it was changed by hand, and where). All of it is checked here as what it is, a stranger's text.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from senet.errors import InputError, WeightsError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FORMAT", "Header", "WeightsError", "plain_json", "read", "read_header", "write"]

FORMAT = 1
_KEY = "senet"
_DTYPES = frozenset(
    {
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64),
        *(torch.uint64, torch.uint32, torch.uint16),
    }
)
_KINDS: Mapping[str, Any] = {
    "model": str | None,
    "options": dict,
    "sites": list,
    "metadata": dict,
    "aliases": dict,
    "senet": str,
    "torch": str,
    "pruned": dict,
    "changed": dict,
}
_OPTIONAL = ("pruned", "changed")  # written only where they say something, since earlier versions do not know them


@dataclasses.dataclass(frozen=True)
class Header:
    """What a saved file says of itself.

    Attributes:
        model: the network's name (`resnet20`, `torchvision:mobilenet_v2`, `net.py:build`), None for the
            caller's own.
        options: what it was built with; JSON scalars and lists of them.
        sites: for each inserted SE block the fields of its Site and of its SESpec.
        metadata: the caller's own.
        aliases: tied tensors, other name -> name of the stored one.
        senet: the version of this library that wrote the file.
        torch: the version of PyTorch.
        pruned: what stands in place of pruned SE blocks, "folded" or "held", by name.
        changed: of a network that was changed after `create` made it: `network` and `options`, as they were, and
            `modules`, for each that changed what it was and what it is, "" for none. `model` is then None.
        format: of this header.
    """

    model: str | None
    options: dict[str, Any]
    sites: tuple[tuple[dict[str, Any], dict[str, Any]], ...]
    metadata: dict[str, Any]
    aliases: dict[str, str]
    senet: str
    torch: str
    pruned: dict[str, str] = dataclasses.field(default_factory=dict)
    changed: dict[str, Any] = dataclasses.field(default_factory=dict)
    format: int = FORMAT

    def as_json(self) -> str:
        """The text of the metadata's key "senet"."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in _OPTIONAL:
            if not fields[name]:
                del fields[name]
        fields["sites"] = [{"site": site, "spec": spec} for site, spec in self.sites]
        return json.dumps(fields, allow_nan=False)


def plain_json(value: object, where: str, *, nested: bool = True) -> Any:
    """`value` as JSON has it (a tuple becomes a list), not `nested`: a scalar or a list of scalars.

    Raises:
        ValueError: where JSON has no such value, with `where` and the keys down to it.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, list | tuple):
        items = [plain_json(item, f"{where}[{i}]", nested=nested) for i, item in enumerate(value)]
        if nested or not any(isinstance(item, list) for item in items):
            return items
    if nested and isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InputError(f"{where} has the key {key!r}; JSON's keys are strings")
        return {key: plain_json(item, f"{where}[{key!r}]") for key, item in value.items()}
    kinds = "numbers, strings, True, False, None, and lists of these" + (", and mappings" if nested else "")
    raise InputError(f"{where} is {_short(value)}, which cannot be written as JSON ({kinds} can)")


def write(path: Path, state: Mapping[str, Any], header: Header) -> None:
    """Write the tensors of a state dict, tied ones once, with `header`, whose `aliases` are filled in here.

    Raises:
        ValueError: where an entry is no tensor, has no values yet, or is of a kind that the format has not.
        OSError: where the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors, aliases = _stored_once(state)
    text = dataclasses.replace(header, aliases=aliases).as_json()
    try:
        save_file(tensors, path, metadata={_KEY: text})
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error


def read_header(path: Path) -> Header | None:
    """The header of a safetensors file, None where `save` did not write it; the tensors are not read."""
    return _read(path, tensors=False)[1]


def read(path: Path) -> tuple[dict[str, Tensor], Header | None]:
    """Every tensor of a safetensors file, tied ones under each of their names, and its header if it has ours.

    Raises:
        WeightsError: where the file is truncated or damaged.
    """
    return _read(path, tensors=True)


def _read(path: Path, *, tensors: bool) -> tuple[dict[str, Tensor], Header | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(_KEY)
            keys = list(file.keys())
            header = None if text is None else _parse(text, path, frozenset(keys))
            found = {key: file.get_tensor(key) for key in keys} if tensors else {}
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is no whole safetensors file: truncated or damaged ({error}); fetch or write it again"
        ) from error
    if header is not None and tensors:
        found |= {name: found[stored] for name, stored in header.aliases.items()}
    return found, header


def _stored_once(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors as safetensors takes them (dense, on the CPU, no memory in common), and the aliases."""
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[Any, ...], tuple[str, Tensor]] = {}  # the tensor keeps its address from being used again
    taken: set[int] = set()
    for name, value in state.items():
        _check_writable(name, value)
        tensor = value.detach().resolve_conj().resolve_neg()
        memory = tensor.untyped_storage().data_ptr()
        place = (tensor.device, memory, tensor.storage_offset(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and place in first:
            aliases[name], _ = first[place]
            continue
        first[place] = name, tensor
        dense = tensor.to("cpu").contiguous()
        part = dense.untyped_storage().nbytes() != dense.numel() * dense.element_size()
        if part or dense.untyped_storage().data_ptr() in taken:
            dense = dense.clone()  # two views of one storage: to each memory of its own
        taken.add(dense.untyped_storage().data_ptr())
        stored[name] = dense
    return stored, aliases


def _check_writable(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise InputError(f"{name} is a {type(value).__name__}, not a tensor; a file of weights holds tensors alone")
    if nn.parameter.is_lazy(value):
        raise InputError(f"{name} has no values yet (a lazy module): run the network once, then save it")
    if value.is_meta:
        raise InputError(f"{name} is on the meta device and has no values to save")
    if hasattr(value, "full_tensor"):  # a DTensor, whose module need not be imported
        raise InputError(
            f"{name} is one part of a sharded weight (fully_shard): gather the whole by "
            f"torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict=True, load it into a "
            f"network that is not sharded, and save that"
        )
    if value.layout is not torch.strided or value.dtype not in _DTYPES:
        raise InputError(f"{name} is a {value.layout} tensor of {value.dtype}, which safetensors cannot hold")


def _parse(text: str, path: Path, keys: frozenset[str]) -> Header:
    """The header, each part of it checked to be of its kind."""

    def damaged(what: str) -> WeightsError:
        return WeightsError(f"{path}: its senet header is damaged ({what}); write the file again")

    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(f"no JSON: {error}") from None
    if not isinstance(found, dict):
        raise damaged(f"it is {_short(found)}")
    version = found.pop("format", None)
    if isinstance(version, int) and version > FORMAT:
        raise WeightsError(
            f"{path} was written by senet {_short(found.get('senet'))} in format {version}, and this one "
            f"reads format {FORMAT}: update senet"
        )
    if version != FORMAT or isinstance(version, bool):
        raise damaged(f"its format is {_short(version)}")
    for name in _OPTIONAL:
        found.setdefault(name, {})
    if found.keys() != _KINDS.keys():
        raise damaged(f"it has {_short(sorted(found))}, not {sorted(_KINDS)}")
    for name, kind in _KINDS.items():
        if not isinstance(found[name], kind):
            raise damaged(f"its {name} is {_short(found[name])}")
    for name, value in found["options"].items():
        try:
            plain_json(value, f"option {name}", nested=False)
        except ValueError as error:
            raise damaged(str(error)) from None
    for entry in found["sites"]:
        if not (isinstance(entry, dict) and entry.keys() == {"site", "spec"}):
            raise damaged(f"a site is {_short(entry)}")
        if not all(isinstance(part, dict) for part in entry.values()):
            raise damaged(f"a site is {_short(entry)}")
    for name, kind in found["pruned"].items():
        if not isinstance(kind, str):
            raise damaged(f"{name!r} is pruned as {_short(kind)}")
    modules = found["changed"].get("modules", {})
    if not isinstance(modules, dict) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        for pair in modules.values()
    ):
        raise damaged(f"what was changed is {_short(modules)}")
    for name, stored in found["aliases"].items():
        if not isinstance(stored, str) or stored not in keys or name in keys:
            raise damaged(f"{name!r} is tied to {_short(stored)}")
    sites = tuple((entry["site"], entry["spec"]) for entry in found.pop("sites"))
    return Header(**found, sites=sites)


def _short(value: object, most: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"
