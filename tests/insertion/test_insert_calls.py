"""Insertion as people ask for it: where, on what, with what arguments; and nothing is left behind when it fails."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import senet
from senet import InsertionError, SESpec
from senet.insertion import inserted, largest_difference
from tests.insertion.networks import Plain, PreActivation, Residual, branch, randomise, small_resnet

torchvision = pytest.importorskip("torchvision")


def state_of(model: nn.Module) -> tuple[object, ...]:
    tensors = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    classes = [type(module) for module in model.modules()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    return tensors, modes, grads, classes, hooks, torch.get_rng_state()


def assert_same_state(before, after):
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(before[0][key], after[0][key]) for key in before[0])
    assert before[1] == after[1]
    assert all(
        (a is None) == (b is None) and (a is None or torch.equal(a, b))
        for a, b in zip(before[2], after[2], strict=True)
    )
    assert before[3] == after[3]
    assert before[4] == after[4]
    assert torch.equal(before[5], after[5])


def test_nothing_is_left_behind():
    model, x = (randomise(torchvision.models.resnet18(num_classes=10)), torch.randn(2, 3, 64, 64))
    model.train()
    model.layer1.eval()
    model.layer1[0].bn2.train()
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    before = state_of(model)
    senet.sites(model, x)
    senet.insert(model, x)
    with pytest.raises(InsertionError):
        senet.insert(model, x, where="nothing")
    assert_same_state(before, state_of(model))
    se = senet.insert(model, x)
    for name, module in model.named_modules():
        assert se.get_submodule(name).training == module.training


def test_in_place_and_undone_on_failure():
    model = small_resnet()
    x = torch.randn(1, 3, 16, 16)
    before = state_of(model)

    class Forgetful(nn.BatchNorm2d):
        """Its instance's forward is replaced, which passes SE by."""

    model[3].branch[4].__class__ = Forgetful
    model[3].branch[4].forward = lambda x: nn.BatchNorm2d.forward(model[3].branch[4], x)
    with pytest.raises(InsertionError, match=r"3\.branch\.4: its forward was replaced"):
        senet.insert(model, x, inplace=True)
    del model[3].branch[4].forward
    model[3].branch[4].__class__ = nn.BatchNorm2d
    assert_same_state(before, state_of(model))
    assert senet.insert(model, x, inplace=True) is model
    assert len(senet.blocks(model)) == 3


def test_the_same_random_state_gives_the_same_weights():
    model = small_resnet()
    x = torch.randn(1, 3, 16, 16)
    torch.manual_seed(7)
    first = senet.insert(model, x, SESpec(start="paper"))
    after = torch.get_rng_state()
    torch.manual_seed(7)
    assert torch.equal(after, torch.get_rng_state())
    second = senet.insert(model, x, SESpec(start="paper"))
    blocks = [senet.blocks(net) for net in (first, second)]
    assert all(torch.equal(a.fc1.weight, b.fc1.weight) for a, b in zip(*(b.values() for b in blocks), strict=True))
    a, b, _ = (block.fc1.weight[0, :8] for block in blocks[0].values())
    assert not torch.equal(a, b)


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("1.*", ["1.branch.4"]),
        ("*", ["1.branch.4", "2.branch.4", "3.branch.4"]),
        (["3.branch.4", "1.branch.4"], ["1.branch.4", "3.branch.4"]),
        (("2.*",), ["2.branch.4"]),
        (lambda site: site.channels == 16, ["2.branch.4", "3.branch.4"]),
        (lambda site: site.stage == 0, ["1.branch.4"]),
    ],
)
def test_where(where, names):
    se = senet.insert(small_resnet(), torch.randn(1, 3, 16, 16), where=where)
    assert list(senet.blocks(se)) == [f"{name}.se" for name in names]
    assert list(inserted(se)) == names


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("layer9.*", r"where='layer9\.\*' matches no site.*1\.branch\.4, 2\.branch\.4"),
        (["1.branch.4", "2.branch.5"], r"where='2\.branch\.5' matches no site; did you mean '2\.branch\.4'"),
        (lambda site: False, "true for none of the sites: 1.branch.4"),
        ([], "names no site"),
        ([3], "where holds 3"),
        (3, "where holds 3"),
    ],
)
def test_where_without_match(where, message):
    with pytest.raises(InsertionError, match=message):
        senet.insert(small_resnet(), torch.randn(1, 3, 16, 16), where=where)


