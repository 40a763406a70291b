"""`save_pretrained` and `from_pretrained` keep SE, on a twin of transformers. tests/frameworks has the real one."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import senet
from senet.errors import MissingPackageError, WeightsError
from senet.integrations.transformers import from_pretrained, keeping_se

OPEN = senet.SESpec(2, start="paper")


class Config:
    def __init__(self, **fields):
        vars(self).update(fields)

    def to_dict(self):
        return dict(vars(self))


class PreTrainedModel(nn.Module):
    base_model_prefix = "body"

    def __init__(self, config):
        super().__init__()
        self.config = config

    def save_pretrained(self, folder):
        Path(folder).mkdir(exist_ok=True)
        (Path(folder) / "config.json").write_text(json.dumps(self.config.to_dict()))
        save_file(self.state_dict(), Path(folder) / "model.safetensors")

    @classmethod
    def from_pretrained(cls, folder, output_loading_info=False):
        """Built without values, then filled; what does not fit is a remark."""
        with torch.device("meta"):
            model = cls(Config(**json.loads((Path(folder) / "config.json").read_text())))
        held = load_file(Path(folder) / "model.safetensors")
        prefix = "body." if hasattr(model, "body") and not any(key.startswith("body.") for key in held) else ""
        found = {prefix + (k if hasattr(model, "body") else k.removeprefix("body.")): v for k, v in held.items()}
        missing = sorted(model.state_dict().keys() - found.keys())
        unexpected = sorted(found.keys() - model.state_dict().keys())
        model = model.to_empty(device="cpu")
        model.load_state_dict(found, strict=False)
        info = {"missing_keys": missing, "unexpected_keys": unexpected}
        return (model.eval(), info) if output_loading_info else model.eval()


class Unit(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x):
        return x + self.norm(self.conv(x))


class Body(PreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.stem, self.one, self.two = nn.Conv2d(3, 8, 1), Unit(), Unit()

    def forward(self, pixel_values):
        return self.two(self.one(self.stem(pixel_values)))


class Classifier(PreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.body, self.head = Body(config), nn.Conv2d(8, 3, 1)

    def forward(self, pixel_values):
        return self.head(self.body(pixel_values))


@pytest.fixture(autouse=True)
def _transformers(monkeypatch):
    for name in ("transformers", "transformers.modeling_utils"):
        module = types.ModuleType(name)
        module.PreTrainedModel = PreTrainedModel
        monkeypatch.setitem(sys.modules, name, module)
    for name, value in {"_senet_watches": False, **vars(PreTrainedModel)}.items():
        if name in ("save_pretrained", "from_pretrained", "_senet_watches"):
            monkeypatch.setattr(PreTrainedModel, name, value, raising=False)  # what is put around it goes with the test


@pytest.fixture
def x():
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net(x):
    return senet.insert(Classifier(Config(hidden=8)).eval(), {"pixel_values": x}, OPEN)


def same(one, two, x, plain):
    with torch.no_grad():
        assert torch.equal(one(x), two(x))
        assert not torch.allclose(one(x), plain(x), rtol=1e-3)


@pytest.mark.parametrize("placement", ["standard", "identity"])
def test_saved_and_loaded(x, placement, tmp_path):
    """The identity placement names two modules: the one that returns SE's product, and the one given its input."""
    spec = senet.SESpec(2, start="paper", placement=placement)
    net = senet.insert(Classifier(Config(hidden=8)).eval(), x, spec)
    net.save_pretrained(tmp_path)
    again, info = from_pretrained(Classifier, tmp_path, output_loading_info=True)
    assert type(again) is Classifier
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert senet.insertion.inserted(again) == senet.insertion.inserted(net)
    same(again, net, x, senet.remove(net))
    again.save_pretrained(tmp_path / "again")
    same(from_pretrained(Classifier, tmp_path / "again"), net, x, senet.remove(net))


class Shift(nn.Module):
    """A person's own block: a number for each channel."""

    def __init__(self, channels):
        super().__init__()
        self.by = nn.Parameter(torch.linspace(-1, 1, channels))

    def forward(self, x):
        return x + self.by[:, None, None]


