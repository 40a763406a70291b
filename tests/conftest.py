"""What tests share: the real data and weights that may lie beside the checkout, and quiet random numbers."""

from __future__ import annotations

import functools
import gc
import importlib
import logging
import os
import shutil
import sys
import tarfile
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import torch

from senet.fused.switch import fuse_any_size

_SHARED = Path(__file__).resolve().parents[2] / "shared"
# Rooms whose tests train small networks as they are.
_TRAINS = {"data", "training", "evaluation", "study", "recipe", "yesterday"}
_EXPORTS = {"export", "inference", "bench", "cli"}  # rooms whose tests write ONNX files
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

pytest_plugins = ["tests.painting"]

with suppress(ImportError):  # the frameworks' environment does without it
    from hypothesis import settings

    # A busy machine is not a fault: how long a drawn example takes decides nothing.
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")

os.environ.pop("COLUMNS", None)  # xdist sets it: what is printed would be as wide as the terminal outside
if _WORKERS > 1:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // _WORKERS))
    # Nor do commands that tests start take the other processes' cores, or torch.compile start processes of its own.
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

# A capture makes so many small objects that Python would look through all that live again and again.
gc.set_threshold(100_000, 20, 100)

# pytest listens to every logger that keeps its records to itself, and torch writes a trace of each capture to this one
# wherever anyone listens: graphs and Python stacks, which no test looks at.
logging.getLogger("torch.__trace").propagate = True


@pytest.fixture(autouse=True)
def _seeded():
    torch.default_generator.manual_seed(0)  # torch.manual_seed formats the stack for each kind of device
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)


@pytest.fixture(autouse=True, scope="module")
def _nothing_compiled_before():
    """PyTorch compiles a function for a limited number of networks in a process, whichever tests they are of."""
    yield
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


@pytest.fixture(autouse=True, scope="module")
def _exports(request: pytest.FixtureRequest):
    if _EXPORTS & set(request.path.parts):
        request.getfixturevalue("_one_table_of_operators")


@pytest.fixture(scope="session")
def _one_table_of_operators() -> Iterator[None]:
    """The table of ONNX's operators is made once: torch makes it anew for each file, which takes most of a second."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:  # without the extra 'ship', or of another torch
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(autouse=True)
def _small_tensors_too(request: pytest.FixtureRequest):
    """SE runs in its normalisation's pass in the small tensors of tests, as it does in large ones.

    Not where whole trainings are compared, some of them in processes of their own.
    """
    with nullcontext() if _TRAINS & set(request.path.parts) else fuse_any_size():
        yield


@pytest.fixture(autouse=True)
def _one_thread(request: pytest.FixtureRequest):
    """Small networks are trained in one thread: two, on a busy machine, wait for each other at every step."""
    threads = torch.get_num_threads()
    if _TRAINS & set(request.path.parts):
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="module")
def _no_time_for_timing(request: pytest.FixtureRequest):
    """A forward pass is timed once, not for more than a second: only the tests of the cost look at the figure."""
    with pytest.MonkeyPatch.context() as patch:
        if "cost" not in request.path.parts:
            for name, value in (("MEASURING_S", 0.0), ("WARM_UP_S", 0.0), ("LEAST_ROUNDS", 1)):
                patch.setattr(importlib.import_module("senet.cost.cost"), name, value)
        yield


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory):
    """What senet keeps of data it has looked at, and what it compiles, goes with the tests.

    The processes of pytest-xdist share it, so that each need not compile.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if _WORKERS > 1 else base) / "senet-cache"
    folder.mkdir(mode=0o700, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SENET_CACHE", str(folder))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ../shared with real data and weights; tests that need it skip where it is not."""
    if not (_SHARED / "data" / "unpack").is_file():
        pytest.skip("needs ../shared (real data and weights), which is not beside this checkout")
    return _SHARED


def _lay(shared: Path, folder: Path, *archives: str) -> Path:
    """Unpack archives of ../shared into a folder of the test session's own."""
    for archive in archives:
        with tarfile.open(shared / "data" / archive) as tar:
            tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="session")
def caltech20(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 classes of photos, as train/<class>/ and val/<class>/."""
    return _lay(shared, tmp_path_factory.mktemp("caltech20"), "caltech20.tar")


@pytest.fixture(scope="session")
def imagenet100(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 ImageNet photos of 100 classes, as val/<wnid>/."""
    return _lay(shared, tmp_path_factory.mktemp("imagenet100"), "imagenet-sample-100.tar")


@pytest.fixture(scope="session")
def cifar10(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10 as train/<class>/ and test/<class>/: 60,000 files, half a minute to unpack."""
    return _lay(shared, tmp_path_factory.mktemp("cifar10"), "cifar10-train.tar.gz", "cifar10-test.tar.gz")


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A headless Chromium that keeps its console's and its network's log; tests skip where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (extra 'dev')")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (found and driver):
        pytest.skip("needs Chromium and chromedriver, which are not on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = found
    for flag in (
        "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
        "disable-component-update disable-sync disable-dev-shm-usage window-size=1200,900"
    ).split():
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield browser
    finally:
        browser.quit()
