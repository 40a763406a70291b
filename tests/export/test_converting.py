"""What converters, runtimes, disks and people do while a network is written."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import warnings

import pytest
import torch
from torch import nn

import senet
from senet.errors import ExportError, FileWriteError, InputError
from senet.export import converting
from senet.export import export as exporting
from senet.export.formats import FORMATS
from senet.export.runtimes import OnnxRuntime, OpenVino


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


EXAMPLE = torch.arange(96.0).view(2, 3, 4, 4)


@pytest.fixture
def _interruptible():
    """Ctrl-C as a person's terminal has it: a shell's background job, which a CI may be, ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def needs(suffix):
    for module in FORMATS[suffix].modules:
        pytest.importorskip(module, reason="the extra 'ship' is not installed")


class Bessel(nn.Module):
    def forward(self, x):
        return torch.special.i1e(x)


@pytest.mark.parametrize(
    ("suffix", "operator", "others"),
    [(".onnx", r"prims\.bessel_i1e", r"\.xml or \.pt2"), (".xml", r"aten\.special_i1e", r"\.onnx or \.pt2")],
)
def test_an_operator_that_no_file_has_is_named(tmp_path, suffix, operator, others):
    needs(suffix)
    line = rf"Bessel cannot be written as .*cannot do {operator} .*write a file that ends in {others}, or have"
    with pytest.raises(ExportError, match=line) as caught:
        senet.export(Bessel(), torch.ones(2, 3), tmp_path / f"net{suffix}")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


WORDS = {
    "torch.onnx": ("No ONNX function found for <OpOverload(op='aten.cummin', overload='default')>.", "aten.cummin"),
    "OpenVINO": (
        "Check 'false' failed at src/x.cpp:151:\nSummary:\n-- No conversion rule found for operations: "
        "aten.special_i1e.default, aten._linalg_svd.default\n",
        "aten.special_i1e, aten._linalg_svd",
    ),
    "ONNX Runtime": ("Could not find an implementation for Foo(1) node with name 'node_foo'", "Foo"),
    "running": ("Non-zero status code returned while running Reshape node. Name:'x'", "Reshape"),
    "a kernel": (
        "Reshape node with name 'Relu_4' Check 'minusOneCount <= 1' failed at src/plugins/x.cpp:77",
        "Reshape",
    ),
}


