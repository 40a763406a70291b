import pytest
import torch
from torch import nn

from senet.zoo import create
from senet.zoo.networks.cifar_resnet import NETWORKS, CifarResNet, Shortcut


def parameters_of(n: int, classes: int, in_channels: int = 3) -> int:
    """He et al., section 4.2: convolutions without biases, two numbers per channel and normalisation."""

    def convolution(inputs: int, outputs: int) -> int:
        return 9 * inputs * outputs + 2 * outputs

    total = convolution(in_channels, 16)
    for inputs, outputs in ((16, 16), (16, 32), (32, 64)):
        total += convolution(inputs, outputs) + (2 * n - 1) * convolution(outputs, outputs)
    return total + (64 + 1) * classes


@pytest.mark.parametrize(
    ("name", "n", "millions"),
    # the millions of table 6 of He et al., as printed
    [
        ("resnet20", 3, 0.27),
        ("resnet32", 5, 0.46),
        ("resnet44", 7, 0.66),
        ("resnet56", 9, 0.85),
        ("resnet110", 18, 1.7),
    ],
)
def test_parameters_are_the_papers(name, n, millions):
    with torch.device("meta"):
        model = NETWORKS[name].build(num_classes=10)
    count = sum(p.numel() for p in model.parameters())
    assert count == parameters_of(n, 10)
    assert round(count / 1e6, 2 if millions < 1 else 1) == millions
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == 6 * n + 2


def test_every_network_of_the_paper_is_tested():
    assert set(NETWORKS) == {"resnet20", "resnet32", "resnet44", "resnet56", "resnet110"}


@pytest.mark.parametrize("in_channels", [1, 3])
def test_forward_and_backward(in_channels):
    model = create("resnet20", num_classes=7, in_channels=in_channels)
    x = torch.randn(2, in_channels, 32, 32)
    logits = model(x)
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert model(torch.randn(2, in_channels, 17, 23)).shape == (2, 7)  # odd sizes


def test_shortcut_against_the_paper_in_words():
    x = torch.randn(2, 16, 5, 6)
    y = Shortcut(2, 16)(x)
    assert y.shape == (2, 32, 3, 3)
    for row in range(3):
        for column in range(3):
            assert torch.equal(y[:, :16, row, column], x[:, :, 2 * row, 2 * column])
    assert not y[:, 16:].any()
    assert not list(Shortcut(2, 16).parameters())


def test_initialisation_is_hes():
    model = create("resnet56", num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 20_000:
            expected = (2 / (9 * module.out_channels)) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05)
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert not module.bias.any()


def test_traces_and_exports():
    extraction = pytest.importorskip("torchvision.models.feature_extraction", reason="torchvision is not there")
    model = create("resnet20", num_classes=10).eval()
    x = torch.randn(2, 3, 32, 32)
    features = extraction.create_feature_extractor(model, ["layer1.2.bn2", "layer2", "fc"])(x)
    assert features["layer2"].shape == (2, 32, 16, 16)
    assert torch.equal(features["fc"], model(x))
    assert torch.equal(torch.export.export(model, (x,)).module()(x), model(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 21}, r"depth is 6n \+ 2 .*not 21"),
        ({"depth": 2}, r"depth is 6n \+ 2"),
        ({"depth": 20, "num_classes": 0}, "num_classes is a whole number of at least 1, not 0"),
        ({"depth": 20, "in_channels": 1.5}, "in_channels is a whole number of at least 1, not 1.5"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        CifarResNet(**arguments)
