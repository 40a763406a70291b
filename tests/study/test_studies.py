"""The studies of docs/results.md: their plan, what is kept of a run, and what the page may say when."""

from __future__ import annotations

import gzip
import json
import sys
import tarfile
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

pytest.importorskip("lightning", reason="the extra 'study' is not installed")


@pytest.fixture(autouse=True)
def scripts(monkeypatch, tmp_path):
    """The scripts, writing into a folder of the test."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import studies_page
    import studies_plan

    for module in (studies_page, studies_plan):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    yield
    for name in ("studies", "studies_data", "studies_plan", "studies_page"):
        sys.modules.pop(name, None)


def keep_made_up(cell, right):
    """A committed run of ten pictures, of which `right` are."""
    cell.folder.mkdir(parents=True)
    content = {
        "cell": cell.to_json(),
        "accuracy": right / 10,
        "seconds": 3600,
        "machine": {"processor": "a processor"},
        "cost": {"parameters": 1000, "multiply_adds": 10**6},
    }
    (cell.folder / "run.json").write_text(json.dumps(content))
    rows = ["class,predicted", *("a,a" if index < right else "a,b" for index in range(10))]
    (cell.folder / "predictions.csv.gz").write_bytes(gzip.compress("\n".join(rows).encode()))


def test_every_cell_is_a_network_of_the_zoo_with_sites(zoo_names):
    import studies_plan

    cells = studies_plan.cells()
    assert len({cell.folder for cell in cells}) == len(cells)
    assert {cell.network for cell in cells if cell.plan.weights is None} <= zoo_names
    assert min(cell.seed for cell in cells) == 10  # 0 to 2 were seen before
    for plan in studies_plan.STUDIES.values():
        compared = [arm for each in (plan.main, *plan.others) for arm in (*each.of, *each.less)]
        assert set(compared) == set(plan.arms)


@pytest.fixture
def zoo_names():
    from senet.zoo import list_models

    return set(list_models())


def test_what_is_done_comes_in_pairs():
    import studies_plan

    first = studies_plan.cells("mobile")[:3]
    assert [(cell.arm, cell.seed) for cell in first] == [("plain", 10), ("se", 10), ("plain", 11)]


def test_the_comparison_that_counts_comes_first():
    import studies_plan

    cells = studies_plan.cells("sight")
    assert {(cell.network, cell.arm) for cell in cells[:10]} == {("light_11", "plain"), ("light_11", "se")}
    assert [cell.seed for cell in cells[:4]] == [10, 10, 11, 11]
    assert len(cells) == 45


def test_no_cell_is_begun_twice(tmp_path):
    import studies
    import studies_plan

    one, two = studies_plan.cells("mobile")[:2]
    with studies.claimed(one, tmp_path) as free:
        assert free
        with studies.claimed(one, tmp_path) as again, studies.claimed(two, tmp_path) as other:
            assert (again, other) == (False, True)
    keep_made_up(one, 5)
    with studies.claimed(one, tmp_path) as free:
        assert not free


def test_the_comparison_that_counts_waits_for_its_own_runs_alone():
    import studies_page
    import studies_plan

    *others, last = studies_plan.cells("sight")[:10]
    for cell in others:
        keep_made_up(cell, {"plain": 3, "se": 8 + cell.seed % 2}[cell.arm])
    assert "shown" not in studies_page.section("sight", studies_page.read("sight"))
    keep_made_up(last, 8)
    text = studies_page.section("sight", studies_page.read("sight"))
    assert "**light_11: se − plain: better by 54.00 points.**" in text
    assert "Partial: 10 of 45 runs" in text
    assert (studies_page.RESULTS / "sight.svg").is_file()
    assert "no-squeeze − plain" not in text


def test_no_verdict_before_all_runs_are_there():
    import studies_page
    import studies_plan

    cells = studies_plan.cells("mobile")
    for cell in (*cells[:15], *cells[16:]):  # all but plain or SE of one seed
        keep_made_up(cell, 5)
    text = studies_page.section("mobile", studies_page.read("mobile"))
    assert "Partial: 23 of 24 runs" in text
    assert "shown" not in text


def test_all_runs_are_judged():
    import studies_page
    import studies_plan

    for cell in studies_plan.cells("mobile"):
        keep_made_up(cell, {"plain": 3, "se": 8 + cell.seed % 2, "no-squeeze": 3 + cell.seed % 2}[cell.arm])
    text = studies_page.section("mobile", studies_page.read("mobile"))
    assert "**mobilenet_v1_small: se − plain: better by 55.00 points.**" in text
    assert text.endswith("24 of 24 runs, 24.0 h of one thread, beside other work: a processor.")
    assert (studies_page.RESULTS / "mobile.svg").is_file()
    page = "before\n<!-- runs of mobile -->\nold\n<!-- end of mobile -->\nafter"
    new = studies_page.written(page, {"mobile": text})
    assert new.startswith("before\n<!-- runs of mobile -->\n| accuracy, % |")
    assert new.endswith("\n<!-- end of mobile -->\nafter")


def test_a_finished_run_is_kept_whole(tmp_path):
    import studies
    import studies_page
    import studies_plan

    import senet.study

    run = senet.study.train("resnet20", "digits", out=tmp_path / "run", epochs=1, seed=10, progress=False)
    cell = studies_plan.Cell("depth", "resnet20", "plain", 10)
    studies.keep(cell, run)
    found = studies_page.read("depth")["resnet20", "plain", 10]
    assert found.content["accuracy"] == pytest.approx(found.correct.mean())
    assert tuple(found.correct.tolist()) == run.correct
    assert {file.name for file in cell.folder.iterdir()} == {"run.json", "metrics.csv", "predictions.csv.gz"}
    assert found.content["settings"]["seed"] == 10


def test_ten_photos_a_class_are_trained_on_and_all_others_measured(tmp_path):
    import studies_data
    from PIL import Image

    for split, numbers in (("train", range(12)), ("val", range(12, 15))):
        for name in ("cat", "dog"):
            folder = tmp_path / "caltech20" / split / name
            folder.mkdir(parents=True)
            for number in numbers:
                Image.new("RGB", (80, 70), (number, 0, 0)).save(folder / f"{number:02}.png")
    source = studies_data.opened("caltech20-10", tmp_path)
    assert (source.name, source.kind, source.reported[0]) == ("caltech20-10", "photos", "val")
    assert source.train.labels.bincount().tolist() == [10, 10]
    assert source.val.labels.bincount().tolist() == [5, 5]
    assert not set(source.train.names) & set(source.val.names)


def test_pictures_are_unpacked_whole_into_a_folder_of_their_own(paint, tmp_path, monkeypatch):
    import studies_data

    pictures = paint({"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1})
    with tarfile.open(tmp_path / "tiny100.tar.gz", "w:gz") as archive:
        for split in ("train", "test"):
            archive.add(pictures / split, split)
    monkeypatch.setattr(studies_data, "ARCHIVES", tmp_path)
    source = studies_data.opened("tiny100", tmp_path / "data")
    assert (source.name, len(source.train), len(source.test)) == ("tiny100", 4, 2)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["tiny100"]
