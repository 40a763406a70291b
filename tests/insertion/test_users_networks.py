"""Networks as users write them: other dimensions, several inputs, modes, normalisations."""

from __future__ import annotations

import collections
import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import senet
from senet import InsertionError, SESpec
from tests.insertion.networks import Residual, assert_unchanged, branch, randomise


class DoubleConv(nn.Sequential):
    def __init__(self, inside: int, outside: int) -> None:
        layers = []
        for c in (inside, outside):
            layers += [nn.Conv2d(c, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class UNet(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (8, 16, 32), classes: int = 2) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(DoubleConv(i, o) for i, o in zip((3, *widths), widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(w, w // 2, 2, 2) for w in widths[:0:-1])
        self.decoder = nn.ModuleList(DoubleConv(w, w // 2) for w in widths[:0:-1])
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for index, block in enumerate(self.encoder):
            x = block(x if index == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        for up, block, skip in zip(self.up, self.decoder, skips[-2::-1], strict=True):
            x = block(torch.cat([skip, up(x)], 1))
        return self.head(x)


def test_unet_encoder_alone():
    model, x = randomise(UNet()), torch.randn(2, 3, 32, 32)
    found = senet.sites(model, x)
    assert {site.rule for site in found} == {"plain"}  # the skips are no sites, the ten convolution units are
    assert len(found) == 10
    se = senet.insert(model, x, where="encoder.*")
    assert len(senet.blocks(se)) == 6
    assert all(name.startswith("encoder.") for name in senet.blocks(se))
    assert_unchanged(model, x, se)
    last = senet.insert(model, x, where=[f"encoder.{index}.5" for index in range(3)])
    assert list(senet.blocks(last)) == [f"encoder.{index}.5.se" for index in range(3)]


# A residual network for ECG: one dimension.


class EcgBlock(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int, kernel: int = 15) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(inside, outside, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm1d(outside)
        self.drop = nn.Dropout(0.2)
        self.conv2 = nn.Conv1d(outside, outside, kernel, 1, kernel // 2, bias=False)
        self.bn2 = nn.BatchNorm1d(outside)
        self.pool = nn.Sequential(nn.AvgPool1d(stride), nn.Conv1d(inside, outside, 1)) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(F.relu(self.bn1(self.conv1(x))))
        y = self.drop(self.bn2(self.conv2(y)))
        return F.leaky_relu(y + self.pool(x))


def test_ecg():
    model = randomise(
        nn.Sequential(
            nn.Conv1d(12, 16, 7, padding=3),
            EcgBlock(16, 16, 1),
            EcgBlock(16, 32, 2),
            EcgBlock(32, 64, 2),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(64, 5),
        )
    )
    x = torch.randn(2, 12, 200)
    found = senet.sites(model, x)
    assert [site.name for site in found] == ["1.bn2", "2.bn2", "3.bn2"]
    assert [site.stage for site in found] == [0, 1, 2]
    for placement in ("standard", "pre", "post", "identity", "inner"):
        se = senet.insert(model, x, SESpec(placement=placement))
        assert len(senet.blocks(se)) == 3, placement
        assert_unchanged(model, x, se)
    se = senet.insert(model, x).train()
    torch.manual_seed(1)
    expected = model.train()(x)
    torch.manual_seed(1)
    torch.testing.assert_close(se(x), expected, rtol=1e-5, atol=1e-6)  # dropout draws the same masks


# A plain network for volumes: three dimensions.


def test_volumes():
    def unit(inside: int, outside: int) -> list[nn.Module]:
        return [nn.Conv3d(inside, outside, 3, padding=1), nn.InstanceNorm3d(outside, affine=True), nn.ELU()]

    model = nn.Sequential(*unit(1, 8), nn.MaxPool3d(2), *unit(8, 16), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    x = torch.randn(1, 1, 8, 10, 12)
    se = senet.insert(model, x)
    assert list(senet.blocks(se)) == ["2.se", "6.se"]
    assert_unchanged(model, x, se)


# Two inputs, one of them no picture, by keyword; a dictionary out.


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Residual(branch(8, 8)))
        self.depth = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), Residual(branch(8, 8)))
        self.head = nn.Linear(16 + 4, 3)

    def forward(self, image: Tensor, depth: Tensor, *, table: Tensor | None = None) -> dict[str, Tensor]:
        parts = [self.image(image).mean((2, 3)), self.depth(depth).mean((2, 3))]
        parts.append(table if table is not None else image.new_zeros(len(image), 4))
        return {"logits": self.head(torch.cat(parts, 1)), "features": parts[0]}


@pytest.mark.parametrize("form", ["tuple", "dictionary"])
def test_two_inputs(form):
    model = randomise(TwoInputs())
    image, depth = torch.randn(2, 3, 16, 16), torch.randn(2, 1, 8, 8)
    example = (image, depth) if form == "tuple" else {"image": image, "depth": depth, "table": torch.randn(2, 4)}
    se = senet.insert(model, example)
    assert list(senet.blocks(se)) == ["image.1.branch.4.se", "depth.1.branch.4.se"]
    assert_unchanged(model, example, se)


# Another path in training; Python that looks at values.


class Auxiliary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = Residual(branch(8, 8))
        self.second = Residual(branch(8, 8))
        self.auxiliary = nn.Linear(8, 2)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.first(self.stem(x))
        side = self.auxiliary(x.mean((2, 3)))
        if float(x.detach().mean()) > -1e9:  # depends on the data
            for _ in range(2):
                x = self.second(x)
        y = self.head(x.mean((2, 3)))
        return (y, side) if self.training else y


def test_training_branch_and_control_flow():
    model, x = randomise(Auxiliary()), torch.randn(2, 3, 12, 12)
    se = senet.insert(model, x)
    assert list(senet.blocks(se)) == ["first.branch.4.se", "second.branch.4.se"]
    assert_unchanged(model, x, se)
    outputs = [copy.deepcopy(m).train()(x) for m in (model, se)]
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)
    assert isinstance(outputs[1], tuple)


# Normalisations of every kind, or none; and layer scale, drop-path, a projection by pooling, grouped convolutions.


class Scaled(nn.Module):
    """x + drop-path(gamma · block(x)) with the norm wanted."""

    def __init__(self, channels: int, norm: nn.Module, groups: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, groups=groups)
        self.norm = norm
        self.conv2 = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.full((channels, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.gamma * self.conv2(F.gelu(self.norm(self.conv1(x))))
        if self.training:
            keep = torch.rand(len(x), 1, 1, 1) < 0.8
            y = y * keep / 0.8
        return y + x


class ChannelsLastNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def norms() -> dict[str, nn.Module]:
    torchvision = pytest.importorskip("torchvision")
    return {
        "batch": nn.BatchNorm2d(8),
        "group": nn.GroupNorm(2, 8),
        "layer": ChannelsLastNorm(8),
        "instance": nn.InstanceNorm2d(8),
        "frozen": torchvision.ops.FrozenBatchNorm2d(8),
        "none": nn.Identity(),
    }


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "instance", "frozen", "none"])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_norms_and_groups(norm, groups):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), Scaled(8, norms()[norm], groups), Scaled(8, norms()[norm], groups))
    x = torch.randn(2, 3, 9, 9)
    se = senet.insert(model, x)
    assert list(senet.blocks(se)) == ["1.conv2.se", "2.conv2.se"]  # before the layer scale
    assert_unchanged(model, x, se)


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "instance", "frozen"])
def test_branch_that_ends_in_a_norm(norm):
    made = norms()[norm]
    unit = Residual(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), made))
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), unit), torch.randn(2, 3, 9, 9)
    se = senet.insert(model, x)
    assert list(senet.blocks(se)) == ["1.branch.3.se"]
    assert_unchanged(model, x, se)


