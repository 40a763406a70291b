"""SE trained alone: every weight and statistic of the plain network stays, in both arms."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from senet import SESpec, blocks, create, insert
from senet.errors import StudyError
from senet.recipe.recipe import Recipe
from senet.saving.saving import load
from senet.study import compare
from senet.training.callbacks import FrozenStatistics
from senet.training.freezing import freeze_plain

SHORT = {"epochs": 2, "batch_size": 8, "lr": 0.5, "devices": "cpu", "progress": False}


def test_only_se_and_the_classifier_learn(tiny, pictures, tmp_path):
    torch.save(create(tiny, num_classes=2).state_dict(), tmp_path / "weights.pth")
    before = torch.load(tmp_path / "weights.pth", weights_only=True)
    found = compare(
        tiny,
        pictures,
        out=tmp_path / "out",
        weights=tmp_path / "weights.pth",
        seeds=1,
        spec=SESpec(2),
        freeze="plain",
        **SHORT,
    )
    assert found.settings["recipe"]["freeze"] == "plain"
    for arm in ("plain", "se"):
        after = load(tmp_path / "out" / f"{arm}-0/model.safetensors", create(tiny, num_classes=2))
        changed = {key for key, value in after.state_dict().items() if not torch.equal(value, before.get(key, value))}
        assert changed == {"fc.weight", "fc.bias"}
        assert all(bool(block.fc2.weight.any()) for block in blocks(after).values())  # it began at 0, and learnt
    assert len(blocks(after)) == 2


def test_what_learns():
    network = insert(create("resnet20", num_classes=10), torch.randn(1, 3, 32, 32), SESpec(4))
    freeze_plain(network, 10)
    learn = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert learn == {name for name, _ in network.named_parameters() if ".se." in name or name.startswith("fc.")}
    with pytest.raises(StudyError, match="no layer here has 7 outputs"):
        freeze_plain(nn.Conv2d(3, 5, 1), 7)


def test_a_layer_of_se_is_never_taken_for_the_classifier():
    network = insert(create("resnet20", num_classes=4), torch.randn(1, 3, 32, 32), SESpec(width=4))
    network._modules = {"fc": network.fc, **network._modules}  # defined before the blocks, whose layers have 4 outputs
    freeze_plain(network, 4)
    assert network.fc.weight.requires_grad


def test_a_blocks_own_statistics_are_learnt_beside_a_frozen_network():
    network = insert(create("resnet20", num_classes=10), torch.randn(1, 3, 32, 32), make=nn.BatchNorm2d)
    module = SimpleNamespace(network=network)
    frozen = FrozenStatistics(10, Recipe(8, 1, 0.1, freeze="plain", freeze_statistics=0.5))
    frozen.on_train_start(None, module)
    for step, learns in ((0, True), (5, False)):
        network.train()
        frozen.on_train_batch_start(SimpleNamespace(global_step=step), module)
        norms = ((name, each) for name, each in network.named_modules() if isinstance(each, nn.BatchNorm2d))
        assert {(".se" in name, each.training) for name, each in norms} == {(False, False), (True, learns)}


def test_a_recipe_that_freezes_nothing_says_nothing_of_it():
    recipe = Recipe(batch_size=8, epochs=1, lr=0.1)
    assert "freeze" not in recipe.to_json()
    assert recipe.changed({"freeze": "plain"}).to_json()["freeze"] == "plain"
    with pytest.raises(ValueError, match="freeze is one of plain, not 'plian'; did you mean 'plain'"):
        recipe.changed({"freeze": "plian"})
