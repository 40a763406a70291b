"""Trainings of a person's own, judged: two small tasks, and what a training can do wrong."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from senet import SEBlock, SESpec, blocks
from senet.console.stopping import Stopped
from senet.errors import InputError, InputTypeError, ModelError, StudyError
from senet.files.run_folder import read_csv, read_json
from senet.study import judge
from tests.pages import unexplained

QUIET = {"devices": "cpu", "progress": False, "spec": SESpec(4)}


class Residual(nn.Module):
    """A small residual network for signals or pictures; its output has the input's space."""

    def __init__(self, dims: int, outputs: int = 1) -> None:
        super().__init__()
        convolution, norm = (nn.Conv1d, nn.BatchNorm1d) if dims == 1 else (nn.Conv2d, nn.BatchNorm2d)
        self.stem = convolution(1, 8, 3, padding=1)
        self.conv1, self.bn1 = convolution(8, 8, 3, padding=1, bias=False), norm(8)
        self.conv2, self.bn2 = convolution(8, 8, 3, padding=1, bias=False), norm(8)
        self.head = convolution(8, outputs, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))))


def fit(cell, model, x, y, loss, steps=6):
    model = cell.put(model, x[:1])
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(cell.seed)
    for _ in range(steps):
        rows = torch.randint(len(x), (16,), generator=generator)
        optimiser.zero_grad()
        loss(model(x[rows]), y[rows]).backward()
        optimiser.step()
    return model.eval()


def regression(cell):
    """A sine's frequency from 24 samples of it; the score is the mean absolute error."""
    random = torch.Generator().manual_seed(0)
    frequency = torch.rand(64, 1, 1, generator=random) + 0.5
    x = torch.sin(frequency * torch.linspace(0, 6, 24)) + 0.1 * torch.randn(64, 1, 24, generator=random)
    torch.manual_seed(cell.seed)
    model = fit(cell, Residual(1), x, frequency.squeeze(2), lambda out, y: F.mse_loss(out.mean(2), y))
    with torch.no_grad():
        errors = (model(x).mean(2) - frequency.squeeze(2)).abs().flatten()
    return {"score": errors.mean(), "each": {index: error.item() for index, error in enumerate(errors)}}


def segmentation(cell):
    """Which pixels of a noisy picture are in a bright square; the score is the intersection over the union, in %."""
    random = torch.Generator().manual_seed(0)
    mask = torch.zeros(48, 1, 12, 12)
    for each in mask:
        row, column = torch.randint(7, (2,), generator=random)
        each[:, row : row + 5, column : column + 5] = 1
    x = mask + 0.5 * torch.randn(mask.shape, generator=random)
    torch.manual_seed(cell.seed)
    model = fit(cell, Residual(2), x, mask, F.binary_cross_entropy_with_logits)
    with torch.no_grad():
        said = model(x) > 0
    both, either = (said & (mask > 0)).sum((1, 2, 3)), (said | (mask > 0)).sum((1, 2, 3))
    each = (100 * both / either.clamp(min=1)).tolist()
    return {"score": 100 * float(both.sum() / either.sum()), "each": dict(enumerate(each))}


def test_a_regression_is_judged_by_its_error(page, tmp_path, capfd):
    found = judge(
        regression,
        out=tmp_path / "out",
        seeds=3,
        score="mean absolute error",
        unit="Hz",
        higher_is_better=False,
        **QUIET,
    )
    result = read_json(tmp_path / "out/result.json")
    assert len(found.plain.scores) == len(set(found.plain.scores)) == 3
    assert result["difference"]["per_seed"] == [b - a for a, b in zip(found.plain.scores, found.se.scores, strict=True)]
    assert result["difference"]["examples"]["examples"] == 64
    assert (result["sites"], result["failed"], result["notes"]) == (["bn2"], {}, [])
    assert found.se.cost["parameters"] - found.plain.cost["parameters"] == 2 * 2 * 8
    assert "Hz" in found.verdict.text
    assert "points" not in str(found)
    assert "SE at 1 site\n" in str(found)
    assert "mean absolute error of test_judge.py:regression (lower is better)" in str(found)
    assert [row["seed"] for row in read_csv(tmp_path / "out/scores.csv")] == ["0", "1", "2"]  # and no row of means
    assert not unexplained(tmp_path / "out", unit="Hz")
    drawn = (tmp_path / "out/report.html").read_text()
    assert "plain (Hz)" in drawn
    assert "<svg" in drawn

    again = judge(regression, out=tmp_path / "out", seeds=4, **QUIET)  # one more seed, and the others as they were
    assert again.plain.scores[:3] == found.plain.scores
    assert len(again.se.scores) == 4
    assert again.measure == found.measure  # also where the call does not say it again
    how = {**QUIET, "progress": True, "unit": "kHz", "higher_is_better": True}
    other = judge(regression, out=tmp_path / "out", seeds=4, **how)
    assert (other.measure.score, other.measure.unit) == ("mean absolute error", "kHz")
    assert (
        "was 'mean absolute error' in Hz (lower is better), and is now 'mean absolute error' in kHz (higher is better)"
    ) in " ".join(capfd.readouterr().err.split())


def test_examples_are_named_by_paths_of_any_bytes(tmp_path):
    """As file names are, some not UTF-8, and with what ends a line; a finished training is then read again."""
    names = (os.fsdecode(b"caf\xe9.png"), "a\u2028b\x0cc", "line\nbreak")

    def train(cell):
        cell.put(Residual(1), torch.zeros(1, 1, 8))
        return {"score": float(cell.seed), "each": dict.fromkeys(names, float(cell.seed))}

    for _ in range(2):
        found = judge(train, out=tmp_path / "out", seeds=2, version="1", **QUIET)
        assert (found.verdict.examples.images, found.failed) == (3, {})


