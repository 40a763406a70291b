"""A table of PyTorch's elementwise nonlinearities, for all code that classifies operations.

Recorded runs, graphs for inference and ONNX graphs name the same functions differently.
"""

from __future__ import annotations

import dataclasses

__all__ = ["ACTIVATIONS", "SOFTMAXES", "Activation"]


@dataclasses.dataclass(frozen=True, slots=True)
class Activation:
    """One activation and its names.

    Attributes:
        op: the ATen operation, without overload and in-place suffix.
        onnx: the single ONNX operator that computes it; empty if there is none.
        native: its number in `fused/passes/c/excitation.c`; 0 if the compiled excitation lacks it.
        overwrites: whether `optimize` may let it overwrite its operand.
        unary: whether its output depends on one tensor's elements only, without other tensors or random numbers.
    """

    op: str
    onnx: str = ""
    native: int = 0
    overwrites: bool = False
    unary: bool = True


ACTIVATIONS = (
    Activation("relu", "Relu", native=1, overwrites=True),
    Activation("relu6"),
    Activation("hardtanh", "Clip", overwrites=True),
    Activation("clamp", "Clip"),
    Activation("clamp_min"),
    Activation("threshold"),
    Activation("leaky_relu", "LeakyRelu", overwrites=True),
    Activation("_prelu_kernel", unary=False),
    Activation("prelu", unary=False),
    Activation("rrelu", unary=False),
    Activation("rrelu_with_noise", unary=False),
    Activation("elu", "Elu"),
    Activation("celu"),
    Activation("selu"),
    Activation("gelu", "Gelu"),
    Activation("silu", native=4, overwrites=True),
    Activation("mish", "Mish"),
    Activation("hardswish", "HardSwish", native=5, overwrites=True),
    Activation("sigmoid", "Sigmoid", native=2),
    Activation("hardsigmoid", "HardSigmoid", native=3),
    Activation("log_sigmoid_forward", unary=False),
    Activation("tanh", "Tanh", native=6),
    Activation("softplus"),
    Activation("sin"),
    Activation("hardshrink"),
    Activation("softshrink"),
    Activation("glu", unary=False),
)

SOFTMAXES = ("_softmax", "_log_softmax")
"""Nonlinear along a dimension, not elementwise."""
