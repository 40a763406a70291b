import contextlib
import importlib
import json
import re
from pathlib import Path

import pytest
import torch

import senet
from senet import cli
from senet.export.runtimes import OnnxRuntime, OpenVino
from senet.verbs import ship

NETS = """
from torch import nn

def tiny(num_classes=10):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, stride=2),
        nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes),
    )
"""

TESTS = """

class Tests(nn.Sequential):
    def forward(self, x):
        return super().forward(x) * (1 if x.shape[0] > 8 else 2)

def tests():
    return Tests(*tiny(2))
"""


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Runs the command in a folder with nets.py: exit status, standard output, last line of standard error."""
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    monkeypatch.setattr(ship, "alive", lambda: contextlib.nullcontext(lambda _: None))  # tells what time it takes

    def run(words: str) -> tuple[int, str, str]:
        status = cli.main(words.split())
        captured = capsys.readouterr()
        return status, captured.out, (captured.err.splitlines() or [""])[-1]

    return run


@pytest.fixture
def trained(tmp_path):
    """What a training run leaves, as far as export looks at it."""
    pytest.importorskip("senet.study", reason="the extra 'study' is not installed")
    from senet.data.transforms import Preprocessing

    model = senet.create("se_resnet20", num_classes=10)
    known = {"classes": [str(i) for i in range(10)], "preprocessing": Preprocessing(size=8, resize=8).to_json()}
    (tmp_path / "run").mkdir()
    senet.save(model, tmp_path / "run" / "model.safetensors", metadata=known)
    return model


def test_a_run_becomes_a_file_with_its_classes_and_preprocessing(run, trained):
    pytest.importorskip("onnxruntime", reason="the extra 'ship' is not installed")
    status, out, err = run("export --model run --out se.onnx")
    assert (status, err) == (0, "")
    assert re.search(r"Written: se\.onnx \(ONNX, .*\): input \(batch, 3, 8, 8\) -> output \(batch, 10\)", out)
    assert re.search(r"Against PyTorch on batch 1, batch 3: largest difference \S+ of the largest output", out)
    file = OnnxRuntime("se.onnx")
    assert json.loads(file.metadata["classes"]) == [str(i) for i in range(10)]
    assert json.loads(file.metadata["preprocessing"])["size"] == 8
    assert file.metadata["network"] == "resnet20"
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(file(x), trained.eval()(x).detach(), rtol=1e-4, atol=1e-5)


def test_int8_says_what_it_does_to_the_accuracy(run):
    pytest.importorskip("nncf", reason="the extra 'ship' is not installed")
    pytest.importorskip("sklearn", reason="the extra 'study' is not installed")
    Path("names.json").write_text(json.dumps([str(i) for i in range(10)]))
    words = "export --model nets.py:tiny --num-classes 10 --data digits --int8 --out tiny.xml --classes names.json"
    status, out, _ = run(f"{words} --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5")
    assert status == 0
    assert "(OpenVINO INT8, " in out
    assert "Calibrated on 300 pictures of digits" in out
    assert re.search(r"on 359 other pictures \(split val\): \S+% before .*, \S+% after .*: [+−±]\d+\.\d\d points", out)
    known = OpenVino("tiny.xml").metadata
    assert json.loads(known["classes"]) == [str(i) for i in range(10)]
    assert json.loads(known["preprocessing"])["mean"] == [0.5, 0.5, 0.5]
    assert json.loads(known["preprocessing"])["size"] == 8
    assert sorted(path.name for path in Path().iterdir()) == ["names.json", "nets.py", "tiny.bin", "tiny.xml"]


def test_int8_tells_of_the_network_and_of_files_that_were_skipped(run, paint, monkeypatch):
    pytest.importorskip("nncf", reason="the extra 'ship' is not installed")
    told = []
    monkeypatch.setattr(ship, "tell", told.append)
    folder = paint({"train/a": 4, "train/b": 4, "val/a": 5, "val/b": 5})
    for name in ("train/a/000.png", "val/b/001.png"):
        (folder / name).write_bytes(b"no picture")
    status, out, _ = run("export --model resnet20 --num-classes 2 --data pictures --int8 --out net.xml --size 32")
    assert status == 0
    assert any("has random weights, and its answers mean nothing" in line for line in told)
    assert "Calibrated on 7 pictures of pictures" in out
    assert "on 9 other pictures (split val)" in out
    assert "1 file was skipped:\n  val/b/001.png: no image" in out


def test_int8_is_measured_with_the_batch_that_the_file_takes(run, paint):
    pytest.importorskip("nncf", reason="the extra 'ship' is not installed")
    with Path("nets.py").open("a") as file:
        file.write(TESTS)
    paint({"train/a": 4, "train/b": 4, "val/a": 5, "val/b": 5})
    status, out, err = run("export --model nets.py:tests --data pictures --int8 --out net.xml")
    assert (status, err) == (0, "")
    assert "The batch is fixed: the network tests it" in out
    assert "on 10 other pictures" in out


def test_the_size_is_that_of_the_data(run):
    pytest.importorskip("sklearn", reason="the extra 'study' is not installed")
    words = "export --model nets.py:tiny --data digits --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5 --out net.pt2"
    status, out, _ = run(words)
    assert (status, "input (batch, 3, 8, 8) -> " in out) == (0, True)
    assert "no data folder nowhere" in run(f"{words} --data nowhere")[2]


def test_int8_says_when_there_were_no_other_pictures():
    class Found:
        count, split, top1 = 100, "val", 0.5

    assert "on 100 pictures (split val), 60 of them those that it was calibrated on: 50.00% before" in ship._change(
        Found, Found, 60
    )
    assert "on 100 other pictures (split val)" in ship._change(Found, Found, 0)


BAD = {
    "suffix": ("--model nets.py:tiny --out net.pt", "did you mean net.pt2?"),
    "INT8 without data": ("--model nets.py:tiny --out net.xml --int8", "--int8 needs --data"),
    "INT8 for another": ("--model nets.py:tiny --out net.onnx --int8 --data digits", "give --out net.xml"),
    "offset alone": ("--model nets.py:tiny --out net.pt2 --class-offset 1", "--class-offset with --int8 alone"),
    "channels for INT8": (
        "--model nets.py:tiny --out net.xml --int8 --data x --in-channels 1",
        "leave --in-channels out",
    ),
    "no data for INT8": ("--model nets.py:tiny --out no/net.xml --int8 --data nowhere", "no data folder nowhere"),
    "folder in a file": ("--model nets.py:tiny --out nets.py/net.pt2", "nets.py is not a folder"),
    "no model": ("--model resnet2O --out net.pt2", "'resnet20'"),
    "no out": ("--model nets.py:tiny", "senet export needs --out"),
    "classes": ("--model nets.py:tiny --out net.pt2 --classes nets.py", "nets.py is not JSON"),
    "no classes": ("--model nets.py:tiny --out net.pt2 --classes no.json", "no.json"),
    "crop": ("--model nets.py:tiny --out net.pt2 --crop 2", "above 0 and at most 1"),
}


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_line(run, words, message):
    pytest.importorskip("senet.study", reason="the extra 'study' is not installed")
    status, out, err = run(f"export {words}")
    assert (status, out) == (2, "")
    assert err.startswith("senet: error: ")
    assert message in err
    assert [path.name for path in Path().iterdir()] == ["nets.py"]


@pytest.mark.parametrize("count", [9, 10, 11])
def test_an_offset_does_not_shift_the_names_in_the_file(run, count):
    Path("names.json").write_text(json.dumps([str(i) for i in range(count)]))
    words = "export --model nets.py:tiny --int8 --data digits --out net.xml --classes names.json --class-offset 1"
    status, out, err = run(words)
    assert (status, out) == (2, "")
    assert "leave --class-offset out" in err
    assert sorted(path.name for path in Path().iterdir()) == ["names.json", "nets.py"]


def test_a_mapping_of_classes_names_the_outputs_if_it_leaves_none_out(run):
    for text, names in (('{"b": 1, "a": 0}', ["a", "b"]), ('\ufeff["a"]', ["a"]), ('{"a": 3}', []), ("[]", [])):
        Path("names.json").write_text(text, encoding="utf-8")
        assert ship._names("names.json") == names
    status, out, err = run("export --model nets.py:tiny --out net.pt2 --classes names.json")
    assert (status, out) == (2, "")
    assert "names.json does not name every output from 0 on" in err


def test_published_weights_bring_their_preprocessing_and_classes(run, monkeypatch):
    """As `evaluate` and `predict` take them: torchvision resizes for its second MobileNetV2 to 232."""
    models = pytest.importorskip("torchvision").models
    monkeypatch.setattr(
        models.WeightsEnum, "get_state_dict", lambda *_, **__: models.get_model("mobilenet_v2").state_dict()
    )
    written = []
    exporting = importlib.import_module("senet.export.export")  # senet names its function so too
    monkeypatch.setattr(exporting, "export", lambda _, example, path, **how: written.append((example, how["metadata"])))
    assert run("export --model torchvision:mobilenet_v2 --weights pretrained --out net.pt2")[0] == 0
    assert run("export --model torchvision:mobilenet_v2 --weights pretrained --num-classes 10 --out net.pt2")[0] == 0
    assert run("export --model torchvision:mobilenet_v2 --out net.pt2")[0] == 0
    (example, metadata), (_, fewer), (_, random) = written
    assert example.shape == (1, 3, 224, 224)
    assert (metadata["preprocessing"]["size"], metadata["preprocessing"]["resize"]) == (224, 232)
    assert (len(metadata["classes"]), metadata["classes"][0]) == (1000, "tench")
    assert set(fewer) == {"preprocessing"}
    assert random == {}


@pytest.mark.parametrize("kind", ["onnx", "xml", "pt2"])
def test_the_folder_is_made_and_its_own_file_alone_is_written_over(run, kind):
    pytest.importorskip("openvino", reason="the extra 'ship' is not installed")
    pytest.importorskip("senet.study", reason="the extra 'study' is not installed")
    words = f"export --model nets.py:tiny --size 8 --out new/folder/net.{kind}"
    assert run(words)[0] == 0
    assert run(words)[0] == 0
    another = Path(f"another.{kind}")
    another.write_text("mine")
    status, _, err = run(f"export --model nets.py:tiny --size 8 --out {another}")
    assert (status, another.read_text()) == (2, "mine")
    assert "is there already, and this command did not write it" in err
    assert run(f"export --model nets.py:tiny --size 8 --out {another} --force")[0] == 0
    assert another.read_bytes() != b"mine"


def test_the_weights_beside_an_openvino_file_are_not_written_over_either(run):
    pytest.importorskip("openvino", reason="the extra 'ship' is not installed")
    Path("net.bin").write_text("mine")
    status, _, err = run("export --model nets.py:tiny --size 8 --out net.xml")
    assert (status, Path("net.bin").read_text()) == (2, "mine")
    assert "net.bin is there already, and this command did not write it" in err