def test_a_block_of_ones_own(x, tmp_path):
    net = senet.insert(Classifier(Config(hidden=8)).eval(), x, senet.SESpec(start="paper"), make=Shift)
    net.save_pretrained(tmp_path)
    same(from_pretrained(Classifier, tmp_path, make=Shift), net, x, senet.remove(net))
    with pytest.raises(WeightsError, match=r"the config holds blocks that make=Shift made .*give make="):
        from_pretrained(Classifier, tmp_path)


def test_the_body_of_it_and_a_head_on_that(net, x, tmp_path):
    net.save_pretrained(tmp_path / "whole")
    body = from_pretrained(Body, tmp_path / "whole")
    same(body, net.body, x, senet.remove(net).body)
    body.save_pretrained(tmp_path / "body")
    with keeping_se():
        whole = Classifier.from_pretrained(tmp_path / "body")
    same(whole.body, net.body, x, senet.remove(net).body)


class Necked(PreTrainedModel):
    """With a unit of its own behind the body, as the necks of detectors and of depth estimators."""

    def __init__(self, config):
        super().__init__(config)
        self.body, self.neck = Body(config), Unit()

    def forward(self, pixel_values):
        return self.neck(self.body(pixel_values))


def test_se_behind_the_body(x, tmp_path):
    """Its name was taken for one in the body, where there is no such place."""
    net = senet.insert(Necked(Config(hidden=8)).eval(), x, OPEN)
    assert list(senet.insertion.inserted(net)) == ["body.one.norm", "body.two.norm", "neck.norm"]
    net.save_pretrained(tmp_path)
    same(from_pretrained(Necked, tmp_path), net, x, senet.remove(net))
    same(from_pretrained(Body, tmp_path), net.body, x, senet.remove(net).body)


def test_a_plain_class_says_that_se_is_lost(net, tmp_path):
    net.save_pretrained(tmp_path)
    with pytest.warns(senet.SEWarning, match=r"at 2 places, which this Classifier was built without; load it with"):
        assert not senet.blocks(Classifier.from_pretrained(tmp_path))


def test_a_network_without_se_is_none_of_its_business(x, tmp_path):
    plain = senet.remove(senet.insert(Classifier(Config(hidden=8)), x))
    plain.save_pretrained(tmp_path)
    assert "senet" not in (tmp_path / "config.json").read_text()
    assert not senet.blocks(Classifier.from_pretrained(tmp_path))
    assert not senet.blocks(from_pretrained(Classifier, tmp_path))


def test_the_config_follows_the_network(net, x, tmp_path):
    """What `save_pretrained` writes is what the network holds then, whatever was recorded before."""
    net.save_pretrained(tmp_path / "with")
    removed = senet.remove(net)
    assert hasattr(removed.config, "senet")
    removed.save_pretrained(tmp_path / "without")
    plain = from_pretrained(Classifier, tmp_path / "without")
    assert not senet.blocks(plain)
    with torch.no_grad():
        assert torch.equal(plain(x), removed(x))


def test_a_config_that_does_not_say_what_the_weights_hold(net, tmp_path):
    net.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    recorded = config.pop("senet")
    file.write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"does not record, as body\.one\.norm\.se\.fc1\.weight: make the network"):
        from_pretrained(Classifier, tmp_path)
    senet.remove(net).save_pretrained(tmp_path)
    file.write_text(json.dumps({**config, "senet": recorded}))
    with pytest.raises(WeightsError, match=r"the weights lack, as body\.one\.norm\.se\.fc1\.weight: load the network"):
        from_pretrained(Classifier, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields["site"].update(name="nowhere"), "SE where this Classifier has no place"),
        (lambda fields: fields["site"].update(channels="8"), "is damaged: a site has channels"),
        (lambda fields: fields["spec"].update(gate="softmax"), "is damaged: a site is"),
        (lambda fields: fields.update(spec=None), "is damaged: a site is"),
    ],
)
def test_a_strangers_config(net, tmp_path, change, message):
    net.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    change(config["senet"]["sites"][0])
    file.write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=message):
        from_pretrained(Classifier, tmp_path)


def test_errors(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingPackageError, match="pip install transformers"):
        from_pretrained(Classifier, "folder")
