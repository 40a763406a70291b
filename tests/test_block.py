"""SEBlock against the paper's equations in float64, timm, torchvision and autograd's own check."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from senet import SEBlock, SESpec, SEWarning
from senet.block import GATES, PLACEMENTS, SQUEEZES, hidden_width

SHAPES = [(3, 8), (2, 8, 11), (2, 8, 5, 7), (2, 8, 3, 4, 5), (1, 8, 1, 1), (1, 8, 1), (0, 8, 4, 4), (0, 8)]
GATES_IN_NUMPY = {
    "sigmoid": lambda s: 1 / (1 + np.exp(-s)),
    "hard_sigmoid": lambda s: np.clip(s / 6 + 0.5, 0, 1),
    "tanh": np.tanh,
    "relu": lambda s: np.maximum(s, 0),
}


def paper(block: SEBlock, x: torch.Tensor) -> np.ndarray:
    """Equations 2 to 4, sample by sample and channel by channel, in float64."""
    weights = {key: value.detach().double().numpy() for key, value in block.state_dict().items()}
    u = x.detach().double().numpy()
    n, positions = len(u), int(np.prod(u.shape[2:]))
    flat = u.reshape(*u.shape[:2], positions)
    result = np.empty_like(flat)
    for sample in range(n):
        columns = flat[sample].T if block.squeeze == "none" else [getattr(flat[sample], _NUMPY[block.squeeze])(1)]
        for place, z in enumerate(columns):
            hidden = np.maximum(weights["fc1.weight"] @ z + weights.get("fc1.bias", 0), 0)
            s = GATES_IN_NUMPY[block.gate_function](weights["fc2.weight"] @ hidden + weights.get("fc2.bias", 0))
            at = slice(place, place + 1) if block.squeeze == "none" else slice(0, positions)
            result[sample, :, at] = flat[sample, :, at] * (s * weights["scale"])[:, None]
    return result.reshape(u.shape)


_NUMPY = {"avg": "mean", "max": "max"}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("squeeze", SQUEEZES)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("bias", [False, True])
def test_equations(shape, squeeze, gate, bias):
    block = SEBlock(8, 2, squeeze=squeeze, gate=gate, bias=bias, scale=1.5, dtype=torch.float64)
    if bias:
        nn.init.normal_(block.fc1.bias)
        nn.init.normal_(block.fc2.bias)
    x = torch.randn(shape, dtype=torch.float64)
    y = block(x)
    assert y.shape == x.shape
    np.testing.assert_allclose(y.detach().numpy(), paper(block, x), rtol=1e-12, atol=1e-12)
    expected = shape if squeeze == "none" or len(shape) == 2 else shape[:2] + (1,) * (len(shape) - 2)
    assert block.gate(x).shape == expected


@settings(max_examples=40)
@given(
    n=st.integers(1, 4),
    c=st.integers(1, 40),
    space=st.lists(st.integers(1, 9), max_size=3),
    ratio=st.integers(1, 64),
    squeeze=st.sampled_from(SQUEEZES),
    gate=st.sampled_from(sorted(GATES)),
    channels_last=st.booleans(),
)
def test_equations_anywhere(n, c, space, ratio, squeeze, gate, channels_last):
    block = SEBlock(c, ratio, squeeze=squeeze, gate=gate)
    x = torch.randn(n, c, *space)
    if channels_last and len(space) == 2:
        x = x.to(memory_format=torch.channels_last)
    np.testing.assert_allclose(block(x).detach().numpy(), paper(block, x), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("squeeze", SQUEEZES)
@pytest.mark.parametrize("gate", ["sigmoid", "tanh"])
@pytest.mark.parametrize("shape", [(3, 6), (2, 6, 5), (2, 6, 3, 4), (2, 6, 2, 3, 2)])
def test_gradients(shape, squeeze, gate):
    block = SEBlock(6, 2, squeeze=squeeze, gate=gate, bias=True, dtype=torch.float64)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, x)
    assert torch.autograd.gradgradcheck(block, x)
    parameters = tuple(block.parameters())
    assert torch.autograd.gradcheck(
        lambda *p: torch.func.functional_call(block, dict(zip(dict(block.named_parameters()), p, strict=True)), x),
        parameters,
    )


def test_timm_and_torchvision():
    """The same function as timm's SEModule and torchvision's SqueezeExcitation, with their weights."""
    timm = pytest.importorskip("timm")
    torchvision = pytest.importorskip("torchvision")
    x = torch.randn(4, 64, 9, 7)
    theirs = [
        timm.layers.SEModule(64, rd_channels=4),
        timm.layers.SEModule(64, rd_channels=4, gate_layer="hard_sigmoid"),
        torchvision.ops.SqueezeExcitation(64, 4),
        torchvision.ops.SqueezeExcitation(64, 4, scale_activation=nn.Hardsigmoid),
    ]
    for index, other in enumerate(theirs):
        ours = SEBlock(64, 16, bias=True, gate="hard_sigmoid" if index % 2 else "sigmoid")
        weights = {f"fc1.{k}": v for k, v in other.fc1.state_dict().items()}
        weights |= {f"fc2.{k}": v for k, v in other.fc2.state_dict().items()}
        ours.load_state_dict(weights)
        torch.testing.assert_close(ours(x), other(x), rtol=1e-6, atol=1e-6)


def test_loads_the_convolution_form():
    """`excitation.0` and `.2` as 1×1 convolutions, without our `scale`; a plain load of our own form stays exact."""
    squeeze_ratio = nn.Sequential(nn.Conv2d(32, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 32, 1, bias=False))
    net = nn.Module()
    net.excitation = squeeze_ratio
    block = SEBlock(32, scale=2.0)
    assert block.load_state_dict(net.state_dict()) == ([], [])
    x = torch.randn(2, 32, 6, 6)
    expected = x * torch.sigmoid(squeeze_ratio(x.mean((2, 3), keepdim=True)))
    torch.testing.assert_close(block(x), expected)
    again = SEBlock(32)
    again.load_state_dict(block.state_dict())
    assert torch.equal(again(x), block(x))
    with pytest.raises(RuntimeError, match="fc1"):
        SEBlock(16).load_state_dict(block.state_dict())


def test_parameters_alone_have_no_scale():
    """As in a moving average or a checkpoint of what is trained: the block keeps its own, and is told."""
    net = nn.Sequential(SEBlock(8, 2, scale=2.0), SEBlock(8, 2))
    alone, x = {key: value.clone() for key, value in net.named_parameters()}, torch.randn(2, 8, 5, 5)
    before = net(x)
    assert net.load_state_dict(alone, strict=False) == (["0.scale"], [])
    assert torch.equal(net(x), before)
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "0.scale"'):
        net.load_state_dict(alone)
    assert net[1].load_state_dict(dict(net[1].named_parameters())) == ([], [])  # 1 is what weights without a scale mean


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("squeeze", SQUEEZES)
def test_precisions(dtype, layout, squeeze):
    """Large float16 maps do not overflow: the gates are those of float64, up to the precision of the weights."""
    block = SEBlock(32, 4, squeeze=squeeze)
    block.fc1.weight.data.mul_(3e-5)  # gates that are not all 0 or 1
    block = block.to(dtype)
    x = (torch.rand(2, 32, 33, 31) * 1e4 + 5e3).to(dtype).to(memory_format=layout)
    y = block(x)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=layout)
    assert y.isfinite().all()
    exact = copy.deepcopy(block).double()(x.double())
    gates, exact_gates = y.double() / x.double(), exact / x.double()
    assert 0.1 < exact_gates.median() < 0.9
    torch.testing.assert_close(gates, exact_gates, rtol=0, atol=max(4 * torch.finfo(dtype).eps, 1e-6))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_the_squeeze_in_float32(dtype):
    block = SEBlock(16, 2)
    x = torch.rand(2, 16, 64, 64) * 1e4
    with torch.autocast("cpu", dtype=dtype):
        assert block(x).dtype == torch.float32
        y = block(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), block(x), rtol=4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [False, True])
def test_identity_start(gate, dtype, bias):
    """Exactly the input, and every unit of the hidden layer on, so that the second step moves the first layer."""
    block = SEBlock(32, 16, gate=gate, bias=bias, dtype=dtype)
    x = (torch.randn(2, 32, 4, 4) * 1e3).to(dtype)
    block.start_as_identity(x)
    assert torch.equal(block(x), x)
    z = x.float().mean((2, 3)).mean(0)
    assert (block.fc1.weight.float() @ z > 0).all()


def test_identity_start_has_no_such_gate():
    for gate in ("tanh", "relu"):
        with pytest.raises(ValueError, match="ask for start='paper'"):
            SEBlock(8, gate=gate).start_as_identity()


def test_options_reach_the_parameters():
    block = SEBlock(64, 16, bias=True)
    assert {key: tuple(value.shape) for key, value in block.state_dict().items()} == {
        "scale": (),
        "fc1.weight": (4, 64),
        "fc1.bias": (4,),
        "fc2.weight": (64, 4),
        "fc2.bias": (64,),
    }
    assert SEBlock(64, width=7).fc1.weight.shape == (7, 64)
    assert SEBlock(8, 16).width == 1
    assert hidden_width(2048) == 128
    assert "least_width" not in SESpec().to_json()  # files of before it was there say the same
    assert SESpec(**SESpec(least_width=4).to_json()) == SESpec(least_width=4)
    assert SESpec(least_width=4).block(16).width == SEBlock(16, least_width=4).width == 4
    assert SESpec(least_width=4).block(128).width == 8
    assert SESpec(width=2, least_width=4).block(128).width == 2
    assert SESpec(reduction_ratio=np.int64(8)).reduction_ratio == 8
    assert SEBlock(8, device="meta", dtype=torch.float16).fc1.weight.device.type == "meta"
    assert "squeeze='avg'" in repr(block)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reduction_ratio": 0}, r"reduction_ratio is a whole number of at least 1, not 0"),
        ({"reduction_ratio": -1}, "not -1"),
        ({"reduction_ratio": 1.5}, r"not 1\.5"),
        ({"reduction_ratio": True}, "not True"),
        ({"width": 0}, "width is a whole number"),
        ({"least_width": 0}, "least_width is a whole number of at least 1, not 0"),
        ({"squeeze": "average"}, "squeeze is one of 'avg', 'max', 'none', not 'average'"),
        ({"gate": "sigmiod"}, "did you mean 'sigmoid'"),
        ({"bias": 1}, "bias is True or False"),
        ({"placement": "standart"}, "did you mean 'standard'"),
        ({"start": "zero"}, "start is one of 'identity', 'paper'"),
        ({"start": "identity", "gate": "tanh"}, "start='paper'"),
        ({"start": "identity", "gate": "relu"}, "start='paper'"),
    ],
)
def test_wrong_options(change, message):
    with pytest.raises(ValueError, match=message):
        SESpec(**change)
    if not change.keys() & {"placement", "start"}:
        with pytest.raises(ValueError, match=message):
            SEBlock(8, **change)


def test_wrong_numbers():
    with pytest.raises(ValueError, match="in_channels is a whole number"):
        SEBlock(0)
    with pytest.raises(ValueError, match="scale is a finite number"):
        SEBlock(8, scale=float("nan"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        SESpec().gate = "tanh"
    assert PLACEMENTS[0] == SESpec().placement


@pytest.mark.parametrize("shape", [(2, 7, 4, 4), (8,), (2, 8, 1, 1, 1, 1)])
def test_wrong_shapes(shape):
    with pytest.raises(ValueError, match="8 channels and takes"):
        SEBlock(8)(torch.zeros(shape))


def test_wrong_dtype():
    with pytest.raises(TypeError, match="floating-point"):
        SEBlock(8)(torch.zeros(2, 8, 3, 3, dtype=torch.int64))


def test_copies_pickles_traces_and_compiles():
    block = SEBlock(16, 4).eval()
    x = torch.randn(2, 16, 5, 5)
    expected = block(x)
    assert torch.equal(copy.deepcopy(block)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(block))(x), expected)
    assert torch.equal(torch.fx.symbolic_trace(block)(x), expected)
    assert torch.equal(torch.compile(block, fullgraph=True, backend="aot_eager")(x), expected)
    batch = torch.export.Dim("batch")
    exported = torch.export.export(block, (x,), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(exported.module()(x), expected)
    reductions = [node for node in exported.graph.nodes if "mean" in str(node.target)]
    assert len(reductions) == 1


def test_import_loads_torch_alone():
    """`import senet` brings in nothing that torch does not, except its own modules."""
    code = (
        "import sys, torch; before = set(sys.modules); import senet; "
        "new = {m.split('.')[0] for m in set(sys.modules) - before}; "
        "print(sorted(new - {'senet', 'torch'} - set(sys.stdlib_module_names)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.filterwarnings("ignore")  # of torch.jit.trace
@pytest.mark.parametrize("squeeze", ["avg", "max"])
def test_exported_graphs_keep_the_squeezed_dimensions(squeeze):
    """XNNPACK cuts the graph at a reduction without them: SE-ResNet-18 went into ExecuTorch in nine pieces."""
    block, x = SEBlock(8, 2, squeeze=squeeze).eval(), torch.randn(2, 8, 5, 5)
    exported = torch.export.export(block, (x,))
    (reduction,) = [node for node in exported.graph.nodes if re.search(r"mean|amax", str(node.target))]
    assert reduction.meta["val"].shape == (2, 8, 1, 1)
    traced = torch.jit.trace(block, x)
    assert "aten::flatten" in str(traced.inlined_graph)
    for graph in (exported.module(), traced):
        torch.testing.assert_close(graph(x), block(x))


def test_from_the_meta_device():
    with torch.device("meta"):
        blocks = SEBlock(8, 2, scale=1.5), SEBlock(8, 2)
    blocks[0].to_empty(device="cpu").reset_parameters()
    assert blocks[0].scale == 1.5
    state = {key: value for key, value in SEBlock(8, 2).state_dict().items() if key != "scale"}
    blocks[1].load_state_dict(state, assign=True)
    assert blocks[1](torch.ones(2, 8)).isfinite().all()


def test_weights_of_another_squeeze_or_gate_are_told():
    block = SEBlock(8, 2, gate="tanh")
    with pytest.warns(SEWarning, match="SE with max squeeze and sigmoid gate, and the block .* avg squeeze and tanh"):
        block.load_state_dict(SEBlock(8, 2, squeeze="max").state_dict())
    block.load_state_dict(SEBlock(8, 2, gate="tanh").state_dict())
    block.load_state_dict(dict(SEBlock(8, 2).state_dict()))  # without metadata
