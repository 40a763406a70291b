"""Parse the layers of a `.caffemodel`: the needed fields of Caffe's protobuf message `NetParameter`.

The file is walked field by field before anything is parsed, so a truncated or hostile one (millions
of empty layers in a few megabytes) is refused early.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import mmap
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from senet.errors import MissingPackageError, WeightsError
from senet.extras import how_to_install

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Layer", "is_caffe", "read_layers"]

_MOST_LAYERS = 5_000  # SENet-154 has about 1,100
_MOST_FIELDS = 1_000  # of one layer
_MOST_WORDS = 100_000  # bytes of a layer beside its blobs: names and settings
_OLD_LAYER, _LAYER, _BLOB = 2, 100, 7  # field numbers
_FLOAT, _INT, _BYTES, _STRING, _BOOL = "TYPE_FLOAT", "TYPE_INT32", "TYPE_BYTES", "TYPE_STRING", "TYPE_BOOL"

# message -> field -> (number, type, whether it repeats). A blob's packed floats are bytes on the
# wire, and reading them as bytes avoids copying them one by one.
_MESSAGES: Mapping[str, Mapping[str, tuple[int, str, bool]]] = MappingProxyType(
    {
        "BlobShape": {"dim": (1, "TYPE_INT64", True)},
        "BlobProto": {
            "num": (1, _INT, False),
            "channels": (2, _INT, False),
            "height": (3, _INT, False),
            "width": (4, _INT, False),
            "data": (5, _BYTES, True),
            "shape": (7, "BlobShape", False),
            "double_data": (8, _BYTES, True),
        },
        "TransformationParameter": {"scale": (1, _FLOAT, False), "mean_value": (5, _FLOAT, True)},
        "ConvolutionParameter": {"stride": (6, _INT, True), "stride_h": (13, _INT, False)},
        "PoolingParameter": {
            "pool": (1, _INT, False),
            "pad": (4, _INT, False),
            "pad_h": (9, _INT, False),
            "global_pooling": (12, _BOOL, False),
        },
        "BatchNormParameter": {"eps": (3, _FLOAT, False)},
        "EltwiseParameter": {"operation": (1, _INT, False)},
        "LayerParameter": {
            "name": (1, _STRING, False),
            "type": (2, _STRING, False),
            "bottom": (3, _STRING, True),
            "top": (4, _STRING, True),
            "blobs": (_BLOB, "BlobProto", True),
            "transform_param": (100, "TransformationParameter", False),
            "convolution_param": (106, "ConvolutionParameter", False),
            "eltwise_param": (110, "EltwiseParameter", False),
            "pooling_param": (121, "PoolingParameter", False),
            "batch_norm_param": (139, "BatchNormParameter", False),
        },
    }
)
_DEFAULTS = MappingProxyType({"eps": "1e-5", "scale": "1", "operation": "1"})
_MAX_POOLING, _SUM = 0, 1  # of Caffe's enums


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of a `.caffemodel`.

    Attributes:
        name: the layer's name, such as `conv2_1_1x1_reduce`.
        kind: `Convolution`, `BatchNorm`, `Axpy`, ...
        bottoms: the names of its inputs.
        tops: the names of its outputs; an in-place layer's output has its input's name.
        blobs: its parameters, float32 (or float64 if the file has that).
        stride: a convolution's stride.
        pooling: "max", "average" or "global" for a pooling layer, else "".
        padding: a pooling layer's padding.
        sums: whether an elementwise layer is a sum.
        eps: a batch normalisation's epsilon.
        mean: a data layer's mean of each channel, in [0, 255].
        scale: a data layer's factor after the mean.
    """

    name: str
    kind: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    blobs: tuple[Tensor, ...]
    stride: int = 1
    pooling: str = ""
    padding: int = 0
    sums: bool = False
    eps: float = 1e-5
    mean: tuple[float, ...] = ()
    scale: float = 1.0


def is_caffe(path: Path, start: bytes) -> bool:
    """Whether a file that begins with `start` is a `.caffemodel`: it has such a name, or begins like a network."""
    return path.suffix == ".caffemodel" or (start[:1] in (b"\n", b"\xa2") and b"\xa2\x06" in start)


def read_layers(path: Path, *, blobs: bool = True) -> list[Layer]:
    """Read the layers of a `.caffemodel` in order; without `blobs` parameters are skipped.

    Raises:
        WeightsError: the file is truncated, damaged, not Caffe's, or asks for more memory than it has bytes.
        ImportError: protobuf is not installed; the message has the command that installs it.
    """
    _messages()  # report a missing package before blaming the file
    layers: list[Layer] = []
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            for number, _, start, end in _fields(mapped, 0, len(mapped), _MOST_LAYERS):
                if number == _OLD_LAYER:
                    raise WeightsError(
                        f"{path} has its layers in Caffe's form of 2014: Caffe's upgrade_net_proto_binary renews them"
                    )
                if number == _LAYER:
                    layers.append(_layer(mapped, start, end, blobs=blobs))
    except WeightsError:
        raise
    except (_DamagedError, ValueError) as error:  # mapping an empty file raises a ValueError
        raise WeightsError(
            f"{path} is not a .caffemodel, or is truncated or damaged (after {len(layers)} layers: {error}); fetch or "
            f"write it again"
        ) from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from error
    if not layers:
        raise WeightsError(f"{path} holds no layers of Caffe")
    return layers


