"""Pruned networks: what explain predicted is what comes out, exactly."""

from __future__ import annotations

import json

import pytest
import torch

import senet
from senet.errors import InputError
from senet.insertion import ConstantGate, insert, pruned
from senet.study import StudyError, evaluate, explain, open_data, prune

QUIET = {"devices": "cpu", "progress": False}


@pytest.fixture
def network(trained):
    name, folder = trained
    return senet.load(folder, senet.create(name, num_classes=10))


def test_the_accuracy_after_is_what_explain_predicted(network, tmp_path):
    found = explain(network, "digits", out=tmp_path / "explained", **QUIET)
    for block in found.blocks:
        given = prune(network, "digits", blocks=block.name, **QUIET)
        assert given.top1_after == given.top1_predicted == block.at_mean.top1
        assert given.top5_after == given.top5_predicted == block.at_mean.top5
        assert given.same_predictions == given.images == found.images
        assert given.blocks == {block.name: f"into {block.name.removesuffix('.se')}"}
        assert given.parameters_before - given.parameters_after == block.parameters
        assert given.multiply_adds_before - given.multiply_adds_after == block.multiply_adds
        assert evaluate(given.network, open_data("digits"), **QUIET).top1 == block.at_mean.top1
    everything = prune(network, "digits", blocks=["blocks.*"], out=tmp_path / "pruned.safetensors", **QUIET)
    whole = found.stages[-1].at_mean
    assert (everything.top1_after, everything.top5_after) == (whole.top1, whole.top5)
    assert senet.blocks(everything.network) == {}
    assert len(senet.blocks(network)) == 2  # what was given stays


def test_pruned_by_advice_from_the_folder(network, trained, tmp_path):
    found = explain(network, "digits", out=tmp_path / "explained", tolerance=1, **QUIET)
    from_folder = prune(network, "digits", advice=True, explanation=tmp_path / "explained", **QUIET)
    from_value = prune(network, "digits", advice=True, explanation=found, **QUIET)
    anew = prune(network, "digits", advice=True, tolerance=1, **QUIET)
    for given in (from_folder, from_value, anew):
        assert tuple(given.blocks) == found.advice.blocks
        assert given.top1_after == found.advice.effect.top1
    assert "2 SE blocks pruned" in str(anew)


def test_the_file_is_loaded_and_measured(network, trained, tmp_path):
    name, _ = trained
    out = tmp_path / "pruned.safetensors"
    given = prune(network, "digits", blocks="blocks.1.*", out=out, **QUIET)
    assert "1 SE block pruned" in str(given)
    assert given.path == out
    again = senet.load(out, senet.create(name, num_classes=10))
    assert evaluate(again, "digits", **QUIET).correct == evaluate(given.network, "digits", **QUIET).correct
    assert list(senet.blocks(again)) == ["blocks.0.bn2.se"]
    metadata = senet.saving.read_metadata(out)["metadata"]
    assert metadata["accuracy"] == given.top1_after
    assert metadata["pruned"] == {"blocks.1.bn2.se": "into blocks.1.bn2"}
    assert f"Written: {out}" in str(given)


def test_a_network_of_ones_own_keeps_the_classes_of_its_run(trained, tmp_path):
    """Its function is the model, and its run the weights."""
    name, folder = trained
    prune(name, "digits", blocks="*", weights=folder, out=tmp_path / "pruned.safetensors", **QUIET)
    metadata = senet.saving.read_metadata(tmp_path / "pruned.safetensors")["metadata"]
    run = senet.saving.read_metadata(folder / "model.safetensors")["metadata"]
    assert {key: metadata[key] for key in ("classes", "preprocessing", "settings")} == {
        key: run[key] for key in ("classes", "preprocessing", "settings")
    }


def test_what_no_layer_can_take_is_held(trained):
    name, _ = trained
    plain = senet.create(name, num_classes=10)
    spec = senet.SESpec(2, placement="identity", start="paper")
    network = insert(plain, torch.randn(1, 3, 8, 8), spec)
    given = prune(network, "digits", blocks="*", **QUIET)
    assert set(given.blocks.values()) == {"held"}
    assert given.top1_after == given.top1_predicted
    assert set(pruned(given.network).values()) == {"held"}


ECA = """
import torch
from torch import nn

class ECA(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x):
        return x * torch.sigmoid(self.conv(x.mean((2, 3))[:, None])).transpose(1, 2)[..., None]

def net(num_classes=10):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), ECA(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(8, num_classes))
"""


