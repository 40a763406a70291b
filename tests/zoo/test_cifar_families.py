"""The pre-activation and the wide residual networks, against their papers."""

import pytest
import torch

from senet.zoo import create
from senet.zoo.networks.preact_resnet import PreActBottleneck, PreActResNet
from senet.zoo.networks.wide_resnet import WideBlock, WideResNet


def parameters(name, classes):
    with torch.device("meta"):
        return sum(p.numel() for p in create(name, num_classes=classes).parameters())


@pytest.mark.parametrize("classes", [10, 100])
def test_parameters_of_the_pre_activation_network(classes):
    """He et al., "Identity mappings": 18 bottlenecks a stage, a projection where channels change; 1.7 M."""

    def unit(inputs, outputs):
        width = outputs // 4
        convolutions = inputs * width + 9 * width**2 + width * outputs
        return convolutions + 2 * (inputs + 2 * width) + (inputs * outputs if inputs != outputs else 0)

    stages = sum(unit(i, o) + 17 * unit(o, o) for i, o in ((16, 64), (64, 128), (128, 256)))
    found = parameters("preact_resnet164", classes)
    assert found == 27 * 16 + stages + 2 * 256 + 257 * classes
    assert round(found / 1e6, 1) == 1.7


@pytest.mark.parametrize(("name", "n", "k", "millions"), [("wrn16_8", 2, 8, 11.0), ("wrn28_10", 4, 10, 36.5)])
def test_parameters_of_wide_networks(name, n, k, millions):
    """Zagoruyko & Komodakis, table 4: 11.0 M and 36.5 M."""

    def block(inputs, outputs):
        convolutions = 9 * inputs * outputs + 9 * outputs**2
        return convolutions + 2 * (inputs + outputs) + (inputs * outputs if inputs != outputs else 0)

    widths = ((16, 16 * k), (16 * k, 32 * k), (32 * k, 64 * k))
    expected = 27 * 16 + sum(block(i, o) + (n - 1) * block(o, o) for i, o in widths) + 2 * 64 * k + 64 * k * 10 + 10
    assert parameters(name, 10) == expected
    assert round(expected / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("same", "changes"),
    [
        (PreActBottleneck(8, 8, 1), PreActBottleneck(8, 16, 2)),
        (WideBlock(8, 8, 1, 0.0), WideBlock(8, 16, 2, 0.0)),
    ],
    ids=["bottleneck", "wide"],
)
def test_first_activation_serves_the_projection_alone(same, changes):
    x = torch.randn(2, 8, 6, 6)
    for block in (same, changes):
        block.eval()
        block.get_submodule("conv3" if hasattr(block, "conv3") else "conv2").weight.data.zero_()
    assert torch.equal(same(x), x)
    projected = changes.shortcut(changes.bn1(x).relu())
    assert projected.shape == (2, 16, 3, 3)
    assert torch.equal(changes(x), projected)


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (PreActResNet, (163,), r"depth is 9n \+ 2 \(164, .*not 163"),
        (PreActResNet, (2,), r"depth is 9n \+ 2"),
        (WideResNet, (17, 8), r"depth is 6n \+ 4 \(16, .*not 17"),
        (WideResNet, (16, 0), "width is a whole number of at least 1, not 0"),
        (WideResNet, (16, 1.5), "width is a whole number of at least 1, not 1.5"),
    ],
)
def test_bad_arguments(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(*arguments)
