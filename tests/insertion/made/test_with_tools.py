"""Made blocks under other tools: copies, export, compilers, replicas, autocast; and their gates."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import senet
from senet import SESpec
from senet.errors import InputTypeError, InsertionError
from senet.fast import straightforward
from senet.insertion import inserted
from tests.insertion.made.makers import EXAMPLE, Channelwise, opened

timm_layers = pytest.importorskip("timm.layers", reason="the extra 'timm' is not installed")


def test_it_is_copied_pickled_and_told_apart(plain):
    net = opened(senet.insert(plain, EXAMPLE, make=lambda channels: Channelwise(channels)))
    expected = net(EXAMPLE)
    for again in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(again(EXAMPLE), expected)
        assert all(isinstance(block, senet.MadeBlock) for block in senet.blocks(again).values())
        assert inserted(again) == inserted(net)
    with pytest.raises(InsertionError, match=r"already wherever.* Blocks of make=<lambda> count as SE here"):
        senet.sites(net, EXAMPLE)
    assert [name for name in senet.blocks(net, EXAMPLE) if "module" in name] == []


def test_it_goes_on_when_its_host_is_replaced(plain):
    net = opened(senet.insert(plain, EXAMPLE, make="eca"))
    expected = net(EXAMPLE)
    bn = net[1].branch[4]
    new = nn.BatchNorm2d(8).eval()
    new.load_state_dict({key: value for key, value in bn.state_dict().items() if "se." not in key})
    net[1].branch[4] = new
    assert torch.equal(net(EXAMPLE), expected)
    assert "1.branch.4.se" in senet.blocks(net)


def test_it_is_missed_and_joined_again_when_it_is_lost(plain):
    net = opened(senet.insert(plain, EXAMPLE, make=lambda channels: Channelwise(channels)))
    expected = net(EXAMPLE)
    new = nn.BatchNorm2d(8).eval()
    old = net[1].branch[4]
    new.load_state_dict({key: value for key, value in old.state_dict().items() if "se." not in key})
    net[1].branch._modules["4"] = new  # past torch's registration
    with pytest.warns(senet.SEWarning, match=r"1\.branch\.4"):
        assert not torch.equal(net(EXAMPLE), expected)
    assert list(senet.check(net).lost) == ["1.branch.4"]
    assert torch.equal(senet.rejoin(net)(EXAMPLE), expected)
    assert inserted(net)["1.branch.4"][1].name == "<lambda>"
    assert senet.check(net, EXAMPLE).title == "SE: 3 blocks there, 3 of them ran on the example; none lost"


@pytest.mark.filterwarnings("ignore:.torch.jit.*deprecated:FutureWarning")
@pytest.mark.parametrize("make", ["eca", "cbam"])
def test_it_is_exported_and_traced(plain, make):
    net = opened(senet.insert(plain, EXAMPLE, make=make))
    program = torch.export.export(net, (EXAMPLE,), dynamic_shapes=({0: torch.export.Dim("n")},))
    other = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(program.module()(other), net(other))
    traced = torch.jit.trace(net, EXAMPLE)
    torch.testing.assert_close(traced(other), net(other))


def test_it_is_compiled_in_one_graph(plain):
    net = opened(senet.insert(plain, EXAMPLE, make="eca"))
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(EXAMPLE), net(EXAMPLE))


def test_it_is_traced_symbolically(plain):
    net = opened(senet.insert(plain, EXAMPLE, make="eca"))
    block = senet.blocks(net)["1.branch.4.se"]
    x = torch.randn(2, 8, 5, 5)

    class Leaves(torch.fx.Tracer):
        def is_leaf_module(self, m, name):
            return type(m).__module__.startswith(("torch.nn", "timm"))

    graph = Leaves().trace(block)
    torch.testing.assert_close(torch.fx.GraphModule(block, graph)(x), block(x))


def test_it_runs_in_replicas(plain):
    """DataParallel's replicas hold plain tensors where parameters were."""
    net = opened(senet.insert(plain, EXAMPLE, make="eca"))
    block = senet.blocks(net)["1.branch.4.se"]
    replica = block._replicate_for_data_parallel()
    replica.alpha, replica.module = block.alpha.detach(), block.module
    x = torch.randn(2, 8, 5, 5)
    assert torch.equal(replica(x), block(x))


def test_it_runs_under_autocast(plain):
    net = senet.insert(plain, EXAMPLE, make="cbam")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net(EXAMPLE), plain(EXAMPLE))
        net.train()(EXAMPLE).float().square().sum().backward()
    assert all(block.alpha.grad is not None for block in senet.blocks(net).values())


def test_in_training_it_runs_behind_its_normalisation():
    """In a unit whose normalisation, SE, addition and ReLU are one pass, another block is no part of it."""
    x = torch.randn(4, 3, 16, 16)
    plain = senet.create("resnet20", num_classes=3)
    net = opened(senet.insert(plain, x, make="eca", where="layer1*"), 1.0).train()
    with straightforward():
        expected = net(x)
    torch.testing.assert_close(net(x), expected)
    assert not torch.allclose(plain.train()(x), expected)


def test_it_gets_its_own_parameter_groups(plain):
    net = senet.insert(plain, EXAMPLE, make="eca")
    groups = {group["name"]: group for group in senet.parameter_groups(net, 0.1, 0.5)}
    assert groups["se"]["lr"] == 0.5
    assert sum(p.numel() for p in groups["se"]["params"]) == senet.cost(net, EXAMPLE).se_parameters


def test_folding_the_start_leaves_it_alone(plain):
    net = opened(senet.insert(plain, EXAMPLE, make="eca"))
    assert torch.equal(senet.fold_start(net)(EXAMPLE), net(EXAMPLE))


# ---------------------------------------------------------------- gates


@pytest.mark.parametrize("make", ["eca", "ese", "ceca"])
@pytest.mark.parametrize("start", ["identity", "paper"])
def test_a_channel_gate_is_looked_at_through_alpha(plain, make, start):
    net = senet.insert(plain, EXAMPLE, SESpec(start=start), make=make)
    net = opened(net, 0.3) if start == "identity" else net
    for block in senet.blocks(net).values():
        x = torch.randn(2, block.channels, 5, 5)
        torch.testing.assert_close(block(x), x * senet.gate(block, x))
        weights = senet.gate(block.module, x)
        torch.testing.assert_close(senet.gate(block, x), 1 + block.alpha * (weights - 1))


def test_what_is_no_channel_gate_says_so(plain):
    net = senet.insert(plain, EXAMPLE, make="cbam")
    block = senet.blocks(net)["1.branch.4.se"]
    with pytest.raises(InputTypeError, match="the CbamModule of make=cbam is not a channel gate"):
        senet.gate(block, torch.randn(2, 8, 5, 5))
