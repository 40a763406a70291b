"""The compiled library: kept for its user alone, loaded only if whole, and never a reason to stop."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from senet.files import cache
from senet.fused.passes import choose, library
from senet.fused.passes.operations import TorchPasses
from tests.fused.test_norm import SESpec, joined

GCC = shutil.which("gcc") or shutil.which("cc")
pytestmark = pytest.mark.skipif(GCC is None, reason="there is no C compiler here")
STEP = """
import logging, torch
logging.basicConfig(level="INFO", format="%(message)s")
import senet
from senet.fused.passes.library import library
from senet.fused.switch import fuse_any_size
network, x = senet.create("se_resnet20").train(), torch.randn(2, 3, 8, 8)
with fuse_any_size():
    network(x).sum().backward()
senet.optimize(network.eval(), x)(x)
print("compiled" if library() else "not compiled")
"""


@pytest.fixture(autouse=True)
def afresh(monkeypatch, tmp_path):
    """A cache of the test's own, compiled to in a moment, and a library that was not asked for yet."""
    monkeypatch.setenv("SENET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(library, "_COMMON", ("-O0", "-shared", "-fPIC", "-fopenmp"))
    monkeypatch.setattr(library, "_OWN_MACHINE", ((),))
    library.library.cache_clear()
    library._private_folder.cache_clear()
    yield
    library.library.cache_clear()
    library._private_folder.cache_clear()


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").iterdir())


def works() -> bool:
    """Whether the library computes; nothing may be raised, whatever is in the cache."""
    library.library.cache_clear()
    model, x = joined(nn.BatchNorm2d(8), SESpec(4), 8).train(), torch.randn(2, 8, 4, 4)
    found = model(x)
    expected = TorchPasses().stats(x)
    torch.testing.assert_close(choose.passes_for(x).stats(x), expected, rtol=1e-5, atol=1e-5)
    assert found.isfinite().all()
    return library.library() is not None


def test_it_is_compiled_once(tmp_path):
    assert works()
    (made,) = kept(tmp_path)
    before = made.stat().st_mtime_ns
    assert works()
    assert [path.stat().st_mtime_ns for path in kept(tmp_path)] == [before]
    made.chmod(0o777)  # someone else might have written it
    assert works()
    (again,) = kept(tmp_path)
    assert again.stat().st_mtime_ns != before
    assert not again.stat().st_mode & 0o022


@pytest.mark.parametrize(
    "spoil", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"#!/bin/sh\n", lambda b: b[:-1] + b"x"]
)
def test_a_file_that_is_not_what_was_compiled_is_compiled_anew(tmp_path, spoil):
    assert works()
    (made,) = kept(tmp_path)
    whole = made.read_bytes()
    made.unlink()  # it is mapped: writing in place would kill this process
    made.write_bytes(spoil(whole))
    made.chmod(0o700)
    assert works()
    (again,) = kept(tmp_path)
    assert library._is_whole(again)


def test_a_cache_that_others_can_write_is_said_once(tmp_path, caplog):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o775)
    with caplog.at_level("INFO", logger="senet"):
        assert library.library() is library.library() is not None
    assert [record.message for record in caplog.records] == [
        f"others can write to {tmp_path / 'cache'}, so nothing compiled is kept there: chmod go-w or chown it"
    ]
    assert kept(tmp_path) == []


