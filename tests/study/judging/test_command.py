"""`senet judge`: the same study from a command, cell by cell, and by children on several devices."""

from __future__ import annotations

import runpy
import shlex
import subprocess
import sys
import textwrap

import pytest

from senet import SESpec, cli
from senet.errors import StudyError
from senet.files.run_folder import read_json
from senet.study import judge
from senet.study.judging.judgement import judgement_page
from senet.study.judging.several import read_judgement

QUIET = {"devices": "cpu", "progress": False, "spec": SESpec(4)}

MINE = """
import torch
from torch import nn
from helper import scale          # a file beside it
from senet.study import judge

STEPS = 1

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.bn = nn.Conv1d(1, 8, 3, padding=1), nn.Conv1d(8, 8, 3, padding=1), nn.BatchNorm1d(8)
    def forward(self, x):
        x = self.stem(x)
        return x + self.bn(self.conv(torch.relu(x)))

def train(cell):
    torch.manual_seed(cell.seed)
    model = cell.put(Net(), torch.zeros(1, 1, 8))  # a comment
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(STEPS):
        model(torch.randn(4, 1, 8)).square().mean().backward()
        optimiser.step()
    print("the loss is low")
    return scale(model(torch.ones(1, 1, 8)).mean().item())

if __name__ == "__main__":
    judge(train, out="script", seeds=1, devices="cpu*2", progress=False)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "helper", raising=False)  # of another test's folder
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "helper.py").write_text("def scale(x):\n    return 2 * x\n")
    yield tmp_path / "mine.py"
    sys.modules.pop("helper", None)


def senet(capsys, *words):
    status = cli.main([str(word) for word in words])
    return status, *capsys.readouterr()


def test_the_command_judges_cell_by_cell_as_at_once(mine, tmp_path, capsys):
    words = ["judge", "--code", "mine.py:train", "--devices", "cpu"]
    status, out, err = senet(capsys, *words, "--out", "whole", "--seeds", 1, "--unit", "points")
    assert (status, "plain (points)" in out, "se-0: score " in err) == (0, True, True)
    status, out, _ = senet(capsys, *words, "--out", "cells", "--seeds", 1, "--list-cells")
    lines = [shlex.split(line) for line in out.splitlines()]
    assert [(line[-3], line[-1]) for line in lines] == [("plain", "0"), ("se", "0")]
    for line in lines[::-1]:
        status, out, _ = senet(capsys, *line[4:])
        assert (status, out.splitlines()[-1].startswith(f"{line[-3]}-{line[-1]}: score ")) == (0, True)
    status, out, _ = senet(capsys, *words, "--out", "cells", "--seeds", 1, "--report-only", "--unit", "points")
    assert status == 0
    vary = ("seconds", "machine")
    whole, cells = (
        {key: value for key, value in read_json(tmp_path / name / "result.json").items() if key not in vary}
        for name in ("whole", "cells")
    )
    for result in (whole, cells):
        for arm in ("plain", "se"):
            del result[arm]["seconds"]
    assert whole == cells
    assert judgement_page(read_judgement(tmp_path / "whole")).command.startswith("senet judge --code mine.py:train")


def test_what_a_file_prints_is_no_command(mine, capsys):
    mine.write_text('print("rm -rf /")\n' + MINE)
    status, out, err = senet(capsys, "judge", "--code", "mine.py:train", "--out", "out", "--seeds", 1, "--list-cells")
    assert (status, out.count("\n"), "rm -rf" in out, "rm -rf" in err) == (0, 2, False, True)


def test_code_that_cannot_be_read_needs_a_version(tmp_path):
    names = {}
    exec("def train(cell):\n    return 1.0", names)
    with pytest.raises(StudyError, match=r"the code of train cannot be read, .*give version="):
        judge(names["train"], out=tmp_path / "out", **QUIET)


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (("a comment", "another comment"), False),
        (("STEPS = 1", "STEPS = 2"), True),
        (("lr=0.1", "lr=0.2"), True),
        (("padding=1), nn.Conv1d(8", "padding=1), nn.Conv1d(8"), False),
        (("x + self.bn", "x - self.bn"), True),
        (('out="script"', 'out="other"'), False),
        (("helper", "2 * x", "3 * x"), True),
    ],
)
def test_another_training_is_not_mixed_in(mine, tmp_path, capsys, change, changed):
    words = ["judge", "--code", "mine.py:train", "--devices", "cpu", "--out", "out", "--only", "plain", "--seed", 0]
    assert senet(capsys, *words)[0] == 0
    file = tmp_path / "helper.py" if change[0] == "helper" else mine
    text = file.read_text().replace(*change[-2:]) + "\n# longer\n"
    file.write_text(text)
    sys.modules.pop("helper", None)
    status, _, err = senet(capsys, *words)
    assert status == (2 if changed else 0), err
    assert ("code mine.py:train has changed since" in err) is changed
    assert ("name them so with version=" in err) is changed


def test_a_script_judges_on_two_devices_by_children_that_do_not_begin_it_again(mine, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    words = ["judge", "--code", "mine.py:train", "--seeds", 1, "--out", "script", "--devices", "cpu"]
    assert senet(capsys, *words, "--only", "plain")[0] == 0  # a child takes seconds, and one shows as much as two
    runpy.run_path("mine.py", run_name="__main__")
    assert len(read_json(tmp_path / "script/result.json")["plain"]["scores"]) == 1
    assert "the loss is low" in (tmp_path / "script/logs/se-0.txt").read_text()
    mine.write_text(MINE.replace('if __name__ == "__main__"', "if True"))
    status, _, err = senet(capsys, "judge", "--code", "mine.py:train", "--out", "other", "--only", "se", "--seed", 0)
    assert (status, "put it under if __name__ == '__main__'" in err) == (2, True)


def test_neither_lightning_nor_pil_is_needed(mine, tmp_path):
    script = """
    import sys
    for name in ("lightning", "PIL", "torchvision", "matplotlib"):
        sys.modules[name] = None
    from mine import train
    from senet.study import judge
    found = judge(train, out="bare", seeds=2, devices="cpu", progress=False)
    print(found)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False, cwd=mine.parent
    )
    assert done.returncode == 0, done.stderr
    assert "mean ± sd" in done.stdout
    page = (tmp_path / "bare/report.html").read_text()
    assert "<svg" not in page
    assert "mean ± sd" in page
