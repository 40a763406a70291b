"""The report of a comparison, and of several on one page."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

from senet.cost.tables import comparison_table
from senet.study import StudyError, compare
from senet.study.comparison.pages import read_comparison, several_page, write_comparison, write_several
from tests.browser import complaints, opened, requests
from tests.pages import unexplained

SHORT = {"epochs": 2, "batch_size": 8, "lr": 0.05, "devices": "cpu", "progress": False}
EVIL = "<script>alert(1)<_script>$x^{&"


def head(path):
    with path.open() as file:
        return next(csv.reader(file))


@pytest.fixture
def compared(tiny, paint, tmp_path):
    data = paint({f"train/{EVIL}": 12, "train/light": 12, f"val/{EVIL}": 4, "val/light": 4}, root=f"a {EVIL}")
    return compare(tiny, data, out=tmp_path / "study", seeds=2, **SHORT)


def test_the_report_of_a_comparison(compared, chromium):
    path = compared.folder / "report.html"
    before = path.read_bytes()
    opened(chromium, path)
    assert complaints(chromium) == []
    assert requests(chromium) == [path.as_uri()]
    text = chromium.find_element("tag name", "body").text
    assert compared.verdict in text
    assert EVIL in text
    for label in ("accuracy on val images (%)", "training loss (cross entropy, nats)", "epoch", "points"):
        assert label in text
    with (compared.folder / "accuracy.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["plain (fraction)"]) for row in rows] == list(compared.plain.accuracy)
    with (compared.folder / "means.csv").open() as file:
        means = list(csv.DictReader(file))
    assert [row["mean (fraction)"] for row in means[:2]] == [str(compared.plain.mean), str(compared.se.mean)]
    assert all("fraction" in name for name in list(means[0])[1:])
    assert means[0]["sd (fraction)"] == str(compared.plain.sd)
    ends = [means[3][f"95 % interval, {end} (fraction)"] for end in ("low", "high")]
    assert ends == [str(compared.over_images.low), str(compared.over_images.high)]
    with (compared.folder / "cost.csv").open() as file:
        costs = list(csv.DictReader(file))
    assert costs[0]["plain"] == str(compared.plain.cost.parameters)
    terminal = comparison_table(compared.plain.cost, compared.se.cost, "", compared.block)
    named = [row["of one image"].removesuffix(" (bytes)") for row in costs]
    assert named == [row[0] for row in terminal.rows]
    html = path.read_text()
    assert all(f">{difference}</td>" in html.replace("\xa0", " ") for *_, difference in terminal.rows if difference)
    assert head(compared.folder / "cost.csv") == ["of one image", "plain", "with SE", "difference (fraction)"]
    assert head(compared.folder / "difference.csv") == ["seed", "plain (fraction)", "with SE (fraction)"]
    assert write_comparison(read_comparison(compared.folder)).read_bytes() == before  # the folder has all of it


def test_several_comparisons_on_one_page(compared, chromium, tmp_path):
    copy = tmp_path / "other" / "study"
    shutil.copytree(compared.folder, copy)
    path = write_several([compared.folder, copy], tmp_path / "a" / "page")
    opened(chromium, path)
    assert complaints(chromium) == []
    assert requests(chromium) == [path.as_uri()]
    rows = chromium.find_elements("css selector", "table")[0].find_elements("css selector", "tbody tr")
    assert len(rows) == 2
    assert rows[1].text.startswith("other/study")
    assert len(chromium.find_elements("css selector", "figure svg")) == 5
    assert not unexplained(path.parent)
    assert head(path.parent / "differences.csv") == [
        "comparison",
        "difference (fraction)",
        *(f"{end} over {what} (fraction)" for what in ("seeds", "images") for end in ("low", "high")),
    ]
    facts = [each.text for each in chromium.find_elements("css selector", "dl")]
    assert [each.split("\n")[:2] for each in facts[::2]] == [["run", rows[0].text.split()[0]], ["run", "other/study"]]


def test_what_is_to_be_known_of_each_comparison_stands_on_the_page_of_several(tiny, pictures, tmp_path):
    shutil.copy(pictures / "train/dark/000.png", pictures / "val/dark/copy.png")
    (pictures / "val/dark/notes.txt").write_text("of the light")
    compare(tiny, pictures, out=tmp_path / "study", seeds=1, **SHORT)
    result = tmp_path / "study/result.json"
    found = json.loads(result.read_text()) | {"seeds": [0], "missing": ["plain-1"]}
    result.write_text(json.dumps(found))
    text = write_several([tmp_path / "study"], tmp_path / "page").read_text()
    for words in (found["verdict"], "Not finished yet: plain-1.", *found["notes"], "1 file was skipped:", "notes.txt"):
        assert words in text


def test_what_is_no_comparison(compared, tmp_path):
    with pytest.raises(StudyError, match="cannot be read"):
        read_comparison(tmp_path)
    with pytest.raises(StudyError, match="holds no finished comparison"):
        read_comparison(compared.folder / "se-0")
    with pytest.raises(StudyError, match="is the folder of a training or a study"):
        write_several([compared.folder], compared.folder)
    result, metrics = compared.folder / "result.json", compared.folder / "metrics.csv"
    content, rows = json.loads(result.read_text()), metrics.read_text()
    for change, words in (
        ({"machine": []}, r"result.json, machine holds \[\] where"),
        ({"settings": "x"}, "result.json, settings holds 'x' where"),
        ({"plain": {**content["plain"], "seconds": [0, 0]}}, "no finished comparison .ZeroDivisionError"),
        ({"plain": {**content["plain"], "accuracy": [0.5, 0.7]}}, "its differences are not those of its accuracies"),
    ):
        result.write_text(json.dumps(content | change))
        with pytest.raises(StudyError, match=words):
            write_several([compared.folder], tmp_path / "page")
    result.write_text("[]")
    with pytest.raises(StudyError, match=r"result.json holds \[\] where fields with names should be"):
        write_several([compared.folder], tmp_path / "page")
    result.write_text(json.dumps(content))
    for edited in (rows.rpartition("se,1,2")[0], rows.replace("train_loss", "loss")):
        metrics.write_text(edited)
        with pytest.raises(StudyError, match=r"metrics\.csv does not hold the same epochs of every run"):
            write_several([compared.folder], tmp_path / "page")
    assert not (tmp_path / "page").exists()
    with pytest.raises(ValueError, match="at least one"):
        several_page([])
