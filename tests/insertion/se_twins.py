"""SE as other libraries and articles write it: small twins of the patterns, in code of our own.

Each takes C and returns a module on (N, C, *space). `MODULES` are blocks; `INLINE` are units whose forward holds it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PytorchcvSE(nn.Module):
    """A pooling, two 1×1 convolutions or linear layers, and the product at the end."""

    def __init__(self, c: int, linear: bool = False) -> None:
        super().__init__()
        self.use_conv = not linear
        self.pool = nn.AdaptiveAvgPool2d(output_size=1)
        if linear:
            self.fc1, self.fc2 = nn.Linear(c, c // 4), nn.Linear(c // 4, c)
        else:
            self.conv1, self.conv2 = nn.Conv2d(c, c // 4, 1), nn.Conv2d(c // 4, c, 1)
        self.activ, self.sigmoid = nn.ReLU(inplace=True), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        w = self.pool(x)
        if self.use_conv:
            w = self.sigmoid(self.conv2(self.activ(self.conv1(w))))
        else:
            w = self.fc2(self.activ(self.fc1(w.view(x.size(0), -1))))
            w = self.sigmoid(w).unsqueeze(2).unsqueeze(3)
        return x * w


class RegNetYSE(nn.Module):
    """Hugging Face's: the whole excitation in one Sequential called `attention`."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.pooler = nn.AdaptiveAvgPool2d((1, 1))
        self.attention = nn.Sequential(nn.Conv2d(c, c // 4, 1), nn.ReLU(), nn.Conv2d(c // 4, c, 1), nn.Sigmoid())

    def forward(self, hidden_state: Tensor) -> Tensor:
        return hidden_state * self.attention(self.pooler(hidden_state))


class FastaiSE(nn.Module):
    """A list of layers run in turn, the last of which multiplies by what the list was given, kept on the tensor."""

    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x.orig

    def __init__(self, c: int) -> None:
        super().__init__()
        conv = lambda a, b, act: nn.Sequential(nn.Conv2d(a, b, 1), act)  # noqa: E731
        self.layers = nn.ModuleList(
            [nn.AdaptiveAvgPool2d(1), conv(c, c // 4, nn.ReLU()), conv(c // 4, c, nn.Sigmoid()), FastaiSE.Product()]
        )

    def forward(self, x: Tensor) -> Tensor:
        result = x
        for layer in self.layers:
            result.orig = x
            after = layer(result)
            result.orig = None
            result = after
        return result


class RcanAttention(nn.Module):
    """Super-resolution's: `avg_pool` and `conv_du`."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.conv_du = nn.Sequential(
            nn.Conv2d(c, c // 4, 1), nn.ReLU(inplace=True), nn.Conv2d(c // 4, c, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.avg_pool(x)
        y = self.conv_du(y)
        return x * y


class MmpretrainSE(nn.Module):
    """Convolutions wrapped with their activations."""

    class ConvModule(nn.Module):
        def __init__(self, a: int, b: int, act: nn.Module) -> None:
            super().__init__()
            self.conv, self.activate = nn.Conv2d(a, b, 1), act

        def forward(self, x: Tensor) -> Tensor:
            return self.activate(self.conv(x))

    def __init__(self, c: int) -> None:
        super().__init__()
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.conv1 = self.ConvModule(c, c // 4, nn.ReLU())
        self.conv2 = self.ConvModule(c // 4, c, nn.Hardsigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv2(self.conv1(self.global_avgpool(x)))


class PyclsSE(nn.Module):
    """`f_ex` between two 1×1 convolutions with biases."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d((1, 1))
        self.f_ex = nn.Sequential(nn.Conv2d(c, c // 4, 1), nn.SiLU(), nn.Conv2d(c // 4, c, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.f_ex(self.avg_pool(x))


class ComposerSE(nn.Module):
    """Pooling, flattening and linear layers in one Sequential."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.pool_and_mlp = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, c // 4), nn.ReLU(), nn.Linear(c // 4, c), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape[:2]
        return x * self.pool_and_mlp(x).reshape(n, c, 1, 1)


class NnunetSE(nn.Module):
    """For volumes: a mean over all of space, a norm and an activation as options."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.fc1, self.bn, self.act = nn.Conv3d(c, c // 4, 1), nn.Identity(), nn.ReLU(inplace=True)
        self.fc2, self.gate = nn.Conv3d(c // 4, c, 1), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.mean((2, 3, 4), keepdim=True)
        return x * self.gate(self.fc2(self.act(self.bn(self.fc1(squeezed)))))


class PartlySqueezed(NnunetSE):
    """nnU-Net's on volumes as it is: written for pictures, it averages two of three dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(self.act(self.bn(self.fc1(x.mean((2, 3), keepdim=True))))))


class MaskedUnit(nn.Module):
    """SpeechBrain's ECAPA-TDNN: given lengths, its SE averages the positions that a mask lets count."""

    class SE(nn.Module):
        def __init__(self, c: int) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv1d(c, c // 4, 1), nn.Conv1d(c // 4, c, 1)

        def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
            if lengths is None:
                s = x.mean(dim=2, keepdim=True)
            else:
                mask = (torch.arange(x.shape[-1])[None] < lengths[:, None] * x.shape[-1]).to(x.dtype)[:, None]
                s = (x * mask).sum(dim=2, keepdim=True) / mask.sum(dim=2, keepdim=True)
            return torch.sigmoid(self.conv2(torch.relu(self.conv1(s)))) * x

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv, self.norm, self.se = nn.Conv1d(c, c, 3, padding=1), nn.BatchNorm1d(c), self.SE(c)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return x + self.se(torch.relu(self.norm(self.conv(x))), lengths)


class ConditionedUnit(MaskedUnit):
    """A gate of the map and of another input that differs by channel, such as a time's embedding: no SE of the map."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        return x + y * torch.sigmoid(self.se.conv2(self.se.conv1(y.mean(2, keepdim=True))) + embedding[:, :, None])


class Functional(nn.Module):
    """No pooling and no activation is a module, the gate is spread over the map, the product is in place."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(c, c // 4), nn.Linear(c // 4, c)

    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape[:2]
        s = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1).view(n, c)))))
        return x.clone().mul_(s.view(n, c, 1, 1).expand_as(x))


class EffectiveSE(nn.Module):
    """One layer, and the gate of MobileNet v3."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.fc(x.mean((2, 3), keepdim=True)))


class ECA(nn.Module):
    """A convolution over the channels of the squeezed map."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x.mean((2, 3)).unsqueeze(1)).transpose(1, 2).unsqueeze(3)
        return x * torch.sigmoid(y)


class Signals(nn.Module):
    """Speech's: the mean over time, on (N, C, time)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(c, c // 4, 1), nn.Conv1d(c // 4, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        s = x.mean(dim=2, keepdim=True)
        return torch.sigmoid(self.conv2(F.relu(self.conv1(s)))) * x


MODULES = {
    "pytorchcv": (PytorchcvSE, 2),
    "pytorchcv, linear": (lambda c: PytorchcvSE(c, True), 2),
    "regnety": (RegNetYSE, 2),
    "fastai": (FastaiSE, 2),
    "rcan": (RcanAttention, 2),
    "mmpretrain": (MmpretrainSE, 2),
    "pycls": (PyclsSE, 2),
    "composer": (ComposerSE, 2),
    "nnunet": (NnunetSE, 3),
    "functional": (Functional, 2),
    "effective": (EffectiveSE, 2),
    "eca": (ECA, 2),
    "signals": (Signals, 1),
}


class Unit(nn.Module):
    """x + se(norm(conv(relu(norm(conv(x)))))), the block made by the caller."""

    def __init__(self, c: int, se: nn.Module, dims: int = 2) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1]
        self.conv1, self.bn1 = conv(c, c, 3, padding=1), norm(c)
        self.conv2, self.bn2 = conv(c, c, 3, padding=1), norm(c)
        self.attend = se

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.attend(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))))


class InlineUnit(nn.Module):
    """The same with SE in the unit's own forward, as people write it by hand."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c)
        self.fc1, self.fc2 = nn.Linear(c, c // 4), nn.Linear(c // 4, c)

    def forward(self, x: Tensor) -> Tensor:
        u = self.bn1(self.conv1(x))
        s = torch.sigmoid(self.fc2(F.relu(self.fc1(u.mean((2, 3))))))
        return F.relu(x + u * s[:, :, None, None])


class TutorialUnit(nn.Module):
    """x * Sequential(pool, conv, relu, conv, sigmoid)(x), the product in the unit's forward."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU())
        self.se = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, c // 4, 1), nn.ReLU(), nn.Conv2d(c // 4, c, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return x + y * self.se(y)


class MBConv(nn.Module):
    """efficientnet_pytorch's: `_se_reduce` and `_se_expand` between the depthwise and the last convolution."""

    def __init__(self, c: int) -> None:
        super().__init__()
        e = 2 * c
        self._expand_conv, self._bn0 = nn.Conv2d(c, e, 1, bias=False), nn.BatchNorm2d(e)
        self._depthwise_conv, self._bn1 = nn.Conv2d(e, e, 3, padding=1, groups=e, bias=False), nn.BatchNorm2d(e)
        self._se_reduce, self._se_expand = nn.Conv2d(e, c // 4, 1), nn.Conv2d(c // 4, e, 1)
        self._project_conv, self._bn2 = nn.Conv2d(e, c, 1, bias=False), nn.BatchNorm2d(c)
        self._swish = nn.SiLU()

    def forward(self, inputs: Tensor) -> Tensor:
        x = self._swish(self._bn0(self._expand_conv(inputs)))
        x = self._swish(self._bn1(self._depthwise_conv(x)))
        squeezed = F.adaptive_avg_pool2d(x, 1)
        squeezed = self._se_expand(self._swish(self._se_reduce(squeezed)))
        x = torch.sigmoid(squeezed) * x
        return self._bn2(self._project_conv(x)) + inputs


INLINE = {
    "by hand": (InlineUnit, ["fc1", "fc2"]),
    "tutorial": (TutorialUnit, ["se.1", "se.3"]),
    "efficientnet_pytorch": (MBConv, ["_se_reduce", "_se_expand"]),
}


def network(unit, dims: int = 2) -> tuple[nn.Module, Tensor]:
    """A stem, two units and a head; with an example."""
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    model = nn.Sequential(conv(3, 16, 3), unit(), unit(), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    return model, torch.randn(2, 3, *(9, 10, 11)[:dims])