def test_a_training_that_was_asked_to_stop_has_not_failed(tmp_path):
    """Senet's own train, called by the training, ends so after SIGTERM."""

    def train(cell):
        cell.put(Residual(1), torch.zeros(1, 1, 8))
        raise Stopped(15, "stopped by SIGTERM")

    with pytest.raises(Stopped, match="stopped by SIGTERM"):
        judge(train, out=tmp_path / "out", seeds=1, version="1", **QUIET)
    assert [path.name for path in (tmp_path / "out").glob("*-0")] == ["plain-0"]
    assert not (tmp_path / "out/plain-0/error.txt").exists()


def test_a_pattern_is_a_list_of_one(tmp_path):
    """As a command types it, whose cells an earlier version could not mix with those of Python's call."""

    def train(cell):
        cell.put(Residual(1), torch.zeros(1, 1, 8))
        return 1.0

    judge(train, out=tmp_path / "out", seeds=1, version="1", where="bn*", **QUIET)
    settings = tmp_path / "out/settings.json"
    assert read_json(settings)["where"] == ["bn*"]
    settings.write_text(json.dumps({**read_json(settings), "where": "bn*"}))
    judge(train, out=tmp_path / "out", seeds=1, version="1", where=["bn*"], **QUIET)
    with pytest.raises(StudyError, match=r"where was 'bn\*' and is now \['bn2'\]"):
        judge(train, out=tmp_path / "out", seeds=1, version="1", where="bn2", **QUIET)


def test_a_segmentation_is_judged_by_what_is_no_mean_over_its_pictures(tmp_path):
    found = judge(segmentation, out=tmp_path / "out", seeds=2, score="IoU", unit="%", **QUIET)
    assert found.verdict.examples is None
    assert found.verdict.notes[0].startswith("The scores of single examples are not used: their mean (")


def test_both_arms_begin_alike_and_leave_nothing_behind(tmp_path):
    seen = []

    def train(cell):
        first = torch.rand(1).item(), random.random(), np.random.rand()
        model = cell.put(Residual(1), torch.zeros(1, 1, 8))
        then = torch.rand(1).item(), random.random(), np.random.rand()
        seen.append((cell.arm, cell.seed, len(blocks(model)), first, then, torch.get_default_dtype(), Path.cwd()))
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        torch.set_grad_enabled(False)
        os.chdir(tmp_path)
        os.environ["LEFT"] = "behind"
        (cell.folder / "result.json").write_text("theirs")  # in a folder of its own
        return cell.seed + random.random()

    before = torch.get_rng_state(), random.getstate(), Path.cwd()
    judge(train, out=tmp_path / "out", seeds=2, version="1", **QUIET)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), Path.cwd()) == before[1:]
    assert (torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()) == (torch.float32, False)
    assert torch.is_grad_enabled()
    assert "LEFT" not in os.environ
    assert [(arm, seed, count) for arm, seed, count, *_ in seen] == [
        ("plain", 0, 0),
        ("se", 0, 1),
        ("plain", 1, 0),
        ("se", 1, 1),
    ]
    assert seen[0][3:] == seen[1][3:]
    assert seen[2][3:] == seen[3][3:]
    assert seen[0][3] != seen[2][3]


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


@pytest.mark.parametrize("value", [3, np.float32(3), np.array([3.0]), torch.tensor(3.0), {"score": np.int64(3)}])
def test_what_is_a_score(tmp_path, value):
    def train(cell):
        cell.put(Residual(1), torch.zeros(1, 1, 8))
        return value

    assert judge(train, out=tmp_path / "out", seeds=1, version="1", **QUIET).plain.scores == (3.0,)


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


def test_a_control_trains_plain_against_plain(tmp_path):
    def train(cell):
        model = cell.put(Residual(1), torch.zeros(1, 1, 8))
        assert not blocks(model)
        return torch.rand(1, generator=torch.Generator().manual_seed(cell.seed)).item()

    found = judge(train, out=tmp_path / "out", seeds=3, control=True, version="1", **QUIET)
    assert len({*found.plain.scores, *found.se.scores}) == 6
    assert found.lead[0].startswith("Control, plain against plain: differences here are due to chance.")
    assert found.se.name == "plain again"
    assert sorted(path.name for path in (tmp_path / "out").glob("control-*")) == ["control-0", "control-1", "control-2"]
    with pytest.raises(StudyError, match="control was True and is now False"):
        judge(train, out=tmp_path / "out", seeds=3, version="1", **QUIET)


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


def test_another_block_is_judged_in_the_place_of_se(tmp_path):
    def shift(channels):
        return nn.Sequential(nn.Conv1d(channels, channels, 1), nn.Sigmoid())

    def train(cell):
        model = fit(cell, Residual(1), torch.ones(16, 1, 8), torch.ones(16, 1, 8), F.mse_loss, steps=2)
        return sum(parameter.double().sum().item() for parameter in model.parameters())

    found = judge(train, out=tmp_path / "out", seeds=2, make=shift, version="1", devices="cpu", progress=False)
    assert (found.block, found.se.name, found.sites, found.notes) == ("shift", "with shift", ("bn2",), ())
    assert found.se.cost["parameters"] - found.plain.cost["parameters"] == 8 * 8 + 8 + 1  # and the block's own alpha
    assert str(found).startswith("shift at 1 site\n")
    assert "shift is" in found.verdict.text
    with pytest.raises(StudyError, match=r"se.make was 'shift' and is now 'eca'"):
        judge(train, out=tmp_path / "out", seeds=2, make="eca", version="1", devices="cpu", progress=False)


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
