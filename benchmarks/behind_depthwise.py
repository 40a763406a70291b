"""Does SE's product cost less behind the depthwise convolution that follows it? In OpenVINO, plain and both in turn.

A gate commutes with a depthwise convolution, its bias apart: there the product could be one of the operations that an
engine appends to a convolution. Four units as in MobileNet v1 (1×1 convolution, ReLU, SE, depthwise 3×3 convolution,
ReLU):

    python benchmarks/behind_depthwise.py     # a minute, on a machine that does nothing else
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import openvino
from openvino import opset13 as ops

PLAIN, BEFORE, BEHIND = "plain", "before", "behind"
UNITS, ROUNDS, WARM_UP = 4, 40, 5
CASES = ((64, 56, 1), (256, 28, 1), (512, 14, 1), (64, 56, 16), (256, 28, 16))


def network(where: str, channels: int, side: int, batch: int) -> openvino.Model:
    """The units with SE's product at `where`; the same weights for all."""
    random = np.random.default_rng(0)

    def drawn(*shape: int) -> openvino.Node:
        return ops.constant((random.standard_normal(shape) / shape[1] ** 0.5).astype(np.float32))

    def pointwise(x: openvino.Node, outputs: int, inputs: int) -> openvino.Node:
        return ops.convolution(x, drawn(outputs, inputs, 1, 1), [1, 1], [0, 0], [0, 0], [1, 1])

    x = y = ops.parameter([batch, channels, side, side], np.float32, "x")
    for _ in range(UNITS):
        y = ops.relu(ops.add(pointwise(y, channels, channels), drawn(1, channels, 1, 1)))
        if where != PLAIN:
            squeezed = ops.reduce_mean(y, ops.constant(np.array([2, 3])), keep_dims=True)
            hidden = ops.relu(pointwise(squeezed, channels // 16, channels))
            gate = ops.sigmoid(pointwise(hidden, channels, channels // 16))
        y = ops.multiply(y, gate) if where == BEFORE else y
        y = ops.group_convolution(y, drawn(channels, 1, 1, 3, 3), [1, 1], [1, 1], [1, 1], [1, 1])
        y = ops.multiply(y, gate) if where == BEHIND else y
        y = ops.relu(ops.add(y, drawn(1, channels, 1, 1)))
    return openvino.Model([y], [x], where)


def main() -> None:
    core = openvino.Core()
    for precision in ("f32", "bf16"):
        hints = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        for channels, side, batch in CASES:
            x = np.random.default_rng(1).standard_normal((batch, channels, side, side)).astype(np.float32)
            requests = {
                where: core.compile_model(network(where, channels, side, batch), "CPU", hints).create_infer_request()
                for where in (PLAIN, BEFORE, BEHIND)
            }
            seconds: dict[str, list[float]] = {where: [] for where in requests}
            for _ in range(WARM_UP + ROUNDS):
                for where, request in requests.items():
                    begun = time.perf_counter()
                    request.infer({0: x})
                    seconds[where].append(time.perf_counter() - begun)
            ratios = {
                where: statistics.median(
                    a / b for a, b in zip(seconds[where][WARM_UP:], seconds[PLAIN][WARM_UP:], strict=True)
                )
                for where in (BEFORE, BEHIND)
            }
            words = ", ".join(f"{where} {ratio:.3f}" for where, ratio in ratios.items())
            plain = 1000 * statistics.median(seconds[PLAIN][WARM_UP:])
            print(f"{precision}, {channels} channels, {side} × {side}, batch {batch}: plain {plain:.2f} ms, {words}")


if __name__ == "__main__":
    main()
