"""The gates of a running network: recorded as by hand, and held at what is asked."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import senet
from senet.fused.switch import unfused
from senet.insertion import InsertionError, holding, recording
from tests.insertion.se_twins import ECA, MaskedUnit
from tests.insertion.test_recognise import BLOCKS


@pytest.fixture
def network():
    model = senet.create("resnet20", spec=senet.SESpec(4, start="paper"), num_classes=10).eval()
    return model, torch.randn(3, 3, 16, 16)


def test_recorded_gates_are_those_computed_by_hand(network):
    model, x = network
    by_hand = {}

    def look(name):
        def hook(block, args, output):
            z = args[0].mean((2, 3))
            by_hand[name] = torch.sigmoid(torch.relu(z @ block.fc1.weight.T) @ block.fc2.weight.T)

        return hook

    hooks = [block.register_forward_hook(look(name)) for name, block in senet.blocks(model).items()]
    with torch.no_grad(), recording(model) as gates:
        expected = model(x)
        first = {name: gate.clone() for name, gate in gates.items()}
        for hook in hooks:
            hook.remove()
        model(x[:1])
    assert list(first) == list(senet.blocks(model))
    for name, gate in first.items():
        assert gate.shape == (3, senet.blocks(model)[name].in_channels)
        torch.testing.assert_close(gate, by_hand[name])
        torch.testing.assert_close(gates[name], gate[:1])  # as of the last pass
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected)  # in place where nobody looks, which rounds otherwise
        with unfused():
            assert torch.equal(model(x), expected)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_known_block_is_recorded_and_held(name):
    block = BLOCKS[name]().eval()
    model, x = nn.Sequential(block), torch.randn(3, 32, 5, 6)
    with torch.no_grad(), recording(model) as gates:
        output = model(x)
        torch.testing.assert_close(x * gates["0"][:, :, None, None], output)
        fixed = torch.rand(32)
        for held, expected in (
            (1, x),
            (0.5, 0.5 * x),
            (fixed, x * fixed[:, None, None]),
            (torch.rand(3, 32), None),
            (lambda s: s.roll(1, 0), x * gates["0"].clone().roll(1, 0)[:, :, None, None]),
            (lambda s: 0 * s[0], 0 * x),
        ):
            with holding(model, {"0": held}):
                given = model(x)
            expected = x * held[:, :, None, None] if expected is None else expected
            torch.testing.assert_close(given, expected)
            torch.testing.assert_close(x * gates["0"][:, :, None, None], given)  # recorded as held
        assert torch.equal(model(x), output)
    assert "forward" not in vars(block)


def test_channels_last_and_residual_blocks():
    from timm.layers.squeeze_excite import SqueezeExciteCl

    block, x = SqueezeExciteCl(32).eval(), torch.randn(2, 5, 6, 32)
    fixed = torch.rand(32)
    with torch.no_grad(), recording(block) as gates:
        output = block(x)
        torch.testing.assert_close(x * gates[""][:, None, None], output)
        with holding(block, {"": fixed}):
            torch.testing.assert_close(block(x), x * fixed)

    layers = pytest.importorskip("monai.networks.blocks.squeeze_and_excitation")
    residual, x = layers.ResidualSELayer(2, 32), torch.randn(2, 32, 5, 6)
    with holding(residual, {"": fixed}):
        torch.testing.assert_close(residual(x), x + x * fixed[:, None, None])


@pytest.mark.parametrize("training", [False, True])  # in training, SE runs in its normalisation's pass
@pytest.mark.parametrize("placement", ["standard", "identity", "pre"])
def test_held_at_one_is_the_plain_network(placement, training):
    plain = senet.create("resnet20", num_classes=10).train(training)
    x = torch.randn(2, 3, 16, 16)
    model = senet.insert(plain, x, senet.SESpec(placement=placement, start="paper"))
    assert not torch.allclose(model(x), plain(x))
    with holding(model, dict.fromkeys(senet.blocks(model), 1)):
        torch.testing.assert_close(model(x), plain(x), rtol=0, atol=1e-5 if training else 0)
    with recording(model) as gates:
        model(x)
    assert len(gates) == 9
    assert all(not block._forward_pre_hooks for block in senet.blocks(model).values())


def test_nothing_squeezed():
    block = senet.SEBlock(8, 2, squeeze="none")
    x = torch.randn(2, 8, 3, 4)
    with torch.no_grad(), recording(block) as gates:
        whole = block.gate(x)
        block(x)
        assert torch.equal(gates[""], whole.flatten(2).mean(2))
        with holding(block, {"": lambda s: s.flip(0)}):
            torch.testing.assert_close(block(x), x * whole.flip(0))
            torch.testing.assert_close(gates[""], whole.flip(0).flatten(2).mean(2))


@pytest.mark.parametrize("shape", [(4, 8), (4, 8, 5), (2, 8, 2, 3, 4)])
def test_other_dimensions(shape):
    block, x = senet.SEBlock(8, 2), torch.randn(shape)
    with recording(block) as gates:
        block(x)
        assert gates[""].shape == shape[:2]
        with holding(block, {"": 2.0}):
            assert torch.equal(block(x), 2 * x)


def test_gradients_pass_held_gates():
    block, x = senet.SEBlock(8, 2), torch.randn(2, 8, requires_grad=True)
    fixed = torch.rand(8, requires_grad=True)
    with holding(block, {"": fixed}):
        block(x).sum().backward()
    torch.testing.assert_close(x.grad, fixed.detach().expand(2, 8))
    torch.testing.assert_close(fixed.grad, x.detach().sum(0))


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ({"layer1.0.bn2.sf": 1}, "did you mean 'layer1.0.bn2.se'"),
        ({"layer1.0.bn2.se": torch.ones(8)}, r"\(16,\) or \(N, 16\), not one of shape \(8,\)"),
        ({"layer1.0.bn2.se": torch.ones(16, 1)}, "not one of shape"),
        ({"layer1.0.bn2.se": "mean"}, "not 'mean'"),
        ({"layer1.0.bn2.se": True}, "not True"),
    ],
)
def test_what_cannot_be_held(network, at, words):
    model, _ = network
    with pytest.raises(InsertionError, match=words), holding(model, at):
        pass
    assert all("forward" not in vars(block) for block in senet.blocks(model).values())


def test_misfits_that_show_only_on_running(network):
    model, x = network
    name = "layer1.0.bn2.se"
    for held in (torch.ones(2, 16), lambda s: s[:2], lambda s: s[:, :, None]):
        with pytest.raises(InsertionError, match="for an input of shape"), holding(model, {name: held}):
            model(x)
    with holding(model, {name: 1}), pytest.raises(InsertionError, match="held already"), holding(model, {name: 1}):
        pass
    with pytest.raises(InsertionError, match="holds no SE block"), recording(nn.Linear(2, 2)):
        pass
    with pytest.raises(InsertionError, match="is not an SE block of this network"), recording(model, ["fc"]):
        pass


class Masked(nn.Module):
    """SE of a person's own network, told which positions count."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.se = block

    def forward(self, x, lengths):
        return self.se(x, lengths=lengths)


