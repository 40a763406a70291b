"""docs/frameworks.md and the pages on one framework each: their blocks run as they stand."""

from __future__ import annotations

import importlib
import re
import sys
import types
from pathlib import Path

import pytest

from tests.frameworks.shapes import draw
from tests.pages import needs, run

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "frameworks.md").read_text(encoding="utf-8")
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


HOW_TO = [page for page in sorted((DOCS / "how-to").glob("*.md")) if "frameworks" in needs(page)]


@pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.stem)
def test_a_page_on_a_framework_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    for package in page.stem.split("-and-"):
        pytest.importorskip(package, reason=f"{package} is not installed", exc_type=ImportError)
    draw(tmp_path / "shapes", train=16, val=8)
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("page")  # timm's registry looks up where a network is from
    monkeypatch.setitem(sys.modules, module.__name__, module)
    run(page, vars(module))
