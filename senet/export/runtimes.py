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
from senet.extras import extra
from senet.inference.capture import tensors_of
from senet.inference.shapes import Shapes
from senet.running import describe
from senet.words import counted

__all__ = ["OnnxRuntime", "OpenVino", "Runtime", "computes_in_bf16", "openvino_core"]


_SHARED = 1 << 16  # bytes


class Runtime(nn.Module):
    """A runnable exported network.

    Its output is a tensor, or a tuple of several.

    Attributes:
        metadata: the strings in its file.
        ports: the names of its input tensors, in order.
    """

    engine = "PyTorch"
    metadata: Mapping[str, str]
    ports: Sequence[str] = ()

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


def _arrays(tensors: Iterable[Tensor]) -> list[Any]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


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
        self._path, self._threads = os.fspath(path), threads or torch.get_num_threads()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3  # errors
        # busy-waiting threads would slow down whatever runs next
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with reported(f"{self.engine} does not read {path}", "export it again"):
            self._session = runtime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])
        self.metadata = {  # in ONNX's metadata_props, where other tools write too
            name.removeprefix(f"{FIRST}."): text
            for name, text in self._session.get_modelmeta().custom_metadata_map.items()
            if name.startswith(f"{FIRST}.")
        }
        self.ports = [given.name for given in self._session.get_inputs()]

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
        path = os.fspath(network) if isinstance(network, str | Path) else ""
        with reported(f"{self.engine} does not read {path or 'this network'}", "export it again"):
            self._model = core.read_model(path) if path else network
            self.metadata = _rt_info(self._model)
            self._compile()
        self.ports = [str(index) for index, _ in enumerate(self._model.inputs)]
        self._fitting: set[tuple[tuple[int, ...], ...]] = set()

    def _compile(self) -> None:
        self._compiled = openvino_core().compile_model(self._model, "CPU", self._settings)
        self._request = self._compiled.create_infer_request()

    # With one thread, OpenVINO 2026.4 does not raise if a size does not fit inside the network: it
    # returns stale output memory, and crashes at a later call. Its own check of sizes does raise.
    def _check_sizes(self, sizes: tuple[tuple[int, ...], ...]) -> None:
        if sizes not in self._fitting:
            for port, given in zip(self._model.inputs, sizes, strict=True):
                # `reshape` below would take another number in place of the file's, and the compiled network would not.
                wanted = [None if side.is_dynamic else side.get_length() for side in port.partial_shape]
                if len(wanted) != len(given) or any(w not in (None, g) for w, g in zip(wanted, given, strict=True)):
                    words = ", ".join("any" if side is None else str(side) for side in wanted)
                    raise InputError(f"this file takes {port.any_name} of shape ({words}), not {given}")
            if any(port.partial_shape.is_dynamic for port in self._model.inputs):
                model = self._model.clone()
                model.reshape(dict(zip(model.inputs, map(list, sizes), strict=True)))
                for was, now in zip(self._model.outputs, model.outputs, strict=True):
                    # OpenVINO's kernels end the process at a later call.
                    if was.partial_shape.rank.is_dynamic or was.partial_shape.rank != now.partial_shape.rank:
                        raise InputError("the number of an output's dimensions depends on the input's size")
            self._fitting.add(sizes)

    def _infer(self, arrays: list[Any]) -> list[Any]:
        self._check_sizes(tuple(array.shape for array in arrays))
        shared = all(array.nbytes >= _SHARED for array in arrays)  # kernels may read past the end of a small array
        try:
            found = self._request.infer(arrays, share_inputs=shared, share_outputs=False)
        except BaseException:
            self._compile()  # a failed request fails again, or returns an earlier call's output
            raise
        return [found[output] for output in self._compiled.outputs]


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
