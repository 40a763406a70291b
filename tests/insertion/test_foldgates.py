"""SE blocks whose gates became constants: where these went, and that the network computes what it is to compute."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import senet
from senet.errors import WeightsError
from senet.insertion import ConstantGate, InsertionError, PrunedSE, fold_gates, holding, pruned
from tests.insertion.se_twins import ECA, MaskedUnit

timm = pytest.importorskip("timm")
timm_layers = pytest.importorskip("timm.layers")
torchvision = pytest.importorskip("torchvision")


class Between(nn.Module):
    """SE between two layers of one's own, both seen by it alone."""

    def __init__(self, before: nn.Module, block: nn.Module, behind: nn.Module) -> None:
        super().__init__()
        self.before, self.se, self.behind = before, block, behind

    def forward(self, x):
        return self.behind(self.se(self.before(x)))


class Shared(nn.Module):
    """What SE is given is used beside it, and what it returns goes into a layer and an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.se, self.behind = nn.Conv2d(3, 8, 1), senet.SEBlock(8, 2), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        y = self.before(x)
        z = self.se(y)
        return self.behind(z) + z + y


def _resnet(**spec):
    return senet.create("resnet20", spec=senet.SESpec(4, start="paper", **spec), num_classes=10)


def _channels_last(block):
    return Between(nn.Linear(3, 8), block, nn.ReLU())


def _se(channels=8):
    return senet.SEBlock(channels, 2)


MAP, SIGNAL, VOLUME = (2, 3, 12, 12), (2, 3, 12), (2, 3, 6, 6, 6)
CASES = {
    "inserted behind a batch norm": (_resnet, MAP, "into layer1.0.bn2"),
    "inside the branch": (lambda: _resnet(placement="inner"), MAP, "into layer1.0.bn2"),
    "before a convolution": (lambda: _resnet(placement="pre"), MAP, "into layer1.0.conv1"),
    "on the shortcut": (lambda: _resnet(placement="identity"), MAP, "held"),
    "behind the activation of the block": (lambda: _resnet(placement="post"), MAP, "held"),
    "torchvision": (lambda: torchvision.models.mobilenet_v3_small(), (2, 3, 32, 32), "into features.1.block.2.0"),
    "timm, behind a norm": (lambda: timm.create_model("seresnet18"), (2, 3, 32, 32), "into layer1.0.bn2"),
    "timm, behind an activation": (
        lambda: timm.create_model("mobilenetv3_small_050"),
        (2, 3, 32, 32),
        "into blocks.0.0.conv_pw",
    ),
    "convolution before": (lambda: Between(nn.Conv2d(3, 8, 3), _se(), nn.ReLU()), MAP, "into before"),
    "group norm before": (
        lambda: Between(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)), _se(), nn.ReLU()),
        MAP,
        "into before.1",
    ),
    "norm without weights, convolution behind": (
        lambda: Between(
            nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, affine=False)), _se(), nn.Conv2d(8, 6, 3, padding=1)
        ),
        MAP,
        "into behind",
    ),
    "depthwise behind": (
        lambda: Between(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()), _se(), nn.Conv2d(8, 16, 3, groups=8)),
        MAP,
        "into behind",
    ),
    "groups behind, reflected": (
        lambda: Between(
            nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()),
            _se(),
            nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect", groups=2),
        ),
        MAP,
        "into behind",
    ),
    "transposed before": (
        lambda: Between(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 8, 2, groups=2)), _se(), nn.ReLU()),
        MAP,
        "into before.1",
    ),
    "transposed behind": (
        lambda: Between(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()), _se(), nn.ConvTranspose2d(8, 6, 2, groups=2)),
        MAP,
        "into behind",
    ),
    "signals": (lambda: Between(nn.ReLU(), _se(3), nn.Conv1d(3, 4, 3)), SIGNAL, "into behind"),
    "volumes": (lambda: Between(nn.Conv3d(3, 8, 2), _se(), nn.ReLU()), VOLUME, "into before"),
    "features": (lambda: Between(nn.Linear(3, 8), _se(), nn.ReLU()), (2, 3), "into before"),
    "a linear layer over space": (lambda: Between(nn.ReLU(), _se(3), nn.Linear(12, 5)), MAP, "held"),
    "two activations": (lambda: Between(nn.ReLU(), _se(3), nn.ReLU()), MAP, "held"),
    "nothing squeezed": (
        lambda: Between(nn.ReLU(), senet.SEBlock(3, 1, squeeze="none"), nn.Conv2d(3, 4, 1)),
        MAP,
        "into behind",
    ),
    "used beside": (Shared, MAP, "held"),
    "channels last": (
        lambda: _channels_last(timm.layers.squeeze_excite.SqueezeExciteCl(8)),
        (2, 5, 6, 3),
        "into before",
    ),
    "channels last, held": (
        lambda: Between(nn.ReLU(), timm.layers.squeeze_excite.SqueezeExciteCl(8), nn.ReLU()),
        (2, 5, 6, 8),
        "held",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_pruned_network_computes_what_held_gates_do(case):
    make, shape, expected = CASES[case]
    model = make().double().eval()
    for module in model.modules():  # norms that do something
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
    x = torch.randn(shape, dtype=torch.float64)
    found = senet.blocks(model)
    gates = {name: torch.rand(senet.insertion.channels_of(block)) for name, block in found.items()}
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        with holding(model, gates):
            wanted = model(x)
        folded, went = fold_gates(model, x, gates)
        assert next(iter(went.values())) == expected
        assert list(went) == list(gates)
        assert senet.blocks(folded) == {}
        torch.testing.assert_close(folded(x), wanted, rtol=1e-9, atol=1e-9)
        held, went = fold_gates(model, x, gates, fold=False)
        assert set(went.values()) == {"held"}
        assert torch.equal(held(x), wanted)
    assert set(pruned(held)) == set(gates)
    assert set(pruned(held).values()) == {"held"}
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert list(senet.blocks(model)) == list(gates)


def test_the_residual_block_of_monai():
    layers = pytest.importorskip("monai.networks.blocks.squeeze_and_excitation")
    for behind, kind in ((nn.ReLU(), "held"), (nn.Conv2d(8, 4, 1), "into behind")):
        model = Between(nn.ReLU(), layers.ResidualSELayer(2, 8), behind).eval()
        x, gates = torch.randn(2, 8, 5, 5), {"se": torch.rand(8)}
        with torch.no_grad():
            with holding(model, gates):
                wanted = model(x)
            folded, went = fold_gates(model, x, gates)
            torch.testing.assert_close(folded(x), wanted)
        assert went == {"se": kind}


def test_some_blocks_of_several_and_tied_weights():
    model = _resnet().eval()
    x = torch.randn(2, 3, 12, 12)
    tied = model.layer1[1].bn2
    tied.weight = model.layer1[0].bn2.weight
    names = [f"layer1.{n}.bn2.se" for n in (0, 2)]
    with torch.no_grad():
        with holding(model, {name: torch.full((16,), 0.3) for name in names}):
            wanted = model(x)
        given, went = fold_gates(model, x, {name: torch.full((16,), 0.3) for name in names}, inplace=True)
        assert given is model
        torch.testing.assert_close(model(x), wanted)
    assert went == {"layer1.0.bn2.se": "held", "layer1.2.bn2.se": "into layer1.2.bn2"}
    assert len(senet.blocks(model)) == 7
    assert isinstance(model.layer1[0].bn2.se, ConstantGate)
    assert pruned(model) == {"layer1.0.bn2.se": "held"}
    plain = senet.remove(model)  # the block that was held goes as well
    assert pruned(plain) == {}


@pytest.mark.parametrize(
    ("gates", "words"),
    [
        ({"layer1.0.bn2": torch.ones(16)}, "is not an SE block"),
        ({"layer1.0.bn2.se": torch.ones(8)}, r"are \(16,\), not \(8,\)"),
    ],
)
def test_what_cannot_be_pruned(gates, words):
    model = _resnet().eval()
    with pytest.raises(InsertionError, match=words):
        fold_gates(model, torch.randn(1, 3, 12, 12), gates, inplace=True)
    assert len(senet.blocks(model)) == 9


@pytest.mark.parametrize("name", ["resnet20", "torchvision:mobilenet_v3_small"])
def test_a_pruned_network_is_saved_and_loaded(name, tmp_path):
    spec = senet.SESpec(4, start="paper") if name == "resnet20" else None
    model = senet.create(name, spec=spec, num_classes=10).eval()
    x = torch.randn(2, 3, 32, 32)
    found = dict(list(senet.blocks(model).items())[:3])
    gates = {name: torch.rand(senet.insertion.channels_of(block)) for name, block in found.items()}
    for fold in (True, False):
        given, _ = fold_gates(model, x, gates, fold=fold)
        senet.save(given, tmp_path / "pruned.safetensors")
        again = senet.load(tmp_path / "pruned.safetensors")
        with torch.no_grad():
            assert torch.equal(again(x), given(x))
        assert pruned(again) == pruned(given)
        assert len(senet.blocks(again)) == len(senet.blocks(model)) - 3
        kinds = {type(module) for module in again.modules()} & {ConstantGate, PrunedSE}
        assert kinds == ({ConstantGate} if not fold else set() if spec else {PrunedSE})


def test_a_file_that_prunes_what_is_no_block_is_refused(tmp_path):
    from senet.files import fileformat

    model = senet.create("resnet20", num_classes=10)
    for name, kind, words in (
        ("fc", "held", "'fc' is not an SE block"),
        ("nowhere", "folded", "is not an SE block"),
        ("layer1.0.bn2.se", "burnt", "is folded or held, not 'burnt'"),
    ):
        held = senet.create("resnet20", spec=senet.SESpec(), num_classes=10)
        senet.save(held, tmp_path / "a.safetensors")
        tensors, header = fileformat.read(tmp_path / "a.safetensors")
        header.pruned[name] = kind
        fileformat.write(tmp_path / "b.safetensors", tensors, header)
        with pytest.raises(WeightsError, match=words):
            senet.load(tmp_path / "b.safetensors")
    header.pruned.clear()
    header.pruned["x"] = 3
    fileformat.write(tmp_path / "b.safetensors", model.state_dict(), header)
    with pytest.raises(WeightsError, match="is pruned as 3"):
        senet.load(tmp_path / "b.safetensors")


def test_a_bias_that_is_pruned_holds_the_gates_back():
    """What torch's pruning has for a bias is made anew in each call, so nothing can be folded into it."""
    model, x = Between(nn.Conv2d(3, 8, 3), _se(), nn.ReLU()).eval(), torch.randn(MAP)
    prune.l1_unstructured(model.before, "bias", amount=3)
    gates = {"se": torch.rand(8)}
    with torch.no_grad():
        with holding(model, gates):
            wanted = model(x)
        folded, went = fold_gates(model, x, gates)
        torch.testing.assert_close(folded(x), wanted)
    assert went == {"se": "held"}


