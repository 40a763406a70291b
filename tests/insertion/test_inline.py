"""SE that is written into a forward: everything that cannot be done to it says so in one line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import senet
from senet.errors import ExportError, OptimizeError

REFUSAL = "the SE in the forward of 1 has no module of its own"


class Inline(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(8, 4), nn.Linear(4, 8)

    def forward(self, x):
        u = self.conv(x)
        s = torch.sigmoid(self.fc2(torch.relu(self.fc1(u.mean((2, 3))))))
        return x + u * s[:, :, None, None]


def network(*more):
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Inline(), *more, *head)


@pytest.fixture
def x():
    return torch.randn(2, 3, 8, 8)


def test_remove(x):
    with pytest.raises(senet.InsertionError, match=REFUSAL):
        senet.remove(network(), example=x)
    with pytest.raises(senet.InsertionError, match=REFUSAL):
        senet.remove(network(senet.SEBlock(8)), everything=True, example=x)


def test_gate_and_check(x):
    net = network(senet.SEBlock(8))
    (handle,) = (block for block in senet.blocks(net, x).values() if isinstance(block, senet.insertion.InlineSE))
    with pytest.raises(TypeError, match=REFUSAL):
        senet.gate(handle, torch.randn(1, 8, 4, 4))
    assert senet.check(net, x).runs == ("2", "1")


def test_explain_and_prune():
    study = pytest.importorskip("senet.study", exc_type=ImportError)
    how = {"workers": 0, "devices": "cpu", "progress": False}
    for verb in (study.explain, lambda *args, **how: study.prune(*args, blocks="1", **how)):
        with pytest.raises(study.StudyError, match=REFUSAL):
            verb(network(), "digits", **how)
    with pytest.raises(study.StudyError, match=REFUSAL):
        study.prune(network(senet.SEBlock(8)), "digits", blocks="1", **how)


def test_nothing_is_exported_inside_valid(x, tmp_path):
    net = network(senet.SEBlock(8)).eval()
    with senet.valid([1.0, 0.5]), pytest.raises(ExportError, match=r"inside senet\.valid.*leave it"):
        senet.export(net, x, tmp_path / "net.pt2")
    with senet.valid([1.0, 0.5]), pytest.raises(OptimizeError, match=r"inside senet\.valid.*leave it"):
        senet.optimize(net, x)
    assert not list(tmp_path.iterdir())
    form = senet.optimize(net, x)
    form(x)
    with senet.valid([1.0, 0.5]), pytest.raises(ValueError, match=r"squeezes padding too: inside senet\.valid run"):
        form(x)
