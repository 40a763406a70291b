"""Which variants a table and a grid ask for."""

from __future__ import annotations

import pytest

from senet.block import SESpec
from senet.block.made import block_spec
from senet.study import StudyError
from senet.study.ablation.grid import TABLES, cells_of, parse_grid
from senet.study.ablation.published import Published

BASE = SESpec(start="paper")
STAGES = (2, 3, 4, 5)


def _cells(tables=(), grid=None, stages=STAGES, base=BASE):
    return cells_of(base, tables, grid, stages)


@pytest.mark.parametrize(
    ("table", "keys"),
    [
        ("reduction", ("r2", "r4", "r8", "se", "r32")),
        ("squeeze", ("se", "squeeze-max")),
        ("no-squeeze", ("se", "squeeze-none")),
        ("gate", ("se", "gate-hard_sigmoid", "gate-tanh", "gate-relu")),
        ("placement", ("se", "placement-pre", "placement-post", "placement-identity", "placement-inner")),
        ("bias", ("se", "bias")),
        (
            "stages",
            (
                *(f"stages-{stage}" for stage in STAGES),
                *("stages-3-4-5", "stages-2-4-5", "stages-2-3-5", "stages-2-3-4", "se"),
            ),
        ),
    ],
)
def test_the_tables(table, keys):
    cells, tables = _cells([table])
    assert tables == {table: keys}
    assert set(cells) == {"se", *keys}
    assert all(cell.spec.start == "paper" for cell in cells.values())


def test_all_tables_share_their_cells():
    cells, tables = _cells(["all"])
    assert list(tables) == list(TABLES)
    assert len(cells) == 1 + 4 + 1 + 1 + 3 + 8 + 4 + 1
    assert len({(cell.spec, cell.stages) for cell in cells.values()}) == len(cells)


def test_the_papers_figures_stand_where_they_belong():
    cells, _ = _cells(["all"])
    rows = {
        "se": Published(22.28, 6.03),
        "r2": Published(22.29, 6.00),
        "squeeze-max": Published(22.57, 6.09),
        "squeeze-none": Published(22.93, 6.39),
        "gate-tanh": Published(23.00, 6.38),
        "placement-inner": Published(22.48, 6.02),
        "stages-4": Published(22.68, 6.22),
        "stages-5": None,
        "stages-3-4-5": None,
        "gate-hard_sigmoid": None,
        "bias": None,
    }
    assert {key: cells[key].published for key in rows} == rows
    small, _ = _cells(["stages"], stages=(0, 1, 2))  # stage 2 of a CIFAR network is its last
    assert small["stages-2"].published is None
    assert _cells(["squeeze"], base=SESpec(8, start="paper"))[0]["se"].published == Published(22.26, 5.99)
    assert _cells(["squeeze"], base=SESpec(bias=True, start="paper"))[0]["se"].published is None


def test_a_grid_is_every_combination():
    cells, tables = _cells(grid={"reduction_ratio": [4, 16], "gate": ["sigmoid", "tanh"]})
    assert tables == {"grid": ("r4", "r4_gate-tanh", "se", "gate-tanh")}
    assert cells["r4_gate-tanh"].spec == SESpec(4, gate="tanh", start="paper")
    assert cells["r4_gate-tanh"].label == "r = 4, gate tanh"
    assert cells["r4"].published is None  # beside other variants, it is no row of the paper's
    cells, tables = _cells(grid={"stages": ["all", "2", "-2", "2+5", "each"]})
    assert tables["grid"] == ("se", "stages-2", "stages-3-4-5", "stages-2-5", "stages-3", "stages-4", "stages-5")
    assert cells["stages-3-4-5"].label == "all but stage 2"
    assert cells["stages-2-5"].label == "stages 2, 5"


def test_one_stage_has_nothing_to_leave_out():
    assert _cells(["stages"], stages=(1,))[1] == {"stages": ("se",)}
    assert _cells(["stages"], stages=(1, 2))[1] == {"stages": ("stages-1", "stages-2", "se")}


