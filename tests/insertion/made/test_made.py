"""`insert(make=…)`: any module as the block, at first the identity, bit for bit, whatever the dtype and the layout."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
import torch
from torch import nn

import senet
from senet import SESpec
from senet.errors import InputError, InputTypeError, InsertionError, ModelError
from senet.fast import straightforward
from senet.insertion import block_spec, inserted
from tests.insertion.networks import randomise, small_resnet

timm_layers = pytest.importorskip("timm.layers", reason="the extra 'timm' is not installed")


class Channelwise(nn.Module):
    """x · σ(w · mean of x + b): a person's own gate, for any number of dimensions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels))

    def forward(self, x):
        mean = x.flatten(2).mean(2)
        return x * torch.sigmoid(mean * self.weight).reshape(*mean.shape, *(1,) * (x.dim() - 2))


class Normalised(nn.Module):
    """A block with batch normalisation and dropout inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm2d(channels), nn.Dropout(0.5), nn.Conv2d(channels, channels, 1))

    def forward(self, x):
        return x + self.layers(x)


def conv_net(dims: int) -> nn.Module:
    """A residual unit for signals of `dims` dimensions."""
    conv, norm = (getattr(nn, f"{kind}{dims}d") for kind in ("Conv", "BatchNorm"))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = conv(3, 4, 3, padding=1)
            self.conv = conv(4, 4, 3, padding=1)
            self.bn = norm(4)

        def forward(self, x):
            x = self.stem(x)
            return x + self.bn(self.conv(x))

    return Net()


def opened(net: nn.Module, alpha: float = 0.5) -> nn.Module:
    """Every α at a value at which the block shows."""
    with torch.no_grad():
        for block in senet.blocks(net).values():
            block.alpha.fill_(alpha)
    return net


EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def plain():
    return randomise(small_resnet()).eval()


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


# ---------------------------------------------------------------- with other tools


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
    with pytest.raises(InputTypeError, match="the CbamModule of make=cbam is no channel gate"):
        senet.gate(block, torch.randn(2, 8, 5, 5))


# ---------------------------------------------------------------- what is refused, in one line


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
    "returns a int64 tensor": lambda m, x: x.long(),
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
        (None, "ecca", InputError, "make='ecca' is no block of timm's, and no path/net.py:function; did you mean"),
        (None, nn.Identity(), InputTypeError, "returns a new module: give a function such as lambda channels: Ident"),
        (None, 3, InputTypeError, "make is a callable from channels to a module, .* not a int"),
        ("eca", None, InputTypeError, "spec is a SESpec, not str"),
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
