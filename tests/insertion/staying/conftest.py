import pytest
import torch
from torch import nn

import senet
from tests.insertion.staying.test_staying import Block, randomise


@pytest.fixture
def x():
    return torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def net(x):
    net = nn.Sequential(randomise(Block()), randomise(Block())).eval()
    return senet.insert(net, x, senet.SESpec(2, start="paper"))