def test_a_grid_as_it_is_typed():
    words = ["reduction-ratio=4,16", "--gate=sigmoid, tanh", "bias=no,yes", "stages=all,-5", "width=8"]
    assert parse_grid(words) == {
        "reduction_ratio": [4, 16],
        "gate": ["sigmoid", "tanh"],
        "bias": [False, True],
        "stages": ["all", "-5"],
        "width": [8],
    }
    for word, message in (
        ("gate", "is not an axis with values"),
        ("gate=", "is not an axis with values"),
        ("reduction-ratio=few", "takes whole numbers, not 'few'"),
        ("bias=maybe", "yes or no, not 'maybe'"),
    ):
        with pytest.raises(StudyError, match=message):
            parse_grid([word])
    with pytest.raises(StudyError, match="the grid names reduction_ratio twice: give all its values at once"):
        parse_grid(["reduction-ratio=4", "gate=tanh", "--reduction_ratio=8"])


@pytest.mark.parametrize(
    ("tables", "grid", "words"),
    [
        ([], None, "say what to vary"),
        (["sqeeze"], None, "did you mean 'squeeze'"),
        ([], {"gates": ["tanh"]}, "did you mean 'gate'"),
        ([], {"gate": []}, "gives gate no values"),
        ([], {"gate": ["softmax"]}, "gate is one of"),
        ([], {"gate": "tanh"}, r"takes a list of values, such as \['tanh'\]"),
        ([], {"reduction_ratio": 4}, r"takes a list of values, such as \[4\]"),
        ([], {"stages": ["7"]}, "whose SE is in stages 2, 3, 4, 5"),
        ([], {"stages": ["-2+3+4+5"]}, "leaves no stage"),
        ([], {"stages": ["last"]}, "names none of this network"),
    ],
)
def test_what_cannot_be_varied(tables, grid, words):
    with pytest.raises(StudyError, match=words):
        _cells(tables, grid)


def test_the_least_width_is_an_axis():
    cells, _ = _cells(grid=parse_grid(["least-width=1,4,8"]))
    assert {key: cell.spec.least_width for key, cell in cells.items()} == {
        "se": 1,
        "least-width-4": 4,
        "least-width-8": 8,
    }
    assert cells["least-width-4"].label == "at least 4 hidden"


def test_makers_are_an_axis():
    cells, tables = _cells(grid=parse_grid(["make=se,eca,nets/my.py:Gate"]))
    assert tables == {"grid": ("se", "make-eca", "make-nets-my.py-Gate")}
    assert [cell.label for cell in cells.values()] == ["standard SE", "eca", "my.py:Gate"]
    assert cells["se"].spec == BASE
    assert (cells["make-eca"].spec.name, cells["make-eca"].spec.start) == ("eca", "paper")
    cells, tables = _cells(grid={"make": ["se", "eca"], "placement": ["standard", "pre"]}, base=SESpec(4))
    assert tables["grid"] == ("se", "placement-pre", "make-eca", "make-eca_placement-pre")
    assert cells["placement-pre"].spec == SESpec(4, placement="pre")  # SE keeps what is standard
    assert cells["make-eca_placement-pre"].spec.placement == "pre"
    assert cells["make-eca"].published is None


def test_the_standard_block_may_be_a_made_one():
    base = block_spec(SESpec(start="paper"), "eca")
    cells, tables = _cells(["placement"], {"make": ["se", "eca", "cbam"]}, base=base)
    assert tables["grid"] == ("make-se", "se", "make-cbam")
    assert cells["se"].label == "eca, standard"
    assert cells["make-se"].spec == SESpec(start="paper")
    assert {cell.spec.name for key, cell in cells.items() if key.startswith("placement")} == {"eca"}
    assert all(cell.published is None for cell in cells.values())


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (
            {"make": ["se", "eca"], "reduction_ratio": [4]},
            "reduction_ratio is SE's own, and make=eca makes",
        ),
        ({"make": ["ecca"]}, "make='ecca' is neither a block of timm's"),
        ({"make": [lambda c: c, lambda c: c + 0]}, "two of the variants are called make-"),
        ({"least_width": [0]}, "least_width is a whole number of at least 1, not 0"),
    ],
)
def test_what_no_block_has_is_refused(grid, message):
    with pytest.raises(StudyError, match=message):
        _cells(grid=grid)


def test_the_papers_figures_stand_beside_the_papers_blocks_alone():
    cells, _ = _cells(["gate", "placement", "reduction"], base=SESpec(4, squeeze="max", start="paper"))
    assert [key for key, cell in cells.items() if cell.published] == []
    wide, _ = _cells(["gate", "reduction"], base=SESpec(4, start="paper"))
    assert wide["gate-tanh"].published is None
    assert wide["r2"].published == Published(22.29, 6.00)
