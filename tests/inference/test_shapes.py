"""A network that tests its sizes: its inference form and its files are right, or they refuse."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import senet
from senet import SEBlock, optimize
from senet.errors import ExportError, InputError, OptimizeError
from senet.export.runtimes import OnnxRuntime, OpenVino
from senet.inference.shapes import Shapes, expect, holds, parsed


class Branching(nn.Module):
    """A layer with SE, and a test of sizes on what it makes."""

    def __init__(self, test):
        super().__init__()
        self.conv, self.se, self.test = nn.Conv2d(3, 16, 1), SEBlock(16, 4), test

    def forward(self, x):
        return self.test(self.se(self.conv(x)), x)


def refuses(u, x):
    if x.shape[2] % 32:
        raise ValueError("a height that 32 does not divide")
    return u


def padded(u, x):
    return F.pad(u, (0, 0, 0, -x.shape[2] % 32)) if x.shape[2] % 32 else u


def squeezed(u, x):
    y = u.mean((2, 3)).squeeze()
    return 2 * y[None] if y.dim() == 1 else y


TESTS = {
    "more than 8": lambda u, x: 2 * u if x.shape[0] > 8 else u,
    "one": lambda u, x: 2 * u if x.shape[0] == 1 else u,
    "pad to 32": padded,
    "pool the wide": lambda u, x: F.avg_pool2d(u, 2) if x.shape[3] > 200 else u,
    "raise at 70": refuses,
    "one in secret": squeezed,  # torch.export tells nothing of it
    "square": lambda u, x: u if x.shape[2] == x.shape[3] else -u,
}
SIZES = [(1, 32, 32), (2, 32, 32), (9, 32, 32), (1, 38, 32), (2, 32, 232)]


def right_or_refused(model, made):
    """Whether something that was made from a network runs on each size; it is right wherever it does."""
    ran = []
    for batch, *size in SIZES:
        x = torch.randn(batch, 3, *size)
        try:
            given = made(x)
        except Exception:  # an engine's own
            continue
        with torch.no_grad():
            torch.testing.assert_close(given.detach(), model(x), rtol=1e-4, atol=1e-5)
        ran.append((batch, *size))
    return ran


@pytest.mark.parametrize("batch", [1, 2, 9])
@pytest.mark.parametrize("name", TESTS)
def test_optimized_networks_follow_no_other_branch(name, batch):
    model = Branching(TESTS[name]).eval()
    x = torch.randn(batch, 3, 32, 32)
    made = optimize(model, x, dynamic_size=True)
    ran = right_or_refused(model, made)
    assert (batch, 32, 32) in ran
    for size in set(SIZES) - set(ran):
        if (name, size) != ("raise at 70", (1, 38, 32)):
            with pytest.raises(InputError, match="inference form"):
                made(torch.randn(size[0], 3, *size[1:]))


def test_the_form_is_copied_pickled_and_compiled_with_its_condition():
    model = Branching(TESTS["more than 8"]).eval()
    made = optimize(model, torch.randn(2, 3, 8, 8))
    again = pickle.loads(pickle.dumps(made))
    for form in (again, torch.compile(made, backend="eager", fullgraph=True)):
        torch.testing.assert_close(form(torch.ones(8, 3, 8, 8)), model(torch.ones(8, 3, 8, 8)))
        with pytest.raises(Exception, match=r"batch <= 8|InputError"):
            form(torch.ones(9, 3, 8, 8))


def test_what_was_given_beside_the_tensor_is_held_to():
    class Scaled(Branching):
        def forward(self, x, scale=1.0, double=False):
            return super().forward(x) * scale * (2 if double else 1)

    model = Scaled(lambda u, x: u).eval()
    x = torch.randn(2, 3, 8, 8)
    made = optimize(model, (x, 3.0, True))
    torch.testing.assert_close(made(x, 3.0, True), model(x, 3.0, True))
    for others in ((2.0, True), (3.0, False)):
        with pytest.raises(InputError, match="was made with"):
            made(x, *others)


def test_layouts_that_pytorch_takes_for_granted_are_no_condition():
    """ConvNeXt's blocks, whose capture says "batch > 1" for what it concludes about strides."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 8, 2, 2), nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.norm, self.fc, self.se = nn.LayerNorm(8), nn.Linear(8, 16), SEBlock(16, 4)

        def forward(self, x):
            u = self.conv(self.stem(x)).permute(0, 2, 3, 1)
            return self.se(self.fc(self.norm(u)).permute(0, 3, 1, 2))

    model = Block().eval()
    for batch in (1, 2):
        made = optimize(model, torch.randn(batch, 3, 16, 16))
        for other in (1, 2, 5):
            x = torch.randn(other, 3, 16, 16)
            torch.testing.assert_close(made(x), model(x))


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
@pytest.mark.parametrize(("name", "batch"), [("more than 8", 1), ("more than 8", 9), ("one", 1), ("one in secret", 2)])
def test_files_for_other_batches_are_right_or_refuse(tmp_path, name, batch, suffix):
    _needs(suffix)
    model = Branching(TESTS[name]).eval()
    path = tmp_path / f"net{suffix}"
    x = torch.randn(batch, 3, 32, 32)
    if name == "one in secret":  # nothing tells where it is right
        with pytest.raises(ExportError, match="on batch"):
            senet.export(model, x, path)
        return
    found = senet.export(model, x, path)
    assert (batch, 32, 32) in right_or_refused(model, _read(path))
    if name == "more than 8" and suffix == ".pt2":
        (condition,) = json.loads(json.dumps(found.metadata["shapes"]))["conditions"]
        assert condition == ("batch <= 8" if batch == 1 else "batch > 8")
        assert condition in str(found)
        assert found.inputs["input"].startswith("(batch, ")
    else:
        assert found.inputs["input"].startswith(f"({batch}, ")
        assert "The batch is fixed" in str(found)


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
@pytest.mark.parametrize("name", ["pad to 32", "pool the wide", "raise at 70", "square"])
def test_files_for_other_sizes_are_right_or_refused(tmp_path, name, suffix):
    _needs(suffix)
    model = Branching(TESTS[name]).eval()
    path = tmp_path / f"net{suffix}"
    if suffix == ".pt2":
        senet.export(model, torch.randn(1, 3, 32, 32), path, dynamic_size=True)
        assert (2, 32, 32) in right_or_refused(model, _read(path))
        return
    with pytest.raises(ExportError, match=r"is right where .*leave dynamic_size out, or write a \.pt2 file"):
        senet.export(model, torch.randn(1, 3, 32, 32), path, dynamic_size=True)
    assert list(tmp_path.iterdir()) == []