def test_eca_is_pruned_by_an_explanation_and_loaded(tmp_path):
    (tmp_path / "net.py").write_text(ECA)
    name = f"{tmp_path / 'net.py'}:net"
    found = explain(name, "digits", **QUIET)
    out = tmp_path / "pruned.safetensors"
    given = prune(name, "digits", blocks="2", explanation=found, out=out, **QUIET)
    assert given.blocks == {"2": "held"}
    assert given.top1_after == given.top1_predicted == found.blocks[0].at_mean.top1
    assert evaluate(senet.load(out, senet.create(name)), "digits", **QUIET).top1 == given.top1_after


def test_folding_that_would_change_a_prediction_is_not_done(network, monkeypatch):
    """A fold that goes wrong (here: made to) is seen by its predictions, and constant scales are taken instead."""
    from senet.study.explanation import pruning

    fold = pruning.fold_gates

    def wrong(model, example, gates, **how):
        given, went = fold(model, example, gates, **how)
        if how.get("fold", True):
            torch.nn.init.zeros_(given.fc.weight)
        return given, went

    monkeypatch.setattr(pruning, "fold_gates", wrong)
    given = prune(network, "digits", blocks="*", **QUIET)
    assert set(given.blocks.values()) == {"held"}
    assert sum(isinstance(module, ConstantGate) for module in given.network.modules()) == 2
    assert given.same_predictions == given.images
    assert "folding into the weights would round" in str(given)


def test_a_network_of_torchvision_is_folded_behind(pictures, tmp_path):
    torchvision = pytest.importorskip("torchvision")
    network = senet.create("torchvision:mobilenet_v3_small", num_classes=2).eval()
    assert isinstance(network, torchvision.models.MobileNetV3)
    given = prune(network, pictures, size=32, blocks="features.1.*", out=tmp_path / "a.safetensors", **QUIET)
    assert given.blocks == {"features.1.block.1": "into features.1.block.2.0"}
    assert given.top1_after == given.top1_predicted
    assert len(senet.blocks(senet.load(tmp_path / "a.safetensors"))) == 8
    evaluated = evaluate(str(tmp_path / "a.safetensors"), pictures, **QUIET)  # its preprocessing was kept
    assert evaluated.preprocessing.size == 32
    assert evaluated.top1 == given.top1_after


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "say what to prune"),
        ({"blocks": "*", "advice": True}, "say what to prune"),
        ({"blocks": "layer9*"}, "matches none of the SE blocks, which are blocks.0.bn2.se"),
        ({"blocks": "*", "explanation": "nowhere"}, "cannot be read"),
        ({"advice": True, "tolerance": 2}, "tolerance is a share of the images, from 0 to 1, not 2"),
    ],
)
def test_what_cannot_be_pruned(network, arguments, words):
    with pytest.raises((StudyError, InputError), match=words):
        prune(network, "digits", **QUIET, **arguments)


def test_where_nothing_can_be_written_is_said_before_any_work(network, tmp_path, monkeypatch):
    monkeypatch.setattr("senet.study.explanation.pruning.open_subject", lambda *_: pytest.fail("it opens the images"))
    for out, words in ((tmp_path, "is a folder"), (tmp_path / "nowhere" / "at.safetensors", "nowhere does not exist")):
        with pytest.raises(OSError, match=words):
            prune(network, "digits", blocks="*", out=out, **QUIET)


def test_an_explanation_of_another_network(network, pictures, tmp_path):
    other = senet.create("se_resnet20", num_classes=2)
    found = explain(other, pictures, **QUIET)
    with pytest.raises(StudyError, match="is of another network"):
        prune(network, "digits", blocks="*", explanation=found, **QUIET)
    with pytest.raises(StudyError, match="no block is advised"):
        prune(other, pictures, advice=True, explanation=_nothing_advised(found), **QUIET)


def test_an_explanation_that_was_edited(network, tmp_path):
    explain(network, "digits", out=tmp_path / "explained", **QUIET)
    file = tmp_path / "explained/explanation.json"
    content = json.loads(file.read_text())
    content["advice"]["blocks"] = ["layer9"]
    file.write_text(json.dumps(content))
    with pytest.raises(StudyError, match=r"explanation\.json advises blocks that gates\.safetensors lacks"):
        prune(network, "digits", advice=True, explanation=tmp_path / "explained", **QUIET)


def _nothing_advised(found):
    import dataclasses

    return dataclasses.replace(found, advice=dataclasses.replace(found.advice, blocks=()))