class _DamagedError(Exception):
    """The file is damaged; the message says where."""


def _fields(data: mmap.mmap, start: int, end: int, most: int) -> Iterator[tuple[int, int, int, int]]:
    """The length-delimited fields of a message: number, begin, begin of content, end."""
    position = start
    for _ in range(most):
        if position == end:
            return
        begin = position
        tag, position = _varint(data, position, end)
        kind = tag & 7
        if kind == 2:
            length, position = _varint(data, position, end)
            if length > end - position:
                raise _DamagedError(f"byte {position} begins {length} bytes where {end - position} are left")
            yield tag >> 3, begin, position, position + length
            position += length
        elif kind == 0:
            _, position = _varint(data, position, end)
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
            if position > end:
                raise _DamagedError(f"it ends within a number, at byte {end}")
        else:
            raise _DamagedError(f"byte {begin} begins no field of a message")
    if position != end:
        raise _DamagedError(f"a message of more than {most} parts")


def _varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 64:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise _DamagedError(f"no whole number at byte {position}")


def _layer(data: mmap.mmap, start: int, end: int, *, blobs: bool) -> Layer:
    settings, found, position = bytearray(), [], start
    for number, begin, first, last in _fields(data, start, end, _MOST_FIELDS):
        if number == _BLOB:
            if blobs:
                found.append(_blob(data, first, last))
            settings += data[position:begin]
            position = last
    settings += data[position:end]
    if len(settings) > _MOST_WORDS:
        raise _DamagedError(f"{len(settings)} bytes of settings in one layer")
    parsed = _parsed("LayerParameter", bytes(settings))
    pooling, convolution = parsed.pooling_param, parsed.convolution_param
    kind = "" if parsed.type != "Pooling" else ("max" if pooling.pool == _MAX_POOLING else "average")
    return Layer(
        name=parsed.name,
        kind=parsed.type,
        bottoms=tuple(parsed.bottom),
        tops=tuple(parsed.top),
        blobs=tuple(found),
        stride=max(1, convolution.stride_h, *convolution.stride),
        pooling="global" if kind and pooling.global_pooling else kind,
        padding=max(pooling.pad, pooling.pad_h),
        sums=parsed.type == "Eltwise" and parsed.eltwise_param.operation == _SUM,
        eps=parsed.batch_norm_param.eps,
        mean=tuple(parsed.transform_param.mean_value),
        scale=parsed.transform_param.scale,
    )


def _blob(data: mmap.mmap, start: int, end: int) -> Tensor:
    """The numbers of a blob in its shape."""
    for _ in _fields(data, start, end, _MOST_FIELDS):
        pass  # check that each part is complete and that there are not too many
    blob = _parsed("BlobProto", data[start:end])
    single, double = b"".join(blob.data), b"".join(blob.double_data)
    dtype = torch.float64 if double else torch.float32
    buffer = bytearray(double or single)
    if len(buffer) % dtype.itemsize:
        raise _DamagedError(f"{len(buffer)} bytes are not a whole number of {dtype}")
    legacy = (blob.num, blob.channels, blob.height, blob.width)
    shape = tuple(blob.shape.dim) if blob.HasField("shape") else legacy
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(buffer):
        raise _DamagedError(f"a blob of shape {shape[:8]} with {len(buffer) // dtype.itemsize} numbers")
    return torch.frombuffer(buffer, dtype=dtype).reshape(shape) if buffer else torch.empty(shape, dtype=dtype)


def _parsed(name: str, content: bytes) -> Any:
    message = _messages()[name]()
    try:
        message.ParseFromString(content)
    except Exception as error:  # protobuf's own error class cannot be named without importing it
        raise _DamagedError(f"no {name}: {error}") from error
    return message


@functools.cache
def _messages() -> Mapping[str, Any]:
    """The message classes, in their own pool to avoid clashes with other definitions of Caffe's messages."""
    try:
        descriptor_pb2, descriptor_pool, message_factory = (
            importlib.import_module(f"google.protobuf.{name}")
            for name in ("descriptor_pb2", "descriptor_pool", "message_factory")
        )
    except ImportError as error:
        raise MissingPackageError(f"protobuf is not installed: {how_to_install('caffe')}", name="protobuf") from error
    file = descriptor_pb2.FileDescriptorProto(name="senet/caffe.proto", package="caffe", syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, repeats) in fields.items():
            added = message.field.add(name=field, number=number, label=f"LABEL_{'REPEATED' if repeats else 'OPTIONAL'}")
            if kind.startswith("TYPE_"):
                added.type = added.Type.Value(kind)
            else:
                added.type, added.type_name = added.TYPE_MESSAGE, f".caffe.{kind}"
            if field in _DEFAULTS and not repeats:
                added.default_value = _DEFAULTS[field]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}")) for name in _MESSAGES}
