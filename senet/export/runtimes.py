"""Run exported networks on tensors in ONNX Runtime, OpenVINO and PyTorch."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from senet.errors import InputError
from senet.export.apart import Apart
from senet.export.converting import reported
from senet.export.description import FIRST
from senet.export.outputs import known_shapes
from senet.extras import extra
from senet.files.paths import expanded
from senet.inference.capture import tensors_of
from senet.inference.shapes import Shapes, Sides
from senet.insertion.staying.wrapped import unwrapped
from senet.running import describe
from senet.words import counted, printable
from senet.zoo.weights.load import note_preprocessing

__all__ = ["RUNTIMES", "OnnxRuntime", "OpenVino", "Runtime", "computes_in_bf16", "openvino_core", "picture_of"]


_SHARED = 1 << 16  # bytes


class Runtime(nn.Module):
    """A runnable exported network.

    Its output is a tensor, or a tuple of several.

    Attributes:
        metadata: the strings in its file.
        ports: the names of its input tensors, in order.
        sides: the sides of the first of them: numbers, and names or None where any size will do.
    """

    engine = "PyTorch"
    metadata: Mapping[str, str]
    ports: Sequence[str] = ()
    sides: Sides = ()

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the network on its inputs, in the file's order.

        Raises:
            InputError: (a ValueError) the file is for other shapes, or for another number of tensors.
            ExportError: (a ValueError) the engine fails; no earlier output is returned.
        """
        self.check(inputs)
        if len(inputs) != len(self.ports):
            raise InputError(f"this file takes {counted(len(self.ports), 'tensor')}, not {len(inputs)}")
        with reported(f"{self.engine} does not run this file on {describe(inputs)}", "give what the file takes"):
            arrays = self._infer(_arrays(inputs))
        tensors = tuple(torch.from_numpy(array) for array in arrays)
        return tensors[0] if len(tensors) == 1 else tensors

    def _infer(self, arrays: list[Any]) -> list[Any]:
        raise NotImplementedError

    def _take(self, metadata: Mapping[str, str]) -> None:
        """Keep the strings of a file, and note its preprocessing, which `evaluate` and `predict` look for."""
        self.metadata = metadata
        how = _value(metadata, "preprocessing")
        note_preprocessing(self, how if isinstance(how, dict) else {})

    @property
    def classes(self) -> list[str] | None:
        """The class names in the file, one per output, if it has them."""
        names = _value(self.metadata, "classes")
        return [printable(str(name)) for name in names] if isinstance(names, list) and names else None

    def check(self, inputs: Sequence[Tensor]) -> None:
        """Refuse shapes for which the network was not exported.

        Raises:
            InputError: (a ValueError) the file states its shapes, and these differ.
        """
        if "shapes" in self.metadata:
            _shapes(self.metadata["shapes"]).check(inputs)

    def on(self, example: Any) -> Any:
        """Run the network on the tensors of an example, positional or by name, in order."""
        return self(*tensors_of(example))

    @contextlib.contextmanager
    def apart(self) -> Iterator[Callable[[Any], Any]]:
        """A context with `on` for examples on which the engine might end the process."""
        yield self.on


def _value(metadata: Mapping[str, str], name: str) -> Any:
    """A JSON value of a description; None if there is none, or its author gave another text."""
    try:
        return json.loads(metadata.get(name, "null"))
    except ValueError:
        return None


def _arrays(tensors: Iterable[Tensor]) -> list[Any]:
    return [tensor.detach().cpu().contiguous().numpy() for tensor in tensors]


class OnnxRuntime(Runtime):
    """An .onnx file, run by ONNX Runtime on the CPU. Shapes: those of the exported network.

    Args:
        path: the file.
        threads: the threads per layer; None means PyTorch's number.

    Raises:
        ImportError: onnxruntime is not installed; the message has the command that installs it.
    """

    engine = "ONNX Runtime"

    def __init__(self, path: str | os.PathLike[str], *, threads: int | None = None) -> None:
        super().__init__()
        runtime = extra("onnxruntime", "ship")
        options = runtime.SessionOptions()
        self._path, self._threads = str(expanded(path)), threads or torch.get_num_threads()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3  # errors
        # busy-waiting threads would slow down whatever runs next
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with reported(f"{self.engine} does not read {path}", "export it again"):
            self._session = runtime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])
        described = {  # in ONNX's metadata_props, where other tools write too
            name.removeprefix(f"{FIRST}."): text
            for name, text in self._session.get_modelmeta().custom_metadata_map.items()
            if name.startswith(f"{FIRST}.")
        }
        self._take(described)
        self.ports = [given.name for given in self._session.get_inputs()]
        self.sides = tuple(self._session.get_inputs()[0].shape)

    def _infer(self, arrays: list[Any]) -> list[Any]:
        found: list[Any] = self._session.run(None, dict(zip(self.ports, arrays, strict=True)))
        return found

    @contextlib.contextmanager
    def apart(self) -> Iterator[Callable[[Any], Any]]:
        """As in `Runtime`, in a process of its own."""
        child = Apart(self._path, self._threads)

        def on(example: Any) -> tuple[Tensor, ...]:
            return tuple(map(torch.from_numpy, child.infer(_arrays(tensors_of(example)))))

        with contextlib.closing(child):
            yield on


