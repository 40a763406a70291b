"""Other blocks in SE's place, in whole studies: trained, told apart, told in the report."""

from __future__ import annotations

import csv

import pytest
from torch import nn

from senet.block import SESpec
from senet.errors import InputTypeError, StudyError
from senet.files.run_folder import read_json
from senet.saving import load
from senet.study import ablate, compare, open_data
from senet.study.comparison.pages import read_comparison

pytest.importorskip("timm", reason="the extra 'timm' is not installed")
SHORT = {"epochs": 1, "batch_size": 8, "lr": 0.05, "devices": "cpu", "progress": False, "seeds": 1}


class Pointwise(nn.Conv2d):
    def __init__(self, channels):
        super().__init__(channels, channels, 1)


def test_makers_side_by_side(tiny, pictures, tmp_path):
    source = open_data(pictures)
    grid = {"make": ["se", "eca", Pointwise]}
    found = ablate(tiny, source, out=tmp_path / "a", grid=grid, spec=SESpec(least_width=2), **SHORT)
    assert list(found.cells) == ["plain", "se", "make-eca", "make-Pointwise"]
    added = {key: cell.cost.parameters - found.cells["plain"].cost.parameters for key, cell in found.cells.items()}
    assert added == {"plain": 0, "se": 2 * 2 * 2 * 8, "make-eca": 2 * 3, "make-Pointwise": 2 * (64 + 8)}
    with (tmp_path / "a" / "ablation_grid.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"] for row in rows] == ["plain network", "standard SE", "eca", "Pointwise"]
    assert [int(row["parameters"]) for row in rows] == [cell.cost.parameters for cell in found.cells.values()]
    assert len({row["multiply-adds"] for row in rows}) == 4
    assert read_json(tmp_path / "a" / "result.json")["cells"]["make-eca"]["se"]["make"] == "eca"
    network = load(tmp_path / "a" / "make-Pointwise-0", _tiny(tiny), make=Pointwise)
    assert {type(block).__name__ for name, block in network.named_modules() if name.endswith(".se")} == {"MadeBlock"}


def test_a_made_block_is_compared_with_the_plain_network(tiny, pictures, tmp_path):
    out = tmp_path / "c"
    found = compare(tiny, pictures, out=out, make="eca", **SHORT)
    text = " ".join(str(found).split())
    assert "eca at 2 sites, start paper" in text
    assert "with eca" in text
    assert "with SE" not in text
    assert "eca − plain" in found.verdict
    assert read_json(out / "result.json")["settings"]["se"]["make"] == {"name": "eca", "content": "eca"}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "without and with eca" in page
    assert "with SE" not in page
    assert read_comparison(out).block == "eca"
    assert compare(tiny, pictures, out=out, make="eca", **SHORT).verdict == found.verdict  # finished
    with pytest.raises(StudyError, match=r"se.make was 'eca' and is now 'cbam'"):
        compare(tiny, pictures, out=out, make="cbam", **SHORT)


def test_only_what_has_a_name_goes_to_other_processes(tiny, pictures, tmp_path):
    from senet.study.ablation.ablate import ablate_cells
    from senet.study.cells.cell import CellOptions

    listing = CellOptions(list_cells=True)
    how = {"out": tmp_path / "a", **SHORT}
    lines = ablate_cells(tiny, str(pictures), listing, make="eca", grid={"make": ["se", "cbam"]}, **how)
    assert all("--make eca" in line and "make=se,cbam" in line for line in lines)
    with pytest.raises(StudyError, match="make has values that no command can name"):
        ablate_cells(tiny, str(pictures), listing, grid={"make": [Pointwise]}, **how)
    with pytest.raises(InputTypeError, match="which no command can name"):
        ablate_cells(tiny, str(pictures), listing, make=Pointwise, grid={"placement": ["pre"]}, **how)


def _tiny(name):
    from senet import create

    return create(name, num_classes=2)
