"""One table drawn four ways, and the forest plot: what people read and what the data hold."""

from __future__ import annotations

import csv
import io

import pytest

from senet.console.display import plain_text
from senet.report import Cell, Column, Page, Section, Series, Table, cell, forest, render

TABLE = Table(
    "scores",
    "Scores",
    [
        Column("variant", number=False),
        Column("accuracy (%)", csv="accuracy (fraction)", short="acc."),
        Column("sd (fraction)", shown=False),
        Column("blocks", short=""),
        Column("in words", csv="", short=""),
    ],
    [
        ["a|b", Cell("93.10 (91 to 95)", 0.931, "93.10"), cell(0.01), 3, "good"],
        ["plain", cell(None), None, None, None],
    ],
)


def test_a_terminal_has_the_short_texts():
    lines = [line.split() for line in plain_text(TABLE).splitlines()]
    assert lines == [["Scores"], ["variant", "acc."], [lines[2][0]], ["a|b", "93.10"], ["plain", "–"]]


def test_names_are_shown_as_they_are():
    """No emoji in place of a name, and no control sequence in the title, which may name a folder."""
    table = Table.of("on \x1b[31m:cat:", ("[b]", ":dog:"), [(":a:", "x")], numbers=range(0))
    lines = plain_text(":cat: [b]", table).splitlines()
    assert [lines[0], lines[1], lines[2].split(), lines[4].split()] == [
        ":cat: [b]",
        r"on \x1b[31m:cat:",
        ["[b]", ":dog:"],
        [":a:", "x"],
    ]


def test_markdown():
    assert TABLE.markdown().splitlines() == [
        "| variant | acc. |",
        "| --- | ---: |",
        r"| a\|b | 93.10 |",
        "| plain | – |",
    ]


def test_csv_holds_fractions_under_heads_that_say_so():
    assert list(csv.reader(io.StringIO(TABLE.csv()))) == [
        ["variant", "accuracy (fraction)", "sd (fraction)", "blocks"],
        ["a|b", "0.931", "0.01", "3"],
        ["plain", "", "", ""],
    ]


def test_a_page_has_the_long_texts():
    pytest.importorskip("jinja2")
    html = render(Page("t", [], [Section("s", [TABLE])]))
    assert html.count("<th ") == 4
    assert ">good<" in html
    assert 'data-value="0.931">93.10 (91\xa0to\xa095)<' in html
    assert ">sd (fraction)<" not in html
    assert "accuracy (%)" in html


def test_a_forest_has_a_row_for_each_name():
    pytest.importorskip("matplotlib")
    both = [
        Series("over seeds", [(0.01, 0.0, 0.02), (0.03, None, None)], "#D55E00", single=[[0.01], [0.02, 0.04]]),
        Series("over images", [(0.01, -0.01, 0.03), None], "#0072B2"),
    ]
    figure = forest(["one", "other"], both, xlabel="points", scale=100)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "other"]
    assert [text.get_text() for legend in figure.legends for text in legend.get_texts()] == [
        "over seeds",
        "over images",
    ]
    ends = [line.get_segments()[0][:, 0].tolist() for line in axes.collections]
    assert ends == [pytest.approx([0, 2]), pytest.approx([-1, 3])]
    points = [tuple(each.lines[0].get_xydata()[0]) for each in axes.containers]
    assert points == [
        pytest.approx(each) for each in ((1, -0.11), (1, 0.11), (3, 1))
    ]  # one beside the other, one alone