@pytest.mark.parametrize("make", [lambda: senet.SEBlock(8, 2), lambda: MaskedUnit.SE(8)])
def test_masks_count_in_gates(make):
    model, x = Masked(make()), torch.randn(2, 8, 6)
    lengths = torch.tensor([0.5, 1.0])
    with torch.no_grad(), recording(model) as gates:
        y = model(x, lengths)
        torch.testing.assert_close(x * gates["se"][:, :, None], y)
        assert not torch.allclose(gates["se"], senet.gate(model.se, x)[..., 0])
        with holding(model, {"se": lambda s: 2 * s}):
            torch.testing.assert_close(model(x, lengths), 2 * y)
        assert torch.equal(model(x, lengths), y)


def test_a_network_compiled_before_is_recorded_and_held():
    compiled, x = torch.compile(senet.SEBlock(8, 2), backend="eager"), torch.randn(2, 8, 3, 3)
    y = compiled(x)
    with recording(compiled) as gates:
        torch.testing.assert_close(compiled(x), y)
    assert list(gates) == ["_orig_mod"]
    with holding(compiled, {"_orig_mod": 2.0}):
        assert torch.equal(compiled(x), 2 * x)
    torch.testing.assert_close(compiled(x), y)


def test_a_forward_that_another_tool_assigned_is_there_again():
    block, x = senet.SEBlock(8, 2), torch.randn(2, 8, 3, 3)
    block.forward = lambda x: 3 * x
    with holding(block, {"": 2.0}):
        assert torch.equal(block(x), 2 * x)
    assert torch.equal(block(x), 3 * x)


def test_a_callable_returns_a_tensor():
    block = senet.SEBlock(8, 2)
    with holding(block, {"": lambda s: 1}), pytest.raises(InsertionError, match="callable returns, a tensor, not 1"):
        block(torch.randn(2, 8))


def test_a_block_of_any_number_of_channels_is_held_before_it_has_run():
    model, x, fixed = nn.Sequential(ECA(8)), torch.randn(2, 8, 3, 3), torch.rand(8)
    with holding(model, {"0": fixed}):
        torch.testing.assert_close(model(x), x * fixed[:, None, None])
    with holding(model, {"0": fixed[:4]}), pytest.raises(InsertionError, match=r"\(8,\) or \(N, 8\), not one of"):
        model(x)
