"""Insertion into torchvision's residual networks: nothing changes at the start, and everything works after."""

from __future__ import annotations

import copy
import pickle
import shutil

import pytest
import torch
from torch import nn

import senet
from senet.fast import straightforward
from senet.insertion import inserted
from tests.insertion.networks import Residual, branch, randomise, shortened

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


@pytest.fixture(scope="module", params=NETWORKS)
def short_pair(request):
    """A plain network of few units, the same with SE, and an example: enough where each unit is computed."""
    torch.manual_seed(3)
    plain, x = randomise(shortened(request.param, num_classes=10)), torch.randn(2, 3, 64, 64)
    return plain, senet.insert(plain, x), x


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


def test_the_network_computes_what_it_did(short_pair):
    plain, se, x = short_pair
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


def test_remove_gives_the_plain_network_back(short_pair):
    plain, se, x = short_pair
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


def test_copy_pickle_export_compile(short_pair, tmp_path):
    _, se, x = short_pair
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
def test_inductor_compiles():
    """Breaks are what `aot_eager` shows above; here the code that inductor writes is compiled and run."""
    model, x = randomise(nn.Sequential(nn.Conv2d(3, 8, 3), Residual(branch(8, 8)))), torch.randn(2, 3, 12, 12)
    se = senet.insert(model, x).eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(se, fullgraph=True)(x), se(x), rtol=1e-4, atol=1e-4)


def test_feature_extractor(pair):
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    name, plain, se, x = pair
    node = {"resnet18": "layer2", "resnet50": "layer2", "mobilenet_v2": "features.8.add"}[name]
    assert node in get_graph_node_names(se)[1] or name != "mobilenet_v2"
    with torch.no_grad():
        features = create_feature_extractor(se.eval(), [node])(x)[node]
        expected = create_feature_extractor(plain.eval(), [node])(x)[node]
    assert torch.equal(features, expected)


def test_distributed_data_parallel(short_pair):
    import torch.distributed as dist

    _, se, x = short_pair
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(se).train())
        wrapped(x).sum().backward()
        assert all(p.grad is not None for p in wrapped.parameters())
    finally:
        dist.destroy_process_group()


def test_every_se_learns(short_pair):
    """Every plain parameter moves as without SE; the first step changes every fc2, the second every fc1."""
    plain, se, _ = short_pair
    x = torch.randn(4, 3, 48, 48, dtype=torch.float64)
    y = torch.randint(10, (4,))
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
