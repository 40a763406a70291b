"""docs/frameworks.md: each of its blocks runs as it stands."""

from __future__ import annotations

import importlib
import re
import sys
import types
from pathlib import Path

import pytest

from tests.frameworks.shapes import draw

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "frameworks.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INTRODUCTION, *SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)
SECTIONS = {section.partition("\n")[0]: section for section in SECTIONS if BLOCK.search(section)}


@pytest.mark.parametrize("title", SECTIONS)
def test_the_code_of_the_page_runs(title, tmp_path, monkeypatch):
    section = SECTIONS[title]
    for package in re.findall(r"^from (\w+)|^import (\w+)", section, re.MULTILINE):
        pytest.importorskip("".join(package), reason=f"{''.join(package)} is not installed", exc_type=ImportError)
    draw(tmp_path / "shapes", train=16, val=8)
    monkeypatch.chdir(tmp_path)
    page = types.ModuleType("page")  # timm's registry looks up where a network is from
    monkeypatch.setitem(sys.modules, "page", page)
    names = vars(page)
    if "resnet18" in section:
        names["resnet18"] = importlib.import_module("torchvision.models").resnet18
    for code in BLOCK.findall(INTRODUCTION) + BLOCK.findall(section):
        exec(compile(code, "docs/frameworks.md", "exec"), names)
    assert list(tmp_path.iterdir())
