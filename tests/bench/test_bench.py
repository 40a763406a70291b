"""A measurement: its rows by engine, what is kept of it, its table, figure and command."""

import copy
import dataclasses
import io
import json

import pytest
import torch
from torch import nn

import senet
from senet import cli
from senet.bench import Bench, Ratio, Row, advise, bench, devices
from senet.bench import measurement as benching
from senet.bench.cases import INFERENCE, KEPT, TRAINING
from senet.bench.contestants import (
    AS_INSERTED,
    OURS,
    PEER,
    PEER_OPTIMIZED,
    contestants,
)
from senet.bench.engines import inference
from senet.bench.show import figure, markdown
from senet.bench.steps import training_step
from senet.bench.timing import Effort
from senet.console.machine import has_bf16
from senet.export.formats import openvino_model
from senet.export.runtimes import OpenVino, computes_in_bf16
from senet.export.tracing import trace

pytest.importorskip("lightning", reason="the extra 'study' is not installed")


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(x + self.bn(self.conv(torch.relu(x))))
        return self.fc(x.mean((2, 3)))


EXAMPLE = torch.zeros(1, 3, 8, 8)


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    """Few rounds: nothing here looks at a time."""
    effort = Effort(least=2, most=2, seconds=0, warm_up=0)
    monkeypatch.setattr("senet.bench.measurement.QUICK", effort)
    monkeypatch.setattr("senet.bench.measurement.FULL", effort)
    monkeypatch.setattr("senet.bench.timing._LEAST_S", 0)


@pytest.fixture
def not_folded(monkeypatch):
    """Networks are measured as they are: exporting each takes seconds, and nothing here looks at the form."""
    for name in ("optimized", "folded"):
        monkeypatch.setattr(f"senet.bench.contestants.{name}", lambda model, example: copy.deepcopy(model).eval())


@pytest.mark.usefixtures("not_folded")
def test_a_network_is_measured_on_the_processor_in_float32_whatever_it_was(tmp_path):
    class Elsewhere(Network):
        def cpu(self):
            self.taken = True
            return super().cpu()

    network = Elsewhere().bfloat16()
    found = bench(network, EXAMPLE.bfloat16(), tmp_path, engines="eager", batch_size=2, progress=False)
    assert [row.note for row in found.rows] == ["", "", ""]
    assert all(each.taken for each in contestants(network, EXAMPLE).networks.values())
    assert not hasattr(network, "taken")
    assert network.fc.weight.dtype == torch.bfloat16


def test_another_engine_than_installed_and_no_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    network, before = Network(), torch.get_rng_state()
    found = bench(network, EXAMPLE, tmp_path, engines=["openvino", "cuda", "onnxruntime"], progress=False)
    assert torch.equal(torch.get_rng_state(), before)  # which is the caller's
    notes = {row.engine: row.note for row in found.rows}
    assert notes == {
        "onnxruntime": "not installed: onnx, onnxscript, onnxruntime (the extra 'ship')",
        "openvino": "not installed: openvino (the extra 'ship')",
        "cuda": "not measured: no CUDA GPU here",
    }
    assert all(row.plain is None and not row.ratios for row in found.rows)
    assert "not installed" in str(found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "table.md", "table.txt"]


@pytest.mark.usefixtures("not_folded")
@pytest.mark.parametrize(
    ("engine", "asked"), [("openvino-bf16", "measurement.computes_in_bf16"), ("bf16", "measurement.has_bf16")]
)
def test_bf16_is_measured_only_where_the_processor_has_it(engine, asked, monkeypatch, tmp_path):
    if engine.startswith("openvino"):
        pytest.importorskip("openvino")
    for has_it, note in ((False, "not measured: this processor has no"), (True, "")):
        monkeypatch.setattr(f"senet.bench.{asked}", lambda has_it=has_it: has_it)
        found = bench(
            Network(), EXAMPLE, tmp_path / str(has_it), engines=[engine], batch_size=1, quick=True, progress=False
        )
        for row in found.rows:
            assert row.note.startswith(note)
            assert (row.plain is not None) is has_it


def test_the_processors_list_of_features_says_whether_it_has_bf16(monkeypatch):
    for line, has_it in {
        "flags\t\t: fpu avx512f avx512_bf16": True,
        "flags\t\t: fpu amx_bf16": True,
        "Features\t: fp asimd bf16": True,
        "flags\t\t: fpu avx512f avx2": False,
        "model name\t: bf16": False,
    }.items():
        monkeypatch.setattr("senet.console.machine._cpuinfo", lambda line=line: ["processor\t: 0", line])
        assert has_bf16() is has_it


def test_bf16_trains_under_autocast_and_infers_in_bf16():
    seen = []
    network = Network()
    network.conv.register_forward_hook(lambda module, args, output: seen.append((output.dtype, module.weight.dtype)))
    training_step("bf16", network, EXAMPLE.expand(2, -1, -1, -1))()
    assert seen[-1] == (torch.bfloat16, torch.float32)
    assert inference("bf16", network.eval(), EXAMPLE)().dtype == torch.bfloat16
    assert seen[-1] == (torch.bfloat16, torch.bfloat16)


