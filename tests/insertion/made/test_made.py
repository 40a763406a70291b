"""`insert(make=…)`: any module as the block, at first the identity, bit for bit, whatever the dtype and the layout."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

import senet
from senet import SESpec
from senet.block.made import made_by
from senet.errors import ModelError
from senet.insertion import block_spec, inserted
from tests.insertion.made.makers import EXAMPLE, Channelwise, Normalised, conv_net, opened
from tests.insertion.networks import randomise

timm_layers = pytest.importorskip("timm.layers", reason="the extra 'timm' is not installed")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("make", ["eca", "cbam", "coord", "gca", Normalised])
def test_it_is_at_first_the_identity_bit_for_bit(plain, dtype, layout, make):
    plain = plain.to(dtype=dtype, memory_format=layout)
    x = EXAMPLE.to(dtype).to(memory_format=layout)
    with_blocks = senet.insert(plain, x, make=make)
    assert torch.equal(with_blocks(x), plain(x))
    other = torch.randn(3, 3, 9, 7).to(dtype)
    assert torch.equal(with_blocks(other), plain(other))
    assert not torch.equal(opened(with_blocks)(x), plain(x))


@pytest.mark.parametrize("name", ["eca", "cbam", "coord", "gc", "nl"])
def test_the_block_is_timms_own_module_mixed_in(name):
    """Against timm's module and the equation in float64, applied by hand."""
    net = opened(senet.insert(randomise(conv_net(2)).eval(), EXAMPLE, make=name), 0.3).double()
    theirs = timm_layers.create_attn(name, 4).double().eval()
    theirs.load_state_dict(net.bn.se.module.state_dict())
    x = EXAMPLE.double()
    u = net.stem(x)
    v = nn.functional.batch_norm(net.conv(u), net.bn.running_mean, net.bn.running_var, net.bn.weight, net.bn.bias)
    torch.testing.assert_close(net(x), u + v + net.bn.se.alpha * (theirs(v) - v), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_ones_own_module_goes_into_signals_of_any_dimensions(dims):
    plain = randomise(conv_net(dims)).eval()
    x = torch.randn(2, 3, *[6] * dims)
    net = senet.insert(plain, x, make=Channelwise)
    assert torch.equal(net(x), plain(x))
    ((name, block),) = senet.blocks(net).items()
    assert name == "bn.se"
    assert isinstance(block, senet.MadeBlock)
    assert isinstance(block.module, Channelwise)
    assert block.alpha.shape == (1,)
    back = senet.remove(opened(net))
    assert type(back.bn) is type(plain.bn)
    assert back.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(back(x), plain(x))


def test_half_precision_does_not_overflow_at_the_start():
    """f(x) − x leaves float16's range here, and 0 · inf would be NaN."""

    class Opposite(nn.Module):
        def forward(self, x):
            return -x

    block = senet.MadeBlock(Opposite(), 2, dtype=torch.float16)
    x = torch.full((1, 2, 3, 3), 60000.0, dtype=torch.float16)
    assert torch.equal(block(x), x)


def test_alpha_is_learnt_and_then_the_module(plain):
    net = senet.insert(plain, EXAMPLE, make="eca").train()
    optimiser = torch.optim.SGD(net.parameters(), 0.1)
    block = senet.blocks(net)["1.branch.4.se"]
    weight = block.module.conv.weight.clone()
    for step in range(2):
        optimiser.zero_grad()
        net(EXAMPLE).square().sum().backward()
        assert bool(block.module.conv.weight.grad.any()) == (step == 1)
        optimiser.step()
        assert block.alpha.item() != 0
    assert not torch.equal(block.module.conv.weight, weight)


def test_a_module_that_is_the_identity_itself_gets_an_alpha_of_one(plain):
    """With α = 0 neither could ever learn: each is the other's gradient."""

    class Zero(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(channels, 1, 1))

        def forward(self, x):
            return x * (1 + torch.tanh(self.weight))

    net = senet.insert(plain, EXAMPLE, make=Zero)
    assert torch.equal(net(EXAMPLE), plain(EXAMPLE))
    net(EXAMPLE).square().sum().backward()
    for block in senet.blocks(net).values():
        assert block.alpha.item() == 1
        assert block.module.weight.grad.abs().max() > 0


def test_the_papers_start_is_the_module_alone(plain):
    net = senet.insert(plain, EXAMPLE, SESpec(start="paper"), make="eca")
    for block in senet.blocks(net).values():
        assert block.alpha.item() == 1
        x = torch.randn(2, block.channels, 5, 5)
        assert torch.equal(block(x), block.module(x))
        assert not any("alpha" in name for name, _ in block.named_parameters())
        assert "alpha" in block.state_dict()


def test_the_paper_block_counts_and_trains_like_the_published_one(plain):
    se = senet.cost(senet.insert(plain, EXAMPLE, SESpec(start="paper"), make="eca"), EXAMPLE)
    mixed = senet.cost(senet.insert(plain, EXAMPLE, make="eca"), EXAMPLE)
    sizes = [(8, 8 * 64), (16, 16 * 16), (16, 16 * 16)]  # channels, and numbers of the map, of the three units
    for row, other, (channels, numbers) in zip(se.blocks, mixed.blocks, sizes, strict=True):
        kernel = timm_layers.create_attn("eca", channels).conv.weight.numel()
        assert (row.parameters, other.parameters) == (kernel, kernel + 1)
        assert row.multiply_adds == other.multiply_adds == 2 * kernel * channels  # two images
        assert (row.rescaling, other.rescaling) == (2 * numbers, 4 * numbers)  # x · gate, and α · (f(x) − x)


def test_where_and_placement_mean_what_they_mean_for_se(plain):
    net = senet.insert(plain, EXAMPLE, SESpec(placement="pre"), where="2*", make="eca")
    ours = senet.insert(plain, EXAMPLE, SESpec(placement="pre"), where="2*")
    assert list(senet.blocks(net)) == list(senet.blocks(ours))
    ((site, spec),) = inserted(net).values()
    assert (site.position, spec.name, spec.placement, spec.module) == ("input", "eca", "pre", "EcaModule")


@pytest.mark.parametrize("placement", ["standard", "pre", "post", "identity", "inner"])
def test_every_placement_starts_as_the_identity_and_can_be_removed(plain, placement):
    net = senet.insert(plain, EXAMPLE, SESpec(placement=placement), make="cbam")
    assert torch.equal(net(EXAMPLE), plain(EXAMPLE))
    assert not torch.equal(opened(net)(EXAMPLE), plain(EXAMPLE))
    assert torch.equal(senet.remove(net)(EXAMPLE), plain(EXAMPLE))


def test_se_is_ours(plain):
    net = senet.insert(plain, EXAMPLE, SESpec(reduction_ratio=4), make="se")
    assert all(isinstance(block, senet.SEBlock) for block in senet.blocks(net).values())


def test_a_function_of_a_file_makes_the_blocks(plain, tmp_path):
    (tmp_path / "net.py").write_text("import helper\n\ndef gate(channels):\n    return helper.Gate(channels)\n")
    (tmp_path / "helper.py").write_text(
        "from torch import nn\n\nclass Gate(nn.Conv2d):\n    def __init__(self, c):\n"
        "        super().__init__(c, c, 1)\n"
    )
    net = senet.insert(plain, EXAMPLE, make=f"{tmp_path}/net.py:gate")
    assert {type(block.module).__name__ for block in senet.blocks(net).values()} == {"Gate"}
    with pytest.raises(ModelError, match=r"has no function 'gat'; did you mean 'gate'"):
        senet.insert(plain, EXAMPLE, make=f"{tmp_path}/net.py:gat")


def test_the_weights_are_the_same_whatever_the_default_device_and_the_random_state_stays(plain):
    torch.manual_seed(3)
    one = senet.insert(plain, EXAMPLE, make="cbam")
    with torch.device("meta"):
        torch.manual_seed(3)
        other = senet.insert(plain, EXAMPLE, make="cbam")
    assert torch.equal(torch.get_rng_state(), torch.random.manual_seed(3).get_state())
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])


def test_a_name_holds_no_address_of_memory():
    """Which another process would not repeat, so that a study could not be resumed."""
    assert made_by(functools.partial(dict, [object()])) == "dict([<object object>])"


def test_what_decides_the_blocks_is_told_apart(tmp_path):
    """A study in a folder goes on only with the same blocks, and two may come from one file or one function."""
    file = tmp_path / "net.py"
    file.write_text("one = two = None")

    def content(make):
        return block_spec(None, make).content()

    contents = [
        content("eca"),
        content(f"{file}:one"),
        content(f"{file}:two"),
        content(Channelwise),
        content(Normalised),
        content(functools.partial(timm_layers.create_attn, "eca")),
        content(functools.partial(timm_layers.create_attn, "cbam")),
        *(content(lambda channels, kernel=kernel: nn.Conv2d(channels, channels, kernel)) for kernel in (1, 3)),
        content(eval("lambda channels: None")),  # its code cannot be read
    ]
    assert len(set(contents)) == len(contents)
    before = content(f"{file}:one")
    file.write_text("one = two = 3")
    assert content(f"{file}:one") != before
    assert content(f"{file}:one").startswith("net.py:one sha256 ")
