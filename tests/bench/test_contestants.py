"""Who is measured, and in which cases: the plain network, a peer's SE and ours, of one architecture."""

import pytest
import torch
from torch import nn

import senet
from senet.bench import Case, Row, cases
from senet.bench import measurement as benching
from senet.bench.cases import ENGINES, INFERENCE, KEPT, LARGEST, TRAINING
from senet.bench.contestants import (
    AS_INSERTED,
    OURS,
    PEER,
    PLAIN,
    PLAIN_AS_IT_IS,
    contestants,
)
from senet.fused.switch import fusing
from senet.insertion import blocks
from tests.bench.test_bench import EXAMPLE, Network


def test_the_usual_cases():
    found = cases(224)
    assert {case.engine for case in found} == {name for name, engine in ENGINES.items() if engine.usual}
    assert [case.batch for case in found if case.what == INFERENCE and case.engine == "onnxruntime"] == [1, 16]
    assert [case.batch for case in found if case.what == TRAINING and case.engine == "compile"] == [16]
    assert [case.batch for case in found if case.engine == "cuda"] == [256, 256, 0]
    assert cases(32, "eager") == cases(32, iter(["eager"])) == cases(32, ["eager"])
    assert cases(32, ["eager"]) == [
        Case(INFERENCE, "eager", 1),
        Case(INFERENCE, "eager", 128),
        Case(TRAINING, "eager", 128),
        Case(KEPT, "eager", 128),
    ]
    assert [case.batch for case in cases(32, ["eager", "openvino-int8"], 5)] == [5, 5, 5, 5]
    with pytest.raises(ValueError, match="no engine 'opnvino'; did you mean 'openvino'"):
        cases(32, ["opnvino"])
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="batch_size is a whole number of at least 1, not"):
            cases(32, None, wrong)


def test_the_contestants_are_of_one_architecture():
    found = contestants(Network(), EXAMPLE)
    assert found.peer == "the straightforward block"
    assert [len(blocks(found.networks[name])) for name in (PLAIN, PEER, OURS)] == [0, 1, 1]
    assert list(found.inference_forms(EXAMPLE)) == [PLAIN, PEER, OURS]
    torch.testing.assert_close(*(found.networks[name].eval()(EXAMPLE) for name in (PEER, OURS)))
    as_they_are = found.as_they_are()
    assert {name: type(each) for name, each in as_they_are.items()} == {PLAIN_AS_IT_IS: Network, AS_INSERTED: Network}
    assert [len(blocks(each)) for each in as_they_are.values()] == [0, 1]
    assert not any(each.training for each in as_they_are.values())


def test_the_straightforward_block_is_as_it_is_where_memory_is_counted(monkeypatch):
    seen = {"kept": [], "largest_batch": []}
    for name, held in seen.items():
        monkeypatch.setattr(benching, name, lambda network, x, held=held: held.append(fusing()) or 16)
    measuring = benching._Measuring(contestants(Network(), EXAMPLE), EXAMPLE, benching.QUICK)
    for case in (Case(KEPT, "eager", 2), Case(LARGEST, "cuda", 0)):
        assert measuring._measured(case, Row(*case.key)).plain == 16
    assert list(measuring.who.networks) == [PLAIN, PEER, OURS]
    assert seen == {"kept": [True, False, True], "largest_batch": [True, False, True]}


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of `weight_norm`, which is old and in many networks of sound
def test_weights_that_are_made_before_each_pass_are_copied():
    network = Network()
    nn.utils.weight_norm(network.conv)
    assert [len(blocks(each)) for each in contestants(network, EXAMPLE).networks.values()] == [0, 1, 1]


@pytest.mark.parametrize("given", ["se_resnet18", "torchvision:resnet18", "timm:resnet18"])
def test_timms_network_is_the_peer_where_it_is_the_same(given):
    pytest.importorskip("timm", reason="timm is not installed")
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    found = contestants(senet.create(given, num_classes=5), torch.zeros(1, 3, 64, 64))
    assert found.peer == "timm's SE"
    assert type(found.networks[PEER]).__module__.startswith("timm")
    peers, ours = (sum(p.numel() for p in found.networks[name].parameters()) for name in (PEER, OURS))
    assert abs(peers / ours - 1) < 1e-3  # timm rounds the hidden width to a multiple of 8


def test_timms_network_has_the_channels_of_the_images():
    pytest.importorskip("timm", reason="timm is not installed")
    grey = senet.create("resnet18", num_classes=5, in_channels=1)
    assert contestants(grey, torch.zeros(1, 1, 64, 64)).peer == "timm's SE"


def test_the_papers_resnet_is_not_compared_with_todays():
    pytest.importorskip("timm", reason="timm is not installed")
    found = contestants(senet.create("se_resnet50"), torch.zeros(1, 3, 64, 64))
    names = type(found.networks[PEER]).__module__
    assert names == "timm.models.senet"
