"""Joins that look like units and are none, as small twins of the networks in which SE went to the wrong place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import senet
from senet import InsertionError
from tests.insertion.networks import Residual, branch


def names(model: nn.Module, *shape: int, **options) -> list[str]:
    return [site.name for site in senet.sites(model, torch.randn(shape), **options)]


def conv(a: int, b: int, k: int = 3, s: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(a, b, k, s, k // 2, bias=False), nn.BatchNorm2d(b), nn.SiLU())


class C3(nn.Module):
    """YOLOv5's stage: a 1×1 unit, then bottlenecks, beside a 1×1 unit; concatenated and mixed."""

    class Bottleneck(nn.Module):
        def __init__(self, c: int, shortcut: bool) -> None:
            super().__init__()
            self.cv1, self.cv2, self.shortcut = conv(c, c, 1), conv(c, c), shortcut

        def forward(self, x: Tensor) -> Tensor:
            y = self.cv2(self.cv1(x))
            return x + y if self.shortcut else y

    def __init__(self, a: int, b: int, shortcut: bool = True) -> None:
        super().__init__()
        self.cv1, self.cv2, self.cv3 = conv(a, b // 2, 1), conv(a, b // 2, 1), conv(b, b, 1)
        self.m = self.Bottleneck(b // 2, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], 1))


class Detector(nn.Module):
    """A backbone, a PAN (up, and down again) and heads of two 3×3 units for each of two scales."""

    def __init__(self, stage) -> None:
        super().__init__()
        self.stem, self.c3, self.down1, self.c4 = conv(3, 8, 3, 2), stage(8, 8), conv(8, 16, 3, 2), stage(16, 16)
        self.lateral, self.up = conv(16, 8, 1), nn.Upsample(scale_factor=2)
        self.p3, self.down2, self.p4 = stage(16, 8, False), conv(8, 8, 3, 2), stage(16, 16, False)
        self.heads = nn.ModuleList(nn.Sequential(conv(c, 8), nn.Conv2d(8, 4, 1)) for c in (8, 16))

    def forward(self, x: Tensor) -> list[Tensor]:
        c3 = self.c3(self.stem(x))
        lateral = self.lateral(self.c4(self.down1(c3)))
        p3 = self.p3(torch.cat([self.up(lateral), c3], 1))
        p4 = self.p4(torch.cat([self.down2(p3), lateral], 1))
        return [head(p) for head, p in zip(self.heads, (p3, p4), strict=True)]


def test_a_pan_is_no_set_of_parallel_branches():
    """YOLOv5n: its bottlenecks with a shortcut, and neither its fusions nor its neck."""
    assert names(Detector(C3), 1, 3, 64, 64) == ["c3.m.cv2.2", "c4.m.cv2.2"]


def test_a_pan_of_plain_units():
    """YOLOv6n: no shortcut and no parallel branches anywhere; its units count, and its 1×1 lateral does not."""
    model = Detector(lambda a, b, _=True: nn.Sequential(conv(a, b), conv(b, b)))
    found = senet.sites(model, torch.randn(1, 3, 64, 64))
    assert {site.rule for site in found} == {"plain"}
    assert len(found) == 1 + 2 + 1 + 2 + 2 + 1 + 2 + 2


class Around(nn.Module):
    """x + inside(x)."""

    def __init__(self, *inside: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.inside, self.scale = nn.Sequential(*inside), scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inside(x) * self.scale


def test_a_skip_of_the_picture_is_no_unit():
    """VDSR: the network's correction is added to the picture; its layers are plain units."""
    c = lambda a, b: nn.Conv2d(a, b, 3, padding=1)  # noqa: E731
    model = Around(c(1, 8), nn.ReLU(), c(8, 8), nn.ReLU(), c(8, 8), nn.ReLU(), c(8, 1))
    assert names(model, 1, 1, 12, 12) == ["inside.1", "inside.3", "inside.5"]


def test_a_block_that_stands_alone_is_a_unit():
    assert names(Residual(branch(8, 8)), 1, 8, 12, 12) == ["branch.4"]


def test_of_nested_residuals_the_inner_ones_count():
    """RRDBNet: three scaled blocks within a scaled block, and a skip around the trunk."""
    c = lambda a, b: nn.Conv2d(a, b, 3, padding=1)  # noqa: E731
    block = lambda: Around(c(8, 8), nn.LeakyReLU(0.2), c(8, 8), scale=0.2)  # noqa: E731
    trunk = Around(*(Around(block(), block(), block(), scale=0.2) for _ in range(2)), c(8, 8))
    model = nn.Sequential(c(3, 8), trunk, nn.Upsample(scale_factor=2), c(8, 3))
    assert names(model, 1, 3, 9, 9) == [f"1.inside.{i}.inside.{j}.inside.2" for i in (0, 1) for j in (0, 1, 2)]


class Speech(nn.Module):
    """Wav2Vec2: seven layers on the signal, a grouped convolution for the position, and attention."""

    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x.transpose(1, 2)).transpose(1, 2)

    def __init__(self, transposed: bool = False) -> None:
        super().__init__()
        layer = lambda a, k, s: nn.Sequential(  # noqa: E731
            nn.Conv1d(a, 8, k, s), self.Norm() if transposed else nn.Identity(), nn.GELU()
        )
        kernels = [(10, 5), *[(3, 2)] * 4, *[(2, 2)] * 2]
        self.features = nn.ModuleList(layer(8 if i else 1, k, s) for i, (k, s) in enumerate(kernels))
        self.position = nn.Conv1d(8, 8, 15, padding=7, groups=4)
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.features:
            x = layer(x)
        x = x + F.gelu(self.position(x))
        return self.attention(x.transpose(1, 2))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("transposed", [False, True])  # a norm between two transpositions is a step of the unit
def test_speech(transposed):
    assert names(Speech(transposed), 1, 1, 4000) == [f"features.{index}.2" for index in range(7)]


@pytest.mark.parametrize("between", [[], [nn.BatchNorm2d(8)]])
def test_a_depthwise_and_a_pointwise_convolution_are_one_unit(between):
    """EEGNet: neither an activation nor, mostly, a norm between the two."""
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, (1, 7)), nn.BatchNorm2d(4)),
        *(nn.Conv2d(4, 8, (5, 1), groups=4), nn.BatchNorm2d(8), nn.ELU(), nn.AvgPool2d((1, 2))),
        *(nn.Conv2d(8, 8, (1, 5), groups=8), *between, nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ELU()),
    )
    found = senet.sites(model, torch.randn(1, 1, 5, 40))
    assert [site.name for site in found] == ["4", str(len(model) - 1)]
    assert "a depthwise separable convolution" in found[1].reason


