"""A report: one file that asks for nothing, whose tables sort and whose names are only names."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from urllib.parse import unquote

import pytest

from senet.report import (
    Cell,
    Chart,
    Column,
    Facts,
    Page,
    Section,
    Series,
    Table,
    Text,
    drawing,
    forest,
    machine_facts,
    render,
    settings_facts,
    write_page,
)
from senet.report.figures import short
from tests.browser import complaints, opened, printed, requests

EVIL = "<script>document.title='taken'</script>\"'&$x^{$<img src=x onerror=alert(1)>"


def chart(name="curve", label="a"):
    with drawing():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4, 2), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1, 2], [1, 3, 2], label=label)
        axes.set_xlabel("epoch")
        axes.set_title(label)
        axes.legend()
    return Chart(name, f"How {label} went", figure, [{"x": 0, "y": 1.5}, {"x": 1, "y": None}], "a note")


def page(name="a"):
    table = Table(
        "scores",
        f"Scores of {name}",
        [Column("class", number=False), Column("accuracy (%)", help=f"of {name}"), Column("seeds")],
        [[name, Cell("93.10 %", 0.931), 3], ["b10", Cell("9.50 %", 0.095), 12], ["b9", Cell("–"), None]],
        note=name,
    )
    parts = [Text(f"About {name}."), Facts([(name, name)]), table, chart(label=name), chart("second", name)]
    return Page(f"Report on {name}", [f"{name} is better."], [Section(f"Part {name}", parts)], f"senet x --data {name}")


def test_names_from_users_are_only_names():
    html = render(page(EVIL))
    assert html.count("<script>") == 1  # ours
    assert "<img" not in html
    assert "&lt;script&gt;document.title" in html


def test_a_figure_follows_the_text_and_keeps_its_ids_to_itself():
    html = render(page())
    assert html.count("<svg ") == 2
    drawn = html[html.index("<svg ") : html.rindex("</svg>")]
    assert "#000000" not in drawn
    assert "currentColor" in drawn
    ids = [part.split('"')[0] for part in html.split(' id="')[1:]]
    assert len(ids) == len(set(ids))
    used = {part.split(")")[0] for part in html.split("url(#")[1:]}
    used |= {part.split('"')[0] for part in html.split('href="#')[1:]}
    assert used <= set(ids)
    for part in html.split("<svg ")[1:]:
        svg = ET.fromstring(f"<svg {part.split('</svg>')[0]}</svg>")
        assert svg.attrib["aria-label"].startswith("How a went")


def test_the_files_beside_it(tmp_path):
    path = write_page(page(EVIL), tmp_path)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"report.html", "scores.csv"} | {
        f"{name}.{kind}" for name in ("curve", "second") for kind in ("png", "svg", "csv")
    }
    rows = list(csv.reader(io.StringIO((tmp_path / "scores.csv").read_text())))
    assert rows[1:] == [[EVIL, "0.931", "3"], ["b10", "0.095", "12"], ["b9", "", ""]]
    assert (tmp_path / "curve.csv").read_text() == "x,y\n0,1.5\n1,\n"
    before = path.read_bytes()
    write_page(page(EVIL), tmp_path)
    assert path.read_bytes() == before  # the same report, the same file


def test_a_path_that_is_not_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    assert short(name) == r"caf\udce9"
    given = page(name)
    (section,) = given.sections
    parts = [*section.parts[:3], chart(label=short(name))]
    html = write_page(dataclasses.replace(given, sections=[Section(name, parts)]), tmp_path).read_text("utf-8")
    assert html.count(r"caf\udce9") > 8
    assert r"caf\udce9,0.931,3" in (tmp_path / "scores.csv").read_text("utf-8")


def test_parts_have_names_of_their_own(tmp_path):
    same = Page("t", [], [Section("s", [chart("one"), chart("one")])])
    with pytest.raises(ValueError, match="'one'; names are unique"):
        write_page(same, tmp_path)
    with pytest.raises(ValueError, match=r"'\.\./one'"):
        write_page(Page("t", [], [Section("s", [chart("../one")])]), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_page_in_a_browser(chromium, tmp_path):
    opened(chromium, write_page(page(EVIL), tmp_path))
    assert complaints(chromium) == []
    assert requests(chromium) == [(tmp_path / "report.html").as_uri()]
    assert chromium.title == f"Report on {EVIL}"  # nothing of it ran
    assert chromium.find_element("css selector", "h1").text == f"Report on {EVIL}"
    assert chromium.find_elements("css selector", "img") == []

    def column(n):
        return [each.text for each in chromium.find_elements("css selector", f"tbody td:nth-child({n})")]

    class_, accuracy, seeds = chromium.find_elements("css selector", "th button")
    accuracy.click()
    assert column(2) == ["9.50 %", "93.10 %", "–"]
    accuracy.click()
    assert column(2) == ["93.10 %", "9.50 %", "–"]
    assert accuracy.find_element("xpath", "..").get_attribute("aria-sort") == "descending"
    seeds.click()
    assert column(3) == ["3", "12", "–"]
    class_.click()
    assert column(1) == [EVIL, "b9", "b10"]  # as people count
    links = chromium.find_elements("css selector", "a[download]")
    assert [link.get_attribute("download") for link in links] == ["scores.csv", "curve.csv", "second.csv"]
    data = unquote(links[0].get_attribute("href").partition(",")[2])
    assert data == (tmp_path / "scores.csv").read_text()
    assert complaints(chromium) == []


def test_light_dark_and_print(chromium, tmp_path):
    opened(chromium, write_page(page(), tmp_path))
    grounds = {}
    for media, features in (
        ("", [{"name": "prefers-color-scheme", "value": "light"}]),
        ("", [{"name": "prefers-color-scheme", "value": "dark"}]),
        ("print", [{"name": "prefers-color-scheme", "value": "dark"}]),
    ):
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
        colours = chromium.execute_script(
            "const b = getComputedStyle(document.body), t = getComputedStyle(document.querySelector('svg text'));"
            "return [b.backgroundColor, b.color, t.fill]"
        )
        grounds[media, features[0]["value"]] = colours
        assert colours[1] == colours[2]  # a figure's text is the page's
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    assert grounds["", "light"][0] == grounds["print", "dark"][0] == "rgb(255, 255, 255)"
    assert grounds["", "dark"][0] != "rgb(255, 255, 255)"


def test_settings_are_written_as_people_write_them():
    given = {
        "weights": {"name": None, "content": None},
        "model": {"name": "resnet20", "content": "sha256 12"},
        "recipe": {"batch_size": 64, "lr": 0.05, "nesterov": True, "se_lr": None, "milestones": [], "clip": False},
        "mean": [0.485, 0.456],
        "sites": ["layer1.0", "layer1.1"],
        "se": None,
    }
    assert dict(settings_facts(given).rows) == {
        "weights": "none",
        "model": "resnet20",
        "recipe": "batch size 64, lr 0.05, nesterov yes, clip no",
        "mean": "0.485 0.456",
        "sites": "layer1.0, layer1.1",
    }
    assert dict(machine_facts({"cores": 2, "command": "senet x"}).rows) == {"cores": "2"}


WIDE = Table(
    "wide",
    "A wide table",
    [Column("name", number=False), *(Column(f"a long heading number {n}") for n in range(12))],
    [[f"row-{row}", *(Cell("12,345,678", 1.0) for _ in range(12))] for row in range(60)],
    foot=[["mean", *(Cell("1", 1.0) for _ in range(12))]],
)


def test_a_foot_is_shown_and_stays_below_and_is_not_in_the_data(chromium, tmp_path):
    opened(chromium, write_page(Page("t", [], [Section("s", [WIDE])]), tmp_path))
    chromium.find_element("css selector", "th button").click()
    chromium.find_element("css selector", "th button").click()
    assert [each.text for each in chromium.find_elements("css selector", "tfoot td:first-child")] == ["mean"]
    assert len(chromium.find_elements("css selector", "tbody tr")) == 60
    assert "mean" not in (tmp_path / "wide.csv").read_text()
    assert "| mean |" in WIDE.markdown()


def test_on_a_phone_nothing_is_off_screen_and_the_first_column_stays(chromium, tmp_path):
    facts = Facts([("a setting", "batch size 64, decay norms and biases yes, " * 8), ("b", "n" * 100)])
    parts = [WIDE, facts, chart(), Text("word " * 80)]
    chromium.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        opened(chromium, write_page(Page("A title of a page", ["Better."], [Section("s", parts)], "senet x"), tmp_path))
        off = chromium.execute_script(
            "return [...document.querySelectorAll('body *')].filter(e => !e.closest('.table, .drawing'))"
            ".filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)"
        )
        assert off == []
        assert chromium.execute_script("return document.documentElement.scrollWidth") == 390
        chromium.execute_script("document.querySelector('.table').scrollLeft = 500")
        first, second = chromium.find_elements("css selector", "tbody tr:first-child td")[:2]
        assert first.rect["x"] >= 0
        assert second.rect["x"] < 0
        broken = chromium.execute_script(  # a word of the settings that stands on two lines
            "const dd = document.querySelector('dd'), text = dd.firstChild, found = [];"
            "for (const word of text.data.matchAll(/\\S+/g)) {"
            "  const range = document.createRange();"
            "  range.setStart(text, word.index); range.setEnd(text, word.index + word[0].length);"
            "  if (range.getClientRects().length > 1) found.push(word[0]); }"
            "return found"
        )
        assert broken == []
        text = chromium.find_element("css selector", ".drawing svg text")
        assert text.rect["height"] >= 8
    finally:
        chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_print_has_no_empty_first_page(chromium, tmp_path):
    """Title and first table share a page: a short report is one page, however tall its first figure."""

    def pages_of(*parts):
        opened(chromium, write_page(Page("t", ["Better."], [Section("s", parts)], "senet x"), tmp_path))
        return len(re.findall(rb"/Type\s*/Page\b(?!s)", printed(chromium)))

    small = Table("small", "A table", [Column("a"), Column("b")], [[1, 2], [3, 4]])
    assert pages_of(small) == 1
    assert pages_of(chart()) == 1
    tall = chart("tall")
    tall.figure.set_size_inches(8, 14)
    assert pages_of(tall) == 1
    assert pages_of(small, WIDE) == pages_of(WIDE)
    wide = [chart(name) for name in ("one", "two", "three")]
    for each in wide:
        each.figure.set_size_inches(10, 3)
    assert pages_of(*wide[:2]) == 1
    assert pages_of(*wide) == 2
    facts = Facts([(f"setting {n}", "a value") for n in range(30)])
    assert pages_of(small, facts) == 1


def test_print_repeats_the_headings_on_every_page(chromium, tmp_path):
    if not shutil.which("pdftotext"):
        pytest.skip("needs pdftotext (poppler-utils), which is not on this machine")
    rows = [[f"row-{row}", row] for row in range(90)]
    long = Table("long", "A long table", [Column("name", number=False), Column("what is counted")], rows)
    opened(chromium, write_page(Page("t", [], [Section("s", [long])]), tmp_path))
    (tmp_path / "t.pdf").write_bytes(printed(chromium))
    text = subprocess.run(["pdftotext", "-layout", tmp_path / "t.pdf", "-"], capture_output=True, text=True, check=True)
    pages = text.stdout.removesuffix("\f").split("\f")
    assert len(pages) > 1
    assert [page.count("what is counted") for page in pages if "row-" in page] == [1] * len(pages)


@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing_in_light_and_dark(chromium, tmp_path, width):
    axe_selenium = pytest.importorskip("axe_selenium_python", reason="needs axe-selenium-python (extra 'dev')")
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width == 390}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        opened(chromium, write_page(page(), tmp_path))
        axe = axe_selenium.Axe(chromium)
        axe.inject()
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
            assert [(each["id"], each["nodes"]) for each in axe.run()["violations"]] == []
    finally:
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
        chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_number_is_not_broken_within_itself_or_within_its_interval():
    rows = [["a to b", Cell("−3.76 (−62.27 to +54.75)", 1.0)], ["c", Cell("58.08 ± 18.32 %", 0.58)]]
    html = render(Page("t", [], [Section("s", [Table("t", "t", [Column("n", number=False), Column("x")], rows)])]))
    assert ">−3.76 (−62.27\xa0to\xa0+54.75)</td>" in html
    assert ">58.08\xa0±\xa018.32\xa0%</td>" in html
    assert ">a to b</td>" in html


def test_what_no_font_has_is_spelt_out_in_a_png_and_text_in_an_svg(tmp_path, monkeypatch):
    """Two classes in a script that this machine has no font for are told apart, and nobody is warned."""
    from senet.report import figures

    monkeypatch.setattr(figures, "_drawable", lambda: frozenset(range(32, 127)))
    figure = forest(["猫", "🐕 x", "plain"], [Series("", [(0.0, None, None)] * 3, "#000000")], xlabel="")
    (axes,) = figure.axes

    def names():
        return [axes.yaxis.get_major_formatter()(tick) for tick in axes.get_yticks()]

    with figures._spelt_out(figure):
        assert names() == ["[U+732B]", "[dog] x", "plain"]
    assert names() == ["猫", "🐕 x", "plain"]
    for kind in ("png", "svg"):
        figures.save_figure(figure, tmp_path / f"figure.{kind}")
    assert "猫" in (tmp_path / "figure.svg").read_text("utf-8")
    assert names() == ["猫", "🐕 x", "plain"]


def test_a_command_is_broken_between_its_words_alone():
    text = render(Page("t", [], [Section("s", [Text("x")])], "senet compare --data 'my <photos>' --out runs"))
    assert "<span>--data</span> <span>&#39;my</span> <span>&lt;photos&gt;&#39;</span> <span>--out</span>" in text
