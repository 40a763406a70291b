"""A small network with SE, trained for a moment by compare, and pictures that it is looked at through."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from senet.block import SESpec
from senet.study import compare
from tests.painting import NETWORK


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The name of a network with SE that compare trained on the digits, and its run folder."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "net.py").write_text(NETWORK)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    compare(
        f"{folder / 'net.py'}:tiny",
        "digits",
        out=folder / "study",
        spec=SESpec(2),
        seeds=1,
        epochs=3,
        devices="cpu",
        progress=False,
    )
    torch.set_num_threads(threads)
    return f"{folder / 'net.py'}:tiny", folder / "study" / "se-0"
