"""A network with hostile class names, and the page as a person serves it: by the command, in its own process."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import senet
from senet.explore.network import Subject, open_subject

HOSTILE = "<img src=x onerror=\"window.pwned=1\"></td></table><script>window.pwned=1</script>{{7*7}}${7*7} & 'so on'"
CLASSES = [HOSTILE, "an ordinary class", "<b>bold</b>", "Ω & ω"]
WEIGHTS = "weights/tf_mobilenetv3_small_100.imagenet1001.safetensors"
WATCH = """
import os, socket
connect, look_up = socket.socket.connect, socket.getaddrinfo
def note(words):
    with open(os.environ["SENET_TEST_OUTSIDE"], "a") as file:
        file.write(words + chr(10))
def watched(self, address):
    if self.family != socket.AF_UNIX and not str(address[0]).startswith(("127.", "::1")):
        note(f"connects to {address}")
    return connect(self, address)
def asked(host, *rest, **more):
    if host not in (None, "localhost", "127.0.0.1"):
        note(f"looks up {host}")
    return look_up(host, *rest, **more)
socket.socket.connect, socket.getaddrinfo = watched, asked
"""


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small network with SE, in a file that says what it needs, and names its classes."""
    torch.manual_seed(0)
    network = senet.create("resnet20", spec=senet.SESpec(4, start="paper"), num_classes=len(CLASSES))
    for block in senet.blocks(network).values():
        block.fc2.weight.data.mul_(6)  # gates that differ
    file = tmp_path_factory.mktemp("network") / "net & <i>.safetensors"
    metadata = {"classes": CLASSES, "preprocessing": {"size": 32, "resize": 36, "mean": [0.5] * 3, "std": [0.25] * 3}}
    senet.save(network, file, metadata=metadata)
    return str(file)


@pytest.fixture(scope="session")
def subject(saved: str) -> Subject:
    """The same, made by the Python API."""
    return open_subject(saved)


@dataclasses.dataclass(frozen=True)
class Served:
    """A page that is served: where, and the folder for its temporary files."""

    url: str
    port: int
    temporary: Path


@pytest.fixture(scope="session")
def served(saved: str, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """`senet explore` with the small network and, where ../shared is, MobileNetV3-small."""
    pytest.importorskip("starlette", reason="the extra 'explore' is not installed")
    root = Path(__file__).resolve().parents[2]
    folder = tmp_path_factory.mktemp("served")
    temporary, outside, site = folder / "tmp", folder / "outside", folder / "site"
    for each in (temporary, site):
        each.mkdir()
    (site / "sitecustomize.py").write_text(WATCH)
    outside.touch()
    words = ["--model", saved]
    shared = root.parent / "shared"
    if (shared / WEIGHTS).is_file():
        pytest.importorskip("timm", reason="the extra 'timm' is not installed")
        words += ["timm:tf_mobilenetv3_small_100", "--weights", "none", str(shared / WEIGHTS)]
        words += ["--classes", "none", str(shared / "data" / "imagenet-wnids.json"), "--class-offset", "1"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(site), str(root)]),
        "TMPDIR": str(temporary),
        "OMP_NUM_THREADS": "1",
        "SENET_TEST_OUTSIDE": str(outside),
    }
    command = [sys.executable, "-m", "senet", "explore", *words]
    said = folder / "said.txt"  # not a pipe, which would fill
    with said.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        url = None
        for _ in range(3000):
            if process.poll() is not None or (url := re.search(r"http://127\.0\.0\.1:(\d+)", said.read_text())):
                break
            time.sleep(0.1)
        if url is None:
            pytest.fail(f"the page did not start: {said.read_text()}")
        yield Served(url[0], int(url[1]), temporary)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0, said.read_text()
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in said.read_text(), said.read_text()
    assert list(temporary.iterdir()) == []
    assert outside.read_text() == ""
