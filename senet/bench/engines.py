"""The engines: each turns a network's inference form into a function that runs one batch to completion."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from senet.bench import devices
from senet.export.formats import FORMATS, openvino_model, quantized
from senet.export.runtimes import OnnxRuntime, OpenVino
from senet.export.tracing import trace
from senet.fused.passes.pointers import LAST

__all__ = ["inference"]

Run = Callable[[], object]


def inference(engine: str, form: nn.Module, x: Tensor) -> Run:
    """A function that runs `form` on `x` in an engine of `cases.ENGINES`; the engine may convert the form in place.

    Args:
        engine: the engine's name.
        form: the network, in eval mode on the CPU in float32.
        x: the input, (N, C, *space) float32.
    """
    makers: dict[str, Callable[[nn.Module, Tensor], Run]] = {
        "eager": lambda form, x: _eager(form, x, torch.contiguous_format),
        "channels-last": lambda form, x: _eager(form, x, _channels_last(x)),
        "bf16": lambda form, x: _eager(form.to(torch.bfloat16), x.to(torch.bfloat16), _channels_last(x)),
        "compile": _compiled,
        "onnxruntime": _onnxruntime,
        "openvino": lambda form, x: _openvino(form, x, "f32"),
        "openvino-bf16": lambda form, x: _openvino(form, x, "bf16"),
        "openvino-int8": _int8,
        "executorch": devices.executorch,
        "litert": devices.litert,
        "ncnn": devices.ncnn,
        "cuda": lambda form, x: _cuda(form, x, compiled=False),
        "cuda-compile": lambda form, x: _cuda(form, x, compiled=True),
    }
    return makers[engine](form, x)


def _channels_last(x: Tensor) -> torch.memory_format:
    return LAST.get(x.dim(), torch.contiguous_format)


def _eager(form: nn.Module, x: Tensor, layout: torch.memory_format) -> Run:
    form, x = form.to(memory_format=layout), x.to(memory_format=layout)

    def run() -> object:
        with torch.inference_mode():
            return form(x)

    return run


def _compiled(form: nn.Module, x: Tensor) -> Run:
    torch._dynamo.reset()
    compiled = torch.compile(form, dynamic=False, options={"freezing": True})

    def run() -> object:
        with torch.no_grad():
            return compiled(x)

    return run


def _onnxruntime(form: nn.Module, x: Tensor) -> Run:
    kind = FORMATS[".onnx"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        kind.write(trace(form, x), {}, [path])
        network = OnnxRuntime(path)
    return lambda: network(x)


def _openvino(form: nn.Module, x: Tensor, precision: str) -> Run:
    network = OpenVino(_static(openvino_model(trace(form, x), {}), x), precision=precision)
    return lambda: network(x)


def _int8(form: nn.Module, x: Tensor) -> Run:
    model = quantized(openvino_model(trace(form, x), {}), [x[:1]] * 4)  # the ranges do not affect the time
    network = OpenVino(_static(model, x))
    return lambda: network(x)


def _static(model: Any, x: Tensor) -> Any:
    """The model specialised to this batch size, as for serving."""
    model.reshape(list(x.shape))
    return model


def _cuda(form: nn.Module, x: Tensor, *, compiled: bool) -> Run:
    network: Any = form.to("cuda", torch.bfloat16).to(memory_format=_channels_last(x))
    given = x.to("cuda", torch.bfloat16).to(memory_format=_channels_last(x))
    if compiled:
        torch._dynamo.reset()
        network = torch.compile(network, dynamic=False, options={"freezing": True})

    def run() -> None:
        with torch.no_grad():
            network(given)
        torch.cuda.synchronize()

    return run