def test_what_a_converter_prints_goes_nowhere(monkeypatch):
    """Also where Python keeps output back, as it does for a file."""
    said = io.StringIO()
    monkeypatch.setattr("sys.stdout", said)
    with devices.silent():
        print("converting")
    assert said.getvalue() == ""


def test_openvino_says_what_it_computes_in():
    openvino = pytest.importorskip("openvino")
    network = OpenVino(openvino_model(trace(nn.Linear(4, 4), torch.zeros(1, 4)), {}), precision="bf16")
    computed = network._compiled.get_property("INFERENCE_PRECISION_HINT")
    assert (computed == openvino.Type.bf16) is computes_in_bf16()


def test_every_engine_of_the_processor_and_the_files(monkeypatch, tmp_path):
    monkeypatch.setattr("senet.bench.measurement.computes_in_bf16", lambda: True)
    engines = ["eager", "channels-last", "onnxruntime", "openvino", "openvino-bf16"]
    for name in ("onnxruntime", "openvino", "matplotlib"):
        pytest.importorskip(name)
    found = bench(Network(), EXAMPLE, tmp_path, name="net", engines=engines, batch_size=2, progress=False)
    assert [(row.what, row.engine, row.note) for row in found.rows] == [
        *((INFERENCE, engine, "") for engine in engines),
        *((TRAINING, engine, "") for engine in engines[:2]),
        (KEPT, "eager", ""),
    ]
    for row in found.rows:
        as_inserted = row.what == INFERENCE and row.engine in ("eager", "channels-last")
        assert set(row.ratios) == {OURS, PEER} | ({AS_INSERTED} if as_inserted else set())
        assert row.rounds == (0 if row.what == KEPT else 2)
        assert row.plain > 0
    values = json.loads((tmp_path / "bench.json").read_text())
    assert len(values.pop("code")) == 16
    assert Bench.from_json(values) == found
    table = (tmp_path / "table.txt").read_text()
    assert table == f"{found}\n"
    for words in (
        "What SE costs in net",
        "OpenVINO bf16",
        "kept for backward",
        " thread",
        f"torch {torch.__version__}",
    ):
        assert words in table
    assert (tmp_path / "table.md").read_text().count("\n") == 2 + len(found.rows)
    assert (tmp_path / "figure.svg").read_bytes().startswith(b"<?xml")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("not_folded")
def test_what_was_measured_is_kept_and_what_failed_is_not(tmp_path, monkeypatch, capfd):
    measured = []
    real = benching._Measuring._measured

    def measure(self, case, row):
        measured.append((case.what, case.engine))
        if fails and case.what == TRAINING:
            raise RuntimeError("no\nmemory")
        return real(self, case, row)

    monkeypatch.setattr(benching._Measuring, "_measured", measure)
    given = {"name": "net", "batch_size": 2, "progress": False}
    fails = True
    first = bench(Network(), EXAMPLE, tmp_path, engines=["eager"], **given)
    assert [row.note for row in first.rows] == ["", "failed: RuntimeError: no memory", ""]
    fails = False
    measured.clear()
    second = bench(Network(), EXAMPLE, tmp_path, engines=["eager", "channels-last"], **given)
    assert measured == [(INFERENCE, "channels-last"), (TRAINING, "eager"), (TRAINING, "channels-last")]
    assert second.rows[0] == first.rows[0]
    assert [(row.what, row.engine) for row in second.rows] == [
        (INFERENCE, "eager"),
        (INFERENCE, "channels-last"),
        (TRAINING, "eager"),
        (TRAINING, "channels-last"),
        (KEPT, "eager"),
    ]
    measured.clear()
    third = bench(Network(), EXAMPLE, tmp_path, engines=["channels-last"], **given)
    assert (measured, third.rows) == ([], second.rows)  # rows that were not asked for again stay
    monkeypatch.setattr("senet.bench.measurement._code", lambda: "another")
    bench(Network(), EXAMPLE, tmp_path, engines=["channels-last"], **{**given, "progress": True})
    assert "bench.json has 5 rows that another version of senet or of the network gave" in capfd.readouterr().err
    assert len(measured) == 2
    with pytest.raises(ValueError, match=r"model was net and is now other: give another folder, or --no-resume"):
        bench(Network(), EXAMPLE, tmp_path, engines=["eager"], **{**given, "name": "other"})
    asked = {**second.machine, "command": "senet bench in other words"}
    monkeypatch.setattr("senet.bench.measurement.machine_of_figures", lambda: asked)
    bench(Network(), EXAMPLE, tmp_path, engines=["channels-last"], **given)
    assert len(measured) == 2
    monkeypatch.setattr("senet.bench.measurement.machine_of_figures", lambda: {**second.machine, "threads": 77})
    with pytest.raises(ValueError, match=r"threads was \d+ and is now 77"):
        bench(Network(), EXAMPLE, tmp_path, engines=["eager"], **given)
    bench(Network(), EXAMPLE, tmp_path, engines=["eager"], resume=False, **given)
    measured.clear()
    wider = Network()
    wider.conv = nn.Conv2d(8, 8, 5, padding=2)
    bench(wider, EXAMPLE, tmp_path, engines=["eager"], **given)
    assert len(measured) == 3  # another network of the same name
    (tmp_path / "bench.json").write_text("[]")
    with pytest.raises(ValueError, match="is not a measurement that senet bench wrote"):
        bench(Network(), EXAMPLE, tmp_path, engines=["eager"], **given)


