from collections import Counter

import pytest
import torch
from torch import nn

import senet
from senet.block import SEBlock
from senet.export import onnx_squeeze

onnx = pytest.importorskip("onnx", reason="the extra 'ship' is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'ship' is not installed")
pytest.importorskip("onnxscript", reason="the extra 'ship' is not installed")

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Bottleneck(nn.Module):
    """Its SE squeezes what the last convolution, of `hidden` channels, is given."""

    def __init__(self, se, dims=2, hidden=16, channels=64):
        super().__init__()
        self.conv1 = CONVOLUTIONS[dims](channels, hidden, 1)
        self.conv2 = CONVOLUTIONS[dims](hidden, channels, 1)
        self.se = se

    def forward(self, x):
        return torch.relu(self.se(self.conv2(torch.relu(self.conv1(x)))) + x)


class Network(nn.Module):
    """A stem of two convolutions, two units with SE, and a mean that is no squeeze."""

    def __init__(self, make, dims=2):
        super().__init__()
        self.stem = CONVOLUTIONS[dims](3, 64, 3, padding=1)
        self.blocks = nn.Sequential(*(Bottleneck(make(), dims) for _ in range(2)))
        self.head = nn.Linear(64, 5)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).flatten(2).mean(2))


def ours(**options):
    return lambda: SEBlock(64, width=8, **options)


def torchvisions():
    return pytest.importorskip("torchvision.ops").SqueezeExcitation(64, 8)


def torchvisions_hard():
    return pytest.importorskip("torchvision.ops").SqueezeExcitation(64, 8, scale_activation=nn.Hardsigmoid)


def timms():
    return pytest.importorskip("timm.layers").SqueezeExcite(64)


def written(network, x, path, **options):
    """What kinds of operations are in its file, once that gives PyTorch's outputs for another batch."""
    network.eval()
    senet.export(network, x, path, **options)
    onnx.checker.check_model(path, full_check=True)
    other = torch.randn(3, *x.shape[1:], generator=torch.Generator().manual_seed(2))
    given = onnxruntime.InferenceSession(path).run(None, {"input": other.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(given), network(other).detach(), atol=1e-5, rtol=1e-4)
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("dynamic_size", [False, True])
@pytest.mark.parametrize("make", [ours(bias=True), ours(bias=False), torchvisions, torchvisions_hard, timms])
def test_pooled_whoever_wrote_it(tmp_path, make, dynamic_size):
    torch.manual_seed(0)
    network = Network(make)
    kinds = written(network, torch.randn(1, 3, 8, 8), tmp_path / "net.onnx", dynamic_size=dynamic_size)
    pooled = 0 if dynamic_size else 2  # a map of any size may be huge
    assert kinds["GlobalAveragePool"] == pooled
    assert kinds["Conv"] == 1 + 2 * (2 + pooled)
    assert kinds["Gemm"] == 1 + 2 * (2 - pooled)  # the classifier's is one
    assert kinds["ReduceMean"] == 1 + 2 - pooled


def test_the_optimized_graph_writes_no_map_anew_for_a_squeeze(tmp_path):
    torch.manual_seed(0)
    written(Network(ours(bias=True)), torch.randn(1, 3, 8, 8), tmp_path / "net.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # the file is for this kind of processor alone
    onnxruntime.InferenceSession(tmp_path / "net.onnx", options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
    makers = {name: node for node in nodes for name in node.output}
    squeezes = [node for node in nodes if node.op_type == "GlobalAveragePool"]
    assert len(squeezes) == 2
    assert all(makers[node.input[0]].op_type != "ReorderOutput" for node in squeezes)


def test_a_map_that_is_rescaled_too_keeps_the_graph_of_the_straightforward_block(tmp_path):
    torch.manual_seed(0)
    network = senet.create("se_resnet20", num_classes=5)  # basic blocks: SE squeezes the map that it rescales
    kinds = written(network, torch.randn(1, 3, 32, 32), tmp_path / "net.onnx")
    assert kinds["GlobalAveragePool"] == 0
    assert kinds["ReduceMean"] == 9 + 1
    assert kinds["Gemm"] == 2 * 9 + 1
    assert kinds["Conv"] == 19


@pytest.mark.parametrize("dims", [1, 3])
def test_signals_of_other_dimensions_stay(tmp_path, dims):
    torch.manual_seed(0)
    network = Network(ours(bias=True), dims)
    kinds = written(network, torch.randn(1, 3, *[6] * dims), tmp_path / "net.onnx")
    assert kinds["GlobalAveragePool"] == 0
    assert kinds["ReduceMean"] == 3
    assert kinds["Gemm"] == 2 * 2 + 1


def test_layers_that_share_a_weight_stay(tmp_path):
    torch.manual_seed(0)
    shared = SEBlock(64, width=8)
    kinds = written(Network(lambda: shared), torch.randn(1, 3, 8, 8), tmp_path / "net.onnx")
    assert kinds["GlobalAveragePool"] == 0
    assert kinds["Gemm"] == 2 * 2 + 1


def test_a_squeeze_with_another_use_stays(tmp_path):
    class Used(Network):
        def forward(self, x):
            u = self.stem(x)
            z = u.mean((2, 3))
            gate = torch.sigmoid(self.blocks[0].se.fc2(torch.relu(self.blocks[0].se.fc1(z))))
            return self.head((u * gate[:, :, None, None]).mean((2, 3)) + z)

    torch.manual_seed(0)
    kinds = written(Used(ours(bias=True)), torch.randn(1, 3, 8, 8), tmp_path / "net.onnx")
    assert kinds["GlobalAveragePool"] == 0
    assert kinds["ReduceMean"] == 2


def test_the_squeeze_of_a_huge_map_keeps_its_sums_in_rows(tmp_path, monkeypatch):
    torch.manual_seed(0)
    network = Network(ours(bias=True))
    monkeypatch.setattr(onnx_squeeze, "_MOST", 63)
    kinds = written(network, torch.randn(1, 3, 8, 8), tmp_path / "net.onnx")
    assert kinds["GlobalAveragePool"] == 0
