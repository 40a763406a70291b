"""docs/judging.md: its code runs as it stands, in the order in which it stands."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r"^```(\S+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#]+)\)")


def test_the_code_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, object] = {"__name__": "judging"}
    for language, more, code in BLOCK.findall((DOCS / "judging.md").read_text(encoding="utf-8")):
        if more.startswith(" file="):
            (tmp_path / more.removeprefix(" file=")).write_text(code)
        elif language == "python":
            exec(compile(code, "judging.md", "exec"), names)
    sys.modules.pop("mine", None)
    verdict, power = capsys.readouterr().out.splitlines()
    assert re.match(r"SE is (better|worse) by|No difference in mean error is shown: ", verdict)
    assert power.startswith("With this spread, 3 seeds would show a difference of ")
    assert (tmp_path / "runs/mine/report.html").is_file()


@pytest.mark.parametrize("page", ["judging.md", "many-machines.md"])
def test_its_links_are_there(page):
    assert all((DOCS / target).is_file() for target in LINK.findall((DOCS / page).read_text(encoding="utf-8")))
