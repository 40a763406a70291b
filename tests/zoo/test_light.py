"""The light networks: they see as much as their name says, and differ in nothing else."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import senet
from senet.zoo.networks.short_sighted import CentredConv2d, LightNet

SIGHTS = (11, 19, 35)


@pytest.mark.parametrize("sight", SIGHTS)
def test_a_unit_of_the_last_map_sees_as_many_pixels_as_the_name_says(sight):
    model = senet.create(f"light_{sight}", num_classes=5).double().eval()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    maps = model.units(model.pointwise(model.depthwise(model.stem(x))))
    (gradient,) = torch.autograd.grad(maps[0, :, 8, 8].sum(), x)
    seen = gradient[0].abs().sum(0).nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [sight, sight]


def test_they_cost_the_same_with_se_and_without():
    example = torch.zeros(1, 3, 32, 32)
    plain = [senet.create(f"light_{sight}", num_classes=100) for sight in SIGHTS]
    for spec in (None, senet.SESpec(8), senet.SESpec(8, squeeze="none")):
        models = [model if spec is None else senet.insert(model, example, spec) for model in plain]
        assert len({senet.cost(model, example).multiply_adds for model in models}) == 1


def test_a_centred_convolution_is_the_one_by_one_with_its_weights():
    conv = CentredConv2d(6)
    x = torch.randn(2, 6, 5, 7)
    torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, groups=6))


@pytest.mark.parametrize("seeing", [-1, 5, 1.0, True])
def test_seeing_is_how_many_of_four_units(seeing):
    with pytest.raises(ValueError, match=f"seeing is a whole number from 0 to 4, not {seeing}"):
        LightNet(seeing)