def test_stage_by_stage():
    """A second insertion elsewhere joins the first; the same place twice is refused."""
    model, x = (randomise(torchvision.models.resnet18(num_classes=10)), torch.randn(2, 3, 64, 64))
    early = senet.insert(model, x, SESpec(reduction_ratio=4), where="layer1.*")
    both = senet.insert(early, x, where="layer4.*")
    assert len(senet.blocks(both)) == 4
    assert {spec.reduction_ratio for _, spec in inserted(both).values()} == {4, 16}
    with pytest.raises(InsertionError, match="matches no site"):
        senet.insert(both, x, where="layer4.*")
    whole = senet.insert(model, x)
    with pytest.raises(InsertionError, match="holds SE already wherever it could go"):
        senet.insert(whole, x)
    with pytest.raises(InsertionError, match="holds SE already"):
        senet.sites(whole, x)


@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid", "tanh", "relu"])
@pytest.mark.parametrize("squeeze", ["avg", "max", "none"])
def test_every_kind_of_block(gate, squeeze):
    model, x = randomise(small_resnet()), torch.randn(2, 3, 16, 16)
    start = "identity" if gate in ("sigmoid", "hard_sigmoid") else "paper"
    spec = SESpec(gate=gate, squeeze=squeeze, bias=True, width=3, start=start)
    se = senet.insert(model, x, spec).eval()
    assert torch.equal(se(x), model.eval()(x)) == (start == "identity")
    assert all(block.width == 3 and block.squeeze == squeeze for block in senet.blocks(se).values())
    if start == "paper":
        with pytest.raises(ValueError, match="start='paper'"):
            senet.insert(model, x, SESpec(gate=gate))


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3)),
            (1, 3, 8, 8),
            "has no place for SE: it has 1 convolution, no branch",
        ),
        (Plain, (1, 3, 8, 8), r"Looked at 1 join: its branches are linear.* \(in Plain\)"),
        (small_resnet, (1, 4, 8, 8), r"does not run on the example, a float32 tensor of shape \(1, 4, 8, 8\)"),
        (small_resnet, (3, 8), "does not run on the example"),
        (lambda: nn.DataParallel(small_resnet()), (1, 3, 8, 8), r"insert into `model\.module`"),
        (lambda: torch.compile(small_resnet()), (1, 3, 8, 8), r"insert before torch\.compile"),
        (lambda: small_resnet().to("meta"), (1, 3, 8, 8), "meta device"),
        (lambda: nn.Sequential(nn.LazyConv2d(4, 3)), (1, 3, 8, 8), "lazy"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_networks_that_are_refused(model, example, message):
    with pytest.raises(InsertionError, match=message):
        senet.insert(model(), torch.zeros(example))


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"model is an nn\.Module, not int"):
        senet.sites(3, torch.zeros(1))
    for verb in (senet.blocks, senet.remove, senet.check, senet.rejoin, senet.fold_start):
        with pytest.raises(TypeError, match=r"model is an nn\.Module, not int"):
            verb(3)
    with pytest.raises(TypeError, match="spec is an SESpec, not str"):
        senet.insert(small_resnet(), torch.zeros(1, 3, 8, 8), "sigmoid")
    with pytest.raises(ValueError, match="did you mean 'standard'"):
        senet.sites(small_resnet(), torch.zeros(1, 3, 8, 8), placement="standrd")
    with pytest.raises(InsertionError, match="int64"):
        senet.insert(small_resnet(), torch.zeros(1, 3, 8, 8, dtype=torch.int64))


def test_compiled_in_place_is_refused():
    model = small_resnet()
    model[1].compile()
    with pytest.raises(InsertionError, match=r"1 \(Residual\) is compiled"):
        senet.sites(model, torch.zeros(1, 3, 8, 8))


