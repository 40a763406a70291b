"""Inserted SE goes on running whatever other tools do to the modules that hold it. The gates are open throughout."""

from __future__ import annotations

import copy
import io
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import senet


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)

    def forward(self, x):
        return x + self.bn(self.conv(x))


class Whole(nn.Module):
    """A convolution and its normalisation in one module with a forward for after the fold, as ultralytics has it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)

    def forward(self, x):
        return self.bn(self.conv(x))

    def forward_fuse(self, x):
        return self.conv(x)

    def fuse(self):
        self.conv = fuse_conv_bn_eval(self.conv, self.bn)
        del self.bn
        self.forward = self.forward_fuse


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.unit = Whole()

    def forward(self, x):
        return x + self.unit(x)


def randomise(net):
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return net


@pytest.fixture
def detector(x):
    """SE is joined to the unit as a whole, which is the module that is fused."""
    net = randomise(Detector()).eval()
    site = senet.Site(**{**vars(senet.sites(net, x)[0]), "name": "unit"})
    senet.insertion.attach(net, site, senet.SESpec(2, start="paper"))
    return net


def same(net, x, expected):
    plain = senet.remove(net)(x)
    torch.testing.assert_close(net(x), expected)
    assert not torch.allclose(plain, expected), "SE does nothing here, so the test would see nothing"


def test_a_fused_forward_on_the_instance(detector, x):
    expected = detector(x)
    detector.unit.fuse()
    same(detector, x, expected)


def test_wrapped_forwards_apply_se_once(net, x):
    expected, bn = net(x), net[0].bn
    seen = []

    def wrap(module, name):
        old = module.forward

        def forward(*args, **kwargs):
            seen.append(name)
            return old(*args, **kwargs)

        module.forward = forward
        return old

    first = wrap(bn, "inner")
    second = wrap(bn, "outer")
    torch.testing.assert_close(net(x), expected)
    assert seen == ["outer", "inner"]
    with pytest.raises(senet.InsertionError, match="was wrapped after SE was joined"):
        senet.remove(net)
    bn.forward = second
    torch.testing.assert_close(net(x), expected)
    assert seen == ["outer", "inner", "inner"]
    bn.forward = first
    same(net, x, expected)
    wrap(bn, "again")
    del bn.forward
    same(net, x, expected)
    with pytest.raises(AttributeError):
        del bn.forward


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "compile", "export", "trace", "functional_call", "fx"])
@pytest.mark.parametrize("exchanged", [False, True])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_what_takes_networks_apart(detector, x, how, exchanged):
    expected = detector(x)
    if exchanged:
        detector.unit.fuse()
    if how == "deepcopy":
        other = copy.deepcopy(detector)
    elif how == "pickle":
        buffer = io.BytesIO()
        torch.save(detector, buffer)
        buffer.seek(0)
        other = torch.load(buffer, weights_only=False)
    elif how == "compile":
        other = torch.compile(detector, fullgraph=True, backend="aot_eager")
    elif how == "export":
        other = torch.export.export(detector, (x,)).module()
    elif how == "trace":
        other = torch.jit.trace(detector, x)
    elif how == "fx":
        other = torch.fx.symbolic_trace(detector)
    else:
        state = {**dict(detector.named_parameters()), **dict(detector.named_buffers())}
        torch.testing.assert_close(torch.func.functional_call(detector, state, (x,)), expected)
        return
    torch.testing.assert_close(other(x), expected)


def test_synchronised_batch_norm(net, x):
    expected = net(x)
    same(nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net)), x, expected)


def test_timms_freeze(net, x):
    timm = pytest.importorskip("timm", exc_type=ImportError)
    expected, keys = net(x), set(net.state_dict())
    frozen = timm.layers.freeze_batch_norm_2d(net)
    same(frozen, x, expected)
    thawed = timm.layers.unfreeze_batch_norm_2d(frozen).eval()  # its new modules train
    same(thawed, x, expected)
    assert set(thawed.state_dict()) == keys


def test_folded_into_the_convolution(net, x):
    expected = net(x)
    for block in net:
        block.conv, block.bn = fuse_conv_bn_eval(block.conv, block.bn), nn.Identity()
    same(net, x, expected)


def test_group_norm_in_its_place(net, x):
    plain = nn.Sequential(Block(), Block()).eval()
    plain.load_state_dict(senet.remove(net).state_dict())
    for block in (*plain, *net):
        block.bn = nn.GroupNorm(2, 8)
    torch.testing.assert_close(senet.remove(net)(x), plain(x))
    assert len(list(senet.blocks(net))) == 2
    assert not torch.allclose(net(x), plain(x))


def test_a_wrapper_around_the_host_keeps_it(net, x):
    expected = net(x)

    class Wrapper(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x)

    net[0].bn = Wrapper(net[0].bn)
    same(net, x, expected)


def test_a_container_that_cannot_hold_it_is_told(net):
    with pytest.warns(senet.SEWarning, match="Sequential that replaces bn of Block"):
        net[0].bn = nn.Sequential(nn.BatchNorm2d(8))


def test_identity_placement_over_threads(x):
    net = nn.Sequential(randomise(Block()), randomise(Block())).eval()
    net = senet.insert(net, x, senet.SESpec(2, start="paper", placement="identity"))
    pieces = [torch.randn(2, 8, 6, 6) for _ in range(8)]
    expected = [net(piece) for piece in pieces]
    source = next(m for m in net[0].modules() if isinstance(m, nn.Conv2d))
    meet = threading.Barrier(len(pieces))

    def together(*_):
        meet.wait(30)

    source.register_forward_hook(together)
    given = [None] * len(pieces)

    def work(at):
        with torch.no_grad():
            given[at] = net(pieces[at])

    threads = [threading.Thread(target=work, args=(at,)) for at in range(len(pieces))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.testing.assert_close(given, [e.detach() for e in expected])
