"""Ablations: all cells of the paper's tables on the embedded digits, resumed, on several devices, and their report."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import sys

import lightning.pytorch as L
import pytest
from scipy.stats import ttest_rel

from senet.block import SESpec
from senet.files.run_folder import read_csv, read_json
from senet.study import StudyError, ablate, open_data
from senet.study import compare as compare_once
from senet.study.ablation.pages import ablation_page
from tests.browser import complaints, opened, requests
from tests.pages import undocumented, unexplained
from tests.painting import NETWORK

STAGED = (
    NETWORK
    + """

class Staged(Tiny):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        pool = nn.MaxPool2d(2)
        self.blocks = nn.Sequential(Block(8), pool, Block(8), pool, Block(8))

def staged(num_classes=10):
    return Staged(num_classes)
"""
)
SHORT = {"epochs": 1, "batch_size": 8, "lr": 0.05, "devices": "cpu", "progress": False, "spec": SESpec(2)}


class Count(L.Callback):
    """Lists the runs that train, and can stop before one like a power cut."""

    def __init__(self, stop=None):
        self.stop, self.trained = stop, []

    def on_train_start(self, trainer, pl_module):
        name = f"{trainer.default_root_dir}".rpartition("/")[2]
        if name == self.stop:
            raise RuntimeError("the power is gone")
        self.trained.append(name)


def test_every_cell_of_every_table_on_the_digits(tmp_path, chromium):
    (tmp_path / "net.py").write_text(STAGED)
    found = ablate(
        f"{tmp_path / 'net.py'}:staged",
        "digits",
        out=tmp_path / "all",
        table="all",
        seeds=1,
        **{**SHORT, "batch_size": 479, "size": 16},
    )
    assert found.impossible == {}
    assert [cell.stages for key, cell in _cells(found) if key.startswith("stages")] == [
        *((1,), (2,), (3,)),
        *((2, 3), (1, 3), (1, 2)),
    ]
    assert len(found.cells) == 22
    assert found.comparisons == 21 + 20
    assert not any(cell.shown for cell in found.cells.values())  # one seed shows nothing
    assert {key: cell.sites for key, cell in found.cells.items() if cell.sites != 3} == {
        "plain": 0,
        **dict.fromkeys(("stages-1", "stages-2", "stages-3"), 1),
        **dict.fromkeys(("stages-2-3", "stages-1-3", "stages-1-2"), 2),
    }
    for key, cell in found.cells.items():
        run = read_json(tmp_path / "all" / f"{key}-0" / "result.json")
        assert cell.accuracy == (run["accuracy"],)
        assert cell.cost.parameters == run["parameters"]
        assert len(run["sites"]) == cell.sites
    assert {cell.cell.spec.start for cell in found.cells.values() if cell.cell.spec} == {"paper"}
    with (tmp_path / "all" / "ablation_squeeze.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"] for row in rows] == ["plain network", "standard SE", "squeeze max"]
    assert rows[1]["the paper's top-1 error (fraction)"] == "0.2229"  # of r = 2; all of a row in fractions
    assert rows[1]["the paper's top-5 error (fraction)"] == "0.06"
    assert rows[2]["the paper's top-1 error (fraction)"] == ""  # the paper took the maximum at r = 16 alone
    assert rows[2]["accuracy (fraction)"] == str(found.cells["squeeze-max"].mean)
    assert rows[2]["− plain, over images, low (fraction)"] == str(found.cells["squeeze-max"].over_images.low)
    opened(chromium, tmp_path / "all" / "report.html")
    assert complaints(chromium) == []
    assert requests(chromium) == [(tmp_path / "all" / "report.html").as_uri()]
    text = chromium.find_element("tag name", "body").text
    assert "22.29 / 6.00" in text
    assert "22.93 / 6.39" not in text
    assert "accuracy − plain network's (points)" in text
    assert "With one seed no difference can be shown" in " ".join(str(found).split())


def _cells(found):
    return [(key, cell.cell) for key, cell in found.cells.items()]


def test_cells_are_the_runs_of_compare(tiny, pictures, tmp_path):
    """The plain and the standard cell are those that compare trains, and the intervals are scipy's."""
    source = open_data(pictures)
    found = ablate(tiny, source, out=tmp_path / "a", table="squeeze", seeds=3, **SHORT)
    assert "of 2 variants of SE differ from the plain network, as far as 3 seeds and" in " ".join(str(found).split())
    once = compare_once(tiny, source, out=tmp_path / "c", seeds=3, **SHORT)
    assert found.cells["plain"].accuracy == once.plain.accuracy
    assert found.cells["se"].accuracy == once.se.accuracy
    assert found.comparisons == 3
    content = json.loads((tmp_path / "a/result.json").read_text())
    for key in ("se", "squeeze-max"):
        of = found.cells[key].to_plain
        if of.p is not None:
            assert of.p == pytest.approx(ttest_rel(found.cells[key].accuracy, found.cells["plain"].accuracy).pvalue)
        assert content["cells"][key]["minus_plain"]["mean"] == of.difference.mean
    assert content["cells"]["plain"]["paper_imagenet_error"] == {"top1": 23.3, "top5": 6.55}
    page = dataclasses.replace(found, missing=("se-3",), settings={**found.settings, "se": {"start": "identity"}})
    for each, words in ((found, ("trained 3 times,", "in the paper.")), (page, ("at most 3 times,", "the identity."))):
        text = ablation_page(each).sections[0].parts[0].text
        assert all(word in text for word in words)
    assert not undocumented(tmp_path / "a/result.json") | undocumented(tmp_path / "c/result.json")
    assert not undocumented(tmp_path / "c/se-0/result.json")
    assert not unexplained(tmp_path / "a") | unexplained(tmp_path / "c")
    figure = read_csv(tmp_path / "a/ablation_squeeze_figure.csv")
    assert list(figure[0]) == ["variant", *(f"{name} (fraction)" for name in ("difference", "low", "high"))]
    assert figure[0]["difference (fraction)"] == str(found.cells["se"].to_plain.difference.mean)
    rows = read_csv(tmp_path / "a/metrics.csv")
    assert [(row["cell"], row["seed"]) for row in rows] == [
        (cell, str(seed)) for cell in ("plain", "se", "squeeze-max") for seed in range(3)
    ]