@pytest.mark.parametrize(("words", "operators"), WORDS.values(), ids=WORDS)
def test_the_operator_is_found_in_what_each_engine_says(words, operators):
    try:
        raise KeyError("of no interest") from RuntimeError(words)
    except KeyError as error:
        line = converting.in_one_line(error)
    assert line.startswith(f"it cannot do {operators} (")
    assert "\n" not in line


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_whatever_a_writer_or_a_runtime_throws_is_one_line(network, tmp_path, monkeypatch, suffix):
    needs(suffix)

    def fails(*_):
        raise RuntimeError("something\nelse")

    for step in ("write", "run"):
        broken = {**FORMATS, suffix: exporting.dataclasses.replace(FORMATS[suffix], **{step: fails})}
        with monkeypatch.context() as patch:
            patch.setattr(exporting, "FORMATS", broken)
            with pytest.raises(
                ExportError, match=r"Sequential cannot be written as .*: RuntimeError: something; write"
            ):
                senet.export(network, EXAMPLE, tmp_path / f"net{suffix}")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, suffix):
    """Torch's own writer ends the process there."""
    resource = pytest.importorskip("resource", reason="as POSIX limits files")
    needs(suffix)
    kind, limits = FORMATS[suffix], resource.getrlimit(resource.RLIMIT_FSIZE)

    def write(*arguments):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            kind.write(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(exporting, "FORMATS", {**FORMATS, suffix: exporting.dataclasses.replace(kind, write=write)})
    path = tmp_path / f"net{suffix}"
    with pytest.raises(FileWriteError, match=r"free there\); nothing of it is left") as caught:
        senet.export(nn.Linear(100, 100), torch.ones(2, 100), path)
    assert str(caught.value).startswith(f"cannot write {path}: ")
    assert isinstance(caught.value, OSError)
    assert list(tmp_path.iterdir()) == []


def test_four_threads_export_at_once(network, tmp_path):
    needs(".onnx"), needs(".xml")
    names = ["a.pt2", "b.xml", "c.pt2", "d.onnx"]
    errors = []

    def write(name):
        try:
            senet.export(network, EXAMPLE, tmp_path / name)
        except Exception as error:
            errors.append(error)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        threads = [threading.Thread(target=write, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "b.bin"])


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_a_conversion_that_succeeds_is_silent(network, tmp_path, capfd, caplog, suffix):
    needs(suffix)
    level = logging.getLogger().level
    with caplog.at_level(logging.WARNING):
        senet.export(network, EXAMPLE, tmp_path / f"net{suffix}")
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert logging.getLogger().level == level


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("step", ["reading", "converting", "comparing"])
def test_an_interrupt_leaves_nothing(network, tmp_path, step):
    """Whatever a converter makes of the exception that Ctrl-C raises in the middle of it."""
    needs(".xml")

    def press(words):
        if words.startswith(step):
            with contextlib.suppress(KeyboardInterrupt):  # as C++ that was called does
                signal.raise_signal(signal.SIGINT)
            raise RuntimeError("the converter failed") if step == "converting" else KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        senet.export(network, EXAMPLE, tmp_path / "net.xml", progress=press)
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupt_that_a_converter_swallows_is_heard():
    with pytest.raises(KeyboardInterrupt), converting.hear_interrupts(), contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("threads", [1, 2])
def test_openvino_gives_no_earlier_output_when_inference_fails(threads):
    """With one thread OpenVINO raises nothing there, gives unset memory, and ends the process at a later call."""
    openvino = pytest.importorskip("openvino", reason="the extra 'ship' is not installed")
    import numpy as np

    ops = openvino.opset13
    x = ops.parameter([-1, -1], np.float32)
    pairs = ops.reshape(x, np.array([2, -1], np.int64), False)
    runtime = OpenVino(openvino.Model([ops.relu(pairs)], [x]), threads=threads)
    first = runtime(torch.ones(2, 3))
    with pytest.raises(ExportError, match=r"OpenVINO does not run this file on .*\(3, 3\)"):
        runtime(torch.full((3, 3), 5.0))
    torch.testing.assert_close(runtime(torch.full((2, 3), 7.0)), torch.full((2, 3), 7.0))
    torch.testing.assert_close(first, torch.ones(2, 3))

    class Busy:
        def infer(self, *_, **__):
            raise RuntimeError("Infer Request is busy")

    runtime._request = Busy()
    with pytest.raises(ExportError, match="busy"):
        runtime(torch.ones(2, 3))
    torch.testing.assert_close(runtime(torch.ones(2, 3)), torch.ones(2, 3))  # compiled anew


def test_a_file_that_cannot_be_read_or_run_is_one_line(network, tmp_path):
    needs(".onnx"), needs(".xml")
    for name, kind in (("net.onnx", OnnxRuntime), ("net.xml", OpenVino)):
        (tmp_path / name).write_bytes(b"no network")
        with pytest.raises(ExportError, match=rf"does not read .*{name}: .*; export it again"):
            kind(tmp_path / name)
    senet.export(network, EXAMPLE, tmp_path / "net.onnx")
    file = OnnxRuntime(tmp_path / "net.onnx")
    with pytest.raises(ExportError, match=r"ONNX Runtime does not run this file on .*\(2, 3, 5, 4\).*; give what"):
        file(torch.ones(2, 3, 5, 4))
    with pytest.raises(InputError, match="takes 1 tensor, not 2"):
        file(EXAMPLE, EXAMPLE)


def test_errors_that_are_clear_stay_as_they_are():
    for error in (FileWriteError("a"), FileNotFoundError("b"), MemoryError("c"), ImportError("d")):
        with pytest.raises(type(error)), converting.reported("what", "instead"):
            raise error
