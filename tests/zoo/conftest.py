"""A user's file, and torchvision where it is there."""

import sys

import pytest

NETWORK = """
from dataclasses import dataclass
from torch import nn
from beside import CHANNELS

RUNS = []

def build(width: int = CHANNELS):
    return nn.Sequential(nn.Conv2d(3, width, 1))

def counted(num_classes=5, width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(width, num_classes))

def demanding(num_classes):
    return nn.Linear(4, num_classes)

def anything(**options):
    return nn.Linear(4, options["num_classes"])

class Network(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)

def wrong():
    return "a network"
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "beside.py").write_text("CHANNELS = 6\n")
    path = tmp_path / "my net.py"
    path.write_text(NETWORK)
    yield path
    for name in [name for name in sys.modules if name == "beside" or name.startswith("_senet_file_my net")]:
        del sys.modules[name]


@pytest.fixture
def torchvision_models():
    return pytest.importorskip("torchvision.models", reason="torchvision is not there")
