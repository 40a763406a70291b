import copy
import dataclasses
import importlib
import json

import pytest
import torch
from torch import nn

from senet.block import PLACEMENTS, SEBlock, SESpec
from senet.cost.cost import Cost, cost
from senet.errors import InputError
from senet.fast import straightforward
from senet.insertion import blocks, insert, remove, sites

cost_module = importlib.import_module("senet.cost.cost")  # in `senet` that name is the function


class Bottleneck(nn.Module):
    """A residual block whose last map, for a 4×4 input, is 1×1."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


def small_network(size_out: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.AdaptiveAvgPool2d(size_out), Bottleneck())


def example(*shape: int, **options) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(**options)


@pytest.fixture
def torchvision_models():
    return pytest.importorskip("torchvision.models", reason="torchvision is not there")


@pytest.mark.parametrize(
    ("name", "batch", "placement"), [("resnet50", 1, "standard"), *(("resnet18", 2, p) for p in PLACEMENTS)]
)
def test_without_the_ses_part_it_is_the_plain_networks_cost(torchvision_models, name, batch, placement):
    x = example(batch, 3, 64, 64)
    with_se = insert(getattr(torchvision_models, name)(), x, SESpec(placement=placement))
    se, plain = cost(with_se, x), cost(remove(with_se), x)
    assert (plain.blocks, plain.rescaling, plain.se_activation_bytes) == ((), 0, 0)
    assert se.parameters - se.se_parameters == plain.parameters
    assert se.multiply_adds - se.se_multiply_adds == plain.multiply_adds
    assert se.activation_bytes - se.se_activation_bytes == plain.activation_bytes
    assert len(se.blocks) == len(blocks(with_se)) == len(sites(remove(with_se), x, placement=placement))


def test_resnet50_at_224(torchvision_models):
    # 4,089,184,256: convolutions and the classifier of torchvision's resnet50; 25,557,032: its documentation.
    se = cost(insert(torchvision_models.resnet50(), example(1, 3, 64, 64)), example(1, 3, 224, 224))
    stages = [(3, 256, 56), (4, 512, 28), (6, 1024, 14), (3, 2048, 7)]  # N_s, C_s, side
    added = sum(2 * n * c * c // 16 for n, c, _ in stages)  # section 4: (2 / r) Σ N_s C_s²
    assert added == 2_514_944
    assert se.parameters == 25_557_032 + added
    assert se.se_parameters == se.se_multiply_adds == added
    assert se.multiply_adds == 4_089_184_256 + added
    assert se.rescaling == sum(n * c * side * side for n, c, side in stages)
    assert [(block.channels, block.width) for block in se.blocks] == [
        (c, c // 16) for n, c, _ in stages for _ in range(n)
    ]
    # What the blocks keep: vectors, as they run in their normalisation's pass.
    plain_bytes = se.activation_bytes - se.se_activation_bytes
    assert 0 < se.se_activation_bytes < 4 * sum(6 * n * c for n, c, _ in stages) < 0.01 * plain_bytes
    # Straightforwardly, the maps that they rescale as well: 1,650 over 1,311 MiB at batch 16 with another's SE.
    with straightforward():
        apart = cost(insert(torchvision_models.resnet50(), example(1, 3, 64, 64)), example(1, 3, 224, 224))
    maps = 4 * se.rescaling
    assert maps < apart.se_activation_bytes < 1.001 * maps + 4 * sum(4 * n * c for n, c, _ in stages)
    assert apart.activation_bytes - apart.se_activation_bytes == plain_bytes
    assert apart.activation_bytes / plain_bytes == pytest.approx(1.26, abs=0.005)


def test_what_is_kept_by_hand():
    relu = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU())
    assert cost(relu, example(2, 4)).activation_bytes == 4 * (2 * 4 + 2 * 8)  # input, and output of the ReLU
    assert cost(nn.Sequential(nn.ReLU(), nn.ReLU()), example(2, 4)).activation_bytes == 0  # nothing to learn
    frozen = copy.deepcopy(relu).requires_grad_(False)
    assert cost(frozen, example(2, 4)).activation_bytes == 0
    assert cost(relu, example(2, 4)).multiply_adds == 2 * 4 * 8


def test_a_block_that_runs_twice_and_blocks_in_a_row_count_once_each():
    block = SEBlock(8, 2)
    twice = nn.Sequential(nn.Conv2d(3, 8, 1), block, nn.Conv2d(8, 8, 1), block, SEBlock(8, 2), nn.Conv2d(8, 8, 1))
    x = example(2, 3, 5, 5)
    se = cost(twice, x)
    plain = cost(nn.Sequential(twice[0], twice[2], twice[5]), x)
    assert [(row.name, row.multiply_adds, row.rescaling) for row in se.blocks] == [
        ("1", 2 * 2 * 2 * 8 * 4, 2 * 2 * 8 * 25),
        ("4", 2 * 2 * 8 * 4, 2 * 8 * 25),
    ]
    assert se.se_parameters == 2 * 2 * 8 * 4
    assert se.activation_bytes - se.se_activation_bytes == plain.activation_bytes


def test_layers_that_blocks_share_count_once():
    network = nn.Sequential(nn.Conv2d(3, 8, 1), SEBlock(8, 2), nn.Conv2d(8, 8, 1), SEBlock(8, 2))
    network[3].fc1 = network[1].fc1
    se, plain = cost(network, example(2, 3, 5, 5)), cost(nn.Sequential(network[0], network[2]), example(2, 3, 5, 5))
    assert [row.parameters for row in se.blocks] == [2 * 8 * 4, 8 * 4]
    assert se.parameters - se.se_parameters == plain.parameters


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dtypes_and_memory_formats(dtype, memory_format):
    x = example(2, 3, 16, 16, dtype=dtype, memory_format=memory_format)
    network = insert(small_network().to(dtype=dtype, memory_format=memory_format), x)
    se, plain = cost(network, x), cost(remove(network), x)
    half = 2 * 2 * 8 if dtype == torch.bfloat16 else 0  # mean and deviation of 8 channels, kept in float32 all the same
    assert se.activation_bytes - se.se_activation_bytes == plain.activation_bytes + half > 0
    with straightforward():
        apart = cost(network, x)
    assert apart.activation_bytes - apart.se_activation_bytes == plain.activation_bytes
    assert apart.se_activation_bytes >= dtype.itemsize * se.rescaling
    assert 0 < se.se_activation_bytes < apart.se_activation_bytes


@pytest.mark.parametrize(
    ("spec", "parameters"),
    [
        (SESpec(reduction_ratio=4), 8 * 2 * 2),
        (SESpec(width=3, bias=True), 8 * 3 * 2 + 3 + 8),
        (SESpec(squeeze="none"), 8 * 1 * 2),
        (SESpec(gate="tanh", start="paper"), 8 * 1 * 2),
    ],
)
def test_variants_of_the_block(spec, parameters):
    x = example(2, 3, 16, 16)
    network = insert(small_network(), x, spec)
    se, plain = cost(network, x), cost(remove(network), x)
    assert se.se_parameters == parameters
    places = 16 if spec.squeeze == "none" else 1  # as 1×1 convolutions on the full map
    assert se.se_multiply_adds == 2 * places * 2 * 8 * se.blocks[0].width
    assert se.activation_bytes - se.se_activation_bytes == plain.activation_bytes


def test_blocks_that_others_wrote(monkeypatch):
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not there")
    network = nn.Sequential(nn.Conv2d(3, 8, 1), ops.SqueezeExcitation(8, 2), nn.Conv2d(8, 8, 1))
    x = example(2, 3, 5, 5)
    monkeypatch.setattr(cost_module, "blocks", lambda model, _: {"1": model[1]} if len(model) == 3 else {})
    se, plain = cost(network, x), cost(nn.Sequential(network[0], network[2]), x)
    (row,) = se.blocks
    assert (row.channels, row.width, row.parameters) == (8, 2, 2 * 8 * 2 + 2 + 8)
    assert (row.multiply_adds, row.rescaling) == (2 * 2 * 8 * 2, 2 * 8 * 25)
    assert se.activation_bytes - se.se_activation_bytes == plain.activation_bytes
    odd = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Identity(), nn.Conv2d(8, 8, 1))
    assert (cost(odd, x).blocks[0].channels, cost(odd, x).blocks[0].width) == (None, None)
    assert "–" in str(cost(odd, x))


def test_a_block_that_is_called_by_keyword():
    class ByKeyword(nn.Sequential):
        def forward(self, x):
            return self[1](x=self[0](x))

    layers, x = (nn.Conv2d(3, 8, 1), SEBlock(8, 2)), example(2, 3, 5, 5)
    assert cost(ByKeyword(*layers), x) == cost(nn.Sequential(*layers), x)


def test_attention_is_counted_though_a_fused_kernel_would_run_it():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    projections, mixing, mlp = 4 * 5 * 16 * 16, 2 * 5 * 5 * 16, 2 * 5 * 16 * 32
    assert cost(layer, example(1, 5, 16)).multiply_adds == projections + mixing + mlp
    assert torch.backends.mha.get_fastpath_enabled()


class Pooled(nn.Module):
    """Attention over positions with one learnt query: a matrix times a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.ones(6))

    def forward(self, x):
        return x @ self.query


