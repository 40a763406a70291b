"""Networks with inputs and outputs of every kind: files for them are right, or they are refused in one line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import senet
from senet import Batched, SEBlock
from senet.errors import ExportError, InputError, OptimizeError
from senet.export.formats import FORMATS
from senet.export.runtimes import OnnxRuntime, OpenVino
from senet.running import as_call

SUFFIXES = [".onnx", ".xml", ".pt2"]


class Network(nn.Module):
    """A layer and an average, in a forward pass of the test's own."""

    def __init__(self, forward=None):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.table = nn.Embedding(10, 3)
        if forward is not None:
            self.forward = forward.__get__(self)


def example(*shape):
    return torch.randn(shape or (2, 3, 4, 4), generator=torch.Generator().manual_seed(1))


def uint8(self, x):
    return self.body(x / 255)


def integers(self, x):
    return self.body(self.table(x).permute(0, 3, 1, 2))


def matrix_first(self, w, x):
    return self.body(x) @ w


def samples_in_columns(self, x):
    return self.body(x.transpose(0, 1))


def named_like_an_input(self, x, y):
    return {"x": self.body(y), "": x + 1, "more": y + 1}


def twice(self, x):
    y = self.body(x)
    return y, y, x, y.clone(), y > 0, (y > 0).clone()


def any_number(self, *xs):
    return self.body(xs[0]) + self.body(xs[1])


def by_name(self, **xs):
    return self.body(xs["a"])


def numbers(self, x):
    return self.body(x), 3, 2.5, True, None


def named_number(self, x):
    return {"y": self.body(x), "n": 3}


CASES = {
    "uint8": (uint8, lambda n: torch.arange(48 * n).view(n, 3, 4, 4).to(torch.uint8), {}, ["output"]),
    "integers": (integers, lambda n: torch.arange(16 * n).view(n, 4, 4) % 10, {}, ["output"]),
    "matrix first": (matrix_first, lambda n: (example(4, 5), Batched(example(n, 3, 4, 4))), {}, ["output"]),
    "samples in columns": (samples_in_columns, lambda n: Batched(example(3, n, 4, 4), 1), {}, ["output"]),
    "named like an input": (
        named_like_an_input,
        lambda n: (example(n, 3, 4, 4), example(n, 3, 4, 4) + 1),
        {},
        ["x_output", "output1", "more"],
    ),
    "twice": (twice, lambda n: example(n, 3, 4, 4), {}, [f"output{i}" for i in range(6)]),
    "any number": (any_number, lambda n: (example(n, 3, 4, 4), example(n, 3, 4, 4) + 1), {}, ["output"]),
    "by name": (by_name, lambda n: {"a": example(n, 3, 4, 4)}, {}, ["output"]),
    "numbers": (numbers, lambda n: example(n, 3, 4, 4), {"output[1] = 3", "output[4] = None"}, ["output"]),
    "named number": (named_number, lambda n: example(n, 3, 4, 4), {"output['n'] = 3"}, ["y"]),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", CASES)
def test_networks_with_other_inputs_and_outputs(tmp_path, name, suffix):
    needs(suffix)
    forward, make, left_out, names = CASES[name]
    model = Network(forward).eval()
    found = senet.export(model, make(1), tmp_path / f"net{suffix}")
    assert list(found.outputs) == names
    assert all(words in found.note for words in left_out) or suffix == ".pt2"
    args, kwargs = as_call(make(3))
    file = read(tmp_path / f"net{suffix}")
    given = file(*args, **kwargs) if suffix == ".pt2" else file(*args, *kwargs.values())
    torch.testing.assert_close(tensors(given), tensors(model(*args, **kwargs)))


def tensors(output):
    return [x.detach() for x in torch.utils._pytree.tree_leaves(output) if isinstance(x, torch.Tensor)]


def needs(suffix):
    for module in FORMATS[suffix].modules:
        pytest.importorskip(module, reason="the extra 'ship' is not installed")


def read(path):
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    return (OnnxRuntime if path.suffix == ".onnx" else OpenVino)(path)


REFUSED = {
    "no samples": (None, lambda: example(0, 3, 4, 4), "a batch of no samples: give at least one"),
    "no tensor": (lambda self, x: 3, example, "the network returns 3, and a file gives tensors"),
    "unmarked": (matrix_first, lambda: (example(4, 4), example()), r"mark that one in the example: senet\.Batched"),
    "no such dimension": (None, lambda: Batched(example(), 4), "which has no such dimension"),
    "a number of the batch": (
        lambda self, x: (self.body(x), x.shape[0]),
        example,
        r"a number that depends on its input \(output\[1\]\).*return it as a tensor, or leave it out",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_file_can_hold_is_refused_in_one_line(tmp_path, name):
    needs(".onnx")
    forward, make, message = REFUSED[name]
    model = Network(forward or (lambda self, x: self.body(x))).eval()
    with pytest.raises((ExportError, InputError, OptimizeError), match=message) as caught:
        senet.export(model, make(), tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


class Counting(nn.Module):
    """A network whose output depends on how often it was called, or that counts for nothing."""

    def __init__(self, matters):
        super().__init__()
        self.body, self.matters = nn.Sequential(nn.Conv2d(3, 4, 1), SEBlock(4, 2)), matters
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.body(x) * (self.calls if self.matters else 1)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("matters", [False, True])
def test_what_a_call_leaves_for_the_next(tmp_path, suffix, matters):
    needs(suffix)
    model, x, path = Counting(matters).eval(), example(2, 3, 4, 4), tmp_path / f"net{suffix}"
    if matters and suffix != ".pt2":
        with pytest.raises(ExportError, match=r"Counting writes into calls at each call.*or write a \.pt2 file"):
            senet.export(model, x, path)
        return
    senet.export(model, x, path)
    file = read(path)
    for _ in range(2):
        torch.testing.assert_close(file(x), model(x).detach())


def test_an_optimized_network_takes_the_batch_that_the_example_marks():
    model = Network(matrix_first).eval()
    model.body.insert(1, SEBlock(4, 2))
    made = senet.optimize(model, (example(4, 5), Batched(example())))
    w, x = example(4, 5), example(7, 3, 4, 4)
    torch.testing.assert_close(made(w, x), model(w, x))
    with pytest.raises(InputError, match="was made for tensors"):
        made(example(5, 5), x)
