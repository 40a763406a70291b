"""Small residual networks written as users write them, for the tests of insertion."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import senet


class Residual(nn.Module):
    """relu(branch(x) + shortcut(x)), the parts made by the caller."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = nn.Identity() if shortcut is None else shortcut

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))


def branch(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    """3×3, norm, ReLU, 3×3, norm."""
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
        nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
        nn.BatchNorm2d(outside),
    )


def small_resnet(classes: int = 5) -> nn.Sequential:
    """Three residual units, the second with a projection."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        Residual(branch(8, 8)),
        Residual(branch(8, 16, 2), nn.Conv2d(8, 16, 1, 2)),
        Residual(branch(16, 16)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, classes),
    )


class PreActivation(nn.Module):
    """x + conv(relu(bn(conv(relu(bn(x)))))), as ResNet v2 and wide ResNets have it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))


class Plain(nn.Module):
    """An addition that only tells positions apart: no site."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.position = nn.Conv2d(4, 4, 3, padding=1, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return (x + self.position(x)).mean((2, 3))


def randomise(model: nn.Module) -> nn.Module:
    """Normalisation statistics and weights as after some training, so that equality means something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.5, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
    return model


def shortened(name: str, **options) -> nn.Module:
    """A network of torchvision's with the same units, fewer of them: with and without a projection, with a stride."""
    from torchvision.models import MobileNetV2, ResNet
    from torchvision.models.resnet import BasicBlock, Bottleneck

    if name == "mobilenet_v2":
        stages = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2], [6, 64, 2, 2]]
        return MobileNetV2(inverted_residual_setting=stages, **options)
    return ResNet({"resnet18": BasicBlock, "resnet50": Bottleneck}[name], [2, 1, 1, 1], **options)


def assert_unchanged(model: nn.Module, example, se: nn.Module) -> None:
    args, kwargs = (
        ((), example) if isinstance(example, dict) else (example if isinstance(example, tuple) else (example,), {})
    )
    with torch.no_grad():
        expected, given = model.eval()(*args, **kwargs), se.eval()(*args, **kwargs)
    assert senet.insertion.largest_difference(expected, given) == 0


# A U-Net with SE wanted in the encoder alone.
