"""Engines for phones and boards, run on this processor: ExecuTorch, LiteRT and ncnn with their converters."""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["executorch", "executorch_program", "litert", "ncnn", "silent"]

Run = Callable[[], Any]


def executorch_program(network: nn.Module, x: Tensor) -> Any:
    """The network lowered to XNNPACK; its graph shows the number of pieces it was cut into.

    Args:
        network: the network, in eval mode on the CPU in float32.
        x: the input, (N, C, *space).
    """
    with silent():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        return to_edge_transform_and_lower(torch.export.export(network, (x,)), partitioner=[XnnpackPartitioner()])


def executorch(network: nn.Module, x: Tensor) -> Run:
    """A function that runs the network in ExecuTorch and returns its first output as a tensor."""
    program = executorch_program(network, x)
    with silent():
        from executorch.runtime import Runtime

        buffer = program.to_executorch().buffer
        loaded = Runtime.get().load_program(buffer)
        method = loaded.load_method("forward")

    def run() -> Any:
        # The program points into the buffer, and the method into the program: freeing either early crashes the process.
        _ = buffer, loaded
        return method.execute([x])[0]

    return run


def litert(network: nn.Module, x: Tensor) -> Run:
    """A function that runs the network in LiteRT with XNNPACK and returns its first output as an array."""
    with silent(), tempfile.TemporaryDirectory() as folder:
        import litert_torch
        from ai_edge_litert.interpreter import Interpreter

        path = Path(folder) / "network.tflite"
        litert_torch.convert(network, (x,)).export(str(path))
        interpreter = Interpreter(model_content=path.read_bytes(), num_threads=torch.get_num_threads())
        interpreter.allocate_tensors()
    (given,), (output, *_) = interpreter.get_input_details(), interpreter.get_output_details()
    array = x.numpy()

    def run() -> Any:
        interpreter.set_tensor(given["index"], array)
        interpreter.invoke()
        return interpreter.get_tensor(output["index"])

    return run


def ncnn(network: nn.Module, x: Tensor) -> Run:
    """A function that runs the network in ncnn, in float32 sample by sample, and returns the last output."""
    import numpy

    with silent(), tempfile.TemporaryDirectory() as folder:
        import ncnn as engine
        import pnnx

        stem = Path(folder) / "network"
        pnnx.export(network, f"{stem}.pt", x[:1], fp16=False)
        net = engine.Net()
        net.opt.num_threads = torch.get_num_threads()
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        net.opt.use_bf16_storage = False
        if net.load_param(f"{stem}.ncnn.param") or net.load_model(f"{stem}.ncnn.bin"):
            raise RuntimeError("ncnn cannot read what pnnx made of the network")
    samples = [engine.Mat(sample.numpy()).clone() for sample in x]

    def run() -> Any:
        for sample in samples:
            extractor = net.create_extractor()
            extractor.input("in0", sample)
            _, output = extractor.extract("out0")
        return numpy.array(output)

    return run


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """A context that silences standard output and error, on which converters print, some from C++."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        nowhere = stack.enter_context(Path(os.devnull).open("w"))
        # Where output goes to a file, Python keeps it back, and would write it after this context.
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        stack.enter_context(contextlib.redirect_stderr(nowhere))
        for number in (1, 2):
            kept = os.dup(number)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
            os.dup2(nowhere.fileno(), number)
        yield
