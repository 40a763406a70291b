"""Layer by layer, the seven networks that the paper's authors released are theirs.

The listings are from their Caffe definitions (github.com/hujie-frank/SENet, models/*.prototxt): what each layer takes
and gives, kernel/stride, groups and biases, in their order. Padding keeps the size; biases are those of SE and of the
classifier alone. Each line is a module, how often it comes first; `se` stands for the two layers of SE with r = 16.
"""

import pytest
import torch
from torch import nn

from senet.zoo import create
from senet.zoo.networks.layers import ConvUnit

RESNET_STEM = "1 3>64 7/2"
BOTTLENECK = """
1 64>64 1, 64>64 3, 64>256 1, se 256, 64>256 1
{0} 256>64 1, 64>64 3, 64>256 1, se 256
1 256>128 1/2, 128>128 3, 128>512 1, se 512, 256>512 1/2
{1} 512>128 1, 128>128 3, 128>512 1, se 512
1 512>256 1/2, 256>256 3, 256>1024 1, se 1024, 512>1024 1/2
{2} 1024>256 1, 256>256 3, 256>1024 1, se 1024
1 1024>512 1/2, 512>512 3, 512>2048 1, se 2048, 1024>2048 1/2
{3} 2048>512 1, 512>512 3, 512>2048 1, se 2048
1 2048>1000 classifier"""
AGGREGATED = """
1 64>128 1, 128>128 3 g32, 128>256 1, se 256, 64>256 1
{0} 256>128 1, 128>128 3 g32, 128>256 1, se 256
1 256>256 1, 256>256 3/2 g32, 256>512 1, se 512, 256>512 1/2
{1} 512>256 1, 256>256 3 g32, 256>512 1, se 512
1 512>512 1, 512>512 3/2 g32, 512>1024 1, se 1024, 512>1024 1/2
{2} 1024>512 1, 512>512 3 g32, 512>1024 1, se 1024
1 1024>1024 1, 1024>1024 3/2 g32, 1024>2048 1, se 2048, 1024>2048 1/2
{3} 2048>1024 1, 1024>1024 3 g32, 1024>2048 1, se 2048
1 2048>1000 classifier"""
SENET_154 = """
1 3>64 3/2, 64>64 3, 64>128 3
1 128>128 1, 128>256 3 g64, 256>256 1, se 256, 128>256 1
2 256>128 1, 128>256 3 g64, 256>256 1, se 256
1 256>256 1, 256>512 3/2 g64, 512>512 1, se 512, 256>512 3/2
7 512>256 1, 256>512 3 g64, 512>512 1, se 512
1 512>512 1, 512>1024 3/2 g64, 1024>1024 1, se 1024, 512>1024 3/2
35 1024>512 1, 512>1024 3 g64, 1024>1024 1, se 1024
1 1024>1024 1, 1024>2048 3/2 g64, 2048>2048 1, se 2048, 1024>2048 3/2
2 2048>1024 1, 1024>2048 3 g64, 2048>2048 1, se 2048
1 2048>1000 classifier"""
BN_INCEPTION = """
1 3>64 7/2
1 64>64 1, 64>192 3
1 192>64 1, 192>64 1, 64>64 3, 192>64 1, 64>96 3, 96>96 3, 192>32 1, se 256
1 256>64 1, 256>64 1, 64>96 3, 256>64 1, 64>96 3, 96>96 3, 256>64 1, se 320
1 320>128 1, 128>160 3/2, 320>64 1, 64>96 3, 96>96 3/2, se 576
1 576>224 1, 576>64 1, 64>96 3, 576>96 1, 96>128 3, 128>128 3, 576>128 1, se 576
1 576>192 1, 576>96 1, 96>128 3, 576>96 1, 96>128 3, 128>128 3, 576>128 1, se 576
1 576>160 1, 576>128 1, 128>160 3, 576>128 1, 128>160 3, 160>160 3, 576>128 1, se 608
1 608>96 1, 608>128 1, 128>192 3, 608>160 1, 160>192 3, 192>192 3, 608>128 1, se 608
1 608>128 1, 128>192 3/2, 608>192 1, 192>256 3, 256>256 3/2, se 1056
1 1056>352 1, 1056>192 1, 192>320 3, 1056>160 1, 160>224 3, 224>224 3, 1056>128 1, se 1024
1 1024>352 1, 1024>192 1, 192>320 3, 1024>192 1, 192>224 3, 224>224 3, 1024>128 1, se 1024
1 1024>1000 classifier"""
RELEASED = {
    "se_resnet50": RESNET_STEM + BOTTLENECK.format(2, 3, 5, 2),
    "se_resnet101": RESNET_STEM + BOTTLENECK.format(2, 3, 22, 2),
    "se_resnet152": RESNET_STEM + BOTTLENECK.format(2, 7, 35, 2),
    "se_resnext50_32x4d": RESNET_STEM + AGGREGATED.format(2, 3, 5, 2),
    "se_resnext101_32x4d": RESNET_STEM + AGGREGATED.format(2, 3, 22, 2),
    "senet154": SENET_154,
    "se_bn_inception": BN_INCEPTION,
}


