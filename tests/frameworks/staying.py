"""What every framework's network and tool is held to, with open gates: at the identity start a lost SE is not seen."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import senet

OPEN = senet.SESpec(4, start="paper", least_width=8)  # fewer hidden units could all be closed


def tensors(output):
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]


def call(net, x):
    if isinstance(x, dict):
        return net(**x)
    return net(*x) if isinstance(x, tuple) else net(x)


@torch.no_grad()
def outputs(net, x):
    modes = [(m, m.training) for m in net.modules()]
    nn.Module.train(net, False)
    result = [t.detach().clone() for t in tensors(call(net, x))]
    for module, mode in modes:
        module.training = mode
    return result


def randomise(net, seed=0):
    """Weights, and statistics of normalisations, as after a training, so that each loss, fold and exchange shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in net.named_parameters():
        if "gamma" in name or "layer_scale" in name:
            nn.init.ones_(parameter)
        elif parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="linear", generator=generator)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            with torch.no_grad():
                for tensor in (module.weight, module.running_var):
                    if tensor is not None:
                        tensor.uniform_(0.7, 1.4, generator=generator)
                for tensor in (module.bias, module.running_mean):
                    if tensor is not None:
                        tensor.normal_(0, 0.2, generator=generator)
    return net


def opened(net, x, *, where=None, count=None):
    """`net` with SE whose gates are open, in eval mode; `count` blocks of it."""
    net = senet.insert(randomise(net), x, OPEN, where=where).eval()
    added = senet.insertion.inserted(net)
    assert count is None or len(added) == count, list(added)
    return net


def differ(one, two):
    return any(not torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(one, two, strict=True))


def assert_same(given, expected, plain=None, tolerance=1e-4):
    """The same outputs; and other ones than those of the network without SE, or the test would see nothing."""
    for a, b in zip(given, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    if plain is not None:
        assert differ(expected, plain), "SE does nothing here, so the test would see nothing"


def works(net, x, count, tmp_path, *, where=None):
    """Sites, the identity start, a step of training, saving and loading."""
    assert len(senet.sites(net, x)) >= count
    plain = outputs(net, x)
    with_se = senet.insert(net, x, where=where)
    added = list(senet.insertion.inserted(with_se))
    assert len(added) == count, added
    for a, b in zip(outputs(with_se, x), plain, strict=True):
        assert torch.equal(a, b)

    net = opened(net, x, where=where, count=count)
    blocks = [m for m in net.modules() if isinstance(m, senet.SEBlock)]
    net.requires_grad_(True)
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    sum(t.float().square().mean() for t in tensors(call(net, x)) if t.grad_fn is not None).backward()
    assert all(block.fc2.weight.grad is not None and block.fc2.weight.grad.abs().sum() > 0 for block in blocks)
    optimizer.step()

    senet.save(net, tmp_path / "net.safetensors")
    again = senet.load(tmp_path / "net.safetensors", model=net if where is None else senet.remove(net))
    assert_same(outputs(again, x), outputs(net, x), outputs(senet.remove(net), x))
    return net


def not_doubled(net, x, count, left=None):
    """`count` blocks of SE are there already; `left` places remain for it (None: none)."""
    net = net.eval()
    assert len(senet.blocks(net, x)) == count, list(senet.blocks(net, x))
    try:
        found = senet.sites(net, x)
    except senet.InsertionError:
        found = []
    assert len(found) == (left or 0), [site.name for site in found]
