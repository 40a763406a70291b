"""A twin of diffusers' `from_pretrained`, which lists the keys that it leaves out among other remarks."""

from __future__ import annotations

import sys
import types
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import senet
from senet.insertion.staying.rebuilt import watch


class ModelMixin(nn.Module):
    def save_pretrained(self, folder):
        save_file(self.state_dict(), folder / "weights.safetensors")

    @classmethod
    def from_pretrained(cls, folder, **kwargs):
        told = kwargs.pop("output_loading_info", False)
        model = cls(**kwargs)
        missing, unexpected = model.load_state_dict(load_file(folder / "weights.safetensors"), strict=False)
        return (model, {"missing_keys": missing, "unexpected_keys": unexpected}) if told else model


class UNet(ModelMixin):
    def __init__(self, channels=8):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x):
        return x + self.norm(self.conv(x))


@pytest.fixture(autouse=True)
def _diffusers(monkeypatch):
    for name in ("diffusers", "diffusers.models", "diffusers.models.modeling_utils"):
        module = types.ModuleType(name)
        module.ModelMixin = ModelMixin
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(ModelMixin, "_senet_watches", False, raising=False)
    monkeypatch.setattr(ModelMixin, "from_pretrained", vars(ModelMixin)["from_pretrained"])
    watch()


@pytest.mark.parametrize("make", [None, "eca"])
def test_se_that_is_left_out_is_told(make, tmp_path):
    if make:
        pytest.importorskip("timm", exc_type=ImportError)
    net = senet.insert(UNet(), torch.randn(1, 8, 6, 6), make=make)
    net.save_pretrained(tmp_path)
    with pytest.warns(senet.SEWarning, match=r"UNet was built without, as norm\.se\. .*load_state_dict") as told:
        plain = UNet.from_pretrained(tmp_path, channels=8)
    assert told[0].filename == __file__
    assert type(plain) is UNet
    assert not senet.blocks(plain)
    with pytest.warns(senet.SEWarning):
        assert len(UNet.from_pretrained(tmp_path, output_loading_info=True)) == 2


def test_a_plain_network_is_loaded_without_a_word(tmp_path):
    UNet().save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(UNet.from_pretrained(tmp_path)) is UNet
