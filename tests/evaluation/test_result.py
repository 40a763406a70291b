import csv
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.functional.classification import multiclass_calibration_error

from senet.data.images import ArrayImages
from senet.data.sources import (
    DataSource,
    open_data,
)
from senet.data.unreadable import BadFile
from senet.errors import DataError, StudyError
from senet.evaluation.classwise import class_results, confusion_of
from senet.evaluation.evaluate import evaluate
from senet.evaluation.logits import Predictions, most_probable
from senet.evaluation.predict import predict
from senet.evaluation.reliability import bins_of, calibration_error
from senet.files.tables import write_table
from senet.training.train import train
from senet.zoo import create
from tests.data.realfolder import lay_real_folder
from tests.pages import undocumented

QUIET = {"devices": "cpu", "workers": 0, "progress": False}


def _rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _said(probabilities, labels):
    highest = probabilities.topk(min(5, probabilities.shape[1]))
    return Predictions(labels, highest.indices, highest.values, 0.0, probabilities.shape[1])


def _random(count=500, classes=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    probabilities = (3 * torch.randn(count, classes, generator=generator)).softmax(1)
    labels = torch.where(
        torch.rand(count, generator=generator) < 0.6,
        probabilities.argmax(1),
        torch.randint(classes, (count,), generator=generator),
    )
    return probabilities, labels


@pytest.mark.parametrize("seed", range(3))
def test_the_bins_make_the_calibration_error_of_torchmetrics(seed):
    probabilities, labels = _random(seed=seed)
    said = _said(probabilities, labels)
    bins = bins_of(said)
    assert sum(b.count for b in bins) == 500
    expected = multiclass_calibration_error(probabilities, labels, num_classes=7, n_bins=15, norm="l1").item()
    assert calibration_error(bins) == pytest.approx(expected, abs=1e-6)
    assert all(b.low - 1e-6 <= b.confidence <= b.high + 1e-6 for b in bins if b.count)


def test_certain_answers_are_in_the_last_bin():
    said = _said(torch.eye(3), torch.tensor([0, 1, 0]))
    (last,) = [b for b in bins_of(said) if b.count]
    assert (last.high, last.count, last.confidence, last.accuracy) == (1.0, 3, 1.0, pytest.approx(2 / 3))


def test_certain_answers_count_in_the_bin_that_the_table_has_them_in():
    said = Predictions(torch.tensor([0, 1]), torch.tensor([[0], [0]]), torch.tensor([[0.95], [1.0]]), 0.0, 2)
    (last,) = [b for b in bins_of(said) if b.count]
    assert calibration_error([last]) == pytest.approx(0.475)  # of 0.975 and 0.5; torchmetrics has (0.05 + 1) / 2
    assert calibration_error(bins_of(said)) == calibration_error([last])


@pytest.mark.parametrize("function", [evaluate, predict])
def test_scores_that_are_not_numbers_are_no_answer(pictures, function):
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    nn.init.constant_(network[2].bias, math.nan)
    data = pictures if function is evaluate else pictures / "val"
    with pytest.raises(StudyError, match="scores of 8 of 8 images are not finite, and have no highest: its training"):
        function(network, data, **QUIET)


def test_classes_that_do_not_occur_are_in_no_table():
    top = torch.tensor([[900, 7, 3], [7, 3, 900], [3, 7, 900], [7, 900, 3]])
    said = Predictions(torch.tensor([900, 7, 7, 900]), top, torch.full((4, 3), 0.3), 0.0, 1000)
    confusion = confusion_of(said, {7: "cat", 900: "cat"}.get)
    assert confusion.indices == (3, 7, 900)
    assert confusion.counts.tolist() == [[0, 0, 0], [1, 1, 0], [0, 1, 1]]
    cat, other = class_results(said, confusion)
    assert (cat.index, cat.images, cat.top1, cat.top5, cat.precision, cat.mistaken_for) == (7, 2, 0.5, 1.0, 0.5, None)
    assert (other.index, other.precision, other.mistaken_for) == (900, 1.0, "cat")


def test_equal_names_stay_two_columns():
    said = Predictions(torch.tensor([0, 1]), torch.tensor([[0], [1]]), torch.ones(2, 1), 0.0, 2)
    rows = confusion_of(said, lambda _: "crane").rows()
    assert rows == [
        {"class": "crane (0)", "crane (0)": 1, "crane (1)": 0},
        {"class": "crane (1)", "crane (0)": 0, "crane (1)": 1},
    ]
    rows = confusion_of(said, ("class", "crane").__getitem__).rows()
    assert rows[0] == {"class": "class (0)", "class (0)": 1, "crane": 0}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_what_was_measured_is_written(tiny, paint, tmp_path, kind):
    folder = paint({"train/a$b": 6, "train/日本": 6, "train/c, d": 6, "val/a$b": 4, "val/日本": 3, "val/c, d": 2})
    (folder / "val/日本/000.png").write_bytes(b"broken")
    train(tiny, folder, out=tmp_path / "run", epochs=1, batch_size=8, lr=0.1, devices="cpu", progress=False)
    out = tmp_path / "out/deep"
    found = evaluate(tiny, folder, weights=tmp_path / "run", out=out, predictions=kind, **QUIET)
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [f"predictions.{kind}", "confusion.csv", "per_class.csv", "calibration.csv", "result.json"]
        + [f"{name}.{ending}" for name in ("confusion", "reliability") for ending in ("png", "svg")]
    )
    assert not undocumented(out / "result.json")
    told = json.loads((out / "result.json").read_text())
    assert (told["images"], told["top1"], told["top5"]) == (8, found.top1, 1.0)
    assert told["bad_files"] == [{"name": "val/日本/000.png", "reason": "no image of a kind that is read"}]
    assert told["calibration_error"] == pytest.approx(found.calibration_error)
    if kind == "csv":
        rows = _rows(out / "predictions.csv")
    else:
        rows = pytest.importorskip("pyarrow.parquet").read_table(out / "predictions.parquet").to_pylist()
    assert [row["image"] for row in rows] == list(found.images)
    assert sum(str(row["correct"]) == "True" for row in rows) == round(found.top1 * 8)
    assert [float(row["probability_3"]) <= float(row["probability"]) for row in rows] == [True] * 8
    confusion = _rows(out / "confusion.csv")
    assert sum(int(row[row["class"]]) for row in confusion) == round(found.top1 * 8)
    assert sum(int(value) for row in confusion for name, value in row.items() if name != "class") == 8
    per_class = _rows(out / "per_class.csv")
    assert [(row["name"], row["images"]) for row in per_class] == [("a$b", "4"), ("c, d", "2"), ("日本", "2")]
    assert sum(float(row["top1"]) * int(row["images"]) for row in per_class) == pytest.approx(found.top1 * 8)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix != ".json"}
    evaluate(tiny, folder, weights=tmp_path / "run", out=out, predictions=kind, **QUIET)  # written over
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.suffix != ".json"} == before


