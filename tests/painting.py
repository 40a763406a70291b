"""Small pictures and a small network, made by the tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NETWORK = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))

class Tiny(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(Block(8), Block(8))
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.fc(self.drop(self.blocks(self.stem(x)).mean((2, 3))))

def tiny(num_classes=10):
    return Tiny(num_classes)

def maps(num_classes=10):
    return nn.Conv2d(3, num_classes, 1)
"""


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """The name of a network with two residual blocks and dropout."""
    file = tmp_path / "net.py"
    file.write_text(NETWORK)
    return f"{file}:tiny"


Painter = Callable[..., Path]


@pytest.fixture
def paint(tmp_path: Path) -> Painter:
    """Write pictures: paint({"train/cat": 3, "train/dog": 2}) -> the folder; each class has a brightness of its own."""

    def paint(layout: Mapping[str, int], *, size: tuple[int, int] = (8, 8), root: str = "pictures") -> Path:
        folder = tmp_path / root
        random = np.random.default_rng(0)
        folder.mkdir(exist_ok=True)
        shades = {name: 40 + 60 * i for i, name in enumerate(sorted({Path(at).name for at in layout}))}
        for at, count in layout.items():
            (folder / at).mkdir(parents=True)
            for index in range(count):
                noise = random.integers(0, 50, (*size[::-1], 3))
                pixels = (noise + shades[Path(at).name]).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / at / f"{index:03}.png")
        return folder

    return paint


@pytest.fixture
def pictures(paint: Painter) -> Path:
    """24 pictures of two classes to train on, and 8 held out."""
    return paint({"train/dark": 12, "train/light": 12, "val/dark": 4, "val/light": 4})
