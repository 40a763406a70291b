"""Read files of weights without executing anything in them."""

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
from torch.serialization import safe_globals

from senet.block.kinds import kind_in, kinds_in
from senet.errors import WeightsError
from senet.files import fileformat
from senet.files.paths import expanded, utf8_name
from senet.words import counted, kind_of, listed
from senet.zoo.weights.caffe import preprocessing_of, read_caffe
from senet.zoo.weights.caffe_format import is_caffe
from senet.zoo.weights.containers import AVERAGED, RAW, parts_of, without_wrappers, wrapped
from senet.zoo.weights.dialects import CAFFE, ENDS, SENET, Dialect, detect, renamed, stride_of

__all__ = ["WeightsFile", "check_dense", "not_dense", "read_file", "read_preprocessing", "read_weights"]

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
FIRST = ".fc1.weight"  # keys of an SE block's tensors
_MOST_STAND_INS = 24
_KINDS = ".safetensors, .pth, .pt or .caffemodel"


@dataclasses.dataclass(frozen=True)
class WeightsFile:
    """The content of a file of weights, and what it tells of its network.

    Attributes:
        source: its name in messages.
        tensors: the tensors by the file's keys (a `.caffemodel`'s by those of its port).
        dialect: the dialect of the keys; None if unknown.
        stride: the convolution with the stride in the network's bottlenecks, "1x1", "3x3", or "" if unknown.
        caffe_pool: whether its first pooling is Caffe's, without padding and rounded up; None if unknown.
        preprocessing: its preprocessing, as values of `senet.study`'s Preprocessing; empty if unknown.
        keys: the file's keys of renamed tensors.
        notes: remarks on how the tensors were found in the file.
        left: keys of the file outside the network.
        kinds: squeeze and gate of our SE blocks, by the key of fc1's weight, if the file has them.
    """

    source: str
    tensors: dict[str, Tensor]
    dialect: Dialect | None
    stride: str = ""
    caffe_pool: bool | None = None
    preprocessing: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    kinds: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], source: str, notes: tuple[str, ...] = ()) -> WeightsFile:
        """A WeightsFile from tensors, with what they tell of their network.

        Raises:
            WeightsError: a tensor is not dense. Tensors on the meta device are allowed, for comparing shapes.
        """
        check_dense(tensors, source, values=False)
        dialect = detect(tensors)
        pool = None if dialect is None else dialect.caffe_pool
        return cls(source, dict(tensors), dialect, stride_of(dialect, tensors), pool, notes=notes)

    def fitted(self, model: nn.Module) -> WeightsFile:
        """The part of the file that matches `model` best; the whole wins ties.

        Lightning's state dict has the network under `model.`, mmpretrain's under `backbone.` and
        `head.`. There may also be a loss with its own weights, or a moving average.
        """
        state = model.state_dict().keys()

        def matched(file: WeightsFile) -> int:
            return sum(name in state for name in renamed(file.tensors, file.dialect, model))

        whole = matched(self)
        if whole >= len(self.tensors):
            return self
        found = []
        for part in parts_of(self.tensors):
            file = WeightsFile.of({name: self.tensors[key] for name, key in part.keys.items()}, self.source)
            found.append((matched(file), part, file))
        most = max(count for count, _, _ in found)
        if most == whole:
            return self
        best = [(part, file) for count, part, file in found if count == most]
        averaged = [each for each in best if each[0].averaged]
        part, file = (averaged or best)[0]
        (name, key), taken = next(iter(part.keys.items())), set(part.keys.values())
        left = tuple(each for each in self.tensors if each not in taken)
        notes = [*self.notes, f"the network is the part of the file under {key.removesuffix(name)!r}"]
        if 0 < len(averaged) < len(best):
            notes.append("the file holds raw weights and averaged ones: the averaged are taken")
        if left:
            notes.append(f"{counted(len(left), 'other tensor')} of the file left out: {listed(left, 3)}")
        kinds = {name: self.kinds[key] for name, key in part.keys.items() if key in self.kinds}
        return dataclasses.replace(file, keys=part.keys, notes=tuple(notes), left=left, kinds=kinds)

    def kinds_for(self, model: nn.Module) -> dict[str, tuple[str, str]]:
        """Squeeze and gate of the file's SE blocks, if recorded, by their names in `model`."""
        names = renamed(self.tensors, self.dialect, model)
        return {name.removesuffix(FIRST): self.kinds[key] for name, key in names.items() if key in self.kinds}

    def named_for(self, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The tensors by the names of `model`, and the file's key of each."""
        names = renamed(self.tensors, self.dialect, model)
        tensors = {name: self.tensors[key] for name, key in names.items()}
        return tensors, {name: self.keys.get(key, key) for name, key in names.items()}


def not_dense(value: Tensor) -> str:
    """Why a tensor cannot be copied into a parameter, in words; "" if it can."""
    if value.is_nested:
        return "is a nested tensor"
    if value.is_meta:
        return "is on the meta device and has no values"
    if value.layout is not torch.strided:
        return f"is a tensor of layout {str(value.layout).removeprefix('torch.')}"
    return "is quantised" if value.is_quantized else ""


def check_dense(tensors: Mapping[str, Tensor], source: str, *, values: bool = True) -> None:
    """Check that every tensor can be copied into a parameter; the meta device is allowed without `values`.

    Raises:
        WeightsError: a tensor cannot.
    """
    for key, value in tensors.items():
        if (problem := not_dense(value)) and (values or value.is_nested or not value.is_meta):
            raise WeightsError(f"{source}: {key} {problem}; weights are dense tensors with values")


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors`, `.pth`, `.pt` or `.caffemodel` file on the CPU, memory-mapped if possible.

    The content decides the format. A `.pth` is read with `weights_only=True`: nothing in it is
    executed, and other objects are left out. A state dict inside {"state_dict": ...}, {"model":
    ...} or similar is found, averaged weights first. The prefixes of DataParallel, torch.compile
    and AveragedModel are removed. The tensors of a `.caffemodel` have the keys of its port.

    Raises:
        WeightsError: the file is missing, truncated, damaged, holds more than tensors (a pickled
            model, code), or unpacks to more than its size.
        ImportError: a `.caffemodel` needs protobuf; the message has the command that installs it.
    """
    return read_file(path).tensors


def read_file(path: str | os.PathLike[str]) -> WeightsFile:
    """`read_weights` with what the file tells of its network."""
    file, start = _begun(path)
    if start[8:9] == b"{":
        tensors, header = fileformat.read(file)
        if header is not None:  # from `save`, whose header describes the keys
            how = header.metadata.get("preprocessing")
            how = how if isinstance(how, dict) else {}
            keys = {
                f"{site.get('name')}{end}{FIRST}".removeprefix("."): kind
                for site, spec in header.sites
                for end in ENDS
                if (kind := kind_in(spec)) is not None
            }
            kinds = {key: kind for key, kind in keys.items() if key in tensors}
            return WeightsFile(str(path), tensors, SENET, preprocessing=how, kinds=kinds)
        return WeightsFile.of(without_wrappers(tensors), str(path))
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
    loaded, unknown = _unpickled(file, mapped=start.startswith(_ZIP))
    tensors, kinds, note = _tensors(loaded, file, unknown)
    names = without_wrappers({key: key for key in tensors})
    whole = WeightsFile.of({name: tensors[key] for name, key in names.items()}, str(path), (note,) if note else ())
    return dataclasses.replace(whole, kinds={name: kinds[key] for name, key in names.items() if key in kinds})


def read_preprocessing(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """The preprocessing of a file's network, if its format states it; tensors are not read.

    Raises:
        WeightsError, ImportError: as in `read_weights`.
    """
    file, start = _begun(path)
    return preprocessing_of(file) if start[8:9] != b"{" and is_caffe(file, start) else {}


def _begun(path: str | os.PathLike[str]) -> tuple[Path, bytes]:
    """The file's path and its first bytes."""
    file = expanded(path)
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
    """Refuse what torch.save never writes: compressed entries, or entries larger than the file."""
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


class _StandIn:
    """An inert substitute for an object in a file that is not a tensor, such as a training's settings."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def _unpickled(file: Path, *, mapped: bool) -> tuple[object, list[str]]:
    """The file's content, and the names of other classes in it, none of which is executed.

    PyTorch's unpickler refuses unknown classes. A training's file may hold an `argparse.Namespace`
    beside the weights, so every unknown class is replaced by an inert one.
    """
    unknown: list[str] = []
    while True:
        try:
            with warnings.catch_warnings(), safe_globals([(_StandIn, name) for name in unknown]):
                warnings.simplefilter("ignore")  # of old pickle protocols; unreadable files raise an error below
                if file.suffix == ".safetensors":  # torch.load would decide by the name
                    with file.open("rb") as stream:
                        return torch.load(stream, map_location="cpu", weights_only=True), unknown
                with utf8_name(file) as name:
                    return torch.load(name, map_location="cpu", weights_only=True, mmap=mapped), unknown
        except pickle.UnpicklingError as error:
            asked = re.search(r"GLOBAL ([\w.]+)", str(error))
            if asked is None or asked[1] in unknown or len(unknown) >= _MOST_STAND_INS or "blocked" in str(error):
                raise _refused(file, [*unknown, *([asked[1]] if asked else [])]) from error
            unknown.append(asked[1])
        except Exception as error:  # a damaged file can raise any error in the unpickler
            raise WeightsError(
                f"{file} is truncated or damaged ({type(error).__name__}: {error}); fetch or write it again"
            ) from error


def _refused(file: Path, asked: list[str]) -> WeightsError:
    what = f" (it asks for {asked[-1]})" if asked else ""
    return WeightsError(
        f"{file} is refused: it holds more than tensors{what}, and loading that may run code. "
        f"Save model.state_dict() alone, best as a .safetensors file"
    )


def _tensors(
    loaded: object, file: Path, unknown: list[str]
) -> tuple[dict[str, Tensor], dict[str, tuple[str, str]], str]:
    """The state dict within what was read, the kinds of SE that it notes, and a note where it was one of several."""
    note = ""
    if isinstance(loaded, Mapping):
        loaded, note = wrapped(loaded)
    if isinstance(loaded, _StandIn):
        raise _refused(file, unknown[:1])
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{file} holds {kind_of(loaded)}, not a state dict of tensors")
    if not loaded:
        raise WeightsError(f"{file} holds no tensors")
    for key, value in loaded.items():
        if not isinstance(key, str):
            raise WeightsError(f"{file} holds no state dict: its key {key!r} is not a name")
        if isinstance(value, _StandIn):
            raise _refused(file, unknown[:1])
        if not isinstance(value, Tensor):
            raise WeightsError(
                f"{file}: {key!r} is {kind_of(value)}, not a tensor; the state dict is looked for at the top, "
                f"and under {', '.join(map(repr, (*RAW, *AVERAGED)))}"
            )
    kinds = {f"{name}{FIRST}": kind for name, kind in kinds_in(loaded).items()}
    return {key: value.detach() for key, value in loaded.items()}, kinds, note
