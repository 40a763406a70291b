"""Read files of weights, running nothing that is in them."""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from senet.errors import WeightsError
from senet.files import fileformat
from senet.zoo.weights.caffe import preprocessing_of, read_caffe
from senet.zoo.weights.caffe_format import is_caffe
from senet.zoo.weights.dialects import CAFFE, SENET, Dialect, detect, renamed, stride_of

__all__ = ["WeightsFile", "not_dense", "read_file", "read_preprocessing", "read_weights"]

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_WRAPPERS = ("state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")  # DataParallel's and torch.compile's
_KINDS = ".safetensors, .pth, .pt or .caffemodel"


@dataclasses.dataclass(frozen=True)
class WeightsFile:
    """What a file of weights holds, and what is known of the network that they are of.

    Attributes:
        source: what messages call it.
        tensors: under the file's own keys (a `.caffemodel`'s under those of its port).
        dialect: in which they are named; None where that is not known.
        stride: where the network's bottlenecks have their stride, "1x1", "3x3", or "" where that is not known.
        caffe_pool: whether its first pooling is Caffe's, without padding and rounded up; None where not known.
        preprocessing: what its input is, in the words of `senet.study`'s Preprocessing; empty where not known.
    """

    source: str
    tensors: dict[str, Tensor]
    dialect: Dialect | None
    stride: str = ""
    caffe_pool: bool | None = None
    preprocessing: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], source: str) -> WeightsFile:
        """What tensors tell of themselves.

        Raises:
            WeightsError: where one of them is no dense tensor with values.
        """
        for key, value in tensors.items():
            if problem := not_dense(value):
                raise WeightsError(f"{source}: {key} {problem}; weights are dense tensors with values")
        dialect = detect(tensors)
        pool = None if dialect is None else dialect.caffe_pool
        return cls(source, dict(tensors), dialect, stride_of(dialect, tensors), pool)

    def named_for(self, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The tensors under the names that `model` has, and for each name the key in the file."""
        names = renamed(self.tensors, self.dialect, model)
        return {name: self.tensors[key] for name, key in names.items()}, names


def not_dense(value: Tensor) -> str:
    """What keeps a tensor from being copied into a network's parameter, in words; "" where nothing does."""
    if value.is_nested:
        return "is a nested tensor"
    if value.is_meta:
        return "is on the meta device and has no values"
    if value.layout is not torch.strided:
        return f"is a tensor of layout {str(value.layout).removeprefix('torch.')}"
    return "is quantised" if value.is_quantized else ""


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a `.safetensors`, `.pth`, `.pt` or `.caffemodel` file, on the CPU; where possible mapped.

    Which of them it is, the file's content decides. A `.pth` is read with `weights_only=True`: nothing in it is
    run. A state dict inside {"state_dict": ...} or {"model": ...} is found there; the prefix that DataParallel or
    torch.compile put before every key is taken off. The tensors of a `.caffemodel` have the keys of its port.

    Raises:
        WeightsError: where the file is missing, truncated, damaged, holds more than tensors (a whole pickled
            model, code) or unpacks to more than its size.
        ImportError: where a `.caffemodel` needs protobuf, with the command that installs it.
    """
    return read_file(path).tensors


def read_file(path: str | os.PathLike[str]) -> WeightsFile:
    """`read_weights`, with what the file tells of the network."""
    file, start = _begun(path)
    if start[8:9] == b"{":
        tensors, header = fileformat.read(file)
        if header is not None:  # of `save`: whose keys they are, it says
            return WeightsFile(str(path), tensors, SENET)
        return WeightsFile.of(_without_prefix(tensors), str(path))
    if is_caffe(file, start):
        caffe = read_caffe(file)
        return WeightsFile(str(path), caffe.tensors, CAFFE, caffe.stride or "", caffe.ceil_pool, caffe.preprocessing)
    if start.startswith(_ZIP):
        _check_zip(file)
    elif not start.startswith(_PICKLE):
        found = f"begins with {start[:24]!r}" if start else "is empty"
        raise WeightsError(
            f"{file} {found}: neither a .safetensors file nor one that torch.save wrote, nor a .caffemodel; fetch or "
            f"write it again"
        )
    loaded = _unpickled(file, mapped=start.startswith(_ZIP))
    return WeightsFile.of(_without_prefix(_tensors(loaded, file)), str(path))


def read_preprocessing(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """What the input of the network is that a file's weights are of, where the kind of file tells; tensors stay unread.

    Raises:
        WeightsError, ImportError: as `read_weights`.
    """
    file, start = _begun(path)
    return preprocessing_of(file) if start[8:9] != b"{" and is_caffe(file, start) else {}


def _begun(path: str | os.PathLike[str]) -> tuple[Path, bytes]:
    """The file, and how it begins."""
    file = Path(path)
    if not file.exists():
        raise WeightsError(f"{file} does not exist; weights are a {_KINDS} file")
    if not file.is_file():
        raise WeightsError(f"{file} is not a file; weights are a {_KINDS} file")
    try:
        with file.open("rb") as stream:
            return file, stream.read(256)
    except OSError as error:
        raise WeightsError(f"{file} cannot be read: {error.strerror}") from error


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