def test_a_constant_gate_that_is_removed_is_not_missed():
    model = _resnet().eval()
    held, _ = fold_gates(model, torch.randn(1, 3, 12, 12), {"layer1.0.bn2.se": torch.ones(16)}, fold=False)
    plain = senet.remove(held)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain(torch.randn(1, 3, 12, 12))
    assert not senet.check(plain).lost


def _by_hook(layer):
    layer.register_forward_hook(lambda _, __, y: y.square())


def _by_forward(layer):
    layer.forward = lambda x: nn.Conv2d.forward(layer, x).square()


@pytest.mark.parametrize("change", [_by_hook, _by_forward])
def test_a_layer_that_returns_something_else_takes_no_gates(change):
    model, x = Between(nn.Conv2d(3, 8, 1), _se(), nn.ReLU()).eval(), torch.randn(MAP)
    change(model.before)
    gates = {"se": torch.rand(8)}
    with holding(model, gates):
        expected = model(x)
    folded, went = fold_gates(model, x, gates, inplace=True)
    assert went == {"se": "held"}
    assert torch.equal(folded(x), expected)


def test_a_block_that_is_given_a_mask_is_held():
    model = MaskedUnit(8).double().eval()
    example, gates = (torch.randn(2, 8, 6).double(), torch.tensor([0.5, 1.0])), {"se": torch.rand(8)}
    with torch.no_grad():
        with holding(model, gates):
            wanted = model(*example)
        folded, went = fold_gates(model, example, gates)
        torch.testing.assert_close(folded(*example), wanted)
    assert went == {"se": "held"}


def test_a_block_that_takes_any_number_of_channels_is_held_and_loaded(tmp_path):
    model, x, gates = Between(nn.ReLU(), ECA(8), nn.ReLU()).eval(), torch.randn(2, 8, 3, 3), {"se": torch.rand(8)}
    with holding(model, gates):
        wanted = model(x)
    held, went = fold_gates(model, x, gates)
    assert went == {"se": "held"}
    assert torch.equal(held(x), wanted)
    senet.save(held, tmp_path / "held.safetensors")
    assert torch.equal(senet.load(tmp_path / "held.safetensors", model)(x), wanted)


def test_a_block_with_two_names_is_replaced_under_both():
    block = timm_layers.SqueezeExcite(8)
    model = nn.Sequential(Between(nn.ReLU(), block, nn.ReLU()), Between(nn.ReLU(), block, nn.ReLU())).eval()
    x, gates = torch.randn(2, 8, 3, 3), {"0.se": torch.rand(8)}
    with torch.no_grad(), holding(model, gates):
        wanted = model(x)
    held, went = fold_gates(model, x, gates)
    assert went == {"0.se": "held"}
    assert torch.equal(held(x), wanted)
