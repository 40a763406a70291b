"""The page on other blocks: its code runs and prints what the page says, and its commands can be typed."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

from senet import cli, flags

PAGE = Path(__file__).resolve().parents[2] / "docs" / "comparing-blocks.md"
BLOCKS = re.findall(r"^```(\S+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_code_runs_and_prints_what_the_page_says(tmp_path, monkeypatch):
    pytest.importorskip("timm", reason="the extra 'timm' is not installed")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {"__name__": "page"}
    for (language, code), (after, expected) in zip(BLOCKS, [*BLOCKS[1:], ("", "")], strict=True):
        if language == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, PAGE.name, "exec"), names)
            assert printed.getvalue() == (expected if after == "text" else ""), code


def test_its_commands_can_be_typed():
    lines = [line for language, code in BLOCKS if language == "sh" for line in code.splitlines()]
    assert len(lines) == 4
    for line in lines:
        flags.parse(cli.VERBS, "", "", line.removeprefix("senet ").split())
