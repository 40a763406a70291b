import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from senet.console.starting import is_command


def _python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120, check=False)


def test_help_starts_without_the_heavy_libraries():
    code = (
        "import sys; from senet.cli import main\n"
        "try: main(['compare', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'lightning', 'torchvision', 'timm', 'sklearn', 'matplotlib', 'torchmetrics'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    ran = _python("-W", "error", "-c", code)
    assert ran.returncode == 0, ran.stderr


def test_as_a_module_and_into_a_pipe_that_closes():
    ran = _python("-m", "senet", "models", "resnet20")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "resnet20\n", "")
    code = f"{sys.executable} -m senet models | true"
    ran = subprocess.run(code, shell=True, capture_output=True, text=True, timeout=120, check=False)
    assert ran.stderr == ""


def test_ctrl_c_while_pytorch_is_imported_is_one_line(tmp_path):
    (tmp_path / "torch.py").write_text(
        "import os, signal\ntry: os.kill(os.getpid(), signal.SIGINT)\nexcept: print('swallowed')"
    )
    found = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    words = [sys.executable, "-m", "senet", "models"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell's child would ignore it
    try:
        ran = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": found}, check=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (ran.returncode, ran.stdout, ran.stderr) == (-signal.SIGINT, "", "\nsenet: interrupted\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("python -m senet models", True),
        ("python -P -m senet models", True),
        ("/usr/bin/python3 /home/me/.venv/bin/senet train", True),
        ("python train.py senet", False),
        ("python -m pytest senet", False),
        ("python -c senet", False),
        ("python", False),
    ],
)
def test_what_is_the_command(words, expected):
    assert is_command(words.split()) is expected
