"""Judgements of several folders on one page."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from senet.errors import StudyError
from senet.extras import how_to_install
from senet.files.run_folder import read_csv
from senet.study import judge
from senet.study.comparison.pages import write_several
from senet.study.judging.judgement import judgement_page, write_judgement
from senet.study.judging.several import read_judgement
from tests.pages import unexplained


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two judgements whose scores are known: in points, and an error of about ten million."""

    def train(cell):
        cell.put(nn.Sequential(nn.Conv1d(1, 8, 3), nn.BatchNorm1d(8), nn.ReLU()), torch.zeros(2, 1, 4))
        score = scale * (1 + cell.seed / 100 + (0.5 + cell.seed / 50) * (cell.arm == "se"))
        return {"score": score, "each": {"a": score, "b": score}}

    root, folders = tmp_path_factory.mktemp("judged"), []
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(sys.modules[judge.__module__], "write_judgement", lambda found: "")
    for scale, how in ((40.0, {"unit": "points"}), (1e7, {"score": "error", "higher_is_better": False})):
        folders.append(root / f"of {scale:g}")
        judge(train, out=folders[-1], seeds=3, version=f"{scale}", devices="cpu", progress=False, **how)
    monkeypatch.undo()
    return folders


@pytest.fixture
def judged(made, tmp_path):
    return [Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in made]


def test_a_judgement_is_read_as_it_was_written(judged):
    for folder in judged:
        found = read_judgement(folder)
        assert found.to_json() == json.loads((folder / "result.json").read_text())
        assert (found.folder, found.se.name, found.verdict.examples.images) == (folder, "with SE", 2)


def test_without_jinja2_no_report_is_promised(judged, monkeypatch):
    found = read_judgement(judged[0])
    assert write_judgement(found) == ""
    assert f"Report: {judged[0]}/report.html" in str(found)
    (judged[0] / "report.html").unlink()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    told = write_judgement(found)
    assert told == f"There is no report.html, as jinja2 is not installed: {how_to_install('study')}"
    assert "Report:" not in str(found)


def test_judgements_stand_side_by_side_each_in_its_unit(judged, tmp_path):
    text = write_several(judged, tmp_path / "page").read_text()
    rows = read_csv(tmp_path / "page/judgements.csv")
    assert [(row["judgement"], row["unit"], row["difference shown"]) for row in rows] == [
        ("of 40", "points", "yes"),
        ("of 1e+07", "", "yes"),
    ]
    assert [float(row["difference"]) for row in rows] == pytest.approx([40 * 0.52, 1e7 * 0.52])
    ends = [[float(row[f"interval over seeds, {end}"]) for end in ("low", "high")] for row in rows]
    of = [read_judgement(folder).verdict.difference for folder in judged]
    assert ends == [[each.low, each.high] for each in of]
    assert "SE is better by 21 points (51 %)" in text
    assert "SE is worse by 5,200,000 (51 %)" in text or "SE is worse by 5200000 (51 %)" in text
    for number in ("0", "1"):
        assert (tmp_path / f"page/{number}_scores.csv").is_file()
    assert not unexplained(tmp_path / "page", unit="points")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seeds": [0]}, "its differences are not those of its scores"),
        ({"plain": {"scores": [1, 2, "x"], "seconds": [1, 1, 1]}}, "scores"),
        ({"settings": {}}, "holds no finished judgement"),
        ({"machine": []}, "machine holds"),
    ],
)
def test_a_judgement_that_was_edited_is_named(judged, tmp_path, change, words):
    file = judged[0] / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(StudyError, match=words):
        write_several(judged[:1], tmp_path / "page")
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize(("confidence", "wider"), [(0.98, True), (0.95, False)])
def test_a_page_says_how_wide_its_intervals_are(judged, confidence, wider):
    found = read_judgement(judged[0])
    of = dataclasses.replace(found.verdict.difference, confidence=confidence)
    page = judgement_page(dataclasses.replace(found, verdict=dataclasses.replace(found.verdict, difference=of)))
    text = page.sections[0].parts[-1].text
    assert f"a t interval of {100 * confidence:g} %. " in text
    assert ("wider than the usual 95 %" in text) is wider


def test_comparisons_and_judgements_are_not_drawn_on_one_page(judged, tmp_path):
    (tmp_path / "compared").mkdir()
    (tmp_path / "compared/result.json").write_text('{"plain": {}, "se": {}}')
    with pytest.raises(StudyError, match="compared is not: draw comparisons and judgements on pages of their own"):
        write_several([judged[0], tmp_path / "compared"], tmp_path / "page")
    (tmp_path / "compared/result.json").write_text('{"study": "ablation", "cells": {}}')
    with pytest.raises(StudyError, match="compared holds no finished comparison: give folders that compare wrote, or"):
        write_several([tmp_path / "compared"], tmp_path / "page")