def test_folders_that_are_not_for_it_are_refused(tiny, pictures, tmp_path):
    train(tiny, pictures, out=tmp_path / "run", epochs=1, batch_size=8, lr=0.1, devices="cpu", progress=False)
    for out, words in (
        (tmp_path / "run", "holds a run"),
        (pictures / "out", "inside the data"),
        (tmp_path / "net.py", "cannot be written"),
    ):
        with pytest.raises(StudyError, match=words):
            evaluate(create(tiny, num_classes=2), pictures, out=out, **QUIET)
    with pytest.raises(StudyError, match="csv or parquet, not as 'xlsx'"):
        evaluate(create(tiny, num_classes=2), pictures, out=tmp_path / "out", predictions="xlsx", **QUIET)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_every_readable_image_of_a_real_folder_counts_once(tiny, tmp_path, workers):
    good, bad = lay_real_folder(tmp_path / "real")
    options = {**QUIET, "workers": workers, "size": 16, "split": "all", "batch_size": 7}
    found = evaluate(create(tiny, num_classes=2), tmp_path / "real", **options)
    assert (found.count, sorted(found.images)) == (200, good)
    assert sorted(file.name for file in found.skipped) == bad
    assert found.per_class[0].images + found.per_class[1].images == 200
    assert "40 files were skipped:" in str(found)
    one_by_one = evaluate(create(tiny, num_classes=2), tmp_path / "real", **{**options, "workers": 0})
    assert one_by_one.images == found.images
    with pytest.raises(DataError, match=r"of the 240 images .* max_bad \(39\) allows 39"):
        evaluate(create(tiny, num_classes=2), tmp_path / "real", max_bad=39, **options)