class OpenVino(Runtime):
    """An .xml file, or an `openvino.Model` in memory, run by OpenVINO on the CPU.

    Args:
        network: a path, or an `openvino.Model`.
        precision: the precision of computation, "f32" or "bf16" (which falls back to f32 unless `computes_in_bf16`).
        threads: the threads per layer; None means PyTorch's number.

    Raises:
        ImportError: openvino is not installed; the message has the command that installs it.
    """

    engine = "OpenVINO"

    def __init__(self, network: Any, *, precision: str = "f32", threads: int | None = None) -> None:
        super().__init__()
        core = openvino_core()
        self._settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        path = str(expanded(network)) if isinstance(network, str | Path) else ""
        with reported(f"{self.engine} does not read {path or 'this network'}", "export it again"):
            self._model = core.read_model(path) if path else network
            self._take(_rt_info(self._model))
            self._compile()
        self.ports = [str(index) for index, _ in enumerate(self._model.inputs)]
        self.sides = _sides(self._model.inputs[0])
        self._fitting: set[tuple[Any, ...]] = set()

    def _compile(self) -> None:
        self._compiled = openvino_core().compile_model(self._model, "CPU", self._settings)
        self._request = self._compiled.create_infer_request()

    # With one thread, OpenVINO 2026.4 does not raise if a size does not fit inside the network: it
    # returns stale output memory, and crashes at a later call. Its own check of sizes does raise. And it
    # casts what is of another type: token ids from floats, pixels that were not normalised.
    def _check_arrays(self, arrays: list[Any]) -> None:
        key = tuple((array.shape, array.dtype) for array in arrays)
        if key not in self._fitting:
            for port, array in zip(self._model.inputs, arrays, strict=True):
                # `reshape` below would take another number in place of the file's, and the compiled network would not.
                wanted, given, kind = _sides(port), array.shape, port.element_type.to_dtype()
                if len(wanted) != len(given) or any(w not in (None, g) for w, g in zip(wanted, given, strict=True)):
                    words = ", ".join("any" if side is None else str(side) for side in wanted)
                    raise InputError(f"this file takes {port.any_name} of shape ({words}), not {given}")
                if array.dtype != kind and (array.dtype.kind, kind.kind) != ("f", "f"):
                    raise InputError(f"this file takes {port.any_name} of {kind}, not {array.dtype}")
            if any(port.partial_shape.is_dynamic for port in self._model.inputs):
                model = self._model.clone()
                sizes = [list(array.shape) for array in arrays]
                model.reshape(dict(zip(model.inputs, sizes, strict=True)))
                for was, now in zip(self._model.outputs, model.outputs, strict=True):
                    # OpenVINO's kernels end the process at a later call.
                    if was.partial_shape.rank.is_dynamic or was.partial_shape.rank != now.partial_shape.rank:
                        raise InputError("the number of an output's dimensions depends on the input's size")
            self._fitting.add(key)

    def _infer(self, arrays: list[Any]) -> list[Any]:
        self._check_arrays(arrays)
        shared = all(array.nbytes >= _SHARED for array in arrays)  # kernels may read past the end of a small array
        try:
            found = self._request.infer(arrays, share_inputs=shared, share_outputs=False)
        except BaseException:
            self._compile()  # a failed request fails again, or returns an earlier call's output
            raise
        return [found[output] for output in self._compiled.outputs]


def _sides(port: Any) -> Sides:
    return tuple(None if side.is_dynamic else side.get_length() for side in port.partial_shape)


@functools.cache
def openvino_core() -> Any:
    """OpenVINO's Core, a single one per process.

    Each Core installs a signal stack for the main thread, and restores the previous one when
    destroyed. Destroying two Cores in creation order restores a freed signal stack, and the next
    signal crashes the process. So we keep one for ever.

    Raises:
        ImportError: openvino is not installed; the message has the command that installs it.
    """
    return extra("openvino", "ship").Core()


def computes_in_bf16() -> bool:
    """Whether this processor has bf16 instructions; without them OpenVINO silently computes in float32.

    Raises:
        ImportError: openvino is not installed; the message has the command that installs it.
    """
    capabilities: list[str] = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities


@functools.lru_cache
def _shapes(text: str) -> Shapes:
    try:
        return Shapes.from_json(json.loads(text))
    except json.JSONDecodeError:
        raise InputError(f"what the file says of its shapes is not JSON: {text[:200]}") from None


def _rt_info(model: Any) -> Mapping[str, str]:
    """The file's metadata: the entries of `rt_info` below "senet"."""
    info: Mapping[str, Any] = model.rt_info
    return {name: str(getattr(value, "value", value)) for name, value in info[FIRST].items()} if FIRST in info else {}


def picture_of(model: nn.Module) -> tuple[int | None, int | None]:
    """The channels and the width of the pictures that a file or an inference form takes; None where unknown or free."""
    model = unwrapped(model)
    shapes = known_shapes(model)
    sides = model.sides if isinstance(model, Runtime) else () if shapes is None else shapes.inputs[0][1]
    channels, width = (sides[1], sides[3]) if len(sides) == 4 else (None, None)
    return channels if isinstance(channels, int) else None, width if isinstance(width, int) else None


RUNTIMES: Mapping[str, type[OnnxRuntime | OpenVino]] = {".onnx": OnnxRuntime, ".xml": OpenVino}
"""The runtimes by suffix of the files that they open. Opening a foreign .pt2 may execute its content."""
