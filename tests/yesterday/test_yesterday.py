"""Files that the code of commit b3fb487 wrote still open, and still say what they said: README.md lists them."""

from __future__ import annotations

import importlib
import io
import json
import lzma
import shutil
import warnings
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import senet
from senet.cli import main
from senet.study import ablate, compare, evaluate, prune, read_recipe, train

HERE = Path(__file__).parent
HOW = {"workers": 0, "devices": "cpu", "progress": False}
SHORT = {"spec": senet.SESpec(4), "epochs": 1, "batch_size": 16, "lr": 0.1, **HOW}
IMAGES = 359  # of the digits, held out
INTERRUPTED = {
    "run-interrupted": {
        "spec": senet.SESpec(4),
        "epochs": 2,
        "batch_size": 64,
        "lr": 0.1,
        "seed": 3,
        "ema": 0.9,
        "mixup": 0.2,
        "label_smoothing": 0.1,
    },
    "run-interrupted-adamw": {
        "spec": senet.SESpec(4, bias=True),
        "epochs": 2,
        "batch_size": 64,
        "lr": 0.01,
        "se_lr": 0.02,
        "seed": 3,
        "optimiser": "adamw",
        "clip": 1.0,
        "accumulate": 2,
        "freeze_statistics": 0.5,
        "trivial_augment": True,
    },
}
NETWORKS = {  # in networks/, and the name of the input; a network of one's own is given to `load`
    "zoo": ("x32", False),
    "created": ("x32", False),
    "pruned": ("x32", False),
    "held": ("x32", False),
    "own": ("x16", True),
    "own_double": ("x16", True),
}
PICKLES = sorted(path.name.removesuffix(".pt.xz") for path in (HERE / "pickles").glob("*.xz"))
FAMILIES = sorted(path.name.removesuffix(".pt.xz") for path in (HERE / "families").glob("*.xz"))


class NothingTrains(L.Callback):
    """Fails where something trains that is finished."""

    def on_train_start(self, trainer, pl_module):
        pytest.fail("a finished run trains again")


class Steps(L.Callback):
    """Lists the steps that were trained, from 1."""

    def __init__(self):
        self.steps = set()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.steps.add(trainer.global_step + 1)


@pytest.fixture
def at(tmp_path, monkeypatch):
    """at("run") copies yesterday's files to a folder that is then the working directory, as it was when they were made.

    Their settings name the network as net.py:net.
    """
    monkeypatch.chdir(tmp_path)

    def copied(*names):
        for name in ("net.py", *names):
            copy = shutil.copytree if (HERE / name).is_dir() else shutil.copy
            copy(HERE / name, tmp_path / name)
        return tmp_path

    return copied


def _net():
    return senet.create(f"{HERE / 'net.py'}:net")


def _unpacked(path):
    return lzma.decompress(path.with_name(f"{path.name}.xz").read_bytes())