def test_resumed_cell_by_cell_and_asked_for_more(tiny, pictures, tmp_path):
    source = open_data(pictures)
    whole = ablate(tiny, source, out=tmp_path / "whole", table="squeeze", seeds=2, **SHORT)
    with pytest.raises(RuntimeError, match="the power is gone"):
        ablate(tiny, source, out=tmp_path / "cut", table="squeeze", seeds=2, callbacks=[Count("plain-1")], **SHORT)
    assert not (tmp_path / "cut" / "result.json").exists()
    count = Count()
    again = ablate(tiny, source, out=tmp_path / "cut", table="squeeze", seeds=2, callbacks=[count], **SHORT)
    assert count.trained == ["plain-1", "se-1", "squeeze-max-1"]
    assert {k: c.accuracy for k, c in again.cells.items()} == {k: c.accuracy for k, c in whole.cells.items()}
    count = Count()
    more = ablate(
        tiny, source, out=tmp_path / "cut", table=["squeeze", "no-squeeze"], seeds=2, callbacks=[count], **SHORT
    )
    assert count.trained == ["squeeze-none-0", "squeeze-none-1"]
    assert list(more.tables) == ["squeeze", "no-squeeze"]
    assert more.notes == ()
    fewer = ablate(tiny, source, out=tmp_path / "cut", table="squeeze", seeds=2, **SHORT)
    assert fewer.notes == ("The folder also has squeeze-none, left out here: name their tables and grid too.",)
    with pytest.raises(StudyError, match=r"recipe.epochs was 1 and is now 2"):
        ablate(tiny, source, out=tmp_path / "cut", table="squeeze", seeds=2, **{**SHORT, "epochs": 2})
    with pytest.raises(StudyError, match=r"se.reduction_ratio was 2 and is now 4"):
        ablate(tiny, source, out=tmp_path / "cut", table="squeeze", seeds=2, **{**SHORT, "spec": SESpec(4)})


def test_what_a_network_has_no_place_for_is_left_out_with_its_reason(tiny, pictures, tmp_path, monkeypatch):
    from senet.insertion import InsertionError

    module = sys.modules["senet.study.ablation.ablate"]
    real = module.sites

    def without(model, example, *, placement="standard"):
        if placement == "post":
            raise InsertionError("there is no place behind the block")
        return real(model, example, placement=placement)

    monkeypatch.setattr(module, "sites", without)
    found = ablate(tiny, pictures, out=tmp_path / "a", grid={"placement": ["standard", "post"]}, seeds=1, **SHORT)
    assert found.impossible == {"placement post": "there is no place behind the block"}
    assert found.tables == {"grid": ("se",)}
    assert "placement post is not possible in this network: there is no place" in " ".join(str(found).split())


@pytest.mark.long
def test_two_at_a_time_give_what_one_after_another_gives(tiny, pictures, tmp_path):
    one = ablate(tiny, pictures, out=tmp_path / "one", table="squeeze", seeds=2, **SHORT)
    two = ablate(tiny, pictures, out=tmp_path / "two", table="squeeze", seeds=2, **{**SHORT, "devices": "cpu*2"})
    assert {k: c.accuracy for k, c in two.cells.items()} == {k: c.accuracy for k, c in one.cells.items()}
    shutil.rmtree(tmp_path / "two" / "se-1")
    (tmp_path / "two" / "se-1").write_text("in the way")
    with pytest.raises(StudyError, match="cannot be written"):
        ablate(tiny, pictures, out=tmp_path / "two", table="squeeze", seeds=2, **{**SHORT, "devices": "cpu*2"})


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"table": "depth"}, "there is no table 'depth'"),
        ({}, "say what to vary"),
        ({"table": "gate", "start": "identity"}, "cannot start as the identity"),
        ({"table": "squeeze", "seeds": 0}, "at least 1, not 0"),
        ({"table": "squeeze", "where": "nowhere"}, "matches no site"),
    ],
)
def test_what_cannot_be_ablated(tiny, pictures, tmp_path, asked, words):
    with pytest.raises(ValueError, match=words):
        ablate(tiny, pictures, out=tmp_path / "a", **{**SHORT, **asked})
    assert not (tmp_path / "a").exists()


def test_a_network_that_holds_se_already(pictures, tmp_path):
    with pytest.raises(StudyError, match="se_resnet20 holds SE already"):
        ablate("se_resnet20", pictures, out=tmp_path / "a", table="squeeze", **SHORT)
