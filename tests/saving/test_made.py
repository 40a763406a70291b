"""Networks with made blocks in a file: it names what made them, and runs nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import senet
from senet import SESpec
from senet.errors import ModelError, WeightsError
from senet.files import fileformat
from senet.insertion import inserted
from senet.saving import read_metadata
from tests.insertion.networks import randomise, small_resnet

timm_layers = pytest.importorskip("timm.layers", reason="the extra 'timm' is not installed")
EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def pointwise(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.Sigmoid())


def wide(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.Sigmoid())


def saved(path, make, spec=None, where=None, network=None):
    """A network with made blocks that show, in a file."""
    network = randomise(small_resnet()).eval() if network is None else network
    network = senet.insert(network, EXAMPLE, spec, where=where, make=make)
    for block in senet.blocks(network).values():
        nn.init.constant_(block.alpha, 0.5)
    senet.save(network, path)
    return network


@pytest.mark.parametrize("start", ["identity", "paper"])
def test_a_persons_own_blocks_come_back_with_their_maker(tmp_path, start):
    path = tmp_path / "net.safetensors"
    network = saved(path, pointwise, SESpec(start=start))
    with pytest.raises(WeightsError, match=r"make=pointwise made \(1.branch.4, 2.*give make= \(--make"):
        senet.load(path, small_resnet())
    again = senet.load(path, small_resnet(), make=pointwise)
    assert torch.equal(again(EXAMPLE), network(EXAMPLE))
    assert inserted(again) == inserted(network)
    assert [spec["spec"] for spec in read_metadata(path)["sites"]] == 3 * [
        {"make": "pointwise", "placement": "standard", "start": start, "module": "Sequential"}
    ]


def test_timms_blocks_come_back_by_their_name(tmp_path):
    path = tmp_path / "net.safetensors"
    network = saved(path, "eca")
    assert torch.equal(senet.load(path, small_resnet())(EXAMPLE), network(EXAMPLE))
    assert torch.equal(senet.load(path, small_resnet(), make="eca")(EXAMPLE), network(EXAMPLE))
    with pytest.raises(WeightsError, match="holds no block of make=cbam: its blocks are of make=eca"):
        senet.load(path, small_resnet(), make="cbam")
    with pytest.raises(WeightsError, match=r"has an EcaModule at 1.branch.4, and make=eca makes a Sequential"):
        senet.load(path, small_resnet(), make={"eca": pointwise})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (wide, r"does not fit this Sequential with the blocks of make=pointwise: .*1.branch.4.se.module.0.weight"),
        (nn.Identity, "has a Sequential at 1.branch.4, and make=pointwise makes an Identity"),
        (lambda channels: 1 // 0, "a made block at 1.branch.4: make=pointwise raised ZeroDivisionError"),
    ],
)
def test_another_maker_is_refused(tmp_path, make, message):
    path = tmp_path / "net.safetensors"
    saved(path, pointwise)
    with pytest.raises(WeightsError, match=message) as caught:
        senet.load(path, small_resnet(), make=make)
    assert "\n" not in str(caught.value)


def test_a_maker_that_is_not_asked_for_is_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    senet.save(senet.insert(small_resnet(), EXAMPLE), path)
    with pytest.raises(WeightsError, match="holds no block of make=pointwise: it holds no made blocks"):
        senet.load(path, small_resnet(), make=pointwise)


def test_blocks_of_several_makers_each_need_theirs(tmp_path):
    path = tmp_path / "net.safetensors"
    first = senet.insert(randomise(small_resnet()).eval(), EXAMPLE, where="1*", make=wide)
    network = saved(path, pointwise, where="2*", network=first)
    with pytest.raises(WeightsError, match="and of pointwise: a maker for each, by its name"):
        senet.load(path, small_resnet(), make={})
    again = senet.load(path, small_resnet(), make={"wide": wide, "pointwise": pointwise})
    assert torch.equal(again(EXAMPLE), network(EXAMPLE))


@pytest.mark.parametrize(
    "change",
    [
        {"make": 3},
        {"module": ""},
        {"start": None},
        {"placement": "nowhere"},
        {"maker": "os.system"},
        {"reduction_ratio": 4},
    ],
)
def test_a_damaged_header_is_refused(tmp_path, change):
    path = tmp_path / "net.safetensors"
    saved(path, "eca")
    tensors, header = fileformat.read(path)
    header.sites[0][1].update(change)
    fileformat.write(path, tensors, header)
    with pytest.raises(WeightsError, match="is damaged: a site is"):
        senet.load(path, small_resnet())


def test_a_name_makes_a_network_with_made_blocks(tmp_path):
    network = senet.create("resnet20", num_classes=3, make="eca")
    blocks = senet.blocks(network)
    assert len(blocks) == 9
    assert all(block.alpha.item() == 1 and not block.mixes for block in blocks.values())  # the paper's start
    senet.save(network, tmp_path / "net.safetensors")
    again = senet.create(str(tmp_path / "net.safetensors")).eval()
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(again(x), network.eval()(x))
    with pytest.raises(ModelError, match="se_resnet20 is the network with SE: with make=, create 'resnet20'"):
        senet.create("se_resnet20", make="eca")
    with pytest.raises(ModelError, match="with make=, create 'mobilenet_v3_small_plain'"):
        senet.create("se_mobilenet_v3_small", make="eca")
    assert all(isinstance(b, senet.SEBlock) for b in senet.blocks(senet.create("resnet20", make="se")).values())


def test_a_network_without_values_holds_made_blocks():
    with torch.device("meta"):
        network = senet.create("resnet20", make="eca")
    assert senet.cost(network, torch.empty(1, 3, 32, 32, device="meta")).se_parameters == 36 - 9


def test_a_state_dict_with_made_blocks_is_loaded_into_a_network_by_name(tmp_path):
    network = senet.create("resnet20", num_classes=3, spec=SESpec(start="identity"), make="eca").eval()
    for block in senet.blocks(network).values():
        nn.init.constant_(block.alpha, 0.5)
    torch.save(network.state_dict(), tmp_path / "state.pth")
    again = senet.create("resnet20", weights=tmp_path / "state.pth", make="eca").eval()
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(again(x), network(x))
    with pytest.raises(WeightsError, match="has blocks with a learnt α, which start='paper' lacks: leave it out"):
        senet.create("resnet20", weights=tmp_path / "state.pth", spec=SESpec(start="paper"), make="eca")
    with pytest.raises(WeightsError, match=r"layer1.0.bn2.se.alpha"):
        senet.create("resnet20", weights=tmp_path / "state.pth")
