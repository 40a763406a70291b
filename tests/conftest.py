"""What tests share: the real data and weights that may lie beside the checkout, and quiet random numbers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

_SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ../shared with real data and weights; tests that need it skip where it is not."""
    if not (_SHARED / "data" / "unpack").is_file():
        pytest.skip("needs ../shared (real data and weights), which is not beside this checkout")
    return _SHARED


@pytest.fixture(scope="session")
def unpacked(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """../shared's data as class folders: cifar10/, caltech20/, imagenet-sample-100/."""
    folder = tmp_path_factory.mktemp("shared")
    subprocess.run([str(shared / "data" / "unpack"), str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def caltech20(unpacked: Path) -> Path:
    return unpacked / "caltech20"


@pytest.fixture(scope="session")
def imagenet100(unpacked: Path) -> Path:
    return unpacked / "imagenet-sample-100"