def listed(listing: str) -> list[str]:
    """One line for each layer: "in>out kernel/stride padding groups bias"."""
    lines = []
    for line in listing.strip().splitlines():
        times, _, layers = line.partition(" ")
        for _ in range(int(times)):
            for layer in layers.split(", "):
                lines += _written_out(layer)
    return lines


def _written_out(layer: str) -> list[str]:
    first, *rest = layer.split()
    if first == "se":
        channels = int(rest[0])
        return [f"{channels}>{channels // 16} with bias", f"{channels // 16}>{channels} with bias"]
    if rest == ["classifier"]:
        return [f"{first} with bias"]
    kernel, _, stride = rest[0].partition("/")
    groups = rest[1].removeprefix("g") if len(rest) > 1 else "1"
    return [f"{first} {kernel}/{stride or 1} padding {int(kernel) // 2} groups {groups}"]


def layers_of(model: nn.Module) -> list[str]:
    lines = []
    for module in model.modules():
        if isinstance(module, nn.Linear):
            lines.append(f"{module.in_features}>{module.out_features}" + " with bias" * (module.bias is not None))
        if isinstance(module, nn.Conv2d):
            (kernel, _), (stride, _), (padding, _) = module.kernel_size, module.stride, module.padding
            line = f"{module.in_channels}>{module.out_channels} {kernel}/{stride} padding {padding}"
            lines.append(line + f" groups {module.groups}" + " with bias" * (module.bias is not None))
    return lines


@pytest.mark.parametrize("name", RELEASED)
def test_layers_are_the_authors(name):
    pytest.importorskip("torchvision", reason="torchvision is not there")
    with torch.device("meta"):
        assert layers_of(create(name)) == listed(RELEASED[name])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("se_resnet50", {}),
        ("se_resnext50_32x4d", {"caffe_pool": True}),  # without it the pooling is torchvision's, as its weights want
        ("senet154", {}),
        ("se_bn_inception", {}),
    ],
)
def test_maps_are_halved_as_caffe_does(name, options):
    pytest.importorskip("torchvision", reason="torchvision is not there")
    with torch.device("meta"):
        model = create(name, **options)
    pools = [m for m in model.modules() if isinstance(m, nn.MaxPool2d) and m.stride == 2]
    assert pools
    assert all(m.kernel_size == 3 and m.padding == 0 and m.ceil_mode for m in pools)


def test_average_in_inception_counts_the_zeros_around():
    with torch.device("meta"):
        model = create("bn_inception")
    pools = {name: module for name, module in model.named_modules() if isinstance(module, nn.AvgPool2d)}
    assert [name.split(".")[1] for name in pools] == ["3a", "3b", "4a", "4b", "4c", "4d", "5a"]
    assert all(pool.count_include_pad and pool.padding == 1 for pool in pools.values())
    last = model.inception.get_submodule("5b").branch_pool[0]
    assert isinstance(last, nn.MaxPool2d)
    assert (last.stride, last.padding) == (1, 1)


def test_convolution_unit():
    unit = ConvUnit(4, 6, (1, 7), 2, groups=2)
    assert [name for name, _ in unit.named_children()] == ["conv", "bn", "relu"]
    assert unit(torch.randn(2, 4, 9, 9)).shape == (2, 6, 5, 5)
    assert unit.conv.bias is None
    assert len(ConvUnit(4, 6, 3, relu=False, padding=0)) == 2
