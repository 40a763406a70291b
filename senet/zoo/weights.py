"""Read published weights, running nothing that is in the file, and load them into a network that they fit.

The one dialect so far is a state dict with the network's own keys. Another one is a function from the tensors of
a file to such a state dict, applied in `read_weights`.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from senet import fileformat
from senet.block import SEBlock, _to_linear_form
from senet.fileformat import WeightsError
from senet.insertion import inserted
from senet.zoo.fit import Difference, classes_in, compare, head_of

__all__ = ["LoadReport", "WeightsError", "classes_in", "load_tensors", "load_weights", "read_weights"]

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_WRAPPERS = ("state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")  # DataParallel's and torch.compile's


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did.

    Attributes:
        source: the file.
        tensors: how many were loaded.
        classes: the number of classes that the file's classifier has; None where no classifier was recognised.
        fresh: the layers of the classifier that the file has in another size and that start fresh.
        without_se: the inserted SE blocks that the file has nothing for and that stay as they were.
        notes: both in words, a sentence each.
    """

    source: str
    tensors: int
    classes: int | None
    fresh: tuple[str, ...]
    without_se: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join((f"{self.source}: {self.tensors} tensors loaded", *self.notes))


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a `.safetensors`, `.pth` or `.pt` file, on the CPU; where possible mapped, not copied.

    Which of them it is, the file's content decides. A `.pth` is read with `weights_only=True`: nothing in it is
    run. A state dict inside {"state_dict": ...} or {"model": ...} is found there; the prefix that DataParallel or
    torch.compile put before every key is taken off.

    Raises:
        WeightsError: where the file is missing, truncated, damaged, holds more than tensors (a whole pickled
            model, code) or unpacks to more than its size.
    """
    file = Path(path)
    if not file.exists():
        raise WeightsError(f"{file} does not exist; weights are a .safetensors, .pth or .pt file")
    if not file.is_file():
        raise WeightsError(f"{file} is not a file; weights are a .safetensors, .pth or .pt file")
    try:
        with file.open("rb") as stream:
            start = stream.read(64)
    except OSError as error:
        raise WeightsError(f"{file} cannot be read: {error.strerror}") from error
    if start[8:9] == b"{":
        tensors, header = fileformat.read(file)
        return tensors if header is not None else _without_prefix(tensors)
    if start.startswith(_ZIP):
        _check_zip(file)
    elif not start.startswith(_PICKLE):
        found = f"begins with {start[:24]!r}" if start else "is empty"
        raise WeightsError(
            f"{file} {found}: neither a .safetensors file nor one that torch.save wrote; fetch or write it again"
        )
    return _without_prefix(_tensors(_unpickled(file, mapped=start.startswith(_ZIP)), file))


def load_weights(model: nn.Module, path: str | os.PathLike[str], *, head: str = "replace") -> LoadReport:
    """Load the weights of `path` into `model`, in place; either all of them fit or the model stays as it was.

    Args:
        model: the network; inserted SE blocks that the file has nothing for stay as they are.
        path: what `read_weights` reads, or a file written by `save`.
        head: "replace": where the file's classifier has another number of classes, the model's stays as it is;
            "strict": that is an error.

    Raises:
        WeightsError: where the file cannot be read; where it is of another network, with the first keys that
            differ and their shapes.
    """
    return load_tensors(model, read_weights(path), str(path), head=head)


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], source: str, *, head: str = "replace") -> LoadReport:
    """`load_weights` of tensors that are read already; `source` is what messages call them."""
    if head not in ("replace", "strict"):
        raise ValueError(f"head is 'replace' or 'strict', not {head!r}")
    tensors = _own_names(model, tensors)
    found = head_of(model, tensors) if head == "replace" else None
    without_se = _se_without_tensors(model, tensors)
    spared = [key for key in model.state_dict() if key.startswith(tuple(f"{name}." for name in without_se))]
    counters = [key for key in model.state_dict() if key.endswith(".num_batches_tracked") and key not in tensors]
    fresh = () if found is None else found.keys
    rest = compare(model, tensors).without([*spared, *counters, *fresh])
    if rest:
        raise WeightsError(
            f"{source} does not fit this {type(model).__name__}, which stays as it was: {rest}{_hint(rest)}"
        )
    model.load_state_dict(model.state_dict() | {k: v for k, v in tensors.items() if k not in fresh})
    notes = []
    if found is not None:
        notes += [
            f"{layer}: {found.classes} classes in the file, {found.wanted} wanted: starts fresh"
            for layer in found.layers
        ]
    if without_se:
        notes.append(f"{len(without_se)} SE blocks are not in the file and stay as they were: {_some(without_se)}")
    return LoadReport(
        source=source,
        tensors=len(tensors) - len(fresh),
        classes=classes_in(tensors, model),
        fresh=() if found is None else found.layers,
        without_se=without_se,
        notes=tuple(notes),
    )


def _own_names(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names that the SE blocks of `model` give them; SEBlock reads two forms."""
    named = dict(tensors)
    for name, module in model.named_modules():
        if isinstance(module, SEBlock):
            _to_linear_form(named, f"{name}." if name else "", module.scale)
    return named


