from pathlib import Path

import pytest

from senet import cli


@pytest.fixture
def senet(capsys):
    """Runs the command: exit status, standard output, standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        status = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def study():
    return pytest.importorskip("senet.study", reason="the extra 'study' is not installed")


NETS = """
import torch
from torch import nn

class Residual(nn.Module):
    def __init__(self, convolution, norm, inputs):
        super().__init__()
        self.stem = convolution(inputs, 8, 3, padding=1)
        self.conv = convolution(8, 8, 3, padding=1)
        self.bn = norm(8)

    def forward(self, x):
        x = self.stem(x)
        return x + self.bn(self.conv(torch.relu(x)))

def grey():
    return Residual(nn.Conv2d, nn.BatchNorm2d, 1)

def colour():
    return Residual(nn.Conv2d, nn.BatchNorm2d, 3)

def signal():
    return Residual(nn.Conv1d, nn.BatchNorm1d, 2)

def volume():
    return Residual(nn.Conv3d, nn.BatchNorm3d, 1)

def linear():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten())
"""


@pytest.fixture
def nets(tmp_path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return path
