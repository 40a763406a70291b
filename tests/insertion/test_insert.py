"""Insertion into residual networks: nothing changes at the start, everything works after, nothing is left behind."""

from __future__ import annotations

import copy
import pickle
import shutil

import pytest
import torch
from torch import nn

import senet
from senet import InsertionError, SESpec
from senet.fast import straightforward
from senet.insertion import inserted, largest_difference
from tests.insertion.networks import Plain, PreActivation, Residual, branch, randomise, small_resnet

torchvision = pytest.importorskip("torchvision")

NETWORKS = {"resnet18": (8, 64), "resnet50": (16, 64), "mobilenet_v2": (10, 64)}


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    return randomise(torchvision.models.get_model(name, num_classes=10)), torch.randn(2, 3, NETWORKS[name][1], 64)


@pytest.fixture(scope="module", params=NETWORKS)
def pair(request):
    """A plain network, the same with SE, and an example."""
    torch.manual_seed(3)
    plain, x = build(request.param)
    return request.param, plain, senet.insert(plain, x), x


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


def test_sites_are_the_residual_units(pair):
    name, plain, _, x = pair
    found = senet.sites(plain, x)
    assert len(found) == NETWORKS[name][0]
    assert all(site.rule == "residual" for site in found)
    if name == "resnet50":
        assert [site.name for site in found] == [
            f"layer{stage}.{block}.bn3" for stage, n in enumerate((3, 4, 6, 3), 1) for block in range(n)
        ]
        assert [site.stage for site in found] == [2] * 3 + [3] * 4 + [4] * 6 + [5] * 3
        assert [site.channels for site in found] == [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3
    if name == "mobilenet_v2":
        assert {site.name for site in found} == {
            f"features.{index}.conv.3" for index in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)
        }
    assert "added to" in found[0].reason


def test_the_network_computes_what_it_did(pair):
    _, plain, se, x = pair
    for layout in (torch.contiguous_format, torch.channels_last):
        a, b = (copy.deepcopy(m).to(memory_format=layout).eval() for m in (plain, se))
        for images in (x, torch.randn(3, 3, 97, 65)):
            with torch.no_grad():
                assert torch.equal(a(images), b(images))
    a, b = copy.deepcopy(plain).train(), copy.deepcopy(se).train()
    torch.manual_seed(5)
    expected = a(x)
    torch.manual_seed(5)
    with straightforward():
        assert torch.equal(b(x), expected)
    a, b = copy.deepcopy(plain).double().train(), copy.deepcopy(se).double().train()  # where rounding does not grow
    torch.manual_seed(5)
    expected = a(x.double())
    torch.manual_seed(5)
    torch.testing.assert_close(b(x.double()), expected, rtol=1e-9, atol=1e-9)


def test_old_keys_keep_their_values(pair):
    _, plain, se, x = pair
    old, new = plain.state_dict(), se.state_dict()
    assert [key for key in new if key in old] == list(old)
    assert all(torch.equal(new[key], old[key]) for key in old)
    assert all(".se." in key for key in new.keys() - old.keys())
    fresh = senet.insert(build(pair[0])[0], x)
    result = fresh.load_state_dict(old, strict=False)
    assert result.unexpected_keys == []
    assert all(".se." in key for key in result.missing_keys)
    with torch.no_grad():
        assert torch.equal(fresh.eval()(x), plain.eval()(x))


def test_remove_gives_the_plain_network_back(pair):
    _, plain, se, x = pair
    trained = copy.deepcopy(se)
    for block in senet.blocks(trained).values():
        nn.init.normal_(block.fc2.weight)
    back = senet.remove(trained)
    assert len(senet.blocks(trained)) > 0
    assert list(back.state_dict()) == list(plain.state_dict())
    assert [type(m) for m in back.modules()] == [type(m) for m in plain.modules()]
    assert repr(back) == repr(plain)
    with torch.no_grad():
        assert torch.equal(back.eval()(x), plain.eval()(x))
    assert senet.remove(trained, inplace=True) is trained
    assert senet.blocks(trained) == {}
    assert inserted(trained) == {}


