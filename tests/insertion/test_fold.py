"""Folding the identity start's constant away, and groups for an optimiser."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import senet
from senet import InsertionError, SESpec
from tests.insertion.networks import Residual, randomise, small_resnet


@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid"])
@pytest.mark.parametrize("squeeze", ["avg", "max", "none"])
@pytest.mark.parametrize("bias", [False, True])
def test_fold_start_keeps_the_function(gate, squeeze, bias):
    x = torch.randn(2, 3, 16, 16)
    net = senet.insert(randomise(small_resnet()), x, SESpec(gate=gate, squeeze=squeeze, bias=bias)).eval()
    for block in senet.blocks(net).values():
        nn.init.normal_(block.fc2.weight)
        if bias:
            nn.init.normal_(block.fc1.bias)
    folded = senet.fold_start(net)
    assert all(block.scale == 1 for block in senet.blocks(folded).values())
    assert all(block.scale == 2 for block in senet.blocks(net).values())
    assert torch.equal(folded(x), net(x))
    assert senet.fold_start(folded, inplace=True) is folded
    assert torch.equal(folded(x), net(x))


def test_fold_start_names_what_has_no_weight():
    unit = Residual(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()))
    net = senet.insert(nn.Sequential(unit), torch.randn(1, 3, 8, 8))
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(InsertionError, match=r"scale cannot be folded into 0\.branch\.1 \(SEReLU\)"):
        senet.fold_start(net, inplace=True)
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in before.items())


class Activated(nn.Conv2d):
    """As timm's BatchNormAct2d: the activation is part of the layer."""

    def forward(self, x):
        return nn.functional.silu(super().forward(x))


class Standardised(nn.Conv2d):
    """As timm's StdConv2d: twice the weight is the same layer."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


class Padded(nn.Conv2d):
    """A forward of its own that is still a convolution."""

    def forward(self, x):
        return super().forward(nn.functional.pad(x, (1, 1, 1, 1)))


def _unit(layer: nn.Module) -> nn.Module:
    branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), layer)
    return senet.insert(nn.Sequential(nn.Conv2d(3, 8, 3), Residual(branch)), torch.randn(1, 3, 9, 9)).eval()


@pytest.mark.parametrize("layer", [Activated(8, 8, 3, padding=1), Standardised(8, 8, 3, padding=1)])
def test_fold_start_refuses_what_is_not_proportional_to_its_weight(layer):
    with pytest.raises(InsertionError, match=r"scale cannot be folded into 1\.branch\.2 \(SE"):
        senet.fold_start(_unit(layer))


def test_fold_start_takes_a_linear_subclass():
    net, x = _unit(Padded(8, 8, 3)), torch.randn(2, 3, 9, 9)
    nn.init.normal_(net[1].branch[2].se.fc2.weight)
    assert torch.equal(senet.fold_start(net)(x), net(x))


def test_fold_start_refuses_weights_that_are_not_the_layers_own():
    tied = nn.Conv2d(8, 8, 3, padding=1)
    net = _unit(tied)
    net[1].branch[0].weight = net[1].branch[2].weight
    pruned = _unit(nn.Conv2d(8, 8, 3, padding=1))
    prune.l1_unstructured(pruned[1].branch[2], "bias", amount=3)
    for each in (net, pruned):
        with pytest.raises(InsertionError, match=r"1\.branch\.2 .*of its own weights"):
            senet.fold_start(each)


class Adapted(nn.Module):
    """As LoRA's: a layer with others beside it, whose weight it shows as its own."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer, self.other = base_layer, nn.Linear(base_layer.in_features, base_layer.out_features)
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features

    @property
    def weight(self):
        return self.base_layer.weight

    @property
    def bias(self):
        return self.base_layer.bias

    def forward(self, z):
        return self.base_layer(z) + self.other(z)


FIRST_LAYERS = {
    "parametrised": lambda se: nn.utils.parametrize.register_parametrization(se.fc1, "weight", nn.Softplus()),
    "pruned": lambda se: prune.random_unstructured(se.fc1, "weight", amount=3),
    "with an adapter": lambda se: setattr(se, "fc1", Adapted(se.fc1)),
    "kept elsewhere": lambda se: se.fc1.to("meta"),
}


@pytest.mark.parametrize("kind", FIRST_LAYERS)
def test_fold_start_refuses_a_first_layer_whose_weight_is_not_all_of_it(kind):
    """Its weight was divided in vain, or a half of it: the function changed in silence."""
    net = _unit(nn.Conv2d(8, 8, 3, padding=1))
    FIRST_LAYERS[kind](net[1].branch[2].se)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(InsertionError, match=r"1\.branch\.2 .*a plain first layer in the SE"):
        senet.fold_start(net, inplace=True)
    after = net.state_dict()
    assert all(value.is_meta or torch.equal(value, after[key]) for key, value in before.items())


def test_fold_start_refuses_weights_that_are_kept_elsewhere():
    """As accelerate's `cpu_offload` keeps them: what is multiplied here is nothing."""
    net = _unit(nn.Conv2d(8, 8, 3, padding=1))
    conv = net[1].branch[2]
    conv.weight = nn.Parameter(conv.weight.to("meta"))
    with pytest.raises(InsertionError, match=r"1\.branch\.2 .*of its own weights"):
        senet.fold_start(net)


