"""What cannot be a block is refused in one line, and the network is as it was."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn

import senet
from senet import SESpec
from senet.errors import InputError, InputTypeError, InsertionError
from senet.insertion import block_spec, inserted
from tests.insertion.made.makers import EXAMPLE, Normalised, conv_net, opened
from tests.insertion.networks import small_resnet

timm_layers = pytest.importorskip("timm.layers", reason="the extra 'timm' is not installed")


class Scaled(nn.Module):
    def __init__(self, channels: int, run) -> None:
        super().__init__()
        self.channels, self.run = channels, run
        self.weight = nn.Parameter(torch.ones(()))
        self.layer = None

    def forward(self, x):
        return self.run(self, x)


def builds(self, x):
    self.layer = self.layer or nn.Conv2d(self.channels, self.channels, 1)
    return self.layer(x)


def drops_in_place(self, x):
    return nn.functional.dropout(x, 0.5, self.training, inplace=True)


SHARED = nn.Conv2d(8, 8, 1)
BAD = {
    "returns (2, 8, 1, 1) for a map of (2, 8, 8, 8)": lambda m, x: x.mean((2, 3), keepdim=True),
    "returns a tuple": lambda m, x: (x, x),
    "returns an int64 tensor": lambda m, x: x.long(),
    "writes into its input": lambda m, x: x.mul_(m.weight),
    "writes into its input,": drops_in_place,
    "raised, on a map of (2, 8, 8, 8), of 2 dimensions in space, ZeroDivisionError: ": lambda m, x: x * (1 // 0),
    "gives inf or NaN on the example, in float32": lambda m, x: x * torch.inf,
    "makes layers as it runs": builds,
    "gives its parameters no gradient": lambda m, x: torch.no_grad()(lambda: x * m.weight / 2)(),
    "draws random numbers in eval mode": lambda m, x: nn.functional.dropout(x, 0.5, training=True),
    "of 2 dimensions in space, RuntimeError": lambda m, x: nn.functional.conv1d(x, torch.ones(8, 8, 1)),
}


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("message", BAD)
def test_a_block_that_cannot_be_used_is_refused(plain, message, inplace):
    before = copy.deepcopy(plain.state_dict())
    with pytest.raises(InsertionError) as caught:
        senet.insert(plain, EXAMPLE, make=functools.partial(Scaled, run=BAD[message]), inplace=inplace)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not senet.blocks(plain)
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())


def fails(channels):
    raise KeyError("width")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (fails, "make=fails raised KeyError: 'width' ("),
        (lambda c: nn.Conv2d, "returned the class Conv2d for 8 channels; it returns a torch.nn.Module"),
        (lambda c: None, "returned a NoneType for 8 channels"),
        (lambda c: nn.Conv2d(c, c, 1, groups=3), "ValueError: in_channels must be divisible by groups"),
        (lambda c: nn.LazyConv2d(c, 1), "lazy layers, which have no parameters yet"),
        (lambda c: SHARED, "returned for 2.branch.4 a module or parameters that 1.branch.4 has already"),
    ],
)
def test_a_maker_that_cannot_be_used_is_refused(make, message):
    plain = small_resnet()
    plain[2] = copy.deepcopy(plain[1])
    plain[3] = copy.deepcopy(plain[1])
    plain[6] = nn.Linear(8, 5)
    with pytest.raises(InsertionError) as caught:
        senet.insert(plain, EXAMPLE, make=make)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not senet.blocks(plain)


def test_the_line_named_is_that_of_the_persons_function():
    with pytest.raises(InsertionError) as caught:
        senet.insert(small_resnet(), EXAMPLE, make=fails)
    line = fails.__code__.co_firstlineno + 1
    assert f"{__file__}, line {line})" in str(caught.value)


def test_a_layer_of_the_network_is_no_block():
    net = small_resnet()
    with pytest.raises(InsertionError, match="that the network has already"):
        senet.insert(net, EXAMPLE, make=lambda c: net[0])


@pytest.mark.parametrize(
    ("spec", "make", "error", "message"),
    [
        (SESpec(reduction_ratio=4, bias=True), "eca", InputError, "reduction_ratio=4, bias=True is SE's own"),
        (SESpec(least_width=4), "eca", InputError, "least_width=4 is SE's own"),
        (None, "ecca", InputError, "make='ecca' is neither a block of timm's nor path/net.py:function; did you mean"),
        (None, nn.Identity(), InputTypeError, "returns a new module: give a function such as lambda channels: Ident"),
        (None, 3, InputTypeError, "make is a callable from channels to a module, .* not an int"),
        ("eca", None, InputTypeError, "spec is an SESpec, not str"),
    ],
)
def test_what_is_asked_for_is_checked(plain, spec, make, error, message):
    with pytest.raises(error, match=message):
        senet.insert(plain, EXAMPLE, spec, make=make)
    with pytest.raises(error, match=message):
        block_spec(spec, make)


def test_the_network_is_as_it_was_after_a_trial(plain):
    """The block's batch normalisation has counted nothing, and modes are what they were."""
    net = senet.insert(plain.train(), EXAMPLE, make=Normalised)
    for block in senet.blocks(net).values():
        norm = block.module.layers[0]
        assert norm.num_batches_tracked.item() == 0
        assert torch.equal(norm.running_var, torch.ones(block.channels))
        assert all(module.training for module in block.modules())
        assert "forward" not in block.__dict__


