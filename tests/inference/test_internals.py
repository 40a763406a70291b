"""A torch without the names that it does not promise: forms and files are right, for fewer batches or less speed."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from torch.fx.experimental import _config

import senet
from senet.block import SEBlock
from senet.export import formats
from senet.inference import graph, internals


def _no_sizes_of_one(monkeypatch):
    patch = _config.patch

    def without(*args, **kwargs):
        if "backed_size_oblivious" in kwargs:
            raise AttributeError("backed_size_oblivious")
        return patch(*args, **kwargs)

    monkeypatch.setitem(vars(_config), "patch", without)


GONE = {
    "sizes of one": _no_sizes_of_one,
    "guards": lambda monkeypatch: monkeypatch.setattr(internals, "_shape_environment", lambda _: object()),
    "places of guards": lambda monkeypatch: monkeypatch.setattr(internals, "_is_own", lambda _: True),
    "structure of outputs": lambda monkeypatch: monkeypatch.setattr(graph, "returns_one_tensor", lambda _: False),
    "checks of a saved program": lambda monkeypatch: monkeypatch.setattr(formats, "drop_guards", lambda *_: None),
}


@pytest.mark.parametrize("name", GONE)
def test_without_a_private_name_forms_and_files_are_right(monkeypatch, tmp_path, caplog, name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), SEBlock(16, 4)).eval()
    x = torch.randn(2, 3, 5, 5)
    wanted = model(x).detach()
    GONE[name](monkeypatch)
    with caplog.at_level(logging.INFO, "senet"):
        form = senet.optimize(model, x)
    (record,) = [record for record in caplog.records if record.name == "senet"]
    if name == "guards":
        assert "for the example's batch of 2 alone" in record.getMessage()
    torch.testing.assert_close(form(x), wanted)
    senet.export(model, x, tmp_path / "net.pt2")
    torch.testing.assert_close(torch.export.load(tmp_path / "net.pt2").module()(x), wanted)
