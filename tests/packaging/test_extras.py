"""The command that installs what is missing is one that works for this installation."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from senet import extras
from senet.errors import MissingPackageError


@pytest.fixture
def installed(monkeypatch):
    """Let senet be installed from somewhere, as pip's record of it says."""

    def record(text):
        class Distribution:
            def read_text(self, name):
                return text if name == "direct_url.json" else None

        monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution())

    monkeypatch.setattr(extras, "_installed_from", extras._installed_from.__wrapped__)
    return record


@pytest.mark.parametrize(
    ("record", "command"),
    [
        (None, "pip install 'senet[study]'"),
        ("no json", "pip install 'senet[study]'"),
        (
            {"url": "file:///home/a%20b/senet", "dir_info": {"editable": True}},
            "pip install -e '/home/a b/senet[study]'",
        ),
        ({"url": "file:///w/senet.whl", "archive_info": {}}, "pip install 'senet[study] @ file:///w/senet.whl'"),
        (
            {"url": "https://host/senet.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "pip install 'senet[study] @ git+https://host/senet.git@abc'",
        ),
    ],
)
def test_the_command_follows_where_senet_came_from(installed, record, command):
    installed(record if record is None or isinstance(record, str) else json.dumps(record))
    assert extras.how_to_install("study") == command


def test_not_installed_at_all(monkeypatch, installed):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert extras.how_to_install("hub") == "pip install 'senet[hub]'"


def test_what_is_missing_is_named():
    with pytest.raises(MissingPackageError, match=r"^surely_not_there is not installed: pip install .*\[hub\]'$"):
        extras.extra("surely_not_there", "hub")


def test_a_core_install_needs_nothing_of_the_extras():
    """In a process in which none of their packages can be imported; CI does it in a bare environment."""
    blocked = "PIL lightning torchvision matplotlib sklearn scipy pyarrow onnx timm starlette huggingface_hub".split()
    code = (
        "import runpy, sys\n"
        f"sys.modules.update(dict.fromkeys({blocked}))\n"
        "from senet import cli\n"
        f"runpy.run_path({str(Path(__file__).with_name('core.py'))!r})\n"
        "for line in ('models', 'sites --model resnet20', 'cost --model resnet20'):\n"
        "    assert cli.main(line.split()) == 0, line\n"
        "assert cli.main('train --model resnet20 --data digits --out run'.split()) == 2\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "loaded none" in done.stdout
    assert "[study]'" in done.stderr