@pytest.mark.parametrize(
    ("layer", "adds"),
    [
        (nn.LSTM(6, 5), 7 * 2 * 4 * 5 * (6 + 5)),
        (nn.LSTM(6, 5, 2, bidirectional=True, bias=False), 7 * 2 * 2 * 4 * 5 * (6 + 5 + 10 + 5)),
        (nn.LSTM(6, 5, batch_first=True), 7 * 2 * 4 * 5 * (6 + 5)),
        (nn.GRU(6, 5), 7 * 2 * 3 * 5 * (6 + 5)),
        (nn.RNN(6, 5), 7 * 2 * 5 * (6 + 5)),
        (Pooled(), 7 * 2 * 6),
    ],
    ids=str,
)
def test_recurrent_layers_and_vectors_are_counted(layer, adds):
    """PyTorch's counter takes an LSTM on the CPU for no work at all."""
    x = example(7, 2, 6)
    assert cost(layer, x).multiply_adds == adds == cost(layer.to("meta"), x.to("meta")).multiply_adds


def test_a_deformed_convolution_is_counted(torchvision_models):
    from torchvision.ops import DeformConv2d

    x, offset = example(2, 4, 9, 9), torch.zeros(2, 18, 9, 9)
    assert cost(DeformConv2d(4, 6, 3, padding=1, groups=2), (x, offset)).multiply_adds == 2 * 6 * 81 * 2 * 9


