"""Real frameworks, their trainers and tools. `make frameworks` runs these and prints a table of what stayed."""

from __future__ import annotations

import os
from importlib import metadata

import pytest
import torch

os.environ.setdefault("YOLO_AUTOINSTALL", "false")  # ultralytics would install what it misses
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_DISABLED", "true")

_ROWS = "frameworks_row"


def pytest_ignore_collect(collection_path, config):
    """Where they are not asked for, what is not installed is no news."""
    return True if "not frameworks" in config.option.markexpr else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/frameworks/" in item.path.as_posix():
            # Whatever these libraries warn of is theirs; only what we say is an error.
            item.add_marker(pytest.mark.frameworks)
            item.add_marker(pytest.mark.filterwarnings("ignore", "error::senet.SEWarning"))


@pytest.fixture(autouse=True)
def _one_thread_here(tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def row(record_property):
    """Call it with (framework, tool, number of blocks): one row of the table, if the test passes."""

    def write(package: str, tool: str, blocks: int) -> None:
        record_property(_ROWS, (f"{package} {metadata.version(package)}", tool, blocks))

    return write


def pytest_terminal_summary(terminalreporter):
    rows = []
    for outcome, result in (("passed", "runs"), ("failed", "**fails**")):
        for report in terminalreporter.stats.get(outcome, ()):
            rows += [(*value, result) for key, value in getattr(report, "user_properties", ()) if key == _ROWS]
    if rows:
        terminalreporter.write_sep("=", "SE after the frameworks' own tools")
        lines = ["| framework | network and tool | SE blocks | SE |", "|---|---|---|---|"]
        lines += [f"| {' | '.join(map(str, each))} |" for each in sorted(rows, key=lambda each: each[0].lower())]
        for line in lines:
            terminalreporter.write_line(line)