def test_a_cache_that_is_a_file_or_forbids_running(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("")
    assert works()
    (tmp_path / "cache").unlink()
    real = ctypes.CDLL

    def noexec(name):
        if str(tmp_path) in name:
            raise OSError("failed to map segment from shared object")
        return real(name)

    monkeypatch.setattr(library.ctypes, "CDLL", noexec)
    assert works()


def fake(tmp_path: Path, script: str) -> str:
    path = tmp_path / "a compiler"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return f"'{path}'"


def test_the_compiler_that_cc_names(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", fake(tmp_path, f'echo "$@" >> {tmp_path}/log; exec {GCC} "$@"') + " -DX=1")
    assert works()
    assert re.search(r"^-DX=1 -O0 .*passes.c", (tmp_path / "log").read_text(), re.M)
    for useless in (fake(tmp_path, "exit 1"), "no-such-compiler", "'", ""):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        monkeypatch.setenv("CC", useless)
        assert works()


@pytest.mark.parametrize("fails", [True, False])
def test_a_compiler_that_does_not_write_utf8(tmp_path, monkeypatch, caplog, fails):
    says = "printf 'fehlgeschlagen: \\344\\377\\n'"
    monkeypatch.setattr(
        library, "_compilers", lambda: iter([(fake(tmp_path, f'{says}; {says} >&2; {GCC} "$@"').strip("'"),)])
    )
    if fails:
        monkeypatch.setattr(library, "_COMMON", ("-no-such-flag",))
    with caplog.at_level("INFO", logger="senet"):
        assert works() is not fails
    assert len(caplog.records) == fails
    assert not fails or "fehlgeschlagen: \ufffd\ufffd" in caplog.text


def test_anything_else_that_goes_wrong_is_said_once(monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("who would have thought")

    monkeypatch.setattr(library, "_fingerprint", broken)
    with caplog.at_level("INFO", logger="senet"):
        assert not works()
    assert [record.message for record in caplog.records] == [
        "the passes did not compile (who would have thought): PyTorch's operations are used, which is slower"
    ]


def test_types_are_declared_as_the_c_has_them():
    """Each argument of each function: pointers, sizes and numbers, as written in the sources."""
    folder = library._FOLDER
    text = "".join(file.read_text() for file in folder.glob("*.h"))
    kinds = {"*": ctypes.c_void_p, "long": ctypes.c_long, "int": ctypes.c_int, "double": ctypes.c_double}
    functions = library.library()
    seen = 0
    for name, arguments in re.findall(r"^int (?:F\()?(\w+)\)?\(([^)]*)\)", text, re.M):
        expected = [kinds["*"] if "*" in a else kinds[a.split()[0]] for a in arguments.split(",")]
        for dtype in ("_float32", "_float64", "_bfloat16", "_float16"):
            function = getattr(functions, name + dtype, None)
            if function is not None:
                assert function.argtypes == expected, name + dtype
                assert function.restype is ctypes.c_int
                seen += 1
    assert seen >= 10 * 3 + 5 * 2


def test_without_memory_nothing_is_written_and_nothing_breaks(monkeypatch):
    """The C, built so that it never gets memory."""
    monkeypatch.setattr(library, "_COMMON", (*library._COMMON, "-DALLOCATE(n)=((void)(n),(void*)0)"))
    assert works()
    v = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    for ours, exact in zip(choose.passes_for(v).stats(v), TorchPasses().stats(v), strict=True):
        assert torch.equal(ours, exact)
    from senet.inference.eager.gate import gates

    weight = torch.randn(3, 3)
    torch.testing.assert_close(
        gates(1, v, weight, None, 1, weight, None, 2), gates(0, v, weight, None, 1, weight, None, 2)
    )


class TestTheCacheFolder:
    @pytest.mark.parametrize("name", ["SENET_CACHE", "XDG_CACHE_HOME"])
    def test_a_tilde_is_the_home(self, name, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("SENET_CACHE")
        monkeypatch.setenv(name, "~/x")
        assert cache.cache_folder() == tmp_path / ("x" if name == "SENET_CACHE" else "x/senet")
        assert works()
        assert list(tmp_path.glob("x/**/*.so"))

    def test_it_is_made_for_this_user_alone(self, tmp_path):
        before = os.umask(0o002)
        try:
            cache.remembered("kind", b"key", lambda: (1, True))
        finally:
            os.umask(before)
        assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700

    def test_without_a_home(self, monkeypatch, tmp_path):
        monkeypatch.delenv("SENET_CACHE")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(cache.tempfile, "tempdir", str(tmp_path))
        monkeypatch.setattr(Path, "expanduser", lambda self: (_ for _ in ()).throw(RuntimeError("no home")))
        cache._without_home.cache_clear()
        try:
            assert cache.cache_folder() == tmp_path / f"senet-{os.getuid()}"
            cache._without_home.cache_clear()
            (tmp_path / f"senet-{os.getuid()}").rmdir()
            (tmp_path / f"senet-{os.getuid()}").symlink_to(tmp_path)  # somebody's
            assert cache.cache_folder().parent == tmp_path
            assert not cache.cache_folder().is_symlink()
        finally:
            cache._without_home.cache_clear()


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="needs to become another user")
def test_a_training_of_a_user_whom_nobody_knows(tmp_path):
    """As in many containers: no HOME, and a uid without an entry in passwd."""
    tmp_path.chmod(0o777)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "TMPDIR": str(tmp_path),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", STEP],
        env=environment,
        user=12345,
        group=12345,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.endswith("compiled\n"), done.stderr[-2000:]