def test_a_batch_of_one_on_1x1_maps():
    network = insert(small_network(1), example(2, 3, 8, 8))
    one, two, four = (cost(network, example(n, 3, 8, 8)) for n in (1, 2, 4))
    assert four.activation_bytes - two.activation_bytes == 2 * (two.activation_bytes - one.activation_bytes)
    assert (four.multiply_adds, one.rescaling) == (4 * one.multiply_adds, 8)
    plain = cost(remove(network), example(1, 3, 8, 8))
    assert one.activation_bytes - one.se_activation_bytes == plain.activation_bytes > 0


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = small_network()

    def forward(self, x, *, scale=1.0, extra=None):
        return {"maps": [self.body(x * scale)], "extra": extra}


def test_examples_are_tensors_tuples_or_dicts():
    x = example(2, 3, 16, 16)
    costs = {
        dataclasses.replace(cost(Two(), given), example="") for given in (x, (x,), {"x": x}, {"x": x, "scale": 1.0})
    }
    assert len(costs) == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (example(1, 4, 16, 16), ("(1, 4, 16, 16)", "3 channels")),
        (torch.ones(1, 3, 16, 16, dtype=torch.int64), ("int64", "(1, 3, 16, 16)")),
        (example(7), ("(7,)",)),
        ({"image": example(1, 3, 16, 16)}, ("image", "unexpected keyword")),
    ],
)
def test_an_example_that_the_network_refuses(given, words):
    network = small_network()
    with pytest.raises(ValueError, match="does not run on the example") as caught:
        cost(network, given)
    assert all(word in str(caught.value) for word in words)


class NoTraining(nn.Linear):
    def forward(self, x):
        if torch.is_grad_enabled():
            raise NotImplementedError("only for inference")
        return super().forward(x)


def hooks_of(network):
    return [(dict(module._forward_hooks), dict(module._forward_pre_hooks)) for module in network.modules()]


def test_on_the_meta_device_it_is_the_same():
    x = example(2, 3, 16, 16)
    assert cost(small_network().to("meta"), x.to("meta")) == cost(small_network(), x)


def test_a_network_that_cannot_train_or_is_not_built():
    with pytest.raises(InputError, match=r"in training mode on the example, a float32 tensor.*only for inference"):
        cost(NoTraining(4, 4), example(2, 4))
    with pytest.raises(ValueError, match="lazy"):
        cost(nn.LazyLinear(4), example(2, 4))


