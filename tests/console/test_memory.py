"""Freed memory is kept: counted by the pages that the system hands out."""

import os
import subprocess
import sys

import pytest

import senet.console.memory

_COUNT = """
import importlib.util, resource, sys
spec = importlib.util.spec_from_file_location("memory", sys.argv[1])
memory = importlib.util.module_from_spec(spec)
spec.loader.exec_module(memory)
if sys.argv[2] == "kept":
    memory.keep_freed_memory()
b"x" * (64 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    b"x" * (64 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _pages(asked: str, **environment: str) -> int:
    """How many pages four tensors of 64 MiB, one after the other, take from the system."""
    kept = {name: value for name, value in os.environ.items() if "MALLOC" not in name and name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", _COUNT, senet.console.memory.__file__, asked]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=kept | environment)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_used_again():
    if _pages("not kept") < 4 * 1000:
        pytest.skip("this allocator, or large pages, keep it anyway")
    assert _pages("kept") < 100
    assert _pages("kept", MALLOC_MMAP_THRESHOLD_="65536") > 4 * 1000  # the user's own tuning stays


def test_where_there_is_no_such_allocator_nothing_happens(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    for name in [name for name in os.environ if "MALLOC" in name]:
        monkeypatch.delenv(name)
    senet.console.memory.keep_freed_memory()
