"""MobileNet v1 and ShuffleNet v1, against their papers."""

import pytest
import torch

from senet.zoo import create
from senet.zoo.networks.mobilenet import MobileNetV1
from senet.zoo.networks.shufflenet import ChannelShuffle, ShuffleUnit


def parameters(name, **options):
    with torch.device("meta"):
        return sum(p.numel() for p in create(name, **options).parameters())


@pytest.mark.parametrize(("width", "millions"), [(1.0, 4.2), (0.75, 2.6), (0.5, 1.3), (0.25, 0.5)])
def test_parameters_of_mobilenet(width, millions):
    """Howard et al., table 6."""
    assert round(parameters("mobilenet_v1", width=width) / 1e6, 1) == millions


def test_mobilenet_shrinks_by_32():
    with torch.device("meta"):
        model = MobileNetV1()
    assert model.units(model.stem(torch.empty(1, 3, 224, 224, device="meta"))).shape == (1, 1024, 7, 7)


def test_parameters_of_shufflenet():
    """Zhang et al., table 1: 3 groups, 240, 480 and 960 channels; the first 1×1 convolution is not grouped."""

    def unit(inputs, outputs, groups, first, made):
        hidden = outputs // 4
        return inputs * hidden // first + 9 * hidden + hidden * made // groups + 2 * (2 * hidden + made)

    expected = 27 * 24 + 48 + 961 * 1000
    before = 24
    for channels, count in ((240, 4), (480, 8), (960, 4)):
        expected += unit(before, channels, 3, 1 if before == 24 else 3, channels - before)
        expected += (count - 1) * unit(channels, channels, 3, 3, channels)
        before = channels
    assert parameters("shufflenet_v1") == expected


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_other_groups_cost_about_the_same(groups):
    assert parameters("shufflenet_v1", groups=groups) == pytest.approx(2e6, rel=0.3)


def test_channel_shuffle_deals_out():
    x = torch.arange(6.0).view(1, 6, 1, 1).expand(2, 6, 3, 4)
    assert ChannelShuffle(3)(x)[1, :, 2, 3].tolist() == [0, 2, 4, 1, 3, 5]
    assert torch.equal(ChannelShuffle(3)(x), torch.nn.ChannelShuffle(3)(x))


def test_unit_that_shrinks_concatenates_the_average():
    unit = ShuffleUnit(24, 240, 2, 3).eval()
    x = torch.randn(2, 24, 7, 7)
    y = unit(x)
    assert y.shape == (2, 240, 4, 4)
    average = torch.nn.functional.avg_pool2d(x, 3, 2, 1)
    assert torch.equal(y[:, :24], average.relu())
