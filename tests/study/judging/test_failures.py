"""What a training of one's own can do wrong, and what cannot be judged."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

import pytest
import torch

from senet import SEBlock, SESpec
from senet.console.stopping import Stopped
from senet.errors import InputError, InputTypeError, ModelError, StudyError
from senet.files.run_folder import read_json
from senet.study import judge
from tests.study.judging.test_judge import QUIET, Residual, regression


def test_a_training_that_was_asked_to_stop_has_not_failed(tmp_path):
    """Senet's own train, called by the training, ends so after SIGTERM."""

    def train(cell):
        cell.put(Residual(1), torch.zeros(1, 1, 8))
        raise Stopped(15, "stopped by SIGTERM")

    with pytest.raises(Stopped, match="stopped by SIGTERM"):
        judge(train, out=tmp_path / "out", seeds=1, version="1", **QUIET)
    assert [path.name for path in (tmp_path / "out").glob("*-0")] == ["plain-0"]
    assert not (tmp_path / "out/plain-0/error.txt").exists()


def test_a_training_that_fails_is_named_and_the_others_go_on(tmp_path):
    calls = []

    def train(cell):
        calls.append((cell.arm, cell.seed, cell.resumed))
        cell.put(Residual(1), torch.zeros(1, 1, 8))
        if (cell.arm, cell.seed) == ("se", 1) and not cell.resumed:
            (cell.folder / "checkpoint").write_text("half")
            (cell.folder.parent / "error.txt").symlink_to(tmp_path / "nowhere")
            raise RuntimeError("the disk\nis full")
        return random.random()

    found = judge(train, out=tmp_path / "out", seeds=3, version="1", **QUIET)
    assert found.seeds == (0, 2)
    error = tmp_path / "out/se-1/error.txt"
    assert found.failed == {"se-1": f"failed: RuntimeError: the disk is full ({error} has the traceback)"}
    assert 'raise RuntimeError("the disk' in error.read_text()
    assert not (tmp_path / "nowhere").exists()
    assert "se-1 failed: RuntimeError" in " ".join(str(found).split())
    assert read_json(tmp_path / "out/result.json")["failed"] == found.failed

    again = judge(train, out=tmp_path / "out", seeds=3, version="1", **QUIET)
    assert calls[6:] == [("se", 1, True)]
    assert (again.seeds, again.failed, error.exists()) == ((0, 1, 2), {}, False)
    assert (tmp_path / "out" / "se-1" / "work" / "checkpoint").read_text() == "half"


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (None, "train returned nothing: a score is a number"),
        ("41", "train returned a str: a score is a number"),
        (True, "train returned a bool"),
        (float("nan"), "train returned nan: a score is a finite number; did the training diverge"),
        (torch.tensor([1.0, 2.0]), r"train returned a Tensor of shape \(2,\): a score is one number"),
        ({"mAP": 3.0}, "train returned a dict with 'mAP': it has \"score\""),
        ({"score": 1.0, "each": [1.0]}, 'as "each" a list: it is a dict of example: score'),
        ({"score": 1.0, "each": {"a": float("inf")}}, "in \"each\" for 'a' inf"),
        ({"score": 1.0, "each": {1: 1.0, "1": 1.0}}, "two examples of one name"),
        (SystemExit("3 epochs are not enough"), "SystemExit: 3 epochs are not enough"),
    ],
)
def test_what_is_no_score_is_one_line(tmp_path, returned, words):
    def train(cell):
        cell.put(Residual(1), torch.zeros(1, 1, 8))
        if isinstance(returned, BaseException):
            raise returned
        return returned

    with pytest.raises(StudyError, match=words) as error:
        judge(train, out=tmp_path / "out", seeds=1, version="1", **QUIET)
    assert "\n" not in str(error.value)


