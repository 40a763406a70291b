"""Checkpoints as training programs leave them: wrappers, prefixes, averages, settings beside the weights."""

import argparse
import collections
import logging
import pathlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from senet.block import SESpec
from senet.errors import WeightsError
from senet.insertion import insert
from senet.zoo import create, load_weights, read_weights
from tests.zoo.test_weights import Code, Small, same, written

EXAMPLE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def behind(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


def another(state):
    return {key: value + 1 for key, value in state.items()}


def averaged(state):
    """As AveragedModel has it."""
    return {"n_averaged": torch.tensor(3), **behind("module.", state)}


RAW = {
    "model_state_dict": lambda state: {"epoch": 3, "model_state_dict": state, "loss": 0.5},
    "model_state": lambda state: {"model_state": state},
    "net": lambda state: {"net": behind("module.", state), "acc": 93.1, "epoch": 3},
    "net in model": lambda state: {"model": {"net": state}},
    "a part in torch.compile": lambda state: {key.replace("head.", "head._orig_mod."): state[key] for key in state},
    "an average alone": lambda state: {"model_ema": averaged(state)},
    "AveragedModel's own": averaged,
}
BOTH = {
    "torchvision's": lambda state: {"model": another(state), "model_ema": averaged(state), "epoch": 3},
    "timm's": lambda state: {"state_dict": another(state), "state_dict_ema": state, "arch": "resnet50", "version": 2},
}
FIT = {
    "Lightning's": lambda state: behind("model.", state),
    "Lightning's with a loss of its own": lambda state: {**behind("net.", state), "loss.weight": torch.ones(3)},
    "in a module in Lightning's": lambda state: behind("model.backbone.", state),
    "in two parts": lambda state: {
        ("head." if key.startswith("head.") else "backbone.") + key: value for key, value in state.items()
    },
    "senet's own": lambda state: {
        **behind("network.", another(state)),
        "averaged.n_averaged": torch.tensor(3),
        **behind("averaged.module.", state),
    },
}


class TestWrappers:
    @pytest.mark.parametrize("wrap", RAW.values(), ids=RAW)
    def test_one_state_dict(self, tmp_path, wrap):
        state = Small().state_dict()
        assert same(read_weights(written(tmp_path / "w.pth", wrap(state))), state)

    @pytest.mark.parametrize("wrap", BOTH.values(), ids=BOTH)
    def test_the_average_is_taken_and_said(self, tmp_path, wrap):
        state, model = Small().state_dict(), Small()
        path = written(tmp_path / "w.pth", wrap(state))
        report = load_weights(model, path)
        assert same(model.state_dict(), state)
        assert len([note for note in report.notes if "raw weights" in note and "the averaged are taken" in note]) == 1

    @pytest.mark.parametrize("old", [False, True])
    def test_settings_beside_the_weights_are_left_out(self, tmp_path, old):
        settings = argparse.Namespace(lr=0.1, out=pathlib.PosixPath("/x"), device=torch.device("cpu"))
        state = Small().state_dict()
        content = {"model": state, "args": settings, "metric": np.float64(3.0), "log": collections.Counter("ab")}
        torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not old)
        assert same(read_weights(tmp_path / "w.pth"), state)

    def test_nothing_beside_the_weights_is_run(self, tmp_path):
        class Mine:
            def __reduce__(self):
                return pathlib.Path.mkdir, (tmp_path / "ran",)

        torch.save({"model": Small().state_dict(), "args": Mine()}, tmp_path / "w.pth")
        read_or_refused(tmp_path / "w.pth")
        torch.save({"model": Small().state_dict(), "args": Code(tmp_path / "ran")}, tmp_path / "w.pth")
        with pytest.raises(WeightsError, match=r"w\.pth is refused: .*asks for posix.mkdir"):
            read_weights(tmp_path / "w.pth")
        assert not (tmp_path / "ran").exists()

    def test_a_pickled_network_under_model(self, tmp_path):
        torch.save({"model": nn.Linear(2, 2), "ema": None}, tmp_path / "w.pth")
        with pytest.raises(WeightsError, match=r"asks for torch\.nn\.modules\.linear\.Linear"):
            read_weights(tmp_path / "w.pth")


def read_or_refused(path):
    try:
        read_weights(path)
    except WeightsError as error:
        assert "is refused" in str(error)  # noqa: PT017 either is right


class TestPrefixes:
    @pytest.mark.parametrize("wrap", FIT.values(), ids=FIT)
    def test_the_part_that_is_the_network_is_found(self, tmp_path, wrap):
        state, model = Small().state_dict(), Small()
        report = load_weights(model, written(tmp_path / "w.safetensors", wrap({k: v + 3 for k, v in state.items()})))
        assert same(model.state_dict(), {k: v + 3 for k, v in state.items()})
        assert any("is the part of the file under" in note for note in report.notes)

    def test_what_was_left_out_is_said(self, tmp_path):
        state = {**behind("net.", Small().state_dict()), "loss.weight": torch.ones(3), "loss.bias": torch.ones(1)}
        report = load_weights(Small(), written(tmp_path / "w.safetensors", state))
        assert "the network is the part of the file under 'net.'" in report.notes
        assert "2 other tensors of the file left out: loss.bias, loss.weight" in report.notes
        assert report.unplaced == ("loss.bias", "loss.weight")

    def test_a_network_whose_own_keys_begin_so(self, tmp_path):
        model = nn.ModuleDict({"backbone": Small(), "head": nn.Linear(3, 2)})
        state = {key: value + 1 for key, value in model.state_dict().items()}
        report = load_weights(model, written(tmp_path / "w.safetensors", state))
        assert same(model.state_dict(), state)
        assert report.notes == ()

    def test_mmpretrain(self, tmp_path, caplog):
        """Its names for SE-ResNet-50, whose layers it lays behind `backbone.` and `head.`."""
        ours = create("resnet50_v1_5", num_classes=3)
        ours = insert(ours, EXAMPLE, SESpec(bias=True, start="paper")).eval()
        with torch.no_grad():
            for key, value in ours.state_dict().items():
                if value.is_floating_point() and not key.endswith(".scale"):
                    value.copy_(torch.rand_like(value) * 0.02 + 0.01)
        theirs = {}
        for key, value in ours.state_dict().items():
            name = key.replace("bn3.se.fc", "se_layer.conv")
            if name.endswith("se.scale"):
                continue
            if "se_layer" in name:
                layer, kind = name.rsplit(".", 1)
                name, value = f"{layer}.conv.{kind}", value[:, :, None, None] if kind == "weight" else value
            theirs[("head." if key.startswith("fc.") else "backbone.") + name] = value
        path = written(tmp_path / "w.pth", {"meta": {"epoch": 100}, "state_dict": theirs})
        with caplog.at_level(logging.INFO, "senet"):
            model = create("se_resnet50_v1_5", weights=path).eval()
        assert torch.equal(model(EXAMPLE), ours(EXAMPLE))
        assert "is the part of the file under 'backbone.'" in caplog.text
        with pytest.raises(WeightsError, match="has its stride in the"):
            create("se_resnet50", weights=path)

    def test_a_checkpoint_of_ours_within_a_wrapper(self, tmp_path):
        model = AveragedModel(Small())
        plain = Small()
        load_weights(plain, written(tmp_path / "w.pth", {"state_dict": model.state_dict()}))
        assert same(plain.state_dict(), model.module.state_dict())
