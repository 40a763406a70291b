"""docs/judging.md: its code runs as it stands, in the order in which it stands."""

from __future__ import annotations

import re

from tests import pages


def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = pages.run(pages.DOCS / "judging.md")
    verdict, power = "".join(each.printed for each in done).splitlines()
    assert re.match(r"SE is (better|worse) by|No difference in mean error is shown: ", verdict)
    assert power.startswith("With this spread, 3 seeds would show a difference of ")
    assert (tmp_path / "runs/mine/report.html").is_file()
