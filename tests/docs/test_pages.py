"""The pages of the site and README: their code runs and prints what they say, their commands and links are right."""

from __future__ import annotations

import importlib.util
import pydoc
import re
import runpy
import shutil

import pytest
import torch

import senet
from senet import cli, flags
from tests import pages
from tests.pages import DOCS

pytest.importorskip("lightning", reason="the extra 'study' is not installed")

README = DOCS.parent / "README.md"
CHANGELOG = DOCS.parent / "CHANGELOG.md"
ALL = sorted(DOCS.rglob("*.md"))
TESTS = "".join(file.read_text("utf-8") for file in (DOCS.parent / "tests").rglob("test_*.py"))


def has_a_test_of_its_own(page):
    """Whether another test runs the page: those of the guide build on each other, some need frameworks."""
    return page.parent.name == "guide" or (page.parent == DOCS and f"docs/{page.name}" in TESTS)


RUN = [page for page in [*ALL, README] if any(b.runs for b in pages.blocks(page)) and not has_a_test_of_its_own(page)]


def name(page):
    return str(page.relative_to(DOCS.parent).with_suffix(""))


def marked(page):
    return pytest.param(page, id=name(page), marks=[getattr(pytest.mark, mark) for mark in sorted(pages.needs(page))])


@pytest.fixture
def known():
    """What pages that begin in the middle take for granted: a network, an example, its SE, a batch with lengths."""
    torch.manual_seed(0)
    model = senet.create("resnet20", num_classes=10).eval()
    example = torch.randn(2, 3, 32, 32)
    return {
        "senet": senet,
        "torch": torch,
        "model": senet.insert(model, example, senet.SESpec(reduction_ratio=4)),
        "example": example,
        "batch": example,
        "lengths": torch.tensor([1.0, 0.5]),
    }


@pytest.fixture
def published(monkeypatch):
    """Weights that torchvision would download are drawn at random."""
    models = pytest.importorskip("torchvision").models

    def drawn(weights, *_args, **_kwargs):
        builder = next(each for each in models.list_models() if models.get_model_weights(each) is type(weights))
        return models.get_model(builder).state_dict()

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", drawn)


@pytest.mark.parametrize("page", [marked(page) for page in RUN])
def test_the_code_of_a_page_runs_and_prints_what_the_page_says(page, known, published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "se.onnx" in page.read_text() and page.stem == "export":
        pytest.importorskip("onnxruntime")
        senet.export(
            known["model"], known["example"], "se.onnx", metadata={"classes": list("abcdefghij"), "preprocessing": {}}
        )
    starts = {} if page == README or page.parent != DOCS else known
    for ran in pages.run(page, starts):
        if ran.expected is not None:
            assert ran.printed.rstrip() == ran.expected.rstrip(), ran.code


@pytest.mark.parametrize("page", [*ALL, README], ids=name)
def test_commands_can_be_typed(page):
    for _, words in pages.commands(page):
        flags.parse(cli.VERBS, "", "", words)


@pytest.mark.parametrize("page", [page for page in ALL if any(n == "run" for n, _ in pages.commands(page))], ids=name)
def test_commands_marked_to_run_do(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pages.run(page)
    shutil.copy(DOCS / "explore.png", "picture.png")
    for note, words in pages.commands(page):
        if note == "run":
            assert cli.main(words) == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", [*ALL, README, CHANGELOG], ids=name)
def test_links_lead_somewhere(page):
    for target in pages.links(page):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in pages.anchors(file), target


def test_every_page_is_in_a_list():
    """The index takes a page that no list names by itself; those in folders must be named."""
    index = runpy.run_path(str(DOCS / "site_pages.py"))["written"]((DOCS / "index.md").read_text())
    listed = set(re.findall(r"^([\w-]+/[\w-]+)$", index, re.MULTILINE))
    there = {str(page.relative_to(DOCS).with_suffix("")) for page in ALL if page.parent != DOCS}
    assert there == listed


def test_every_file_and_column_of_a_run_is_explained(tmp_path, monkeypatch):
    """A training, what `evaluate` and `predict` write of it, and its gates: nothing in there is unheard of."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(DOCS / "explore.png", ".")
    for line in (
        "train --model resnet20 --reduction-ratio 4 --where layer3* --data digits --epochs 1 --out run",
        "evaluate --model run --data digits --out measured",
        "predict --model run --data explore.png --out predicted.csv",
        "explain --model run --data digits --out explained",
    ):
        assert cli.main(line.split()) == 0
    assert pages.unexplained(tmp_path) == {"explore.png", "predicted.csv"}


def test_what_a_command_can_be_told_is_named_whole():
    """The tables of an ablation in README, and the data sets of our own in the help and on their page."""
    from senet.data.image_folders import OWN
    from senet.study.ablation.grid import TABLES

    told = re.search(r"`--table ([\w\s|-]+)`", README.read_text("utf-8"))[1]
    assert set(re.split(r"\s*\|\s*", told)) == {*TABLES, "all"}
    page = (DOCS / "reference/data.md").read_text("utf-8")
    assert all(f"| `{each}` |" in page for each in OWN)
    assert all(each in flags.FLAGS["data"].help for each in ("digits", "context"))


def test_exit_statuses_are_the_commands():
    page = (DOCS / "reference/verbs.md").read_text("utf-8").partition("<!--")[0]
    assert {str(each) for each in (0, 1, cli.FAILED, cli.INTERRUPTED, cli.UNREAD)} <= set(re.findall(r"\d+", page))


def test_names_of_ours_in_a_text_are_there():
    for page in [*ALL, README]:
        for dotted in re.findall(r"`(senet(?:\.[A-Za-z_]\w*)+)", page.read_text("utf-8")):
            if dotted != "senet.json":  # a file inside a .pt2
                found = pydoc.locate(dotted) or importlib.util.find_spec(dotted)  # senet.export is a function too
                assert found is not None, (page, dotted)


def test_marks_above_blocks_are_known():
    for page in ALL:
        for block in pages.blocks(page):
            assert re.fullmatch(r"(run|not run, .+|long|frameworks)?", block.note), block.note