class Noisy(nn.Module):
    """Gives another output each time, whatever the random state."""

    calls = 0

    def __init__(self):
        super().__init__()
        self.body = small_resnet()

    def forward(self, x):
        Noisy.calls += 1
        return self.body(x) + Noisy.calls


def test_the_proof_refuses_a_network_that_changes():
    with pytest.raises(InsertionError, match="differs by 1 from the plain"):
        senet.insert(Noisy(), torch.randn(1, 3, 16, 16))


def test_frozen_devices_and_dtypes():
    model = small_resnet().to(torch.bfloat16)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    x = torch.randn(1, 3, 16, 16, dtype=torch.bfloat16)
    se = senet.insert(model, x).eval()
    assert torch.equal(se(x), model.eval()(x))
    for block in senet.blocks(se).values():
        assert block.fc1.weight.dtype == torch.bfloat16
        assert block.fc1.weight.requires_grad


def test_a_shared_block_has_one_se():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, padding=1)
            self.block = Residual(branch(8, 8))

        def forward(self, x):
            x = self.stem(x)
            for _ in range(3):
                x = self.block(x)
            return x

    model, x = randomise(Recurrent()), torch.randn(2, 3, 9, 9)
    se = senet.insert(model, x).eval()
    assert list(senet.blocks(se)) == ["block.branch.4.se"]
    assert torch.equal(se(x), model.eval()(x))


def test_a_child_named_se_is_respected():
    class Taken(nn.BatchNorm2d):
        def __init__(self, channels):
            super().__init__(channels)
            self.se = None

    model = nn.Sequential(Residual(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), Taken(3))))
    se = senet.insert(model, torch.randn(1, 3, 8, 8))
    assert list(senet.blocks(se)) == ["0.branch.2.senet_se"]
    assert senet.remove(se)[0].branch[2].se is None


def test_pre_activation_network():
    model = randomise(nn.Sequential(nn.Conv2d(3, 8, 3), PreActivation(8), PreActivation(8)))
    x = torch.randn(2, 3, 12, 12)
    assert [site.name for site in senet.sites(model, x)] == ["1.conv2", "2.conv2"]
    assert torch.equal(senet.insert(model, x).eval()(x), model.eval()(x))


def test_outputs_and_examples_of_any_form():
    class Dictionary(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small_resnet()

        def forward(self, image, factor=1.0, *, other=None):
            y = self.body(image)
            return {"logits": y * factor, "more": [y, (other, 3)]}

    image = torch.randn(1, 3, 16, 16)
    for example in ({"image": image, "factor": 2.0}, (image, 0.5), image):
        se = senet.insert(Dictionary(), example)
        assert len(senet.blocks(se)) == 3
    assert largest_difference({"a": image}, {"a": image + 1}) == pytest.approx(1, abs=1e-5)
    assert largest_difference({"a": image}, [image]) == float("inf")
    nan = torch.tensor([float("nan"), 1.0])
    assert largest_difference(nan, nan.clone()) == 0


def test_weights_are_kept_with_real_ones(shared):
    """MobileNetV2 with its ImageNet weights: not one bit of its output changes."""
    model = torchvision.models.mobilenet_v2()
    model.load_state_dict(torch.load(shared / "weights" / "mobilenet_v2-b0353104.pth", weights_only=True))
    x = torch.randn(4, 3, 224, 224)
    se = senet.insert(model, x[:1])
    with torch.no_grad():
        assert torch.equal(se.eval()(x), model.eval()(x))


def test_within_inference_mode():
    """What is inserted there can be trained later, and reading the network is not misled."""
    model, x = small_resnet(), torch.randn(1, 3, 16, 16)
    with torch.inference_mode():
        se = senet.insert(model, x)
    assert len(senet.blocks(se)) == 3
    se.train()(torch.randn(2, 3, 16, 16)).sum().backward()
    assert all(block.fc2.weight.grad is not None for block in senet.blocks(se).values())