def test_a_block_keeps_nothing_of_the_trial(plain):
    class Counts(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.calls, self.seen = 0, None

        def forward(self, x):
            self.calls, self.seen = self.calls + 1, x
            return x / 2

    for block in senet.blocks(senet.insert(plain, EXAMPLE, make=Counts)).values():
        assert (block.module.calls, block.module.seen) == (0, None)


def test_maps_with_the_channels_last_are_given_channels_first():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.norm, self.out = nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, x):
            x = self.stem(x)
            return x + self.out(self.branch(x)).permute(0, 3, 1, 2)

        def branch(self, x):
            return torch.relu(self.norm(self.conv(x).permute(0, 2, 3, 1)))

    plain = Last().eval()
    net = senet.insert(plain, EXAMPLE, make="cbam")
    assert torch.equal(net(EXAMPLE), plain(EXAMPLE))
    ((site, _),) = inserted(net).values()
    assert (site.name, site.channel_dim) == ("out", 3)
    opened(net, 1.0)
    x = plain.stem(EXAMPLE)
    v = plain.out(plain.branch(x)).permute(0, 3, 1, 2)
    torch.testing.assert_close(net(EXAMPLE), x + net.out.se.module(v))


def test_a_2d_block_is_refused_in_a_1d_network_even_where_its_shapes_fit():
    """nn.Conv2d takes (N, C, L) of N = C for one picture, and would mix the samples."""
    net, x = conv_net(1), torch.randn(4, 3, 6)
    with pytest.raises(InsertionError, match="of 1 dimension in space in training mode, RuntimeError"):
        senet.insert(net, x, make=lambda c: nn.Conv2d(c, c, 1))


def test_a_second_insert_says_that_it_is_there(plain):
    net = senet.insert(plain, EXAMPLE, make="eca", where="1*")
    both = senet.insert(net, EXAMPLE, where="3*")
    assert [type(block).__name__ for block in senet.blocks(both).values()] == ["MadeBlock", "SEBlock"]
    assert torch.equal(senet.remove(both)(EXAMPLE), plain(EXAMPLE))
    with pytest.raises(InsertionError, match="matches no site"):
        senet.insert(both, EXAMPLE, make="cbam", where="1*")


def test_another_maker_of_one_name_is_refused_since_a_file_tells_makers_apart_by_name(plain):
    def scaled(by):
        return lambda channels: Scaled(channels, lambda block, x: by * x * block.weight)

    once = scaled(0.5)
    net = senet.insert(plain, EXAMPLE, make=once, where="1*")
    again = senet.insert(copy.deepcopy(net), EXAMPLE, make=once, where="3*")
    assert len(inserted(again)) == 2
    with pytest.raises(InsertionError, match=r"the block at 1.* was made by another make=.*lambda.*, with def"):
        senet.insert(net, EXAMPLE, make=scaled(0.25), where="3*")
