import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu.checks import CHECKS

DEVICES = ("cpu", *(["cuda"] if torch.cuda.is_available() else []))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CHECKS)
def test_here(name, device):
    CHECKS[name](device)


def test_without_a_gpu_the_command_says_so(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    script = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
    done = subprocess.run(
        [sys.executable, script, "--out", tmp_path / "gpu"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "benchmarks/gpu.py: PyTorch finds no CUDA GPU here: nothing was measured"
    assert json.loads((tmp_path / "gpu" / "gpu.json").read_text())["checks"] == {}
