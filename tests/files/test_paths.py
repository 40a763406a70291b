from pathlib import Path

import pytest
import torch

import senet
from senet.evaluation.open import open_network
from senet.files.classes import class_pairs
from senet.files.paths import expanded
from senet.report import Page, write_page
from senet.saving import read_metadata
from senet.zoo import load_weights, read_weights


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("~", "/home/me"),
        ("~/runs/x", "/home/me/runs/x"),
        (Path("~/x"), "/home/me/x"),
        ("~draft.jpg", "~draft.jpg"),  # a name that begins so is no home
        ("runs/~x", "runs/~x"),
    ],
)
def test_a_home_is_expanded_and_a_name_is_not(monkeypatch, given, found):
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded(given) == Path(found)


@pytest.fixture
def home(monkeypatch, tmp_path):
    """A home folder with a network in it, and its weights alone; nothing may be written elsewhere."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    model = senet.create("resnet20", num_classes=2, spec=senet.SESpec(bias=True)).eval()
    senet.save(model, "~/x.safetensors")
    torch.save(model.state_dict(), tmp_path / "home" / "x.pth")
    (tmp_path / "home" / "classes.json").write_text('["a", "b"]')
    (tmp_path / "home" / "net.py").write_text("import torch\n\n\ndef build():\n    return torch.nn.Linear(2, 2)\n")
    yield tmp_path / "home"
    assert not list((tmp_path / "here").iterdir())


def _load_weights() -> object:
    return load_weights(senet.create("resnet20", num_classes=2, spec=senet.SESpec(bias=True)), "~/x.pth")


READ = {
    "load": lambda: senet.load("~/x.safetensors"),
    "read_metadata": lambda: read_metadata("~/x.safetensors"),
    "create": lambda: senet.create("~/x.safetensors"),
    "create of a file's function": lambda: senet.create("~/net.py:build"),
    "create with weights": lambda: senet.create("se_resnet20", num_classes=2, weights="~/x.pth"),
    "load_weights": _load_weights,
    "read_weights": lambda: read_weights("~/x.pth"),
    "classes": lambda: class_pairs("~/classes.json"),
    "a network to measure": lambda: open_network("~/x.safetensors", {}),
    "its weights": lambda: open_network("se_resnet20", {"weights": "~/x.safetensors"}),
}


@pytest.mark.parametrize("read", READ.values(), ids=READ)
@pytest.mark.usefixtures("home")
def test_what_is_read_may_lie_in_the_home_folder(read):
    read()


@pytest.mark.parametrize("name", ["x.pt2", "x.onnx", "x.xml"])
def test_what_is_exported_may_lie_in_the_home_folder(home, name):
    if name != "x.pt2":
        pytest.importorskip("onnxruntime" if name == "x.onnx" else "openvino")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.ReLU()).eval()
    found = senet.export(model, torch.randn(1, 3, 8, 8), f"~/{name}")
    assert found.paths[0] == home / name
    assert name in str(found)
    if name != "x.pt2":
        open_network(f"~/{name}", {})


def test_a_report_may_lie_in_the_home_folder(home):
    assert write_page(Page("A report", "", ()), "~") == home / "report.html"