class Comparing(nn.Module):
    """A layer with SE, and a test of two inputs' sizes; no operation joins the two."""

    def __init__(self, dim):
        super().__init__()
        self.conv, self.se, self.dim = nn.Conv2d(3, 16, 1), SEBlock(16, 4), dim

    def forward(self, a, b):
        u = self.se(self.conv(a))
        return u if a.shape[self.dim] == b.shape[self.dim] else -u


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
@pytest.mark.parametrize("dim", [0, 2])
def test_sizes_of_two_inputs_that_are_compared_are_fixed_or_refused(tmp_path, suffix, dim):
    _needs(suffix)
    model = Comparing(dim).eval()
    path = tmp_path / f"net{suffix}"
    inputs = (torch.randn(1, 3, 8, 8), torch.randn(1, 3, 8, 8))
    if dim == 2:
        with pytest.raises(ExportError, match="is right where height == b_height, which"):
            senet.export(model, inputs, path, dynamic_size=True)
    found = senet.export(model, inputs, path)
    assert found.inputs["a"] == ("(1, 3, 8, 8)" if dim == 0 else "(batch, 3, 8, 8)")
    assert ("The batch is fixed: the network tests it (batch == b_batch)" in str(found)) == (dim == 0)
    made = _read(path)
    torch.testing.assert_close(made(*inputs), model(*inputs).detach(), rtol=1e-4, atol=1e-5)
    for size in ((2, 3, 8, 8), (1, 3, 9, 8)):
        if size[dim] != inputs[0].shape[dim]:
            with pytest.raises(ValueError, match=r"\d"):
                made(inputs[0], torch.randn(size))


def _needs(suffix):
    for module in {".onnx": ("onnxscript", "onnxruntime"), ".xml": ("openvino",), ".pt2": ()}[suffix]:
        pytest.importorskip(module, reason="the extra 'ship' is not installed")


def _read(path):
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    return (OnnxRuntime if path.suffix == ".onnx" else OpenVino)(path)


def test_a_condition_is_read_and_never_run():
    assert holds("height % 32 == 0 and max(height, 2 * width) >= 64", {"height": 64, "width": 1})
    assert not holds("not 8 < batch", {"batch": 9})
    assert not holds("height // (height - 8) == 1", {"height": 8})
    for bad in (
        "__import__('os')",
        "batch.real == 1",
        "[1]",
        "batch ** 9",
        "(lambda: 1)()",
        "batch <",
        "1 < batch < 3",
        "'a'",
    ):
        with pytest.raises(InputError, match="is not a condition on sizes"):
            parsed(bad)
    with pytest.raises(InputError, match="is not a condition on batch"):
        holds("depth > 1", {"batch": 1})


def test_shapes_go_into_a_file_and_back():
    shapes = Shapes((("input", ("batch", 3, "height", "width")),), ("height == width",))
    assert Shapes.from_json(json.loads(json.dumps(shapes.to_json()))) == shapes
    shapes.check([torch.ones(1, 3, 4, 4)])
    for wrong in (torch.ones(1, 3, 4, 5), torch.ones(1, 4, 4, 4), torch.ones(3, 4, 4)):
        with pytest.raises(InputError):
            shapes.check([wrong])
    with pytest.raises(InputError, match=r"this file takes input of shape \(batch, 3, height, width\), not"):
        shapes.check([torch.ones(2, 4, 4, 4)])
    with pytest.raises(InputError, match="takes 1 tensor, not 2"):
        shapes.check([torch.ones(1)] * 2)
    for wrong in (1, {"inputs": {}}, {"inputs": [], "conditions": []}):
        with pytest.raises(InputError, match="does not say which shapes"):
            Shapes.from_json(wrong)
    with pytest.raises(InputError, match="is not a condition on batch"):
        Shapes.from_json({"inputs": {"input": ["batch"]}, "conditions": ["depth > 1"]})


def test_a_condition_that_divides_by_zero_is_not_met():
    words = "height // (height - 8) == 1"
    with pytest.raises(InputError, match="is right where height"):
        expect(torch.ones(1, 3, 8, 8), (None, 3, "height", None), conditions=[(words, parsed(words))])


def test_an_example_without_samples_is_refused():
    with pytest.raises(OptimizeError, match="a batch of no samples"):
        optimize(Branching(lambda u, x: u).eval(), torch.randn(0, 3, 8, 8))