def test_the_network_is_left_as_it_was():
    x = example(2, 3, 16, 16)
    network = insert(nn.Sequential(*small_network(), nn.Dropout()), x).train()
    network[1].eval()
    network(x).sum().backward()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    modes = [module.training for module in network.modules()]
    random, hooks = torch.random.get_rng_state(), hooks_of(network)
    cost(network, x, latency=True)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(network.parameters(), gradients, strict=True))
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), random)
    assert hooks_of(network) == hooks


def test_hooks_are_gone_after_an_error():
    network = insert(small_network(), example(1, 3, 16, 16))
    hooks = hooks_of(network)
    with pytest.raises(ValueError, match="does not run"):
        cost(network, example(1, 4, 16, 16))
    assert hooks_of(network) == hooks


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_callers_without_gradients_get_the_same(mode):
    network = small_network()
    expected = cost(network, example(2, 3, 16, 16))
    with mode():
        assert cost(network, example(2, 3, 16, 16)) == expected


def test_latency_is_a_ratio_to_the_network_without_se():
    x = example(1, 3, 16, 16)
    network = small_network()
    assert cost(network, x).latency_ratio is None
    assert cost(network, x, latency=True).latency_ratio == 1.0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine several would wait for each other
    try:
        assert 0.5 < cost(insert(network, x), x, latency=True).latency_ratio < 20
    finally:
        torch.set_num_threads(threads)


def test_latency_is_the_median_of_paired_runs_in_turn(monkeypatch):
    runs = []

    def seconds(network, _example):
        runs.append(bool(blocks(network)))
        slow = 1 + len(runs) // 10  # a machine that gets slower and slower: only pairs can be compared
        return slow * (3.0 if runs[-1] else 2.0)

    monkeypatch.setattr(cost_module, "_seconds", seconds)
    monkeypatch.setattr(cost_module, "WARM_UP_S", 0)
    x = example(1, 3, 16, 16)
    assert cost(insert(small_network(), x), x, latency=True).latency_ratio == pytest.approx(1.5)
    timed = runs[4:]  # after warming up
    assert len(timed) >= 2 * 15
    assert all(a != b for a, b in zip(timed[::2], timed[1::2], strict=True))


def test_as_text(torchvision_models):
    x = example(1, 3, 64, 64)
    network = insert(torchvision_models.resnet18(), x, where="layer4*")
    found = dataclasses.replace(cost(network, x), latency_ratio=1.0625)
    text = str(found)
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text
    for words in (
        "a float32 tensor of shape (1, 3, 64, 64)",
        "11.76 M",  # 11,689,512 of torchvision, and 2 · 2 · 512 · 32
        "65.54 k",
        "0.56 %",
        "1.062 ×",
        "layer4.0.bn2.se",
        "layer4.1.bn2.se",
        "MiB",
        "The 2 SE blocks",
    ):
        assert words in text, text
    assert "SE blocks" not in str(cost(remove(network), x))
    assert "The SE block" in str(dataclasses.replace(found, blocks=found.blocks[:1]))


def test_a_cost_is_frozen_and_goes_into_json():
    x = example(2, 3, 16, 16)
    result = cost(insert(small_network(), x), x)
    assert isinstance(result, Cost)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.parameters = 1
    assert json.loads(json.dumps(dataclasses.asdict(result)))["blocks"][0]["name"] == "2.bn2.se"
    empty = cost(nn.Identity(), x)
    assert (empty.se_parameters_share, empty.se_multiply_adds_share, empty.se_activation_bytes_share) == (0, 0, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_a_cuda_device():
    x = example(2, 3, 16, 16).cuda()
    network = insert(small_network().cuda(), x)
    random = torch.cuda.get_rng_state()
    se, plain = cost(network, x, latency=True), cost(remove(network), x)
    assert se.activation_bytes - se.se_activation_bytes == plain.activation_bytes
    assert se.latency_ratio > 0
    assert torch.equal(torch.cuda.get_rng_state(), random)


def test_a_notebook_shows_the_tables():
    found = cost(
        insert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()), torch.zeros(1, 3, 32, 32)),
        torch.zeros(1, 3, 32, 32),
    )
    params, adds, kept = found.parameters, found.multiply_adds, found.activation_bytes
    assert repr(found) == f"Cost(parameters={params}, multiply_adds={adds}, activation_bytes={kept}, 1 SE block)"
    assert found._repr_html_().startswith("<pre>Cost on a float32 tensor of shape (1, 3, 32, 32)")