def test_the_report_of_a_study_is_not_written_over(tmp_path):
    (tmp_path / "settings.json").write_text("{}")
    for ask in (bench, advise):
        with pytest.raises(ValueError, match="is the folder of a training or a study: choose another"):
            ask(Network(), EXAMPLE, out=tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


def test_rows_are_of_one_network_and_its_file(tmp_path):
    file = tmp_path / "net.py"
    digests = set()
    for content in ("1", "2"):
        file.write_text(content)
        digests |= {benching._digest(Network(), f"{file}:make") for _ in range(2)}
    assert len(digests) == 2


@pytest.mark.usefixtures("not_folded")
def test_a_home_in_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    bench(Network(), EXAMPLE, "~/out", engines=["eager"], batch_size=2, progress=False)
    assert (tmp_path / "out" / "bench.json").is_file()


def test_bad_examples(tmp_path):
    for example in (torch.zeros(2, 3, 8, 8), torch.zeros(1, 3), "picture"):
        with pytest.raises(ValueError, match="one picture"):
            bench(Network(), example, tmp_path)


def test_nothing_to_measure(tmp_path):
    for given, words in (({"engines": []}, "$"), ({"engines": ["compile"], "quick": True}, " that does not compile")):
        with pytest.raises(ValueError, match=f"nothing to measure: name at least one engine{words}"):
            bench(Network(), EXAMPLE, tmp_path / "out", **given)
    assert not [*tmp_path.iterdir()]


def test_table_and_figure_of_every_kind_of_row():
    ratios = {OURS: Ratio(1.01, 1.0, 1.02), PEER: Ratio(1.15, 1.14, 1.16), PEER_OPTIMIZED: Ratio(1.02)}
    ratios[AS_INSERTED] = Ratio(1.043)
    rows = (
        Row(INFERENCE, "eager", 1, 0.0431, ratios, 101),
        Row(TRAINING, "compile", 16, 2.5, {OURS: Ratio(1.03)}, 21),
        Row(KEPT, "eager", 16, 2**30, {OURS: Ratio(1.003), PEER: Ratio(1.26)}),
        Row("largest batch", "cuda", 0, 512, {OURS: Ratio(1.0), PEER: Ratio(0.75)}),
        Row(INFERENCE, "cuda", 256, note="not measured: no CUDA GPU here"),
    )
    machine = {"processor": "one", "cores": 2, "threads": 2, "instructions": "AVX512", "device": "cpu", "torch": "3"}
    result = Bench("net", (1, 3, 224, 224), "timm's SE", False, machine, rows)
    text = str(result)
    for words in (
        "43.1 ms",
        "2.50 s",
        "1.00 GiB",
        "512 images",
        "1.010 [1.000, 1.020]",
        "timm's SE, optimized",
        "ours, as inserted",
        "1.043",
    ):
        assert words in text
    assert "in a hurry" in str(dataclasses.replace(result, quick=True))
    assert markdown(result).splitlines()[2].startswith("| PyTorch eager, NCHW | inference | 1 | 43.1 ms | 1.010 [")
    assert "noisy" not in text
    wide = dataclasses.replace(rows[0], ratios={OURS: Ratio(1.01, 0.95, 1.06)})
    assert "noisy: an interval over 0.1 wide" in markdown(dataclasses.replace(result, rows=(wide,)))
    pytest.importorskip("matplotlib")
    axes = figure(result).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "PyTorch eager, NCHW, inference, batch 1",
        "torch.compile, training step, batch 16",
        "PyTorch eager, NCHW, kept for backward, batch 16",
        "CUDA bf16 eager, channels last, largest batch (more is better)",
    ]


@pytest.mark.usefixtures("not_folded")
def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "bench --model resnet20 --size 8 --batch-size 2 --engines eager --quick --out runs/bench"
    assert cli.main(words.split()) == 0
    out, err = capsys.readouterr()
    assert "What SE costs in resnet20" in out
    assert "Written: runs/bench (report.html, figure.svg, figure.png, table.txt, table.md, bench.json)" in out
    assert "training step, PyTorch eager, NCHW, batch 2: ours" in err
    senet.save(senet.create("resnet20"), "runs/plain.safetensors")  # which the network with SE would not take
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.main([*words.split()[:-1], "~/runs/bench"]) == 0  # as where it stands in quotes
    assert "Written: ~/runs/bench (report.html, figure.svg" in capsys.readouterr().out
    words = words.replace("runs/bench", "runs/own")
    assert cli.main([*words.split(), "--weights", "runs/plain.safetensors"]) == 0
    assert cli.main("bench --model resnet20 --engines opnvino --out x".split()) == 2
    assert "did you mean 'openvino'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
