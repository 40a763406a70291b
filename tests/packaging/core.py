"""What an install without extras can do, beside PyTorch alone. It prints which packages of the extras it loaded."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

import senet


class Unit(nn.Module):
    """A residual unit."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        """Add the branch to the input."""
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


def walk(plain, example, folder):
    """Insert, save, load, remove, train."""
    se = senet.insert(plain, example)
    assert torch.equal(se(example), plain(example))
    assert senet.cost(se, example).parameters > senet.cost(plain, example).parameters
    senet.save(se, folder / "se.safetensors")
    again = senet.load(folder / "se.safetensors", None if isinstance(plain, senet_network) else plain)
    assert torch.equal(again(example), se(example))
    assert torch.equal(senet.remove(se)(example), plain(example))
    optimiser = torch.optim.SGD(senet.parameter_groups(se, lr=0.01, se_lr=0.1))
    se.train()(example).square().mean().backward()
    optimiser.step()


torch.manual_seed(0)
head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
own = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), Unit(32), Unit(32), *head).eval()
zoo = senet.create("resnet20", num_classes=10).eval()
senet_network = type(zoo)
with TemporaryDirectory() as name:
    for network in (own, zoo):
        walk(network, torch.randn(2, 3, 32, 32), Path(name))
extras = {
    name for name in ("PIL", "lightning", "torchvision", "matplotlib", "sklearn", "onnx") if sys.modules.get(name)
}
print("a core install works; of the extras it loaded", ", ".join(sorted(extras)) or "none")
