"""The site: every public name is documented, the parts written from the code are whole, and it builds strictly."""

from __future__ import annotations

import runpy
import subprocess
import sys

import pytest

from senet import cli
from tests.pages import DOCS

pytest.importorskip("lightning", reason="the extra 'study' is not installed")


@pytest.fixture(scope="module")
def site():
    return runpy.run_path(str(DOCS / "site_pages.py"))


def test_every_public_name_has_a_docstring(site):
    assert site["undocumented"]() == []


@pytest.mark.parametrize(("page", "module"), [("api", "senet"), ("study", "senet.study")])
def test_every_public_name_is_on_its_page(site, page, module):
    text = site["written"]((DOCS / "reference" / f"{page}.md").read_text())
    for name in __import__(module, fromlist=["x"]).__all__:
        assert text.count(f":: {module}.{name}\n") == 1, name


def test_every_verb_is_there_with_its_own_help(site):
    text = site["verbs"]()
    for verb in cli.VERBS:
        assert f"## senet {verb}\n\n```text\nusage: senet {verb} [-h]" in text


def test_every_recipe_and_knob_is_there(site):
    from senet.study import Recipe, recipes

    text = site["recipes"]()
    assert all(f"### {name}\n" in text for name in recipes())
    assert all(f"| `{name}` |" in text for name in Recipe.__dataclass_fields__)


@pytest.mark.long
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="the extra 'docs' is not installed")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-W",
            "--keep-going",
            "-q",
            "-b",
            "html",
            "-d",
            tmp_path / "trees",
            DOCS,
            tmp_path / "html",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "From the same seeds" not in done.stderr
    for page in ("index", "search"):  # what Furo's pages lack for screen readers, if its markup is still the same
        text = (tmp_path / "html" / f"{page}.html").read_text()
        assert text.count('<div role="region" aria-label="Page tools"><a href="#" class="back-to-top') == 1
        assert text.count('</div><article role="main"') == text.count("<h1>") == 1
    text = (tmp_path / "html" / "notebooks" / "open-the-gates.html").read_text()
    assert "digits are right" in text
    assert "layer3.2.bn2.se at its mean" in text
