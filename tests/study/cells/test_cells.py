"""A study cell by cell, by commands: the same result as by one call, and a report of what is there."""

from __future__ import annotations

import shlex
import shutil

import pytest
from lightning.pytorch.callbacks import Callback

from senet import SESpec, cli
from senet.errors import StudyError
from senet.files.lock import locked
from senet.files.run_folder import read_json
from senet.study import ablate, compare
from senet.study.cells.cell import CellOptions
from senet.study.comparison.compare import compare_cells
from senet.study.comparison.pages import read_comparison

SHORT = {"epochs": 1, "batch_size": 8, "lr": 0.05, "devices": "cpu", "progress": False, "spec": SESpec(2)}
FLAGS = "--epochs 1 --batch-size 8 --lr 0.05 --devices cpu --reduction-ratio 2".split()
VARY = {"seconds", "machine", "latency_ratio", "latency"}
"""What depends on the machine and the hour."""


def lasting(value):
    """A result without what varies."""
    if isinstance(value, dict):
        return {key: lasting(each) for key, each in value.items() if key not in VARY}
    return [lasting(each) for each in value] if isinstance(value, list) else value


def result(folder):
    return lasting(read_json(folder / "result.json"))


def senet(capsys, *words):
    status = cli.main([str(word) for word in words])
    return status, *capsys.readouterr()


def test_an_ablation_cell_by_cell_is_the_ablation(tiny, pictures, tmp_path, capsys):
    whole, cells = tmp_path / "whole", tmp_path / "cells"
    ablate(tiny, pictures, out=whole, table="squeeze", seeds=2, **SHORT)
    words = ["ablate", "--model", tiny, "--data", pictures, "--out", cells, "--table", "squeeze", *FLAGS]
    status, out, _ = senet(capsys, *words, "--seeds", 2, "--list-cells")
    commands = [shlex.split(line) for line in out.splitlines()]
    assert status == 0
    assert [(line[-3], line[-1]) for line in commands] == [
        (variant, str(seed)) for seed in range(2) for variant in ("plain", "se", "squeeze-max")
    ]
    assert not cells.exists()
    for line in reversed(commands):  # in any order
        status, out, _ = senet(capsys, *line[4:])
        assert (status, "val accuracy after 1 epoch" in out) == (0, True)
    status, out, _ = senet(capsys, *words, "--seeds", 2, "--report-only")
    assert (status, "variants of SE differ" in out) == (0, True)
    assert result(cells) == result(whole)
    for name in ("plain-1", "squeeze-max-0"):
        assert result(cells / name) == result(whole / name)


