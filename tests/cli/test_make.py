"""`--make`: another block in SE's place, from the command line."""

from __future__ import annotations

import re

import pytest
import torch

from senet.insertion import MadeBlock, blocks
from senet.saving import load

pytest.importorskip("timm", reason="the extra 'timm' is not installed")

MAKER = """
from torch import nn

def gate(channels):
    return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.Sigmoid())

def broken(channels):
    return channels / 0
"""


@pytest.fixture
def maker(tmp_path):
    path = tmp_path / "maker.py"
    path.write_text(MAKER)
    return path


def test_insert_puts_timms_blocks_in_and_says_what_is_there(senet, tmp_path):
    file = tmp_path / "eca.safetensors"
    status, out, err = senet("insert", "--model", "resnet20", "--size", 8, "--make", "eca", "--out", file)
    assert (status, err) == (0, "")
    assert "eca is in resnet20, in 9 places" in out
    assert "the same as before, bit for bit" in out
    assert re.search(r"^ layer1\.0\.bn2\.se +16 +– +4 *$", out, re.MULTILINE)
    assert f"senet.load('{file}') makes it again." in out
    assert all(isinstance(block, MadeBlock) for block in blocks(load(file)).values())
    status, out, err = senet("cost", "--model", file, "--size", 8)
    assert (status, err) == (0, "")
    assert re.search(r"^ layer1\.0\.bn2\.se +16 +– +4 +48 ", out, re.MULTILINE)
    assert "with eca" in out


def test_ones_own_maker_opens_what_it_made(senet, maker, tmp_path):
    file = tmp_path / "own.safetensors"
    make = ("--make", f"{maker}:gate")
    status, out, err = senet("insert", "--model", "resnet20", "--size", 8, *make, "--out", file)
    assert (status, err) == (0, "")
    assert f"senet.load('{file}', make=...) makes it again." in out
    status, out, err = senet("cost", "--model", file, "--size", 8)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "A file never makes us run code that it names: give make= (--make)" in err
    status, out, err = senet("cost", "--model", file, "--size", 8, *make)
    assert (status, err) == (0, "")
    assert "layer3.2.bn2.se" in out
    plain = ("--model", "resnet20", "--weights", file, "--size", 8)
    status, _, err = senet("cost", *plain)
    assert status == 2
    assert "give make=" in err
    assert senet("cost", *plain, *make)[0] == 0
    status, _, err = senet("sites", "--model", file, "--size", 8, *make)
    assert status == 2
    assert "holds SE already wherever it could go" in err


def test_cost_counts_a_block_that_is_put_into_a_copy(senet, maker):
    status, out, err = senet("cost", "--model", "resnet20", "--size", 8, "--make", f"{maker}:gate")
    assert (status, err) == (0, "")
    assert re.search(r"^ layer1\.0\.bn2\.se +16 +– +272 ", out, re.MULTILINE)  # 16 · 17, as α is for an identity start


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--make", "ecca"), "make='ecca' is neither a block of timm's"),
        (("--make", "eca", "--reduction-ratio", 4), "reduction_ratio=4 is SE's own, and make=eca makes another block"),
        (("--make", "nowhere.py:gate"), "nowhere.py does not exist"),
        (("--make", "MAKER:broken"), "make=MAKER:broken raised ZeroDivisionError: division by zero (MAKER, line 8)"),
    ],
)
def test_what_cannot_be_made_is_said_in_one_line(senet, maker, words, message):
    words = [str(word).replace("MAKER", str(maker)) for word in words]
    status, out, err = senet("cost", "--model", "resnet20", "--size", 8, *words)
    assert (status, out) == (2, "")
    assert message.replace("MAKER", str(maker)) in err
    assert len(err.splitlines()) == 1


def test_training_goes_on_with_made_blocks(senet, study, maker, tmp_path):
    """A run with one's own blocks is trained, measured and opened again with the flag."""
    make = ("--make", f"{maker}:gate")
    run = tmp_path / "run"
    words = ("--data", "digits", "--epochs", 1, "--size", 8)
    assert senet("train", "--model", "resnet20", *words, *make, "--out", run)[0] == 0
    network = load(run, make=f"{maker}:gate")
    assert all(block.mixes is False for block in blocks(network).values())
    assert network(torch.zeros(1, 3, 8, 8)).shape == (1, 10)
    assert senet("evaluate", "--model", run, "--data", "digits", *make)[0] == 0
    status, _, err = senet("evaluate", "--model", run, "--data", "digits")
    assert status == 2
    assert "give make=" in err
    maker.write_text(MAKER + "\n# changed\n")
    status, _, err = senet("train", "--model", "resnet20", *words, *make, "--out", run)
    assert status == 2
    assert "has changed since" in err