def test_channels_last_maps():
    """A block on (N, H, W, C): the channels are found behind the permutation."""

    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.depthwise = nn.Conv2d(6, 6, 7, padding=3, groups=6)
            self.norm = nn.LayerNorm(6)
            self.up, self.down = nn.Linear(6, 24), nn.Linear(24, 6)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
            return x + self.down(F.gelu(self.up(y)))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 6, 2, 2)
            self.blocks = nn.Sequential(Mixer(), Mixer())

        def forward(self, x: Tensor) -> Tensor:
            return self.blocks(self.stem(x).permute(0, 2, 3, 1)).mean((1, 2))

    model, x = Net(), torch.randn(2, 3, 12, 10)
    found = senet.sites(model, x)
    assert [(site.name, site.channels, site.channel_dim) for site in found] == [
        ("blocks.0.down", 6, 3),
        ("blocks.1.down", 6, 3),
    ]
    se = senet.insert(model, x, SESpec(start="paper"))
    block = se.blocks[0].down.se
    u = torch.randn(2, 6, 5, 24)
    with torch.no_grad():
        plain = F.linear(u, se.blocks[0].down.weight, se.blocks[0].down.bias)
        expected = block(plain.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        torch.testing.assert_close(se.blocks[0].down(u), expected)
    assert_unchanged(model, x, senet.insert(model, x))


class Functional(nn.Module):
    """As PyTorch's MNIST example: no activation is a module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        return self.fc(x.mean((2, 3)))


def test_activations_that_are_functions():
    """The first unit could end at the second convolution's input, where the second's own SE then had no place."""
    model, x = Functional(), torch.randn(2, 3, 9, 9)
    assert [(site.name, site.position) for site in senet.sites(model, x)] == [("conv1", "output"), ("conv2", "output")]
    se = senet.insert(model, x)
    assert list(senet.blocks(se)) == ["conv1.se", "conv2.se"]
    assert_unchanged(model, x, se)


@dataclasses.dataclass
class Batch:
    image: Tensor
    depth: Tensor


class TakesObjects(TwoInputs):
    """An object in, and an object out."""

    calls = 0

    def forward(self, batch: Batch) -> Batch:
        self.calls += 1
        return Batch(super().forward(batch.image, batch.depth)["logits"], torch.zeros(1))


def test_examples_and_outputs_that_are_objects():
    image, depth = torch.randn(2, 3, 16, 16), torch.randn(2, 1, 8, 8)
    expected = ["image.1.branch.4.se", "depth.1.branch.4.se"]
    mapping = collections.UserDict(image=image, depth=depth)  # as transformers' BatchEncoding
    assert list(senet.blocks(senet.insert(TwoInputs(), mapping))) == expected
    model = TakesObjects()
    assert list(senet.blocks(senet.insert(model, Batch(image, depth)))) == expected
    model.forward = lambda batch: Batch(TakesObjects.forward(model, batch).image + model.calls, batch.depth)
    with pytest.raises(InsertionError, match="differs by 1 from the plain"):
        senet.insert(model, Batch(image, depth), inplace=True)


class TimeFirst(nn.Module):
    """A branch on (time, N, C), and its convolution on (N, C, time)."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv1d(8, 8, 3, padding=1), last

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(self.conv(x.permute(1, 2, 0)).permute(2, 0, 1))


def test_a_squeeze_never_mixes_samples():
    model, x = nn.Sequential(TimeFirst(nn.Identity()), TimeFirst(nn.Identity())), torch.randn(5, 2, 8)
    se = senet.insert(model, x, SESpec(2, start="paper"))
    assert list(senet.blocks(se)) == ["0.conv.se", "1.conv.se"]
    torch.testing.assert_close(se(x)[:, :1], se(x[:, :1]))
    with pytest.raises(InsertionError, match=r"no module of its own makes that output as \(N, C, …\) or \(N, …, C\)"):
        senet.insert(nn.Sequential(TimeFirst(nn.Linear(8, 8))), x)


class Discards(nn.Module):
    """Its activation writes in place, and what it returns is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu, self.conv2 = nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        self.relu(x)
        return self.conv2(x)


def test_se_that_would_do_nothing_is_refused():
    with pytest.raises(InsertionError, match="SE joined to relu would do nothing: the network uses what that module"):
        senet.insert(Discards(), torch.randn(2, 3, 9, 9))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_of_attention():
    """In eval mode a padding mask makes torch's encoder compute on nested tensors, which have no shape."""

    class Speech(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv1d(4, 8, 3, padding=1)
            self.unit = Residual(nn.Sequential(nn.Conv1d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 8, 1)))
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)

        def forward(self, x: Tensor, padded: Tensor) -> Tensor:
            x = self.unit(self.stem(x)).transpose(1, 2)
            return self.encoder(x, src_key_padding_mask=padded)

    example = torch.randn(2, 4, 6), torch.arange(6) >= torch.tensor([[6], [4]])
    model = Speech()
    se = senet.insert(model, example)
    assert list(senet.blocks(se)) == ["unit.branch.2.se"]
    assert_unchanged(model, example, se)


def test_sparse_buffers():
    """As in networks on meshes; PyTorch compares none of these."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), Residual(branch(8, 8)))
    model.register_buffer("neighbours", torch.eye(3).to_sparse())
    x = torch.randn(2, 3, 9, 9)
    se = senet.insert(model, x)
    assert_unchanged(model, x, se)
    assert torch.equal(se.neighbours.to_dense(), torch.eye(3))