def test_a_comparison_of_what_is_there(tiny, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["compare", "--model", tiny, "--data", pictures, "--out", out, *FLAGS]
    status, _, err = senet(capsys, *words, "--report-only")
    assert (status, "holds no study to draw a report of" in err, out.exists()) == (2, True, False)
    for cell in ("plain 0", "plain 2", "se 2", "se 4"):
        variant, seed = cell.split()
        assert senet(capsys, *words, "--only", variant, "--seed", seed)[0] == 0
    status, text, _ = senet(capsys, *words, "--report-only")
    assert status == 0
    assert "Not finished yet: se-0, plain-1, se-1." in text
    found = read_json(out / "result.json")
    assert (found["seeds"], len(found["plain"]["accuracy"])) == ([2], 1)
    again = read_comparison(out)
    assert (again.numbers, again.missing) == ((2,), ("se-0", "plain-1", "se-1"))
    assert "seed 2" in (out / "difference.svg").read_text()
    whole = compare(tiny, pictures, out=out, seeds=3, **SHORT)  # and goes on
    assert whole.notes[0].startswith("The folder also has seed 4, left out here: give --seeds 5, or --report-only")
    assert whole.plain.accuracy[2] == found["plain"]["accuracy"][0]
    assert "seeds" not in read_json(out / "result.json")


def test_what_is_to_be_known_of_the_images_stands_in_the_result(tiny, pictures, tmp_path):
    """Copies of training pictures in val, and skipped files: on the page and not in the terminal alone."""
    shutil.copy(pictures / "train/dark/000.png", pictures / "val/dark/copy.png")
    (pictures / "val/dark/notes.txt").write_text("of the light")
    found = compare(tiny, pictures, out=tmp_path / "study", seeds=1, **SHORT)
    assert found.notes[0].startswith("1 of the 9 images of val are byte for byte images of train")
    assert "1 of the 9 images of val are byte for byte images" in (tmp_path / "study/report.html").read_text()
    whole = ablate(tiny, pictures, out=tmp_path / "ablation", grid={"squeeze": ["avg"]}, seeds=1, **SHORT)
    assert whole.notes[0] == found.notes[0]
    assert whole.notes[1] == "1 file was skipped:"
    assert whole.notes[2].startswith("  val/dark/notes.txt: ")


def test_a_report_needs_a_pair(tiny, pictures, tmp_path):
    own = {**SHORT, "out": tmp_path / "out"}
    assert compare_cells(tiny, pictures, CellOptions(only="se", seed=1), **own)[0].startswith("se-1: ")
    with pytest.raises(StudyError, match="no seed for which both networks are trained yet: finished is se-1"):
        compare_cells(tiny, pictures, CellOptions(report_only=True), **own)


def test_a_cell_is_trained_by_one_command_at_a_time(tiny, pictures, tmp_path):
    own = {**SHORT, "out": tmp_path / "out"}
    (tmp_path / "out/se-0").mkdir(parents=True)
    with locked(tmp_path / "out/se-0"), pytest.raises(StudyError, match=r"is working in .*se-0: wait"):
        compare_cells(tiny, pictures, CellOptions(only="se", seed=0), **own)
    with pytest.raises(StudyError, match="there is no variant 'see'; did you mean 'se'"):
        compare_cells(tiny, pictures, CellOptions(only="see"), **own)


@pytest.mark.parametrize("given", [{"callbacks": [object()]}, {"where": lambda site: True}])
def test_what_other_processes_cannot_be_told(tiny, pictures, tmp_path, given):
    with pytest.raises(TypeError, match="one device"):
        ablate(tiny, pictures, out=tmp_path / "a", table="squeeze", seeds=1, **{**SHORT, "devices": "cpu*2", **given})


def test_a_report_is_drawn_on_a_machine_without_the_devices(tiny, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    compare(tiny, pictures, out=out, seeds=1, **SHORT)
    for path in (*out.rglob("settings.json"), *out.glob("*-0/result.json")):  # as of another machine
        path.write_text(path.read_text().replace('"device": "cpu"', '"device": "cuda"'))
    words = ["compare", "--model", tiny, "--data", pictures, "--out", out, *FLAGS]
    for devices in ("cpu", "cuda"):
        status, text, _ = senet(capsys, *words, "--devices", devices, "--report-only")
        assert (status, "over 1 seed" in text) == (0, True)
        assert read_json(out / "result.json")["settings"]["device"] == "cuda"
    status, _, err = senet(capsys, *words, "--only", "plain", "--seed", 1)
    assert (status, "device was 'cuda' and is now 'cpu'" in err) == (2, True)


def test_what_is_given_once_is_there_for_every_run(tiny, pictures, tmp_path):
    class Count(Callback):
        runs = 0

        def on_train_start(self, *_):
            Count.runs += 1

    def once(each):
        return (item for item in [each])

    found = compare(
        tiny, pictures, out=tmp_path / "a", seeds=2, where=once("blocks.0*"), callbacks=once(Count()), **SHORT
    )
    assert (Count.runs, len(found.sites)) == (4, 1)
    ablated = ablate(
        tiny, pictures, out=tmp_path / "b", grid={"gate": ["tanh"]}, seeds=1, where=once("blocks.0*"), **SHORT
    )
    assert [cell.sites for cell in ablated.cells.values()] == [0, 1, 1]
