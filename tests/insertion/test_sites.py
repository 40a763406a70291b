"""What is said of a list of sites: the parts of the network that they are in, and where one hidden unit is all."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import senet
from senet.insertion import Site
from senet.insertion.rules.site import by_part
from tests.insertion.networks import Residual, branch, small_resnet


def site(name: str, channels: int = 16, stage: int = 2) -> Site:
    return Site(name, channels, stage, "residual", "because")


def parts(*sites: Site) -> dict[str, int]:
    return {part: len(found) for part, found in by_part(sites).items()}


def test_by_part():
    assert parts(site("backbone.a.bn2"), site("backbone.b.bn2"), site("head.bn")) == {"backbone": 2, "head": 1}
    assert parts(site("net.layer1.bn2"), site("net.layer2.bn2")) == {"net.layer1": 1, "net.layer2": 1}
    assert parts(site("conv")) == {"conv": 1}
    assert parts() == {}


def test_numbered_parts_are_ranges():
    found = [site("model.2.m.cv2", 16, 2), site("model.4.m.0.cv2", 32, 3), site("model.4.m.1.cv2", 32, 3)]
    assert parts(*found, site("model.6.m.cv2", 32, 3)) == {"model.2": 1, "model.4 to model.6": 3}
    x = torch.randn(1, 3, 16, 16)
    assert list(by_part(senet.sites(small_resnet(), x))) == ["1", "2 to 3"]


def test_one_hidden_unit_is_said():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), Residual(branch(16, 16)), Residual(branch(16, 32), nn.Conv2d(16, 32, 1)))
    first, second = senet.sites(model, torch.randn(1, 3, 12, 12))
    assert (first.one_hidden_unit, second.one_hidden_unit) == (True, False)


class Pyramid(nn.Module):
    """Hands a list of maps to its head, as detectors and decoders do, or a number first."""

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 2)

        def forward(self, *given):
            maps = given[0] if len(given) == 1 else [given[1]]
            return self.fc(maps[0].mean((2, 3)))

    def __init__(self, *before: int) -> None:
        super().__init__()
        self.conv, self.head, self.before = nn.Conv2d(3, 8, 3), self.Head(), before

    def forward(self, x):
        x = torch.relu(self.conv(x))
        return self.head(*self.before, x if self.before else [x])


@pytest.mark.parametrize("before", [(), (1,), (torch.ones(1),)])
def test_se_takes_no_list_for_a_map(before):
    x = torch.randn(2, 3, 8, 8)
    assert [(each.name, each.position) for each in senet.sites(Pyramid(*before), x)] == [("conv", "output")]
    assert len(senet.blocks(senet.insert(Pyramid(*before), x))) == 1
