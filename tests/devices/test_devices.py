"""SE through the converters for phones and boards, for real: `make devices`, with the extra `devices`."""

import numpy
import pytest
import torch
from torch import nn

import senet
from senet.bench import devices

pytestmark = pytest.mark.devices
torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
X = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def plain_network(name):
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, num_classes=10).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.running_mean, std=0.1)
    return network


@pytest.fixture(params=["resnet18", "mobilenet_v2"])
def networks(request):
    plain = plain_network(request.param)
    return plain, senet.insert(plain, X, senet.SESpec(start="paper")).eval()


def check(run, network):
    """What runs outside PyTorch against what runs inside: 1e-5 of the largest output."""
    with torch.no_grad():
        expected = network(X)
    given = torch.as_tensor(numpy.asarray(run())).reshape(expected.shape)
    assert (given - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


def delegates(network):
    graph = devices.executorch_program(network, X).exported_program().graph
    return sum("executorch_call_delegate" in str(node.target) for node in graph.nodes)


def test_executorch_runs_se_in_as_few_pieces_as_the_plain_network(networks):
    pytest.importorskip("executorch", reason="the extra 'devices' is not installed")
    plain, with_se = networks
    assert delegates(with_se) == delegates(plain) == 1
    check(devices.executorch(with_se, X), with_se)


def test_litert(networks):
    pytest.importorskip("litert_torch", reason="the extra 'devices' is not installed")
    check(devices.litert(networks[1], X), networks[1])


def test_ncnn(networks):
    pytest.importorskip("pnnx", reason="the extra 'devices' is not installed")
    check(devices.ncnn(networks[1], X), networks[1])


def test_core_ml_converts_it(networks):
    """Core ML runs on Apple's systems alone: here the converter's program is read, and each gate is found in it."""
    coremltools = pytest.importorskip("coremltools", reason="the extra 'devices' is not installed")
    with devices.silent():
        converted = coremltools.convert(
            torch.jit.trace(networks[1], X), inputs=[coremltools.TensorType(shape=X.shape)], convert_to="milinternal"
        )
    operations = [operation.op_type for operation in converted.functions["main"].operations]
    assert operations.count("sigmoid") == len(senet.blocks(networks[1]))