def test_what_would_make_both_arms_alike_is_said(tmp_path):
    with pytest.raises(StudyError, match=r"without a call of cell\.put"):
        judge(lambda cell: 1.0, out=tmp_path / "a", seeds=1, version="1", **QUIET)

    def frozen(cell):
        model = Residual(1)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        cell.put(model, torch.zeros(1, 1, 8))
        model(torch.randn(4, 1, 8)).square().sum().backward()
        optimiser.step()
        return 41.3

    found = judge(frozen, out=tmp_path / "b", seeds=2, version="1", **QUIET)
    assert "no weight of the blocks changed in this process: is the optimiser made before cell.put?" in found.notes[0]
    assert found.notes[0].endswith("(2 trainings).")
    assert found.verdict.notes == ("The plain scores are equal in all 2 seeds: does your training use cell.seed?",)

    class WithItsOwn(Residual):
        """SE that it was built with, which an optimiser made too early does train."""

        def __init__(self):
            super().__init__(1)
            self.se = SEBlock(8, 4)

        def forward(self, x):
            return super().forward(x) + self.se(self.stem(x)).mean(1, keepdim=True)

    def early(cell):
        model = WithItsOwn()
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        cell.put(model, torch.zeros(1, 1, 8))
        model(torch.randn(4, 1, 8)).square().sum().backward()
        optimiser.step()
        return model(torch.ones(1, 1, 8)).sum().item()

    found = judge(early, out=tmp_path / "d", seeds=1, version="1", **QUIET)
    assert any("is the optimiser made before cell.put?" in note for note in found.notes)

    def twice(cell):
        cell.put(cell.put(Residual(1), torch.zeros(1, 1, 8)), torch.zeros(1, 1, 8))
        return 1.0

    with pytest.raises(StudyError, match="holds SE already: give the plain network"):
        judge(twice, out=tmp_path / "c", seeds=1, version="1", **QUIET)


def test_a_process_that_a_training_forks_does_not_go_on_with_the_study(tmp_path):
    def train(cell):
        cell.put(Residual(1), torch.zeros(1, 1, 8))
        with (tmp_path / "pids").open("a") as file:
            file.write(f"{os.getpid()}\n")
        child = os.fork()  # and both return
        if child:
            os.waitpid(child, 0)
        return 1.0

    judge(train, out=tmp_path / "out", seeds=1, version="1", **QUIET)
    assert (tmp_path / "pids").read_text().split() == [str(os.getpid())] * 2


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"seeds": 0}, InputError, "seeds is a whole number"),
        *(({"confidence": c}, InputError, "confidence is a number of at least 0.5 and below 1") for c in (95, "0.9")),
        ({"train": 3}, InputTypeError, "judge takes a function that trains"),
        ({"train": lambda: 3}, InputTypeError, "train takes one argument, the cell"),
        ({"devices": "cpu*2"}, InputTypeError, "does not stand at the top level of one"),
        ({"make": "ecca"}, InputError, "make='ecca' is neither a block of timm's.* did you mean 'eca'"),
        ({"make": "mine.py:eca"}, ModelError, "mine.py"),
        ({"make": "eca", "spec": SESpec(8)}, InputError, "reduction_ratio=8 is SE's own, and make=eca makes another"),
        ({"devices": "tpu"}, StudyError, "devices='tpu' is not on this machine"),
    ],
)
def test_what_cannot_be_judged(tmp_path, given, error, words):
    def train(cell):
        return 1.0

    with pytest.raises(error, match=words):
        judge(given.pop("train", train), out=tmp_path / "out", **{"version": "1", **QUIET, "spec": SESpec(), **given})
    assert not Path(tmp_path / "out/plain-0").exists()


@pytest.mark.parametrize(
    ("started", "by"),
    [
        ({"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2"}, "torchrun"),
        ({"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}, "srun"),
    ],
)
def test_one_of_several_processes_trains_nothing(tmp_path, monkeypatch, started, by):
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StudyError, match=f"{by} started 2 processes of this judgement, .*: start it once"):
        judge(lambda cell: 1.0, out=tmp_path / "out", **QUIET)
    assert not (tmp_path / "out").exists()


def test_what_the_verdict_needs_is_missed_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.delitem(sys.modules, "scipy.special", raising=False)
    with pytest.raises(ModuleNotFoundError, match="scipy"):
        judge(regression, out=tmp_path / "out", seeds=1, **QUIET)
    assert not (tmp_path / "out").exists()


def test_a_damaged_cell_is_named(tmp_path):
    def train(cell):
        cell.put(Residual(1), torch.zeros(1, 1, 8))
        return {"score": 1.0, "each": {"a": 1.0}}

    judge(train, out=tmp_path / "out", seeds=1, version="1", **QUIET)
    file = tmp_path / "out/se-0/result.json"
    content = json.loads(file.read_text())
    for change in ({"score": "x"}, {"score": None}, {"examples": 2}, {"seconds": []}):
        file.write_text(json.dumps(content | change))
        with pytest.raises(StudyError, match="se-0 is damaged"):
            judge(train, out=tmp_path / "out", seeds=1, version="1", **QUIET)
