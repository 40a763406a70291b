"""Exported networks as they run: ONNX Runtime's, OpenVINO's and PyTorch's, each called with tensors."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from senet.errors import InputError
from senet.export.converting import reported
from senet.export.description import FIRST
from senet.extras import extra
from senet.inference.shapes import Shapes
from senet.running import as_call, describe
from senet.words import counted

__all__ = ["OnnxRuntime", "OpenVino", "Runtime", "computes_in_bf16", "openvino_core"]


_SHARED = 1 << 16  # bytes


class Runtime(nn.Module):
    """An exported network that runs.

    Its output is a tensor, or a tuple of them where there are several.

    Attributes:
        metadata: what its file says of it, as text.
        ports: names of the tensors that it takes, in order.
    """

    engine = "PyTorch"
    metadata: Mapping[str, str]
    ports: Sequence[str] = ()

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The network on its inputs, in the order of the file.

        Raises:
            InputError: (a ValueError) where the file is for other shapes, or takes another number of tensors.
            ExportError: (a ValueError) where the engine fails; no earlier output is given then.
        """
        self.check(inputs)
        if len(inputs) != len(self.ports):
            raise InputError(f"this file takes {counted(len(self.ports), 'tensor')}, not {len(inputs)}")
        with reported(f"{self.engine} does not run this file on {describe(inputs)}", "give what the file takes"):
            arrays = self._infer([tensor.detach().contiguous().numpy() for tensor in inputs])
        tensors = tuple(torch.from_numpy(array) for array in arrays)
        return tensors[0] if len(tensors) == 1 else tensors

    def _infer(self, arrays: list[Any]) -> list[Any]:
        raise NotImplementedError

    def check(self, inputs: Sequence[Tensor]) -> None:
        """Refuse shapes that the network was not exported for.

        Raises:
            InputError: (a ValueError) where the file says for which it was, and these are others.
        """
        if "shapes" in self.metadata:
            _shapes(self.metadata["shapes"]).check(inputs)

    def on(self, example: Any) -> Any:
        """The network on an example: its tensors, in order, whether positional or by name."""
        return self(*(leaf for leaf in pytree.tree_leaves(as_call(example)) if isinstance(leaf, Tensor)))


class OnnxRuntime(Runtime):
    """An .onnx file, run by ONNX Runtime on the CPU. Shapes: those of the network that was exported.

    Args:
        path: the file.
        threads: that work on one layer; None: as many as PyTorch has.

    Raises:
        ImportError: where onnxruntime is not installed, with the command that installs it.
    """

    engine = "ONNX Runtime"

    def __init__(self, path: str | os.PathLike[str], *, threads: int | None = None) -> None:
        super().__init__()
        runtime = extra("onnxruntime", "ship")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3  # errors
        # threads that wait busily would take the time of whatever runs next
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with reported(f"{self.engine} does not read {path}", "export it again"):
            self._session = runtime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        self.metadata = {  # ONNX's metadata_props; other tools write there too
            name.removeprefix(f"{FIRST}."): text
            for name, text in self._session.get_modelmeta().custom_metadata_map.items()
            if name.startswith(f"{FIRST}.")
        }
        self.ports = [given.name for given in self._session.get_inputs()]

    def _infer(self, arrays: list[Any]) -> list[Any]:
        found: list[Any] = self._session.run(None, dict(zip(self.ports, arrays, strict=True)))
        return found


class OpenVino(Runtime):
    """An .xml file, or a network of OpenVINO's in memory, run by OpenVINO on the CPU.

    Args:
        network: a path, or an `openvino.Model`.
        precision: what it computes in, "f32" or "bf16" (which is f32 again where not `computes_in_bf16`).
        threads: that work on one layer; None: as many as PyTorch has.

    Raises:
        ImportError: where openvino is not installed, with the command that installs it.
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

    # With one thread OpenVINO 2026.4 does not raise where a size does not fit inside the network: it gives what the
    # memory of its outputs held before, and ends the process at a later call. Its own check of sizes does raise.
    def _check_sizes(self, sizes: tuple[tuple[int, ...], ...]) -> None:
        if sizes not in self._fitting:
            if any(port.partial_shape.is_dynamic for port in self._model.inputs):
                model = self._model.clone()
                model.reshape(dict(zip(model.inputs, map(list, sizes), strict=True)))
            self._fitting.add(sizes)

    def _infer(self, arrays: list[Any]) -> list[Any]:
        self._check_sizes(tuple(array.shape for array in arrays))
        shared = all(array.nbytes >= _SHARED for array in arrays)  # kernels may read past the end of a small array
        try:
            found = self._request.infer(arrays, share_inputs=shared, share_outputs=False)
        except BaseException:
            self._compile()  # one that has failed fails again, or holds the output of an earlier call
            raise
        return [found[output] for output in self._compiled.outputs]


@functools.cache
def openvino_core() -> Any:
    """OpenVINO's Core, one for the whole process.

    Each Core gives the main thread a stack for signals of its own and, when it goes, puts back the one that it found:
    of two that go in the order in which they came, the second puts back what the first has freed, and the next signal
    ends the process. One that never goes does neither.

    Raises:
        ImportError: where openvino is not installed, with the command that installs it.
    """
    return extra("openvino", "ship").Core()


def computes_in_bf16() -> bool:
    """Whether this processor has instructions for bf16; where it has none, OpenVINO takes float32 and does not say so.

    Raises:
        ImportError: where openvino is not installed, with the command that installs it.
    """
    capabilities: list[str] = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities


@functools.lru_cache
def _shapes(text: str) -> Shapes:
    try:
        return Shapes.from_json(json.loads(text))
    except json.JSONDecodeError:
        raise InputError(f"the file's word on shapes is not JSON: {text[:200]}") from None


def _rt_info(model: Any) -> Mapping[str, str]:
    """What the file says of itself: the entries of `rt_info` below "senet"."""
    info: Mapping[str, Any] = model.rt_info
    return {name: str(getattr(value, "value", value)) for name, value in info[FIRST].items()} if FIRST in info else {}