@pytest.mark.parametrize("where", ["1.branch.2", "1.branch.2.se.fc1"])
def test_fold_start_refuses_a_forward_that_was_assigned(where):
    net = _unit(nn.Conv2d(8, 8, 3, padding=1))
    layer = net.get_submodule(where)
    forward = layer.forward
    layer.forward = lambda x: forward(x).clamp(-1, 1)
    with pytest.raises(InsertionError, match=r"scale cannot be folded into 1\.branch\.2"):
        senet.fold_start(net)


def test_fold_start_refuses_a_learnt_scale_that_is_not_positive():
    net = _unit(nn.Conv2d(8, 8, 3, padding=1))
    for scale in (-2.0, 0.0):
        net[1].branch[2].se.scale.fill_(scale)
        with pytest.raises(InsertionError, match=r"1\.branch\.2 .*it takes a positive scale"):
            senet.fold_start(net)


def _folded():
    net, x = randomise(small_resnet()).eval(), torch.randn(2, 3, 16, 16)
    se = senet.insert(net, x)
    for block in senet.blocks(se).values():
        nn.init.normal_(block.fc2.weight)
    return net, se, senet.fold_start(se), x


@pytest.mark.parametrize("through", [lambda net: net, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_what_was_folded_is_taken_out_with_se(through):
    """The factor stayed in the weights, and nothing told of it."""
    net, _, folded, x = _folded()
    folded = through(folded)
    assert torch.equal(senet.remove(folded)(x), net(x))
    folded.load_state_dict({key: value.clone() for key, value in folded.state_dict().items()})
    assert torch.equal(senet.remove(folded)(x), net(x))
    plain = senet.remove(nn.SyncBatchNorm.convert_sync_batchnorm(folded), inplace=True)
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in net.state_dict().items())
    senet.insert(plain, x, inplace=True)
    assert all(torch.equal(value, senet.remove(plain).state_dict()[key]) for key, value in net.state_dict().items())


def test_a_learnt_scale_multiplies_what_was_folded():
    net, _, folded, x = _folded()
    for block in senet.blocks(folded).values():
        block.scale.fill_(1.5)
    torch.testing.assert_close(senet.remove(senet.fold_start(folded))(x), net(x))


def test_other_weights_do_not_hold_what_was_folded(tmp_path):
    net, se, folded, x = _folded()
    unfolded, plain, read = copy.deepcopy(folded), copy.deepcopy(folded), copy.deepcopy(folded)
    unfolded.load_state_dict(se.state_dict())
    plain.load_state_dict(net.state_dict(), strict=False)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    senet.zoo.load_weights(read, tmp_path / "net.pth")
    for each in (unfolded, plain, read):
        assert torch.equal(senet.remove(each)(x), net(x))


def test_what_was_folded_into_weights_that_are_gone_is_an_error():
    _, _, folded, _ = _folded()
    pruned = copy.deepcopy(folded)
    unit = folded[1].branch
    unit[3], unit[4] = nn.utils.fusion.fuse_conv_bn_eval(unit[3], unit[4]), nn.Identity()
    prune.l1_unstructured(pruned[1].branch[4], "weight", amount=3)
    for each, kind in ((folded, "Identity"), (pruned, "BatchNorm2d")):
        with pytest.raises(InsertionError, match=rf"no longer those of 1\.branch\.4 \({kind}\): remove SE from"):
            senet.remove(each)


def test_what_is_copied_in_inference_mode_can_be_trained():
    net, x = _unit(nn.Conv2d(8, 8, 3, padding=1)), torch.randn(2, 3, 9, 9)
    with torch.inference_mode():
        copies = senet.remove(net), senet.fold_start(net)
    for each in copies:
        each(x).sum().backward()
        assert each[0].weight.grad is not None


def test_parameter_groups():
    net = senet.insert(small_resnet(), torch.randn(1, 3, 16, 16), SESpec(bias=True))
    groups = senet.parameter_groups(net, 0.1, 0.5, weight_decay=1e-4, se_weight_decay=0.0)
    assert [(g["name"], g["lr"], g["weight_decay"]) for g in groups] == [("network", 0.1, 1e-4), ("se", 0.5, 0.0)]
    everything = [p for g in groups for p in g["params"]]
    assert len(everything) == len({id(p) for p in everything}) == len(list(net.parameters()))
    torch.optim.SGD(groups, lr=0.1, momentum=0.9).step()
    split = senet.parameter_groups(net, 0.1, weight_decay=0.1, decay_norms_and_biases=False)
    assert {g["name"]: g["weight_decay"] for g in split} == {
        "network": 0.1,
        "network, no decay": 0.0,
        "se": 0.1,
        "se, no decay": 0.0,
    }
    assert all(p.dim() == 1 for g in split if "no decay" in g["name"] for p in g["params"])
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    assert senet.parameter_groups(net, 0.1) == []
    with pytest.raises(ValueError, match="lr is a number of at least 0, not -1"):
        senet.parameter_groups(net, -1)
    with pytest.raises(ValueError, match="se_weight_decay is a number of at least 0, not -1"):
        senet.parameter_groups(net, 0.1, se_weight_decay=-1)
    with pytest.raises(ValueError, match=r"lr is a number of at least 0, not '0\.1'"):
        senet.parameter_groups(net, "0.1")
    for wrong in (True, float("inf"), float("nan"), torch.ones(2)):  # of True PyTorch made a decay of 1
        with pytest.raises(ValueError, match="weight_decay is a number of at least 0, not "):
            senet.parameter_groups(net, 0.1, weight_decay=wrong)
    assert senet.parameter_groups(net.requires_grad_(), torch.tensor(0.1))[0]["lr"] == torch.tensor(0.1)
