"""SEBlock's two layers as other tools see them: hooks, wrappers, quantisation, offloading; each a small twin."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import senet
from senet import SEBlock
from senet.fast import straightforward
from senet.fused.switch import fuse_any_size
from tests.insertion.networks import randomise, small_resnet


class LoRA(nn.Module):
    """peft's way: the layer is replaced by a module that holds it and adds a product of low rank."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Linear(base.in_features, 2, bias=False, dtype=base.weight.dtype)
        self.b = nn.Linear(2, base.out_features, bias=False, dtype=base.weight.dtype)

    def forward(self, x):
        return self.base(x) + self.b(self.a(x))


def merged(block, wrapped):
    """The plain block with the products of low rank in its weights."""
    with torch.no_grad():
        for name in ("fc1", "fc2"):
            layer = getattr(wrapped, name)
            getattr(block, name).weight.copy_(layer.base.weight + layer.b.weight @ layer.a.weight)
    return block


@pytest.mark.parametrize("squeeze", ["avg", "max", "none"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_hooks_see_the_layers(squeeze, dtype):
    block, x = SEBlock(8, 2, squeeze=squeeze, dtype=dtype), torch.rand(2, 8, 3, 5, dtype=dtype)
    expected, seen = block(x), []
    for layer in (block.fc1, block.fc2):
        layer.register_forward_hook(lambda layer, args, y: seen.append((layer, y.shape[-1])))
    given = block(x)
    assert seen == [(block.fc1, 4), (block.fc2, 8)]
    assert given.dtype == dtype
    torch.testing.assert_close(given, expected, rtol=max(1e-6, 4 * torch.finfo(dtype).eps), atol=1e-6)


@pytest.mark.parametrize("squeeze", ["avg", "none"])
def test_low_rank_adapters_work_and_learn(squeeze):
    block = SEBlock(8, 2, squeeze=squeeze)
    wrapped = SEBlock(8, 2, squeeze=squeeze)
    wrapped.fc1, wrapped.fc2 = LoRA(wrapped.fc1), LoRA(wrapped.fc2)
    x = torch.randn(2, 8, 3, 5)
    torch.testing.assert_close(wrapped(x), merged(block, wrapped)(x), rtol=1e-5, atol=1e-6)
    wrapped(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in wrapped.fc2.b.parameters())
    torch.testing.assert_close(torch.fx.symbolic_trace(wrapped)(x), wrapped(x))


@pytest.mark.parametrize("bias", [False, True])
def test_quantised_layers_run(bias):
    block, x = SEBlock(16, 2, bias=bias).eval(), torch.randn(4, 16, 3, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(block), {nn.Linear}, dtype=torch.qint8)
        except RuntimeError as error:
            pytest.skip(f"this build of PyTorch does not quantise: {error}")
    assert type(quantised[0].fc1) is not nn.Linear
    torch.testing.assert_close(quantised(x), block(x), rtol=0, atol=0.05)
    assert f"bias={bias}" in repr(quantised)


def test_weights_that_come_for_the_call_alone():
    """accelerate's way: weights lie on the meta device, and the exchanged forward brings them for its call."""
    block, x = SEBlock(8, 2), torch.randn(2, 8, 3, 3)
    expected = block(x)
    for layer in (block.fc1, block.fc2):
        kept, own = layer.weight, layer.forward

        def forward(z, layer=layer, kept=kept, own=own):
            layer.weight = kept
            y = own(z)
            layer.weight = nn.Parameter(kept.to("meta"))
            return y

        layer.weight, layer.forward = nn.Parameter(kept.to("meta")), forward
    assert torch.equal(block(x), expected)
    assert torch.equal(block(x), expected)


def test_channels_that_a_tool_cuts_out():
    """Torch-Pruning's way: rows and columns of the layers go, and their sizes are set anew; the block is not told."""
    block, small, x = SEBlock(8, 2), SEBlock(6, width=3), torch.randn(2, 6, 3, 3)
    channels, hidden = [0, 1, 3, 4, 6, 7], [0, 2, 3]
    for layer, rows, columns in ((block.fc1, hidden, channels), (block.fc2, channels, hidden)):
        layer.weight = nn.Parameter(layer.weight[rows][:, columns])
        layer.out_features, layer.in_features = layer.weight.shape
    assert (block.in_channels, block.width) == (6, 3)
    small.load_state_dict(block.state_dict())
    assert torch.equal(block(x), small(x))
    block.fc1.register_forward_hook(lambda *_: None)  # called as a module it checks what it is given
    torch.testing.assert_close(block(x), small(x))


def test_what_is_watched_is_not_fused():
    model, x = randomise(small_resnet()), torch.randn(2, 3, 16, 16)
    se = senet.insert(model, x).train()
    for block in senet.blocks(se).values():
        nn.init.normal_(block.fc2.weight)
    with straightforward():
        expected = se(x)
    seen = []
    for block in senet.blocks(se).values():
        block.fc1.register_forward_hook(lambda layer, args, y: seen.append(layer))
    with fuse_any_size():
        given = se(x)
    assert len(seen) == 3
    torch.testing.assert_close(given, expected)


def test_global_hooks_see_the_layers():
    """FLOP counters of other tools watch every module's call."""
    block, seen = SEBlock(8, 2), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, y: seen.append(type(module)))
    try:
        block(torch.randn(2, 8, 3, 3))
    finally:
        handle.remove()
    assert seen == [nn.Linear, nn.Linear, SEBlock]


def test_compiled_and_exported_as_before():
    block, x = SEBlock(8, 2).eval(), torch.randn(2, 8, 3, 3)
    targets = [str(node.target) for node in torch.export.export(block, (x,)).graph.nodes]
    assert [t for t in targets if "linear" in t] == ["aten.linear.default"] * 2
    assert not any("to.dtype" in t or "movedim" in t for t in targets)