def test_copy_pickle_export_compile(pair, tmp_path):
    _, _, se, x = pair
    se = copy.deepcopy(se).eval()
    for block in senet.blocks(se).values():
        nn.init.normal_(block.fc2.weight, std=0.3)
    with torch.no_grad():
        expected = se(x)
        assert torch.equal(copy.deepcopy(se)(x), expected)
        again = pickle.loads(pickle.dumps(se))
        assert torch.equal(again(x), expected)
        assert inserted(again) == inserted(se)
        assert senet.blocks(senet.remove(again)) == {}
        torch.save(se, tmp_path / "whole.pt")
        assert torch.equal(torch.load(tmp_path / "whole.pt", weights_only=False)(x), expected)
        exported = torch.export.export(se, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.testing.assert_close(exported.module()(x[:1]), se(x[:1]))
        compiled = torch.compile(se, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected)
    for _ in range(2):  # switching modes works, and graphs are remade
        se.train()
        assert all(block.training for block in senet.blocks(se).values())
        se.eval()


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler, which is not on this machine")
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_inductor_compiles_without_a_break(name):
    plain, x = build(name)
    se = senet.insert(plain, x).eval()
    with torch.no_grad():
        compiled = torch.compile(se, fullgraph=True)(x)
        torch.testing.assert_close(compiled, se(x), rtol=1e-4, atol=1e-4)


def test_feature_extractor(pair):
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    name, plain, se, x = pair
    node = {"resnet18": "layer2", "resnet50": "layer2", "mobilenet_v2": "features.8.add"}[name]
    assert node in get_graph_node_names(se)[1] or name != "mobilenet_v2"
    with torch.no_grad():
        features = create_feature_extractor(se.eval(), [node])(x)[node]
        expected = create_feature_extractor(plain.eval(), [node])(x)[node]
    assert torch.equal(features, expected)


def test_distributed_data_parallel(pair):
    import torch.distributed as dist

    _, _, se, x = pair
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(se).train())
        wrapped(x).sum().backward()
        assert all(p.grad is not None for p in wrapped.parameters())
    finally:
        dist.destroy_process_group()


def test_every_se_learns(pair):
    """Every plain parameter moves as without SE; the first step changes every fc2, the second every fc1."""
    _, plain, se, _ = pair
    x = torch.randn(8, 3, 64, 64, dtype=torch.float64)
    y = torch.randint(10, (8,))
    plain, se = copy.deepcopy(plain).double().train(), copy.deepcopy(se).double().train()
    optimisers = [torch.optim.SGD(model.parameters(), lr=0.01) for model in (plain, se)]
    first = {name: (b.fc1.weight.clone(), b.fc2.weight.clone()) for name, b in senet.blocks(se).items()}
    for step in range(2):
        for model, optimiser in zip((plain, se), optimisers, strict=True):
            torch.manual_seed(step)
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimiser.step()
        if step == 0:
            moved = dict(se.named_parameters())
            for name, parameter in plain.named_parameters():
                torch.testing.assert_close(moved[name], parameter, rtol=1e-8, atol=1e-10)
        for name, block in senet.blocks(se).items():
            assert not torch.equal(block.fc2.weight, first[name][1]), f"{name}.fc2 stands still in step {step}"
            assert torch.equal(block.fc1.weight, first[name][0]) == (step == 0), f"{name}.fc1 in step {step}"


def test_nothing_is_left_behind():
    model, x = build("resnet18")
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
    ],
)
def test_where_without_match(where, message):
    with pytest.raises(InsertionError, match=message):
        senet.insert(small_resnet(), torch.randn(1, 3, 16, 16), where=where)


def test_stage_by_stage():
    """A second insertion elsewhere joins the first; the same place twice is refused."""
    model, x = build("resnet18")
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
    with pytest.raises(TypeError, match="spec is a SESpec, not str"):
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
