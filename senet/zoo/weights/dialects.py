"""Dialects: the parameter names that publishers use for the same networks.

A file's dialect is detected from its keys and shapes. Its keys are then translated to our names,
which are torchvision's. A block's SE is `BLOCK.se.fc1` and `BLOCK.se.fc2` until we know which
module of the block holds it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from torch import Tensor, nn

from senet.block import SEBlock
from senet.insertion.joining.attach import attached
from senet.insertion.staying.joined import CHILDREN

__all__ = [
    "CAFFE",
    "DIALECTS",
    "ENDS",
    "SENET",
    "Dialect",
    "SELayers",
    "detect",
    "network_of",
    "renamed",
    "se_layers",
    "stride_of",
]

Tensors = Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Dialect:
    """One way of naming a network's parameters.

    Attributes:
        name: the dialect's origin.
        detect: whether tensors have such names.
        patterns: regular expressions with replacements; the first that matches a whole key applies.
        stride: the convolution with the stride in dense bottlenecks, "1x1" or "3x3"; "" if either is possible.
        caffe_pool: whether the first pooling is Caffe's, without padding and rounded up; None if either is possible.
    """

    name: str
    detect: Callable[[Tensors], bool]
    patterns: Sequence[tuple[str, str]] = ()
    stride: str = ""
    caffe_pool: bool | None = None

    def rename(self, key: str) -> str:
        """Translate a key of this dialect to our names."""
        for pattern, ours in self.patterns:
            if found := re.fullmatch(pattern, key):
                return found.expand(ours)
        return key


def _has(pattern: str) -> Callable[[Tensors], bool]:
    matches = re.compile(pattern).fullmatch
    return lambda tensors: any(matches(key) for key in tensors)


def _all(*tests: Callable[[Tensors], bool]) -> Callable[[Tensors], bool]:
    return lambda tensors: all(test(tensors) for test in tests)


def _matrix(pattern: str) -> Callable[[Tensors], bool]:
    """Whether a matching key holds the weight of a linear layer or a 1×1 convolution."""
    matches = re.compile(pattern).fullmatch
    return lambda tensors: any(
        matches(key) and value.dim() > 1 and set(value.shape[2:]) <= {1} for key, value in tensors.items()
    )


_BLOCK = r"(layer\d+\.\d+)"
_KIND = r"(weight|bias)"
_PORTED = (
    # SENet-154, whose stem has three convolutions, keeps `layer0`; `renamed` handles it
    (r"layer0\.((?:conv1|bn1)\..+)", r"\1"),
    (rf"(.+)\.se_module\.fc([12])\.{_KIND}", r"\1.se.fc\2.\3"),
    (rf"last_linear\.{_KIND}", r"fc.\1"),
)
_PAIRS = ((r"0", "fc1"), (r"2", "fc2"))

CAFFE = Dialect("the authors' .caffemodel", lambda _: False, _PORTED, caffe_pool=True)
"""The only dialect that the file's kind determines; its tensors have the port's names."""

ENDS = tuple(f".{child}" for child in CHILDREN)
"""The ends of the names of inserted blocks."""

SENET = Dialect("senet", _has(r".+\.(?:senet_)?se\.scale"))

DIALECTS: tuple[Dialect, ...] = (
    SENET,
    Dialect(
        "the authors' release as ported (timm's legacy_*, pretrained-models.pytorch)",
        lambda tensors: _matrix(r".+\.se_module\.fc1\.weight")(tensors) or "layer0.conv1.weight" in tensors,
        _PORTED,
        stride="1x1",
        caffe_pool=True,
    ),
    Dialect("timm's ResNet with SE", _matrix(rf"{_BLOCK}\.se\.fc1\.weight"), stride="3x3", caffe_pool=False),
    Dialect(
        "moskomule's senet.pytorch",
        _matrix(rf"{_BLOCK}\.se\.fc\.0\.weight"),
        [(rf"(.+)\.se\.fc\.{index}\.{_KIND}", rf"\1.se.{layer}.\2") for index, layer in _PAIRS],
        stride="3x3",
        caffe_pool=False,
    ),
    Dialect(
        "the article's block",
        _matrix(r"(?:.+\.)?excitation\.0\.weight"),
        [(rf"(.+)\.[^.]+\.excitation\.{index}\.{_KIND}", rf"\1.se.{layer}.\2") for index, layer in _PAIRS],
    ),
    Dialect(
        "mmpretrain's ResNet with SE",
        _matrix(rf"{_BLOCK}\.se_layer\.conv1\.conv\.weight"),
        [(rf"(.+)\.se_layer\.conv([12])\.conv\.{_KIND}", r"\1.se.fc\2.\3")],
        stride="3x3",
        caffe_pool=False,
    ),
    Dialect("torchvision's ResNet", _all(_has(r"conv1\.weight"), _has(rf"{_BLOCK}\.conv1\.weight"))),
    Dialect("torchvision's MobileNetV2", _has(r"features\.1\.conv\.0\.0\.weight")),
    Dialect("torchvision's MobileNetV3", _has(r"features\.1\.block\.0\.0\.weight")),
    Dialect("torchvision's VGG", _all(_has(r"features\.0\.weight"), _has(r"classifier\.6\.weight"))),
)


def detect(tensors: Tensors) -> Dialect | None:
    """The dialect of `tensors`, from their keys and shapes; None if unknown."""
    return next((dialect for dialect in DIALECTS if dialect.detect(tensors)), None)


def renamed(tensors: Tensors, dialect: Dialect | None, model: nn.Module) -> dict[str, str]:
    """The tensors by the keys of `model`, and the file's key of each.

    If all keys are the model's, they stay, since other libraries' networks read their own dialects.
    Keys that would collide stay as they are.
    """
    state = model.state_dict()
    if dialect is None or all(key in state for key in tensors):
        return {key: key for key in tensors}
    keep_stem = "layer0.conv2.weight" in tensors
    names: dict[str, str] = {}
    for key in tensors:
        name = key if keep_stem and key.startswith("layer0.") else dialect.rename(key)
        names[key if name in names or (name != key and name in tensors) else name] = key
    places = _places(model)
    return {_seated(name, state, places): key for name, key in names.items()}


def _places(model: nn.Module) -> dict[str, list[str]]:
    """The SE blocks within each module of `model`, without those inserted where published networks have none."""
    elsewhere = {f"{name}.{at.child}" for name, _, at in attached(model) if at.spec.placement != "standard"}
    found: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, SEBlock) and name not in elsewhere:
            parts = name.split(".")
            for depth in range(1, len(parts)):
                found.setdefault(".".join(parts[:depth]), []).append(name)
    return found


def _seated(name: str, state: Mapping[str, object], places: Mapping[str, list[str]]) -> str:
    """The key of an SE layer under the module that holds it in the network, if there is exactly one."""
    found = re.fullmatch(rf"(.+)\.se\.(fc[12]\.{_KIND}|scale)", name)
    if found is None or name in state or len(places.get(found[1], ())) != 1:
        return name
    return f"{places[found[1]][0]}.{found[2]}"


@dataclasses.dataclass(frozen=True)
class SELayers:
    """An SE block in tensors: C channels, H hidden units, and whether its layers have biases."""

    channels: int
    width: int
    bias: bool


def se_layers(tensors: Tensors) -> dict[str, SELayers]:
    """The SE blocks in translated tensors, by name: `layer1.0.bn3.se`, or `layer1.0.se`."""
    found = {}
    for key, weight in tensors.items():
        name, dot, layer = key.rpartition("fc1.weight")
        if dot and not layer and name[:-1].endswith(ENDS) and weight.dim() > 1:
            found[name[:-1]] = SELayers(int(weight.shape[1]), int(weight.shape[0]), f"{name}fc1.bias" in tensors)
    return found


def stride_of(dialect: Dialect | None, tensors: Tensors) -> str:
    """The convolution with the stride in the bottlenecks of `tensors`: "1x1", "3x3", or "" if unknown."""
    first, second = tensors.get("layer2.0.conv1.weight"), tensors.get("layer2.0.conv2.weight")
    if dialect is None or first is None or second is None or "layer2.0.conv3.weight" not in tensors:
        return ""
    dense = second.dim() > 1 and second.shape[1] == first.shape[0]
    return dialect.stride if dense else ("3x3" if dialect.stride else "")


_DEPTHS: Mapping[tuple[int, ...], int] = MappingProxyType(
    {(2, 2, 2, 2): 18, (3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
)  # by the blocks of each stage; with basic blocks, the counts of 50 mean 34


def network_of(tensors: Tensors, stride: str = "") -> str:
    """The name of our network with the shapes of the translated `tensors`; "" if there is none."""
    conv1, conv2 = tensors.get("layer1.0.conv1.weight"), tensors.get("layer1.0.conv2.weight")
    if conv1 is None or conv2 is None or conv2.dim() != 4 or conv1.dim() != 4:
        return ""
    blocks = tuple(
        len({key.split(".")[1] for key in tensors if key.startswith(f"layer{stage}.")}) for stage in range(1, 5)
    )
    depth = _DEPTHS.get(blocks)
    se = "se_" if se_layers(tensors) else ""
    if "layer1.0.conv3.weight" not in tensors:
        depth = 34 if depth == 50 else depth
        return f"{se}resnet{depth}" if depth in (18, 34) else ""
    if depth not in (50, 101, 152):
        return ""
    if "layer0.conv3.weight" in tensors and depth == 152:
        return "senet154" if se else "senet154_plain"
    if tuple(conv2.shape[:2]) == (128, 4):
        return f"{se}resnext{depth}_32x4d" if depth != 152 else ""
    if tuple(conv2.shape[:2]) != (64, 64):
        return ""
    return f"{se}resnet{depth}" + ("_v1_5" if stride == "3x3" else "")
