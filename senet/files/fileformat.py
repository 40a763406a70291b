"""The file that `save` writes: safetensors with metadata that describes its network. Nothing in it is executed.

The metadata's key "senet" is a JSON mapping. `format`, `senet` and `torch` are versions; `model`
and `options` name the network (null for one of the caller's own); `sites` lists sites with their
specs. `aliases` maps each tied tensor to the stored one, and `metadata` is the caller's own. Two
keys are optional: `pruned` (the module in place of each pruned SE block, by name) and `changed`
(the network before it was changed by hand, and where). Everything is validated as untrusted text.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from senet.errors import InputError, WeightsError
from senet.files.paths import utf8_name
from senet.words import kind_of

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
_OPTIONAL = ("pruned", "changed")  # written only if not empty, because earlier versions do not know them


@dataclasses.dataclass(frozen=True)
class Header:
    """The description of a saved file's network.

    Attributes:
        model: the network's name (`resnet20`, `torchvision:mobilenet_v2`, `net.py:build`); None for
            one of the caller's own.
        options: the builder's arguments; JSON scalars and lists of them.
        sites: the fields of the Site and the SESpec of each inserted block.
        metadata: the caller's own values.
        aliases: tied tensors: other name -> stored name.
        senet: the version of senet that wrote the file.
        torch: the version of PyTorch that wrote it.
        pruned: the pruned SE blocks, "folded" or "held", by name.
        changed: for a network that was changed after `create`: its original `network` and
            `options`, and in `modules` each changed module before and after, "" for none. `model`
            is then None.
        format: the format's version.
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

    def fields(self) -> dict[str, Any]:
        """All fields as JSON has them."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "sites": [{"site": site, "spec": spec} for site, spec in self.sites]}

    def as_json(self) -> str:
        """The JSON text of the metadata's key "senet"."""
        fields = {name: value for name, value in self.fields().items() if value or name not in _OPTIONAL}
        return json.dumps(fields, allow_nan=False)


def plain_json(value: object, where: str, *, nested: bool = True) -> Any:
    """`value` as JSON represents it (a tuple becomes a list); without `nested` only a scalar or a list of scalars.

    Raises:
        ValueError: JSON has no such value; the message has `where` and the keys down to it.
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
    """Write the tensors of a state dict, tied ones once, with `header`, whose `aliases` this fills in.

    Raises:
        ValueError: an entry is not a tensor, has no values yet, or has a kind that the format lacks.
        OSError: the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors, aliases = _stored_once(state)
    text = dataclasses.replace(header, aliases=aliases).as_json()
    try:
        save_file(tensors, path, metadata={_KEY: text})
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))  # its words for a full disk
        number = int(found[1]) if found else errno.EIO
        words = os.strerror(number) if found else str(error)
        raise OSError(number, f"cannot write into {path.parent}: {words}") from error


def read_header(path: Path) -> Header | None:
    """The header of a safetensors file, or None if `save` did not write it. The tensors are not read."""
    return _read(path, tensors=False)[1]


def read(path: Path) -> tuple[dict[str, Tensor], Header | None]:
    """The tensors of a safetensors file, tied ones under each of their names, and its header if it has ours.

    Raises:
        WeightsError: the file is truncated or damaged.
    """
    return _read(path, tensors=True)


def _read(path: Path, *, tensors: bool) -> tuple[dict[str, Tensor], Header | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with utf8_name(path) as name, safe_open(name, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(_KEY)
            keys = list(file.keys())
            header = None if text is None else _parse(text, path, frozenset(keys))
            found = {key: file.get_tensor(key) for key in keys} if tensors else {}
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is not a whole safetensors file: truncated or damaged ({error}); fetch or write it again"
        ) from error
    if header is not None and tensors:
        found |= {name: found[stored] for name, stored in header.aliases.items()}
    return found, header


def _stored_once(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors as safetensors takes them (dense, on the CPU, without shared memory), and the aliases."""
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[Any, ...], tuple[str, Tensor]] = {}  # the kept tensor's address cannot be reused
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
            dense = dense.clone()  # two views of one storage get memory of their own
        taken.add(dense.untyped_storage().data_ptr())
        stored[name] = dense
    return stored, aliases


def _check_writable(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise InputError(f"{name} is {kind_of(value)}, not a tensor; a file of weights holds only tensors")
    if nn.parameter.is_lazy(value):
        raise InputError(f"{name} has no values yet (a lazy module): run the network once, then save it")
    if value.is_meta:
        raise InputError(f"{name} is on the meta device and has no values to save")
    if hasattr(value, "full_tensor"):  # a DTensor, recognised without importing its module
        raise InputError(
            f"{name} is one part of a sharded weight (fully_shard): gather the whole by "
            f"torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict=True, load it into a "
            f"network that is not sharded, and save that"
        )
    if value.layout is not torch.strided or value.dtype not in _DTYPES:
        raise InputError(f"{name} is a {value.layout} tensor of {value.dtype}, which safetensors cannot hold")
    if hasattr(value, "__tensor_flatten__"):
        raise InputError(
            f"{name} is {kind_of(value)}, which is made of several tensors, as a quantised weight is, and safetensors "
            f"holds plain ones: save the network before it is quantised"
        )


def _parse(text: str, path: Path, keys: frozenset[str]) -> Header:
    """Parse and validate the header."""

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
