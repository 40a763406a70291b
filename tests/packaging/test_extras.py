"""The command that installs what is missing is one that works for this installation."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from senet import extras
from senet.errors import MissingPackageError

ROOT = Path(__file__).resolve().parents[2]


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


def test_every_module_of_an_extra_is_installed_by_it():
    """The table of modules against pyproject.toml; what else an extra lists is for those who work on senet."""
    called = {"pil": "pillow", "sklearn": "scikit-learn", "google": "protobuf"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, modules in extras.EXTRAS.items():
        listed = {re.match(r"[\w-]+", line)[0].lower() for line in project[name] if not line.startswith("senet[")}
        assert {called.get(module.lower(), module.lower()) for module in modules.split()} == listed, name
        assert all(extras.how_to_get(f"{module}.part") == extras.how_to_install(name) for module in modules.split())
    assert extras.how_to_get("surely_not_there") == "pip install surely_not_there"


def in_a_process_without(blocked, lines):
    """The exit status and standard error of commands, one after another, where these modules cannot be imported."""
    code = (
        "import contextlib, io, json, runpy, sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "from senet import cli\n"
        f"runpy.run_path({str(Path(__file__).with_name('core.py'))!r})\n"
        "done = []\n"
        f"for line in {lines!r}:\n"
        "    said = io.StringIO()\n"
        "    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):\n"
        "        done.append((cli.main(line.split()), said.getvalue()))\n"
        "print(json.dumps(done))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded, told = done.stdout.splitlines()
    assert "loaded none" in loaded
    return json.loads(told)


TINY = """
from torch import nn

class Unit(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x):
        return x + self.bn(self.conv(x))

def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), Unit(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

def train(cell):
    return 1.0
"""


def test_a_core_install_needs_nothing_of_the_extras_and_says_which_one_a_verb_needs(tmp_path, monkeypatch):
    """In a process in which none of their packages can be imported; CI does it in a bare environment."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(TINY)
    net = "--model net.py:net --size 8"
    works = [
        "models",
        "sites --model resnet20",
        "cost --model resnet20",
        f"insert {net} --out se.safetensors",
        f"check {net} --weights se.safetensors",
        f"export {net} --weights se.safetensors --out se.pt2",
    ]
    data = "--model resnet20 --data digits"
    needs = {
        "study": [
            f"train {data} --out run",
            f"evaluate {data}",
            "predict --model resnet20 --data picture.png",
            f"compare {data} --out runs",
            f"ablate {data} --table squeeze --out runs",
            "judge --code net.py:train --out judged",
            "report --runs run --out page",
            "push run me/net",
            f"explain {data} --out explained",
            f"prune {data} --advice",
            "sites --model torchvision:resnet18",
            "sites --model resnet20 --data digits",
            "cost --table --out table.png",
        ],
        "ship": [f"export {net} --out se.onnx", f"export {net} --out se.xml", f"advise {net} --engine onnxruntime"],
        "explore": ["explore --model se_resnet20"],
        "hub": ["sites --model hf:me/net"],
        "timm": ["sites --model timm:resnet18", f"insert {net} --make eca --out eca.safetensors"],
    }
    lines = [*works, *(line for each in needs.values() for line in each)]
    blocked = " ".join(modules for name, modules in extras.EXTRAS.items()).split()
    told = dict(zip(lines, in_a_process_without(blocked, lines), strict=True))
    assert {line: told[line] for line in works if told[line][0]} == {}
    for name, asked in needs.items():
        for line in asked:
            assert told[line][0] == 2, line
            assert told[line][1].endswith(f": {extras.how_to_install(name)}\n"), (line, told[line][1])