def _pickled(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(io.BytesIO(_unpacked(path)), weights_only=False)  # our own file


def _check(network, x, y, near=1e-6):
    """The output, to the rounding of another machine: `near` of the largest."""
    with torch.no_grad():
        found = network(x)
    torch.testing.assert_close(found, y, rtol=near, atol=near * float(y.abs().max()))


def _files(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.suffix in (".safetensors", ".csv")}


def _json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


# Networks


@pytest.mark.parametrize("name", NETWORKS)
def test_saved_networks_load(name, tmp_path):
    expected = load_file(HERE / "networks/expected.safetensors")
    given, own = NETWORKS[name]
    path = HERE / f"networks/{name}.safetensors"
    if not path.is_file():
        content, path = _unpacked(path), tmp_path / path.name
        path.write_bytes(content)
    if own:
        with pytest.raises(ValueError, match="model="):
            senet.load(path)
    network = senet.load(path, _net()) if own else senet.load(path)
    assert not network.training
    y = expected[f"y.{name}"]
    _check(network, expected[given].to(y.dtype), y)
    senet.save(network, tmp_path / "again.safetensors")
    again = senet.load(tmp_path / "again.safetensors", _net() if own else None).state_dict()
    assert all(torch.equal(again[key], value) for key, value in network.state_dict().items())
    if own or name == "zoo":  # with SE that `insert` put in
        assert senet.blocks(network)
        assert not senet.blocks(senet.remove(network))


@pytest.mark.parametrize("name", PICKLES)
def test_whole_networks_in_pickles_load(name, tmp_path):
    expected = load_file(HERE / "pickles/expected.safetensors")
    network = _pickled(HERE / f"pickles/{name}.pt")
    _check(network, expected["x16"], expected[f"y.{name}"])
    if name.startswith("inserted"):
        assert senet.blocks(network)
        assert not senet.blocks(senet.remove(network))
    torch.save(network, tmp_path / "again.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = torch.load(tmp_path / "again.pt", weights_only=False)
    _check(again, expected["x16"], expected[f"y.{name}"])


@pytest.mark.parametrize("name", FAMILIES)
def test_pickled_networks_of_each_family_load(name):
    """Full size; but for the classifier each tensor is one number, repeated."""
    network = _pickled(HERE / f"families/{name}.pt")
    x = torch.arange(3 * 64 * 64).remainder(251).div(250).view(1, 3, 64, 64)
    _check(network, x, load_file(HERE / "families/expected.safetensors")[f"y.{name}"], near=1e-5)


def test_every_name_that_stands_in_pickles_is_found():
    """Of every network of the zoo, of optimised ones, and of what people keep beside them."""
    missing = []
    for module, name in _json(HERE / "pickled_names.json"):
        try:
            getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            missing.append(f"{module}.{name}")
    assert not missing


# Exported files


@pytest.fixture
def exported():
    expected = load_file(HERE / "exports/net.xy.safetensors")
    return expected["x"], expected["y"]


def test_onnx(exported):
    runtime = pytest.importorskip("onnxruntime")
    x, y = exported
    session = runtime.InferenceSession(HERE / "exports/net.onnx", providers=["CPUExecutionProvider"])
    _check(lambda given: torch.from_numpy(session.run(None, {"input": given.numpy()})[0]), x, y, near=1e-5)
    assert "senet.classes" in session.get_modelmeta().custom_metadata_map


def test_openvino(exported):
    openvino = pytest.importorskip("openvino")
    x, y = exported
    model = openvino.Core().read_model(HERE / "exports/net.xml")
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    _check(lambda given: torch.from_numpy(compiled([given.numpy()])[0]), x, y, near=1e-5)
    assert "senet" in model.rt_info


def test_torch_export(exported):
    x, y = exported
    extra = {"senet.json": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(io.BytesIO(_unpacked(HERE / "exports/net.pt2")), extra_files=extra)
    _check(program.module(), x, y, near=1e-5)
    assert "classes" in json.loads(extra["senet.json"])


# Studies


def test_a_finished_run_is_found_finished(at):
    folder = at("run") / "run"
    before, said = _files(folder), _json(folder / "result.json")
    result = train("net.py:net", "digits", out="run", callbacks=[NothingTrains()], **SHORT)
    assert (result.accuracy, result.split, len(result.correct)) == (said["accuracy"], said["split"], IMAGES)
    assert sum(result.correct) == round(said["accuracy"] * IMAGES)
    assert [row["epoch"] for row in result.history] == [1]
    assert _files(folder) == before


def test_the_network_of_a_run_is_measured_again(at):
    folder = at("run") / "run"
    for file in ("model.safetensors", "best.safetensors"):
        network = senet.load(folder / file, senet.create("net.py:net"))
        assert list(senet.blocks(network)) == ["blocks.0.bn2.se", "blocks.1.bn2.se"]
        found = evaluate(network, "digits", **HOW)
        assert found.top1 == pytest.approx(_json(folder / "result.json")["accuracy"], abs=1.5 / IMAGES)


@pytest.mark.parametrize("name", INTERRUPTED)
def test_an_interrupted_run_goes_on(name, at):
    at(name)
    expected = HERE / f"{name}-expected"
    steps = Steps()
    result = train("net.py:net", "digits", out=name, callbacks=[steps], **INTERRUPTED[name], **HOW)
    assert steps.steps == set(range(31, 45))
    said = _json(expected / "expected.json")
    assert result.accuracy == pytest.approx(said["accuracy"], abs=2.5 / IMAGES)
    first, second = ({key: row[key] for key in row if key != "seconds"} for row in result.history)
    assert first == said["history"][0]  # from the checkpoint
    assert second == pytest.approx(said["history"][1], rel=1e-2, abs=0.01)
    found = senet.load(name, _net()).state_dict()
    wanted = senet.load(expected / "expected.safetensors", _net()).state_dict()
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    assert not Path(name, "checkpoints").exists()


def test_a_finished_comparison_is_only_drawn_again(at):
    folder = at("comparison") / "comparison"
    before, said = _files(folder), _json(folder / "result.json")
    again = compare("net.py:net", "digits", out="comparison", seeds=2, callbacks=[NothingTrains()], **SHORT)
    now = _json(folder / "result.json")
    for key in said:
        if key not in ("machine", "cost", "plain", "se", "latency_ratio"):
            assert now[key] == pytest.approx(said[key]) if isinstance(said[key], float) else now[key] == said[key], key
    for arm, trained in (("plain", again.plain), ("se", again.se)):
        assert list(trained.accuracy) == said[arm]["accuracy"]
    assert before.items() <= _files(folder).items()
    assert (folder / "report.html").is_file()


def test_more_seeds_are_added_to_a_comparison(at):
    folder = at("comparison") / "comparison"
    again = compare("net.py:net", "digits", out="comparison", seeds=3, **SHORT)
    said = _json(HERE / "comparison/result.json")
    assert list(again.se.accuracy[:2]) == said["se"]["accuracy"]
    assert len(again.plain.accuracy) == 3
    assert (folder / "plain-2/model.safetensors").is_file()


def test_other_settings_are_refused_and_named(at):
    at("comparison")
    with pytest.raises(ValueError, match=r"recipe\.lr was 0\.1 and is now 0\.2"):
        compare("net.py:net", "digits", out="comparison", seeds=2, **{**SHORT, "lr": 0.2})


def test_comparisons_are_reported_side_by_side(at, capsys):
    at("comparison")
    assert main(["report", "--runs", "comparison", "comparison", "--out", "page"]) == 0
    assert Path("page/report.html").is_file()


def test_a_finished_ablation_is_only_drawn_again(at):
    folder = at("ablation") / "ablation"
    before, said = _files(folder), _json(folder / "result.json")
    again = ablate(
        *("net.py:net", "digits"),
        **{"out": "ablation", "seeds": 1, "grid": {"squeeze": ["max"]}, "callbacks": [NothingTrains()], **SHORT},
    )
    assert list(again.cells) == ["plain", "se", "squeeze-max"]
    now = _json(folder / "result.json")
    assert now.keys() == said.keys()
    assert now["settings"] == said["settings"]
    for key in again.cells:
        held = _json(folder / f"{key}-0/result.json")
        assert list(again.cells[key].accuracy) == [held["accuracy"]]
    assert before.items() <= _files(folder).items()
    assert (folder / "report.html").is_file()


def test_an_explanation_is_pruned_by(at):
    at("run", "explained")
    network = senet.load("run", senet.create("net.py:net"))
    found = prune(network, "digits", blocks="*", explanation="explained", **HOW)
    assert list(found.blocks) == ["blocks.0.bn2.se", "blocks.1.bn2.se"]
    assert found.top1_after == pytest.approx(found.top1_predicted, abs=1.5 / IMAGES)
    assert isinstance(found.network, nn.Module)


def test_a_recipe():
    assert vars(read_recipe(HERE / "recipe.yaml")) == {
        "freeze": None,  # came later; as before
        "batch_size": 16,
        "epochs": 2,
        "lr": 0.02,
        "se_lr": 0.04,
        "lr_scaling": "sqrt",
        "optimiser": "adamw",
        "momentum": 0.85,
        "nesterov": False,
        "weight_decay": 0.01,
        "decay_norms_and_biases": False,
        "schedule": "step",
        "milestones": (0.5, 0.75),
        "lr_factor": 0.2,
        "warm_up": 0.05,
        "warm_up_steps": 0,  # came later; as before
        "label_smoothing": 0.1,
        "mixup": 0.2,
        "cutmix": 0.5,
        "crop_scale": 0.25,
        "trivial_augment": True,
        "random_erasing": 0.1,
        "cutout": 2,
        "ema": 0.95,
        "freeze_statistics": 0.8,
        "accumulate": 2,
        "clip": 1.5,
        "precision": "32",
        "channels_last": False,
        "compile": False,
    }


def test_an_old_module_name_leaves_the_function_of_that_name():
    old = importlib.import_module("senet.insertion.attach")
    assert old is importlib.import_module("senet.insertion.joining.attach")
    assert senet.insertion.attach is old.attach
    assert importlib.import_module("senet.insertion.insert").insert is senet.insertion.insert
