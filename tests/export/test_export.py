import ctypes
import gc
import json
import re
import sys
from collections import Counter

import pytest
import torch
from torch import nn

import senet
from senet.block import SEBlock
from senet.export import export as exporting
from senet.export.checking import _difference
from senet.export.description import to_strings
from senet.export.formats import FORMATS
from senet.export.runtimes import OnnxRuntime, OpenVino

SUFFIXES = [".onnx", ".xml", ".pt2"]


class Bottleneck(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.se = SEBlock(channels, width=3, bias=True)

    def forward(self, x):
        u = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(self.se(u) + x)


class Network(nn.Module):
    """Two SE blocks, and normalisations that have seen something."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Bottleneck(8), Bottleneck(8))
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


@pytest.fixture
def network():
    torch.manual_seed(0)
    model = Network()
    model(torch.randn(8, 3, 8, 8))
    return model


def example(*shape):
    return torch.randn(shape or (1, 3, 8, 8), generator=torch.Generator().manual_seed(1))


def needs(suffix):
    for module in FORMATS[suffix].modules:
        pytest.importorskip(module, reason="the extra 'ship' is not installed")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dynamic_size", [False, True])
def test_each_format_gives_pytorchs_outputs(network, tmp_path, suffix, dynamic_size):
    needs(suffix)
    path = tmp_path / f"net{suffix}"
    mode = network.training
    known = {"classes": ["a", "ß", "c", "1", "true"], "preprocessing": {"size": 8, "mean": [0.5, 0.25, 1.0]}}
    found = senet.export(network, example(), path, dynamic_size=dynamic_size, metadata=known)
    assert network.training == mode
    assert names(tmp_path) == (["net.bin", "net.xml"] if suffix == ".xml" else [path.name])
    assert found.paths[0] == path
    side = ("height", "width") if dynamic_size else ("8", "8")
    assert found.inputs == {"input": f"(batch, 3, {', '.join(side)})"}
    assert found.outputs == {"output": "(batch, 5)"}
    assert list(found.checks) == ["batch 1", "batch 3", *["a larger size", "odd sizes"] * dynamic_size]
    assert max(found.checks.values()) <= 1e-5 < found.tolerance
    assert found.metadata == {"senet": senet.__version__, "torch": torch.__version__, **known}
    assert str(path) in str(found)
    # the file as a stranger uses it
    x = example(6, 3, 16, 24) if dynamic_size else example(6, 3, 8, 8)
    wanted = network.eval()(x).detach()
    if suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        torch.testing.assert_close(torch.from_numpy(session.run(None, {"input": x.numpy()})[0]), wanted)
        said = session.get_modelmeta().custom_metadata_map
        assert json.loads(said["senet.classes"]) == known["classes"]
    elif suffix == ".xml":
        import openvino

        model = openvino.Core().read_model(path)
        given = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x.numpy())["output"]
        torch.testing.assert_close(torch.from_numpy(given), wanted)
        assert json.loads(model.get_rt_info(["senet", "classes"]).astype(str)) == known["classes"]
    else:
        extra = {"senet.json": ""}
        program = torch.export.load(path, extra_files=extra)
        torch.testing.assert_close(program.module()(x), wanted)
        assert json.loads(json.loads(extra["senet.json"])["classes"]) == known["classes"]
    for file in found.paths:
        content = file.read_bytes()
        for place in (b"site-packages", b"test_export.py", str(tmp_path).encode()):
            assert place not in content


def test_complex_outputs_are_compared_whole():
    assert _difference([torch.tensor([1 + 1j])], [torch.tensor([1 - 1j])]) > 1
    assert _difference([torch.tensor([1, 2])], [torch.tensor([1, 2], dtype=torch.int32)]) == 0


def test_one_reduction_for_each_se_block(network, tmp_path):
    needs(".onnx")
    import onnx

    senet.export(network, example(), tmp_path / "net.onnx")
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node)
    reductions = sum(count for kind, count in kinds.items() if kind.startswith(("Reduce", "Global", "AveragePool")))
    assert reductions == 2 + 1  # and the classifier's
    assert kinds["GlobalAveragePool"] == 2
    assert kinds["BatchNormalization"] == 0


def test_several_inputs_by_name_and_several_outputs(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(2, 4, 3, padding=1)
            self.se = SEBlock(4, width=2)

        def forward(self, signal, offset, scale=2.0):
            u = self.se(self.conv(signal))
            return {"map": u * scale, "mean": u.mean(2) + offset}

    model = Two().eval()
    inputs = {"signal": torch.randn(2, 2, 16), "offset": torch.randn(2, 4)}
    for suffix in SUFFIXES:
        needs(suffix)
        found = senet.export(model, inputs, tmp_path / f"two{suffix}", dynamic_size=True)
        assert found.inputs == {"signal": "(batch, 2, length)", "offset": "(batch, 4)"}
        assert found.outputs == {"map": "(batch, 4, length)", "mean": "(batch, 4)"}
    session = OnnxRuntime(tmp_path / "two.onnx")
    one, other = session(*inputs.values())
    torch.testing.assert_close(one, model(**inputs)["map"].detach())
    torch.testing.assert_close(other, model(**inputs)["mean"].detach())


class FixedBatch(nn.Module):
    def forward(self, x):
        return x if x.shape[0] == 2 else x + 1


class FixedSize(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 64, 2)

    def forward(self, x):
        return self.fc(x.flatten(1))


class Deciding(nn.Module):
    def forward(self, x):
        return x + 1 if x.sum() > 0 else x


class Finding(nn.Module):
    """It says where its map is brightest, as a detector does; torch prints the graph of what it could follow."""

    def forward(self, x):
        return torch.tensor([divmod(int(each.flatten().argmax()), each.shape[-1]) for each in x])


def half():
    return nn.Conv2d(3, 2, 1).to(torch.bfloat16)


BAD = {
    "unknown suffix": (Network, {"path": "net.onx"}, r"ends in \.onnx .*did you mean .*net\.onnx\?"),
    "capitals": (Network, {"path": "net.XML"}, r"did you mean .*net\.xml\?"),
    "no suffix": (Network, {"path": "net"}, r"ends in \.onnx \(ONNX\), \.xml \(OpenVINO\), \.pt2 \(torch\.export\)$"),
    "weights": (Network, {"path": "net.safetensors"}, r"ends in \.onnx"),
    "fixed batch": (FixedBatch, {}, "FixedBatch computes with its batch as a fixed number"),
    "fixed size": (FixedSize, {"dynamic_size": True}, "FixedSize runs on the example and not on a larger size"),
    "control flow on values": (Deciding, {}, "Deciding cannot be exported on .*data-dependent.*give the part in front"),
    "a place as the output": (Finding, {}, "Finding cannot be exported on .*give the part in front of what depends"),
    "half precision": (half, {}, r"weight is bfloat16.*model\.float\(\)"),
    "another input": (Network, {"example": torch.zeros(1, 4, 8, 8)}, "does not run on the example"),
    "no input": (Network, {"example": {}}, "needs a tensor"),
    "metadata of ours": (Network, {"metadata": {"torch": "3"}}, "metadata has 'torch'"),
    "metadata without JSON": (Network, {"metadata": {"classes": {1, 2}}}, "cannot be written as JSON"),
    "metadata is a list": (Network, {"metadata": ["a"]}, "metadata is a mapping"),
    "INT8 elsewhere": (Network, {"path": "net.onnx", "calibration": [torch.zeros(1)]}, r"ends in \.xml"),
    "nothing to calibrate on": (Network, {"path": "net.xml", "calibration": []}, "at least one"),
}


@pytest.mark.parametrize(("make", "arguments", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_exported_says_why(tmp_path, capfd, make, arguments, message):
    given = {"path": "net.pt2", "example": example(), **arguments}
    path = tmp_path / given.pop("path")
    with pytest.raises(ValueError, match=f"(?s){message}"):
        senet.export(make(), given.pop("example"), path, **given)
    assert names(tmp_path) == []
    assert capfd.readouterr() == ("", "")


def test_no_network(tmp_path):
    with pytest.raises(TypeError, match=r"nn\.Module, not str"):
        senet.export("resnet50", example(), tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("suffix", "package"), [(".onnx", "onnxruntime"), (".onnx", "onnxscript"), (".xml", "openvino")]
)
def test_a_missing_extra_is_named(network, tmp_path, monkeypatch, suffix, package):
    needs(suffix)
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ImportError, match=rf"{package} is not installed: pip install .*\[ship\]'"):
        senet.export(network, example(), tmp_path / f"net{suffix}")
    assert names(tmp_path) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("count", [2, 4, 6])
def test_names_that_do_not_fit_the_outputs_are_refused(network, tmp_path, suffix, count):
    needs(suffix)
    classes = [str(i) for i in range(count)]
    with pytest.raises(exporting.ExportError, match=f"are {count} names, but the network gives 5 outputs"):
        senet.export(network, example(), tmp_path / f"net{suffix}", metadata={"classes": classes})
    assert names(tmp_path) == []


@pytest.mark.parametrize("suffix", [".xml", ".pt2"])
def test_a_file_that_disagrees_does_not_take_the_place_of_the_old(network, tmp_path, monkeypatch, suffix):
    needs(suffix)
    for file in FORMATS[suffix].files(tmp_path / f"net{suffix}"):
        file.write_text("old")
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(exporting.ExportError, match=r"differs from PyTorch by .*nothing is written"):
        senet.export(network, example(), tmp_path / f"net{suffix}")
    assert {path.read_text() for path in tmp_path.iterdir()} == {"old"}
    assert len(names(tmp_path)) == len(FORMATS[suffix].files(tmp_path / "net"))


def test_no_folder(network, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist"):
        senet.export(network, example(), tmp_path / "nowhere" / "net.pt2")
    (tmp_path / "net.pt2").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        senet.export(network, example(), tmp_path / "net.pt2")


class _SignalStack(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def _signal_stack():
    """Where this thread's signals find their stack."""
    found = _SignalStack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found))
    return found.start


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux does it")
def test_openvino_leaves_the_stack_of_signals(network, tmp_path):
    """Two Cores that go in the order in which they came leave a freed one, and the next signal ends the process."""
    needs(".xml")
    senet.export(network, example(), tmp_path / "net.xml")
    before = _signal_stack()
    first, second = (OpenVino(tmp_path / "net.xml") for _ in range(2))
    first(example()), second(example())
    del first
    gc.collect()
    del second
    gc.collect()
    assert _signal_stack() == before


