"""Networks with made blocks, opened by name: what `make` is for, and with a fresh classifier."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import senet
from senet.block import SESpec
from senet.block.made import block_spec, check_portable
from senet.errors import InputError, WeightsError
from senet.evaluation.networks import NetworkSpec, how_to_load, make, network_of

MAKER = """
from torch import nn

def gate(channels):
    return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.Sigmoid())
"""
X = torch.randn(1, 3, 16, 16)


@pytest.fixture
def gate(tmp_path):
    (tmp_path / "maker.py").write_text(MAKER)
    return f"{tmp_path}/maker.py:gate"


@pytest.fixture
def saved(tmp_path, gate):
    network = senet.create("resnet20", num_classes=3, spec=SESpec(start="identity"), make=gate).eval()
    for block in senet.blocks(network).values():
        nn.init.constant_(block.alpha, 0.5)
    senet.save(network, tmp_path / "net.safetensors")
    return network, str(tmp_path / "net.safetensors")


@pytest.mark.parametrize("by_weights", [False, True])
def test_make_opens_a_saved_network(saved, gate, by_weights):
    network, path = saved
    named = {"model": "resnet20", "weights": path} if by_weights else {"model": path}
    with pytest.raises(WeightsError, match="give make="):
        network_of(NetworkSpec(**named))
    assert torch.equal(network_of(NetworkSpec(**named, make=gate)).eval()(X), network(X))
    assert how_to_load(network, "n.safetensors") == "senet.load('n.safetensors', make=...) makes it again."


def test_its_classifier_starts_fresh_for_other_classes(saved, gate):
    network, path = saved
    fresh = network_of(NetworkSpec("resnet20", path, make=gate), num_classes=5).eval()
    assert fresh(X).shape == (1, 5)
    assert torch.equal(fresh.layer3[2].bn2.se.module[0].weight, network.layer3[2].bn2.se.module[0].weight)
    assert fresh.layer3[2].bn2.se.alpha.item() == 0.5


def test_a_training_goes_on_from_a_saved_network_without_a_second_block(saved, gate):
    network, path = saved
    arm = NetworkSpec(path, spec=block_spec(SESpec(start="identity"), gate), make=gate)
    built = make(arm, num_classes=3, size=16, seed=0)
    assert len(built.sites) == 9
    assert torch.equal(built.network.eval()(X), network(X))


def test_only_what_pickles_goes_to_several_processes(gate):
    check_portable(None)
    check_portable(gate)
    check_portable(nn.BatchNorm2d)
    with pytest.raises(InputError, match="make=<lambda> cannot be given to the processes of several devices"):
        check_portable(lambda channels: nn.Identity())


def test_a_file_that_names_no_network_is_loaded_with_one():
    changed = senet.create("resnet20")
    changed.conv1.stride = (2, 2)
    for network in (nn.Linear(2, 2), changed):
        assert how_to_load(network, "n.safetensors") == "senet.load('n.safetensors', model=...) makes it again."
