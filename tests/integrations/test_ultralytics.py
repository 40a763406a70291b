"""SE in a network that its trainer builds, on a twin of ultralytics; tests/frameworks has the real one."""

from __future__ import annotations

import logging
import sys

import pytest
import torch
from torch import nn

import senet
from senet.errors import InputError, InputTypeError, InsertionError, MissingPackageError
from senet.integrations.ultralytics import SETrainer, trainer
from senet.study import judge
from tests.integrations.detectors import BaseModel, BaseTrainer, DetectionTrainer, install, load_checkpoint

YAML = {"width": 8}
OPEN = senet.SESpec(2, start="paper")
SITES = ["model.1.cv2", "model.2.cv2"]


@pytest.fixture(autouse=True)
def _ultralytics(monkeypatch):
    install(monkeypatch)


@pytest.fixture
def x():
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def differ(one, two):
    return not torch.allclose(one, two, rtol=1e-2, atol=1e-3)


def test_from_scratch_to_the_fused_checkpoint(x, tmp_path, caplog):
    kind = trainer(OPEN)
    assert kind.__name__ == "SEDetectionTrainer"
    assert issubclass(kind, DetectionTrainer)
    engine = kind()
    with caplog.at_level(logging.INFO, "ultralytics"):
        model = engine.get_model(YAML)
    assert list(senet.insertion.inserted(model)) == SITES
    assert "SE: 2 blocks, inserted, SESpec(reduction_ratio=2" in caplog.text
    average = engine.train(model, tmp_path / "best.pt")
    fused = load_checkpoint(tmp_path / "best.pt")
    with torch.no_grad():
        torch.testing.assert_close(fused(x), average(x), rtol=1e-2, atol=2e-3)
        assert differ(senet.remove(fused)(x), fused(x))


def test_a_judged_training_gives_its_network_to_the_cell(x, tmp_path):
    plain = BaseModel(YAML, 2)

    def train(cell):
        engine = trainer(cell=cell)()
        model = engine.get_model(YAML, plain)
        held.append((cell.arm, list(senet.blocks(model)), torch.equal(model.eval()(x), plain.eval()(x))))
        engine.train(model, tmp_path / f"{cell.arm}.pt")
        return float(cell.seed)

    held = []
    judge(train, out=tmp_path / "out", spec=senet.SESpec(2), seeds=1, version="1", devices="cpu", progress=False)
    assert held == [("plain", [], True), ("se", [f"{site}.se" for site in SITES], True)]
    cell = object()
    weights = trainer(OPEN)().get_model(YAML)
    with pytest.raises(InsertionError, match="begins with those of a plain network"):
        trainer(cell=cell)().get_model(YAML, weights)
    with pytest.raises(InputError, match="give spec, where and make to it"):
        trainer(OPEN, cell=cell)


def test_resuming_keeps_se_and_its_weights(x, tmp_path):
    engine = trainer(OPEN, where=SITES[1])()
    engine.train(engine.get_model(YAML), tmp_path / "last.pt")
    weights = torch.load(tmp_path / "last.pt", weights_only=False)["ema"].float()
    resumed = trainer()().get_model(YAML, weights)
    assert resumed.transferred == (len(weights.state_dict()), len(resumed.state_dict()))
    assert senet.insertion.inserted(resumed) == senet.insertion.inserted(weights)
    with torch.no_grad():
        assert torch.equal(resumed.eval()(x), weights(x))


def test_on_pretrained_weights_se_starts_as_the_identity(x):
    plain = BaseModel(YAML, 2).eval()
    model = trainer(senet.SESpec(2))().get_model(YAML, plain).eval()
    assert len(senet.blocks(model)) == 2
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))
        scratch = trainer(senet.SESpec(2))().get_model(YAML).eval()
        assert differ(scratch(x), senet.remove(scratch)(x)), "from scratch the paper's start"


def test_a_plain_trainer_says_that_se_is_lost(tmp_path):
    engine = trainer(OPEN)()
    weights = engine.get_model(YAML)
    with pytest.warns(
        senet.SEWarning, match=r"hold SE that this BaseModel .*model\.1\.cv2, model\.2\.cv2\. It is lost"
    ):
        DetectionTrainer().get_model(YAML, weights)
    with pytest.warns(senet.SEWarning, match="It is lost"):
        BaseModel(YAML, 2).load({"model": weights})


def test_whoever_inserted_is_told(x, tmp_path, monkeypatch):
    """`yolo.model = insert(...)` and a plain training; the same in a process that only reads the file."""
    inserted = senet.insert(BaseModel(YAML, 2), x, OPEN)
    torch.save(inserted, tmp_path / "net.pt")
    with pytest.warns(senet.SEWarning, match="It is lost"):
        DetectionTrainer().get_model(YAML, inserted)
    install(monkeypatch)
    monkeypatch.setattr(BaseModel, "load", BaseModel.load.__wrapped__)
    weights = torch.load(tmp_path / "net.pt", weights_only=False)
    with pytest.warns(senet.SEWarning, match="It is lost"):
        DetectionTrainer().get_model(YAML, weights)


def test_the_mixin_by_hand():
    class Trainer(SETrainer, BaseTrainer):
        where = SITES[0]

    assert list(senet.insertion.inserted(Trainer().get_model(YAML))) == SITES[:1]
    assert Trainer().se_example(nn.Identity()).shape == (1, 3, 64, 64)


class Scale(nn.Module):
    """A person's own block: a weight for each channel."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0, 2, channels))

    def forward(self, x):
        return x * self.weight[:, None, None]


def test_a_block_of_ones_own_and_a_predicate(x, tmp_path):
    engine = trainer(senet.SESpec(start="paper"), make=lambda c: Scale(c), where=lambda site: site.name == SITES[0])()
    average = engine.train(engine.get_model(YAML), tmp_path / "last.pt")
    assert list(senet.insertion.inserted(average)) == SITES[:1]
    weights = torch.load(tmp_path / "last.pt", weights_only=False)["ema"].float()
    resumed = trainer()().get_model(YAML, weights).eval()
    with torch.no_grad():
        assert torch.equal(resumed(x), weights(x))
        assert differ(senet.remove(weights)(x), weights(x))


def test_errors(monkeypatch):
    with pytest.raises(InputTypeError, match="spec is an SESpec, not dict"):
        trainer({"reduction_ratio": 4})
    with pytest.raises(InputTypeError, match="base is a trainer class of ultralytics"):
        trainer(base=dict)
    with pytest.raises(senet.InsertionError, match="matches no site"):
        trainer(where="nowhere")().get_model(YAML)
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(MissingPackageError, match="ultralytics is not installed: pip install ultralytics"):
        trainer()