def test_int8(network, tmp_path):
    needs(".xml")
    pytest.importorskip("nncf", reason="the extra 'ship' is not installed")
    batches = [example(4, 3, 8, 8)]
    found = senet.export(network, batches[0], tmp_path / "net.xml", calibration=iter(batches))
    assert (found.format, found.tolerance) == ("OpenVINO INT8", 0.5)
    assert 0 < max(found.checks.values()) < 0.2
    import openvino

    kinds = Counter(op.get_type_name() for op in openvino.Core().read_model(tmp_path / "net.xml").get_ops())
    assert kinds["FakeQuantize"] > 0
    given = OpenVino(tmp_path / "net.xml")
    assert given.metadata["senet"] == senet.__version__
    wanted = network.eval()(batches[0]).detach()
    torch.testing.assert_close(given(batches[0]), wanted, atol=0.2 * float(wanted.abs().max()), rtol=0)


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        (torch.zeros(4, 3, 8, 8), "calibration is an iterable of tensors, the network's inputs in batches"),
        (
            [torch.zeros(1, 3, 8, 8), torch.zeros(3, 8, 8)],
            r"a batch of the calibration is not the network's input: this file takes input of shape "
            r"\(batch, 3, 8, 8\), not \(3, 8, 8\)",
        ),
    ],
)
def test_what_int8_cannot_be_calibrated_on(network, tmp_path, batches, words):
    needs(".xml")
    with pytest.raises(exporting.ExportError, match=words):
        senet.export(network, example(), tmp_path / "net.xml", calibration=batches)
    assert names(tmp_path) == []


