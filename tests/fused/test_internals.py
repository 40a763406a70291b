"""Private names of torch, and the code of other libraries' units: without them nothing stops, and it is said once."""

from __future__ import annotations

import ast
import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import senet
from senet.fused import internals, units
from senet.fused.internals import NAMES
from senet.fused.switch import unfused
from tests.fused.test_norm import SESpec, joined, watched

ALL = [(owner, name) for owner, names in NAMES.items() for name in names]


@pytest.fixture
def forgets():
    yield
    internals.available.cache_clear()
    units._is_as_known.cache_clear()


def test_this_torch_has_them_all(forgets, caplog):
    internals.available.cache_clear()
    assert internals.available()
    assert not caplog.records


@pytest.mark.parametrize(("owner", "name"), ALL, ids=map(".".join, ALL))
def test_without_one_of_them_nothing_is_fused_and_nothing_stops(owner, name, monkeypatch, caplog, forgets):
    """Both a training step and `optimize`."""
    gone = tuple(f"{each}_gone" if each == name else each for each in NAMES[owner])
    monkeypatch.setattr(internals, "NAMES", {**NAMES, owner: gone})
    internals.available.cache_clear()
    model = nn.Sequential(nn.Conv2d(3, 8, 3), joined(nn.BatchNorm2d(8), SESpec(4), 8), nn.ReLU()).train()
    apart, x = copy.deepcopy(model), torch.randn(2, 3, 6, 6)
    y, ran = watched(model, x)
    y.sum().backward()
    with unfused():
        apart(x).sum().backward()
    assert ran == 0
    for a, b in zip(model.parameters(), apart.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    torch.testing.assert_close(senet.optimize(model.eval(), x)(x), model(x), rtol=1e-5, atol=1e-5)
    assert [record.message for record in caplog.records if record.name == "senet" and "has no" in record.message] == [
        f"torch {torch.__version__} has no torch.{owner}.{name}_gone: normalisation and SE run one after the other, "
        f"which is as right but slower"
    ]


def test_an_owner_that_is_gone_is_no_error(monkeypatch, forgets):
    monkeypatch.setattr(internals, "NAMES", {"_C._no_such_module": ("a_name",)})
    internals.available.cache_clear()
    assert not internals.available()
    assert internals.is_being_traced()


def test_no_other_file_uses_private_names():
    room = Path(senet.__file__).parent / "fused"
    found = {
        f"{path.relative_to(room)}: {ast.unparse(node)}"
        for path in room.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.endswith("__")
        and node.attr not in ("_make", "_replace")  # a named tuple's public methods
        and not (isinstance(node.value, ast.Name) and node.value.id == "self")
    }
    assert {use for use in found if not use.startswith("internals.py")} == set()


@pytest.mark.parametrize("kind", units._UNITS, ids=map(".".join, units._UNITS))
def test_a_unit_of_another_version_runs_as_it_is_and_is_said_once(kind, monkeypatch, caplog, forgets):
    module, name = kind
    if module.startswith("senet."):
        pytest.skip("a class of ours has no other version")
    unit = getattr(pytest.importorskip(module), name)
    assert units.known_unit(unit) is units._UNITS[kind]
    monkeypatch.setattr(units, "_UNITS", {kind: units._UNITS[kind]._replace(digest="another")})
    units._is_as_known.cache_clear()
    with caplog.at_level("INFO", logger="senet"):
        assert units.known_unit(unit) is units.known_unit(unit) is None
    assert [record.message for record in caplog.records] == [
        f"{module}.{name}.forward is not the code that senet knows: its addition and ReLU run as they are, "
        f"right but slower"
    ]
