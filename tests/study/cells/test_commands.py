"""The command of a cell, as any scheduler can run it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from senet import SESpec, flags
from senet.cli import VERBS
from senet.errors import InputError, StudyError
from senet.study.ablation.grid import parse_grid, typed_grid
from senet.study.cells.cell import Cell, CellOptions, incomplete, seeds_in
from senet.study.cells.commands import command, of_cell, one_line, one_of, spec_flags


def test_a_command_says_what_its_function_was_given():
    spec = SESpec(4, gate="tanh", bias=True, start="paper")
    given = {
        "model": "a b.py:make",
        "data": Path("photos"),
        "out": "runs/it's",
        **spec_flags(spec),
        "where": ["layer4*", "x y"],
        "weights": None,
        "epochs": 3,
        "lr": 1e-05,
        "nesterov": False,
        "milestones": (0.3, 0.6),
    }
    words = of_cell(command("compare", given), Cell("se", 2), "cuda:1")
    assert words[:4] == [sys.executable, "-P", "-m", "senet"]
    assert shlex.split(one_line(words)) == words
    verb, values = flags.parse(VERBS, "", "", words[4:])
    assert verb == "compare"
    assert values.pop("spec") == spec
    assert values.pop("cells") == CellOptions(only="se", seed=2)
    assert {name: value for name, value in values.items() if value is not None} == {
        "model": "a b.py:make",
        "data": "photos",
        "out": "runs/it's",
        "where": ["layer4*", "x y"],
        "epochs": 3,
        "lr": 1e-05,
        "nesterov": False,
        "milestones": [0.3, 0.6],
        "devices": "cuda:1",
        "seeds": 3,
        "resume": True,
    }


@pytest.mark.parametrize(
    ("devices", "one"),
    [
        *((name, name) for name in (None, "auto", "cpu", "cuda", "cuda:1", "mps", 1, "1")),
        *(("cuda:0,1", "cuda"), ("cpu*2", "cpu"), (8, None), ("8", None)),
    ],
)
def test_a_cell_has_one_device(devices, one):
    assert one_of(devices) == one


def test_a_list_of_commands_is_run_by_xargs(tmp_path):
    lines = [one_line(["/bin/sh", "-c", 'echo "$0" > "$1"', f"it's {n}", str(tmp_path / f"a {n}")]) for n in range(3)]
    subprocess.run(
        ["xargs", "-P", "2", "-d", "\n", "-n", "1", "sh", "-c"], input="\n".join(lines), text=True, check=True
    )
    assert [(tmp_path / f"a {n}").read_text() for n in range(3)] == [f"it's {n}\n" for n in range(3)]


def test_what_no_command_can_name():
    with pytest.raises(TypeError, match="data is an object, which no command can name"):
        command("compare", {"data": object()})
    with pytest.raises(TypeError, match="where is a function"):
        command("compare", {"where": lambda site: True})
    with pytest.raises(StudyError, match="holds a line break"):
        one_line(["senet", "a\nb"])
    assert command("train", {"where": "-x"})[-1] == "--where=-x"


@pytest.mark.parametrize(
    "words", [["reduction-ratio=4,16", "gate=sigmoid,tanh"], ["stages=all,each,-2,2+3"], ["bias=no,yes", "width=8"]]
)
def test_a_grid_is_typed_as_it_was(words):
    assert typed_grid(parse_grid(words)) == words
    assert typed_grid({}) is None
    with pytest.raises(StudyError, match="width takes whole numbers"):
        typed_grid({"width": [None, 4]})


@pytest.mark.parametrize("given", ["--partition=gpu", "--exclusive", "-p", "--nodes=2 --mem=4G"])
def test_the_options_of_a_scheduler_are_typed_as_it_takes_them(given):
    words = ["compare", "--model", "resnet20", "--data", "digits", "--out", "a", "--launcher", "slurm", "--sbatch"]
    assert flags.parse(VERBS, "", "", [*words, given, "--seeds", "1"])[1]["cells"].sbatch == given
    for nothing in ([], ["--seeds", "1"]):
        with pytest.raises(flags.UsageError, match="--sbatch: expected one argument"):
            flags.parse(VERBS, "", "", [*words, *nothing])


def test_which_cells_are_asked_for():
    variants = ("plain", "se")
    assert [cell.name for cell in CellOptions().chosen(variants, 2)] == ["plain-0", "se-0", "plain-1", "se-1"]
    assert CellOptions(only="se", seed=7).chosen(variants, 2) == [Cell("se", 7)]
    assert [cell.name for cell in CellOptions(seed=1).chosen(variants, 1)] == ["plain-1", "se-1"]
    with pytest.raises(StudyError, match=r"no variant 'sse'; did you mean 'se'\?"):
        CellOptions(only="sse").chosen(variants, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"launcher": "slrum"}, "launcher is one of slurm, not 'slrum'"),
        ({"report_only": True, "list_cells": True}, "--list-cells and --report-only do not go together"),
        ({"report_only": True, "only": "se"}, "leave out --only and --seed"),
        ({"wait": False}, "--no-wait is for --launcher slurm"),
        ({"sbatch": "--mem=1G"}, "--sbatch is for --launcher slurm"),
        ({"sbatch": "--comment='two", "launcher": "slurm"}, r"quoted as for a shell, .* \(No closing quotation\)"),
    ],
)
def test_options_that_do_not_go_together(options, words):
    with pytest.raises(InputError, match=words):
        CellOptions(**options)


def test_a_report_of_what_is_there_counts_all_seeds_that_were_begun(tmp_path):
    for name in ("plain-4", "se-0", "se-01", "se-x", "stages-1-2-3"):
        (tmp_path / name).mkdir()
    (tmp_path / "se-9").write_text("no folder")
    assert [cell.name for cell in seeds_in(tmp_path, ("plain", "se"), 1)] == ["plain-0", "se-0", "plain-4"]
    cells = [Cell("plain", seed) for seed in range(6)]
    assert incomplete(cells, {cells[1]: "failed: no disk"}, "Go on") == (
        "plain-1 failed: no disk; plain-0 is not finished; plain-2 is not finished; plain-3 is not finished; "
        "and 2 more. Go on"
    )
