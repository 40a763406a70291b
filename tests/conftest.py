"""What tests share: the real data and weights that may lie beside the checkout, and quiet random numbers."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import torch

_SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory):
    """What senet keeps of data it has looked at goes with the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SENET_CACHE", str(tmp_path_factory.mktemp("cache")))
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
