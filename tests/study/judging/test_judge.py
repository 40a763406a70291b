"""Trainings of a person's own, judged: two small tasks, and what both arms are given."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from senet import SESpec, blocks
from senet.errors import StudyError
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


@pytest.mark.parametrize("value", [3, np.float32(3), np.array([3.0]), torch.tensor(3.0), {"score": np.int64(3)}])
def test_what_is_a_score(tmp_path, value):
    def train(cell):
        cell.put(Residual(1), torch.zeros(1, 1, 8))
        return value

    assert judge(train, out=tmp_path / "out", seeds=1, version="1", **QUIET).plain.scores == (3.0,)


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
