"""Sizes that a network refuses, on which ONNX Runtime may end its process: an export does not end with it."""

import pytest
import torch
from torch import nn

import senet
from senet.errors import ExportError
from senet.export import apart
from senet.export.checking import _agree

pytest.importorskip("onnxruntime", reason="the extra 'ship' is not installed")
pytest.importorskip("onnxscript", reason="the extra 'ship' is not installed")


def test_an_engine_that_would_end_the_process(tmp_path):
    """ONNX Runtime divides by zero behind a pool of no positions, which PyTorch refuses."""
    # ONNX Runtime takes channels in blocks of 16.
    pools = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 2), nn.Conv2d(16, 16, 1))
    network = nn.Sequential(pools, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)).eval()
    with pytest.raises(ExportError, match=r"which an ONNX file cannot check: leave dynamic_size out, or write a \.pt2"):
        senet.export(network, torch.randn(1, 3, 64, 64), tmp_path / "net.onnx", dynamic_size=True)
    assert not [*tmp_path.iterdir()]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("file") / "net.onnx"
    senet.export(nn.Linear(4, 2).eval(), torch.zeros(1, 4), path)
    return str(path)


@pytest.fixture
def child(file):
    found = apart.Apart(file, 1)
    yield found
    found.close()


def test_it_gives_what_the_engine_gives(child):
    x = torch.randn(3, 4)
    torch.manual_seed(0)
    expected = nn.Linear(4, 2)(x).detach()
    torch.testing.assert_close(torch.from_numpy(child.infer([x.numpy()])[0]), expected)
    with pytest.raises(ExportError, match="refuses these sizes"):
        child.infer([torch.randn(3, 5).numpy()])
    (found,) = child.infer([x.numpy()])  # the same process goes on
    torch.testing.assert_close(torch.from_numpy(found), expected)


def test_a_child_that_ends_is_said_and_replaced(child):
    whole = child._command
    child._command = [*whole[:2], "import os; input(); os.abort()", *whole[3:]]
    for _ in range(2):
        with pytest.raises(ExportError, match="ends its process"):
            child.infer([torch.randn(3, 4).numpy()])
    child._command = whole
    assert child.infer([torch.randn(3, 4).numpy()])[0].shape == (3, 2)
    child._child.kill()
    child._child.wait()  # as if it had ended between two calls
    with pytest.raises(ExportError, match="ends its process"):
        child.infer([torch.randn(3, 4).numpy()])
    assert child._child is None


def test_an_engine_that_ends_does_not_agree_with_a_network_that_refuses():
    def ends(_):
        raise apart.EngineCrashError("it ended")

    def refuses(_):
        raise ValueError("no such size")

    network, refused = nn.Conv2d(3, 4, 3), torch.randn(1, 3, 2, 2)
    assert not _agree(ends, network, refused, 1e-4)
    assert _agree(refuses, network, refused, 1e-4)