def test_nothing_readable_is_an_error(tiny, pictures):
    source = open_data(pictures)
    for file in (pictures / "val").rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"no image of .* can be read; the first: val/dark/000.png: the file is empty"):
        evaluate(create(tiny, num_classes=2), source, max_bad="100%", **QUIET)


def test_many_classes_show_the_worst_and_all_are_written(tmp_path):
    labels = [index % 30 for index in range(90)]
    images = ArrayImages(np.random.default_rng(0).integers(0, 255, (90, 8, 8, 3), dtype=np.uint8), labels)
    source = DataSource("noise", tuple(map(str, range(30))), None, images, None, native_size=8)
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 30))
    found = evaluate(network, source, out=tmp_path / "out", **QUIET)
    assert "The 20 of 30 classes that it knows least" in str(found)
    assert len((tmp_path / "out/per_class.csv").read_text().splitlines()) == 31
    assert found.top1 == float(np.mean(found.correct))


def test_an_earlier_result_does_not_stay_beside_newer_files(tiny, pictures, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/result.json").write_text('{"top1": 1}')
    (tmp_path / "out/predictions.parquet").write_text("of the earlier one")
    monkeypatch.setattr("senet.evaluation.result.write_csv", None)
    with pytest.raises(TypeError):
        evaluate(create(tiny, num_classes=2), pictures, out=tmp_path / "out", **QUIET)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.csv"]


def test_what_is_not_an_evaluations_is_left_alone(tiny, pictures, tmp_path):
    (tmp_path / "result.json").write_text('{"mine": 1}')
    with pytest.raises(StudyError, match=r"result\.json was not written by an evaluation"):
        evaluate(create(tiny, num_classes=2), pictures, out=tmp_path, **QUIET)
    with pytest.raises(StudyError, match="lies inside the data"):
        evaluate(create(tiny, num_classes=2), pictures, out=pictures / "measured", **QUIET)
    assert (tmp_path / "result.json").read_text() == '{"mine": 1}'
    assert not (pictures / "measured").exists()


def test_tables_are_csv_or_parquet(tmp_path):
    rows = [{"image": "ä.png", "error": None}, {"image": "b", "error": "empty"}]
    write_table(tmp_path / "a.csv", rows)
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == "image,error\nä.png,\nb,empty\n"
    write_table(tmp_path / "a.PARQUET", rows)
    assert pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "a.PARQUET").to_pylist() == rows
    for name, words in (("a.xlsx", "ends in .csv or .parquet"), ("nowhere/a.csv", "does not exist")):
        with pytest.raises(StudyError, match=words):
            write_table(tmp_path / name, rows)
    assert str(BadFile("a", "b")) == "a: b"


@pytest.mark.parametrize(("classes", "shown"), [(5, False), (6, True)])
def test_the_five_best_of_five_classes_are_not_shown(classes, shown):
    images = ArrayImages(np.zeros((12, 8, 8, 3), dtype=np.uint8), [index % classes for index in range(12)])
    source = DataSource("dark", tuple(map(str, range(classes))), None, images, None, native_size=8)
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, classes))
    found = evaluate(network, source, **QUIET)
    assert ("top-5" in str(found)) == shown
    assert found.to_json()["top5"] == found.top5


def test_the_most_probable_classes_are_those_of_the_highest_scores_where_probabilities_are_0():
    logits = torch.full((1, 20), -400.0)
    logits[0, 19], logits[0, :4] = 0, torch.tensor([-110.0, -111, -112, -113])  # e^-110 is 0 in float32
    probability, classes = most_probable(logits, 5)
    assert classes[0, :5].tolist()[:5] == [19, 0, 1, 2, 3]
    assert probability[0].tolist() == [1, 0, 0, 0, 0]
    assert most_probable(torch.zeros(2, 3), 5)[1].shape == (2, 3)