@pytest.mark.parametrize("within", [torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_what_the_caller_computes_in_is_not_in_the_file(network, tmp_path, within):
    """Under autocast the file held its casts, and in inference mode the network as it was."""
    with within():
        found = senet.export(network, example(), tmp_path / "net.pt2")
    assert found.moved == (2, 2)
    x = example(6, 3, 8, 8)
    given = torch.export.load(tmp_path / "net.pt2").module()(x)
    torch.testing.assert_close(given, network.eval()(x).detach())


def test_openvino_casts_no_input(network, tmp_path):
    """It would, where PyTorch and ONNX Runtime refuse: pixels that nobody normalised gave an answer."""
    needs(".xml")
    senet.export(network, example(), tmp_path / "net.xml")
    given = OpenVino(tmp_path / "net.xml")
    with pytest.raises(ValueError, match="this file takes input of float32, not uint8"):
        given(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    assert given(example().double()).shape == given(example()).shape == (1, 5)


def test_an_int8_file_is_held_against_the_values_of_the_network(network, tmp_path, monkeypatch):
    needs(".xml")
    pytest.importorskip("nncf", reason="the extra 'ship' is not installed")
    batches = [example(4, 3, 8, 8)]
    monkeypatch.setattr(exporting, "quantized", lambda model, _: _negated(model))
    with pytest.raises(exporting.ExportError, match=r"differs from PyTorch by 2 .*where 0\.5 is allowed"):
        senet.export(network, batches[0], tmp_path / "net.xml", calibration=batches)
    assert names(tmp_path) == []


def _negated(model):
    import openvino

    (port,) = model.outputs
    source = port.get_node().input_value(0)
    negative = openvino.opset13.negative(source)
    negated = openvino.Model([negative], model.get_parameters())
    negated.outputs[0].get_tensor().set_names({"output"})
    return negated


def test_values_as_text():
    values = {"options": {"a": 1}, "classes": ["x", "ß"], "n": 1.5, "none": None}
    texts = to_strings({"network": "resnet20", **values})
    assert texts.pop("network") == "resnet20"
    assert "ß" in texts["classes"]
    assert {name: json.loads(text) for name, text in texts.items()} == values


def test_what_is_known_of_a_created_network_is_in_the_file(tmp_path):
    model = senet.create("se_resnet20", num_classes=3)
    found = senet.export(model, example(2, 3, 16, 16), tmp_path / "net.pt2")
    assert found.metadata["network"] == "resnet20"
    assert found.metadata["options"] == {"num_classes": 3}
    assert re.search(r"In the file: network, options, senet, torch\.", str(found))


def test_an_example_that_lies_channels_last_leaves_the_batch_free(tmp_path):
    """Captured on its strides, a batch of 1 is held for another function, and files were for one picture alone."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    ).eval()  # fmt: skip
    x = torch.rand(1, 8, 8, 3, generator=torch.Generator().manual_seed(0)).permute(0, 3, 1, 2)
    found = senet.export(network, x, tmp_path / "network.xml", calibration=[x] * 3)
    assert found.inputs == {"input": "(batch, 3, 8, 8)"}
    assert OpenVino(tmp_path / "network.xml")(torch.zeros(5, 3, 8, 8)).shape == (5, 10)
