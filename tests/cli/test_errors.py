import argparse
import re
from urllib.error import URLError

import numpy as np
import pytest
from torch import nn

from senet import cli, create, flags
from senet.console.stopping import Stopped
from senet.errors import SenetError
from senet.words import kind_of

BAD = {
    "no verb": ((), "say which verb"),
    "unknown verb": (("inser",), "did you mean 'insert'?"),
    "flag before the verb": (("--debug", "sites", "--model", "resnet20"), "no verb '--debug'. The verbs are sites,"),
    "unknown flag": (("cost", "--model", "resnet20", "--widht", "3"), "did you mean --width?"),
    "class weights": (
        ("train", *"--model resnet20 --data digits --out runs/x --class-weights 1 2".split()),
        "does not take '--class-weights'; every image counts alike; a training of your own does it otherwise, and "
        "senet judge --code",
    ),
    "loss": (
        ("compare", *"--model resnet20 --data digits --out runs/x --loss focal".split()),
        "does not take '--loss'; the loss is cross entropy; a training",
    ),
    "class weights of a measurement": (
        ("evaluate", *"--model resnet20 --data digits --class-weights x".split()),
        "'--class-weights'; see senet evaluate",
    ),
    "flag of another verb": (("sites", "--model", "resnet20", "--epochs", "3"), "does not take '--epochs'"),
    "abbreviated flag": (("sites", "--mod", "resnet20"), "did you mean --model?"),
    "no model": (("sites",), "senet sites needs --model; see senet sites --help"),
    "no out": (("insert", "--model", "resnet20"), "senet insert needs --out"),
    "nothing": (("compare",), "needs --model and --data and --out"),
    "unknown model": (("sites", "--model", "resnet2O"), "or 'resnet20'"),
    "unknown in torchvision": (("cost", "--model", "torchvision:resnet51"), "'resnet50'"),
    "unknown in timm": (("cost", "--model", "timm:convnext_tini"), "'convnext_tiny'"),
    "file without function": (("sites", "--model", "nets.py"), "which function"),
    "no such file": (("sites", "--model", "nowhere/nets.py:build"), "does not exist"),
    "unknown gate": (("cost", "--model", "resnet20", "--gate", "sigmoyd"), "did you mean 'sigmoid'?"),
    "unknown squeeze": (("cost", "--model", "resnet20", "--squeeze", "mean"), "'avg', 'max', 'none', not 'mean'"),
    "unknown placement": (("sites", "--model", "resnet20", "--placement", "iner"), "did you mean 'inner'?"),
    "unknown start": (("insert", "--model", "resnet20", "--out", "x", "--start", "zero"), "not 'zero'"),
    "tanh at the identity": (
        ("insert", "--model", "resnet20", "--out", "x", "--gate", "tanh", "--start", "identity"),
        "start='paper'",
    ),
    "tanh": (("insert", "--model", "resnet20", "--out", "x", "--gate", "tanh"), "start='paper'"),
    "ratio 0": (("cost", "--model", "resnet20", "--reduction-ratio", "0"), "at least 1, not 0"),
    "ratio -1": (("cost", "--model", "resnet20", "--reduction-ratio", "-1"), "at least 1, not -1"),
    "ratio 1.5": (("cost", "--model", "resnet20", "--reduction-ratio", "1.5"), "a whole number, not '1.5'"),
    "width 0": (("cost", "--model", "resnet20", "--width", "0"), "at least 1, not 0"),
    "size 0": (("cost", "--model", "resnet20", "--size", "0"), "--size: it takes a whole number of at least 1"),
    "lr": (("train", "--model", "resnet20", "--data", "digits", "--out", "x", "--lr", "fast"), "a number, not"),
    "seeds 0": (
        ("compare", "--model", "resnet20", "--data", "digits", "--out", "x", "--seeds", "0"),
        "at least 1, not '0'",
    ),
    "seed -1": (
        ("train", "--model", "resnet20", "--data", "digits", "--out", "x", "--seed", "-1"),
        "at least 0, not '-1'",
    ),
    "where without match": (
        ("insert", "--model", "resnet20", "--out", "x", "--where", "layer4*"),
        "layer1.0.bn2, layer1.1.bn2",
    ),
    "cost of nothing": (("cost",), "senet cost needs --model, or --table"),
    "cost of a size": (("cost", "--size", "8"), "senet cost --size needs --model"),
    "table of a network": (("cost", "--table", "--model", "resnet20"), "beside it there is --out alone"),
    "table of a spec": (("cost", "--table", "--gate", "tanh"), "beside it there is --out alone"),
    "table in a strange file": (("cost", "--table", "--out", "x.gif"), "x.gif: a figure's name ends in .png or .svg"),
    "table in no folder": (("cost", "--table", "--out", "no/x.png"), "cannot write no/x.png: the folder"),
    "figure of a network": (("cost", "--model", "resnet20", "--out", "x.png"), "writes a figure with --table alone"),
    "one where of two": (("sites", "--model", "resnet20", "--where", "layer3*", "fc"), "where='fc'"),
    "inserting twice": (("insert", "--model", "se_resnet20", "--out", "x"), "holds SE already"),
    "no such weights": (("cost", "--model", "resnet20", "--weights", "nowhere.pth"), "nowhere.pth"),
    "weights of no one": (("cost", "--model", "resnet20", "--weights", "pretrained"), "no published weights"),
    "out is a folder": (("insert", "--model", "resnet20", "--out", "."), "is a folder"),
    "too small": (("sites", "--model", "torchvision:resnet18", "--in-channels", "1"), "in_channels"),
    "no data": (("sites", "--model", "resnet20", "--data", "nowhere"), "nowhere"),
    "no data to evaluate": (("evaluate", "--model", "resnet20", "--data", "nowhere"), "nowhere"),
    "no data to compare": (("compare", "--model", "resnet20", "--data", "nowhere", "--out", "x"), "nowhere"),
    "no such device": (
        ("train", "--model", "resnet20", "--data", "digits", "--out", "x", "--devices", "tpu"),
        "'tpu' is not on this machine",
    ),
    "no such zoo pattern": (("models", "vit*"), "no network of the zoo is named like 'vit*'"),
}


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_line(senet, tmp_path, monkeypatch, words, message):
    if words[:1] in (("train",), ("compare",), ("evaluate",)) or "--data" in words:
        pytest.importorskip("senet.study", reason="the extra 'study' is not installed")
    for library in ("torchvision", "timm"):
        if any(word.startswith(library) for word in words):
            pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    status, out, err = senet(*words)
    assert status == 2
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("senet: error: ")
    assert message in last
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError("of a library"), KeyError("ours"), RuntimeError("shapes differ")])
def test_a_mistake_of_ours_shows_where_it_is(study, monkeypatch, error):
    """What is no SenetError, OSError or missing package is not dressed as the person's mistake."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(study, "evaluate", fail)
    with pytest.raises(type(error)) as shown:
        cli.main(["evaluate", "--model", "resnet20", "--data", "digits"])
    assert shown.value is error


def test_too_little_memory_is_one_line(senet):
    status, out, err = senet("cost", "--model", "resnet20", "--width", 10**14)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"senet: error: there is not enough memory for this: \d+ bytes were asked for; .*\n", err)


def test_published_weights_off_line_say_what_to_do(senet, monkeypatch, tmp_path):
    pytest.importorskip("torchvision")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", _off_line)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", _off_line)
    status, out, err = senet("cost", "--model", "torchvision:resnet18", "--weights", "pretrained")
    assert (status, out) == (2, "")
    assert "weights of torchvision:resnet18 cannot be fetched (<urlopen error off line>): go online, or give a" in err


def _off_line(*_, **__):
    raise URLError("off line")


def test_a_file_on_the_hub_off_line_is_not_called_missing(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def fail(*_, **__):
        raise hub.errors.LocalEntryNotFoundError("off line")

    monkeypatch.setattr(hub, "hf_hub_download", fail)
    with pytest.raises(SenetError, match=r"hf:a/b cannot be fetched: LocalEntryNotFoundError: off line"):
        create("resnet20", weights="hf:a/b")


def test_out_below_a_file(senet, tmp_path):
    (tmp_path / "file").touch()
    status, _, err = senet("insert", "--model", "resnet20", "--out", tmp_path / "file" / "x.safetensors")
    assert status == 2
    assert re.search(r"senet: error: .*file", err)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_the_traceback_on_request(monkeypatch, how):
    words = ["cost", "--model", "resnet2O"]
    if how == "variable":
        monkeypatch.setenv("SENET_DEBUG", "1")
    else:
        words.append("--debug")
    with pytest.raises(ValueError, match="resnet20"):
        cli.main(words)


@pytest.mark.parametrize(
    ("verb", "error", "status", "message"),
    [
        ("train", KeyboardInterrupt(), 130, "the same command resumes it"),
        ("compare", KeyboardInterrupt(), 130, "the same command resumes it"),
        ("evaluate", KeyboardInterrupt(), 130, "senet: interrupted\n"),
        ("train", Stopped(15, "stopped by SIGTERM"), 143, "stopped by SIGTERM; the same command resumes"),
        ("train", Stopped(15, "a job goes on", resumable=False), 143, "senet: a job goes on\n"),
        ("train", ModuleNotFoundError("No module", name="lightning.pytorch"), 2, "[study]'"),
        ("train", ModuleNotFoundError("No module", name="timm"), 2, "[timm]'"),
        ("train", ImportError("one line\nand another"), 2, "senet: error: one line and another\n"),
        ("train", OSError(28, "No space left on device", "runs/x"), 2, "runs/x: No space left on device"),
        ("train", OSError(2, "No such file", "a\x1b[2J\u202eb"), 2, r"a\x1b[2J\u202eb: No such file"),
    ],
)
def test_interruptions_and_missing_extras(senet, study, monkeypatch, verb, error, status, message):
    def fail(*_, **__):
        raise error

    where = "senet.study.comparison.compare.compare_cells" if verb == "compare" else f"senet.study.{verb}"
    monkeypatch.setattr(where, fail)
    out = () if verb == "evaluate" else ("--out", "x")
    found, _, err = senet(verb, "--model", "resnet20", "--data", "digits", *out)
    assert found == status
    assert message in err


def test_what_resumes_an_interrupted_command_that_was_told_not_to(senet, study, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "train", interrupt)
    status, _, err = senet("train", "--model", "resnet20", "--data", "digits", "--out", "x", "--no-resume")
    assert (status, err) == (130, "\nsenet: interrupted; the same command without --no-resume resumes it\n")


def test_numbers_are_checked_where_they_are_typed():
    assert flags._number("3", kind=int, least=1) == 3
    assert flags._number("0.5", kind=float, least=None) == 0.5
    with pytest.raises(argparse.ArgumentTypeError, match="it takes a number, not 'nan'"):
        flags._number("nan", kind=float, least=None)
    with pytest.raises(argparse.ArgumentTypeError, match="a whole number of at least 1, not '0'"):
        flags._number("0", kind=int, least=1)


def test_a_line_is_not_as_long_as_a_hostile_name(capsys):
    assert cli.main(["sites", "--model", "x" * 100_000]) == 2
    said = capsys.readouterr().err
    assert len(said) < 2000
    assert " … " in said


@pytest.mark.parametrize(
    ("value", "words"),
    [(1, "an int"), ([], "a list"), (nn.LSTM(1, 1), "an LSTM"), (np.zeros(1), "an ndarray"), (nn.ReLU(), "a ReLU")],
)
def test_a_kind_has_the_article_that_is_said(value, words):
    assert kind_of(value) == words
