"""The guide for learners: the code of every page runs as it stands, and says what the page says it says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from tests import pages

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide"
PAGES = sorted(GUIDE.glob("[1-9]-*.md"))

pytest.importorskip("lightning", reason="the extra 'study' is not installed")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which somebody reads the guide, page after page."""
    return tmp_path_factory.mktemp("desk")


def test_the_index_names_every_page():
    assert [f"{page.name}" for page in PAGES] == re.findall(r"^\d\. \[.*?\]\((.*?)\)", index(), re.MULTILINE)
    assert len(PAGES) == 6


def index() -> str:
    return (GUIDE / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_and_prints_what_the_page_says(page, desk, monkeypatch):
    """The pages are read in order: what one leaves in the folder the next may use."""
    if page.stem == "5-explain" and not (desk / "runs").exists():
        run(PAGES[3], desk, monkeypatch)
    for code, printed, expected in run(page, desk, monkeypatch):
        if expected is not None:
            assert printed.rstrip() == expected.rstrip(), code


def run(page, desk, monkeypatch):
    """Each block of code, what it printed, and the output that the page shows for it (not where it is measured)."""
    monkeypatch.chdir(desk)
    done = pages.run(page)
    assert done
    return done


@pytest.mark.parametrize("page", [*PAGES, GUIDE / "README.md"], ids=lambda page: page.stem)
def test_links_and_pictures_are_there(page):
    text = page.read_text(encoding="utf-8")
    for words, target in re.findall(r"!?\[([^\]]*)\]\(([^)]+)\)", text):
        if not target.startswith("https://"):
            assert (GUIDE / target).is_file(), target
        assert words
    for _, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text):
        assert (GUIDE / target).stat().st_size < 400 * 1024
    assert max(map(len, text.splitlines())) <= 220


def test_every_picture_is_drawn_and_shown(tmp_path):
    script = runpy.run_path(str(GUIDE / "pictures.py"))
    script["draw"](tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    there = {path.name for path in (GUIDE / "pictures").iterdir()}
    assert there == drawn | {f"{name}.svg" for name in script["MEASURED"]}
    shown = {name for page in PAGES for name in re.findall(r"\(pictures/(.*?)\)", page.read_text(encoding="utf-8"))}
    assert shown == there


def test_the_guide_counts_its_trainings(desk, monkeypatch, capsys):
    from senet import cli

    monkeypatch.chdir(desk)
    text = PAGES[5].read_text(encoding="utf-8")
    sentences = ("The first trains six networks", "The second trains nine")
    for (_, words), said in zip(pages.commands(PAGES[5]), sentences, strict=False):
        assert cli.main([*words, "--list-cells"]) == 0
        assert said in text
        assert len(capsys.readouterr().out.splitlines()) == {"six": 6, "nine": 9}[said.split()[3]]


def test_commands_of_the_guide_can_be_typed():
    from senet import cli, flags

    commands = [words for page in PAGES for _, words in pages.commands(page)]
    assert len(commands) >= 4
    for words in commands:
        flags.parse(cli.VERBS, "", "", words)