class WaveNet(nn.Module):
    """Gated blocks; each hands its output on, and something of its own to a sum at the end."""

    class Block(nn.Module):
        def __init__(self, c: int, dilation: int) -> None:
            super().__init__()
            self.filter = nn.Conv1d(c, c, 3, padding=dilation, dilation=dilation)
            self.gate = nn.Conv1d(c, c, 3, padding=dilation, dilation=dilation)
            self.out, self.skip = nn.Conv1d(c, c, 1), nn.Conv1d(c, c, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            z = torch.tanh(self.filter(x)) * torch.sigmoid(self.gate(x))
            return x + self.out(z), self.skip(z)

    def __init__(self, at_the_end: bool) -> None:
        super().__init__()
        self.stem, self.head, self.at_the_end = nn.Conv1d(1, 8, 1), nn.Conv1d(8, 4, 1), at_the_end
        self.blocks = nn.ModuleList(self.Block(8, 2**n) for n in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x, skips, total = self.stem(x), [], 0
        for block in self.blocks:
            x, skip = block(x)
            total = total + skip
            skips.append(skip)
        return self.head(F.relu(sum(skips) if self.at_the_end else total))


@pytest.mark.parametrize("at_the_end", [False, True])
def test_a_running_sum_of_skips_is_no_unit(at_the_end):
    # the last block's own output goes nowhere
    assert names(WaveNet(at_the_end), 1, 1, 50)[:3] == ["blocks.0.out", "blocks.1.out", "blocks.2.out"]
    assert not any("skip" in name for name in names(WaveNet(at_the_end), 1, 1, 50))


class LinearAttention(nn.Module):
    """MobileViT v2's: 1×1 convolutions around a softmax over positions; and its feed-forward part."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.qkv, self.out_proj = nn.Conv2d(c, 1 + 2 * c, 1), nn.Conv2d(c, c, 1)
        self.norm1, self.norm2 = nn.GroupNorm(1, c), nn.GroupNorm(1, c)
        self.mlp = nn.Sequential(nn.Conv2d(c, 2 * c, 1), nn.SiLU(), nn.Conv2d(2 * c, c, 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).split([1, x.shape[1], x.shape[1]], 1)
        context = (k * F.softmax(q.flatten(2), -1).view_as(q)).sum((2, 3), keepdim=True)
        x = x + self.out_proj(F.relu(v) * context)
        return x + self.mlp(self.norm2(x))


def test_the_output_projection_of_attention_is_no_unit():
    model = nn.Sequential(conv(3, 8), conv(8, 8), conv(8, 8), LinearAttention(8), LinearAttention(8))
    assert not any("out_proj" in name for name in names(model, 1, 3, 12, 12))
    pointwise = nn.Sequential(nn.Conv2d(3, 8, 4, 4), LinearAttention(8), LinearAttention(8))
    assert names(pointwise, 1, 3, 16, 16) == ["1.mlp.2", "2.mlp.2"]


def test_branches_of_1x1_convolutions_have_no_inner_place():
    """PoolFormer and PointMLP: one line, and no crash."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), *(Around(nn.Conv2d(8, 16, 1), nn.ReLU(), nn.Conv2d(16, 8, 1)) for _ in "ab")
    )
    assert names(model, 1, 3, 9, 9) == ["1.inside.2", "2.inside.2"]
    with pytest.raises(InsertionError, match="it has no last spatial convolution"):
        names(model, 1, 3, 9, 9, placement="inner")


def test_complex_maps_are_refused_in_one_line():
    model = nn.Sequential(*(Around(nn.Conv2d(4, 4, 3, padding=1, dtype=torch.complex64)) for _ in "ab"))
    x = torch.randn(1, 4, 8, 8, dtype=torch.complex64)
    for function in (senet.sites, senet.insert):
        with pytest.raises(InsertionError, match="complex") as caught:
            function(model, x)
        assert "\n" not in str(caught.value)