def _se_without_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The inserted SE blocks that `tensors` has nothing at all for."""
    holders = inserted(model).keys()
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, SEBlock) and name.rpartition(".")[0] in holders
    ]
    return tuple(name for name in names if not any(key.startswith(f"{name}.") for key in tensors))


def _hint(rest: Difference) -> str:
    if rest.unexpected and all(".se." in key for key in rest.unexpected) and not rest.mismatched:
        return ". The file has SE, the network has none: insert it first, or use senet.load for a file of senet.save"
    return ""


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _check_zip(file: Path) -> None:
    """Refuse what torch.save never writes: compressed entries, and more bytes in them than in the file."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise WeightsError(f"{file} is truncated or damaged ({error}); fetch or write it again") from error
    unpacked = sum(entry.file_size for entry in entries)
    if any(entry.filename.endswith("constants.pkl") for entry in entries):
        raise WeightsError(f"{file} is a TorchScript program, not weights: save its state_dict() and load that")
    if unpacked > file.stat().st_size or any(entry.compress_type for entry in entries):
        raise WeightsError(
            f"{file} is compressed ({file.stat().st_size} bytes that unpack to {unpacked}), which torch.save never "
            f"does: it is refused. Load it where you trust it, and save its state_dict() again"
        )


def _unpickled(file: Path, *, mapped: bool) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickle protocols; what cannot be read is an error below
            if file.suffix == ".safetensors":  # torch.load would go by the name
                with file.open("rb") as stream:
                    return torch.load(stream, map_location="cpu", weights_only=True)
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" (it asks for {asked[1]})" if asked else ""
        raise WeightsError(
            f"{file} is refused: it holds more than tensors{what}, and to load that may run code. "
            f"Save model.state_dict() alone, best as a .safetensors file"
        ) from error
    except Exception as error:  # a damaged file fails in any part of the unpickler
        raise WeightsError(
            f"{file} is truncated or damaged ({type(error).__name__}: {error}); fetch or write it again"
        ) from error


def _tensors(loaded: object, file: Path) -> dict[str, Tensor]:
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{file} holds a {type(loaded).__name__}, not a state dict of tensors")
    if not loaded:
        raise WeightsError(f"{file} holds no tensors")
    for key, value in loaded.items():
        if not isinstance(key, str):
            raise WeightsError(f"{file} holds no state dict: its key {key!r} is no name")
        if not isinstance(value, Tensor):
            raise WeightsError(
                f"{file}: {key!r} is a {type(value).__name__}, not a tensor; the state dict is looked for at the top, "
                f"and under {' and '.join(map(repr, _WRAPPERS))}"
            )
    return {key: value.detach() for key, value in loaded.items()}


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while tensors and (prefix := next((p for p in _PREFIXES if all(k.startswith(p) for k in tensors)), None)):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors
