import argparse
import dataclasses
import inspect
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from senet import SESpec, __version__, cli, display, flags
from senet.insertion import blocks
from senet.saving import load
from senet.stopping import Stopped


@pytest.fixture
def senet(capsys):
    """Runs the command: exit status, standard output, standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        status = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def study():
    return pytest.importorskip("senet.study", reason="the extra 'study' is not installed")


NETS = """
import torch
from torch import nn

class Residual(nn.Module):
    def __init__(self, convolution, norm, inputs):
        super().__init__()
        self.stem = convolution(inputs, 8, 3, padding=1)
        self.conv = convolution(8, 8, 3, padding=1)
        self.bn = norm(8)

    def forward(self, x):
        x = self.stem(x)
        return x + self.bn(self.conv(torch.relu(x)))

def grey():
    return Residual(nn.Conv2d, nn.BatchNorm2d, 1)

def signal():
    return Residual(nn.Conv1d, nn.BatchNorm1d, 2)

def volume():
    return Residual(nn.Conv3d, nn.BatchNorm3d, 1)

def linear():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten())
"""


@pytest.fixture
def nets(tmp_path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return path


def test_sites(senet):
    status, out, err = senet("sites", "--model", "resnet20")
    assert (status, err) == (0, "")
    assert out.startswith("SE can go into resnet20 in 9 places\n")
    rows = re.findall(r"^ (layer\S+) +(\d+) +(\d) +residual +(.*)$", out, re.MULTILINE)
    assert [(name, int(channels)) for name, channels, _, _ in rows] == [
        (f"layer{stage}.{block}.bn2", 8 * 2**stage) for stage in (1, 2, 3) for block in range(3)
    ]
    assert all("shortcut" in why or "input" in why for *_, why in rows)


def test_sites_where_and_placement(senet):
    status, out, _ = senet("sites", "--model", "resnet20", "--where", "layer3*", "*1.0.*", "--placement", "pre")
    assert status == 0
    assert "in 4 places" in out
    assert "layer2" not in out


@pytest.mark.parametrize(
    ("function", "shape"), [("grey", "(1, 1, 8, 8)"), ("signal", "(1, 2, 8)"), ("volume", "(1, 1, 8, 8, 8)")]
)
def test_a_network_of_ones_own(senet, nets, function, shape):
    status, out, err = senet("cost", "--model", f"{nets}:{function}", "--size", 8, "--reduction-ratio", 4)
    assert (status, err) == (0, "")
    assert f"on a float32 tensor of shape {shape}" in out
    assert re.search(r"^ bn\.se +8 +2 +32 +32 ", out, re.MULTILINE)


def test_a_network_with_no_place(senet, nets):
    status, out, err = senet("sites", "--model", f"{nets}:linear", "--size", 8)
    assert (status, out) == (2, "")
    assert err.startswith("senet: error: Sequential has no place for SE")
    assert len(err.splitlines()) == 1


def test_insert_proves_and_writes_what_load_reads(senet, tmp_path):
    file = tmp_path / "se.safetensors"
    words = ("--reduction-ratio", 4, "--bias", "--where", "layer3*", "--num-classes", 7, "--in-channels", 1)
    status, out, err = senet("insert", "--model", "resnet20", "--size", 8, *words, "--out", file)
    assert (status, err) == (0, "")
    assert "SE is in resnet20, in 3 places" in out
    assert "shape (1, 1, 8, 8): the same as before, bit for bit (largest difference 0)" in out
    assert "116 of 116 tensors are as they were; 15 are new" in out
    assert str(file) in out
    network = load(file)
    assert list(blocks(network)) == [f"layer3.{block}.bn2.se" for block in range(3)]
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 7)
    assert [path.name for path in tmp_path.iterdir()] == ["se.safetensors"]


def test_insert_with_random_gates_says_that_the_output_is_another(senet, tmp_path):
    file = tmp_path / "se.safetensors"
    status, out, _ = senet("insert", "--model", "resnet20", "--gate", "tanh", "--start", "paper", "--out", file)
    assert status == 0
    assert re.search(r"not the same as before \(largest difference (?!0\))", out)


def test_cost(senet, tmp_path):
    status, out, err = senet("cost", "--model", "resnet20", "--num-classes", 10)
    assert (status, err) == (0, "")
    added = 3 * 2 * (16 + 2 * 32 + 4 * 64)
    for words in (
        "on a float32 tensor of shape (1, 3, 32, 32)",
        "269.7 k",  # 269,722: the CIFAR ResNet-20 of He et al. with batch norm and option A
        f"{(269_722 + added) / 1000:.1f} k",
        "+0.75 %",
        "The 9 SE blocks",
    ):
        assert words in out
    assert "forward pass" not in out
    file = tmp_path / "se.safetensors"
    senet("insert", "--model", "resnet20", "--num-classes", 10, "--out", file)
    again = senet("cost", "--model", file)[1]
    assert again.partition("\n")[2] == out.partition("\n")[2]


def test_cost_with_latency_and_a_gate_without_identity_start(senet):
    status, out, _ = senet("cost", "--model", "resnet20", "--size", 8, "--gate", "relu", "--latency")
    assert status == 0
    assert re.search(r"forward pass, measured in turn +1 +\d+\.\d\d\d ", out)


def test_the_papers_tables(senet, tmp_path):
    pytest.importorskip("torchvision", reason="torchvision is not there")
    pytest.importorskip("matplotlib", reason="matplotlib is not there")
    status, out, err = senet("cost", "--table")
    assert (status, err) == (0, "")
    assert "Multiply-adds of the plain networks for one image of 224²" in out
    status, out, err = senet("cost", "--table", "--out", tmp_path / "paper.svg")
    assert (status, err) == (0, "")
    assert f"Written: {tmp_path / 'paper.svg'}" in out
    assert (tmp_path / "paper.svg").read_bytes().startswith(b"<?xml")


def test_models(senet):
    assert senet("models", "se_resnet[24]*") == (0, "se_resnet20\nse_resnet44\n", "")
    assert "resnet20" in senet("models")[1].splitlines()


BAD = {
    "no verb": ((), "say which verb"),
    "unknown verb": (("inser",), "did you mean 'insert'?"),
    "unknown flag": (("cost", "--model", "resnet20", "--widht", "3"), "did you mean --width?"),
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
    "figure of a network": (("cost", "--model", "resnet20", "--out", "x.png"), "writes a figure with --table alone"),
    "one where of two": (("sites", "--model", "resnet20", "--where", "layer3*", "fc"), "where='fc'"),
    "inserting twice": (("insert", "--model", "se_resnet20", "--out", "x"), "holds SE already"),
    "no such weights": (("cost", "--model", "resnet20", "--weights", "nowhere.pth"), "nowhere.pth"),
    "weights of no one": (("cost", "--model", "resnet20", "--weights", "pretrained"), "no published weights"),
    "out in no folder": (("insert", "--model", "resnet20", "--out", "no/folder/x.safetensors"), "no/folder"),
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


def test_compare_and_evaluate_for_real(senet, study, tmp_path):
    folder = tmp_path / "comparison"
    words = ("--model", "resnet20", "--data", "digits", "--epochs", 1, "--batch-size", 512, "--workers", 0)
    status, out, err = senet("compare", *words, "--seeds", 1, "--width", 2, "--out", folder)
    assert status == 0
    assert "se-0, epoch 1 of 1" in err
    for part in ("with SE", "There is no difference shown", "multiply-adds", "time of a forward pass", str(folder)):
        assert part in out

    status, out, _ = senet("evaluate", "--model", folder / "se-0", "--data", "digits", "--workers", 0)
    assert status == 0
    assert re.search(r"top-1 accuracy: .* of 359 images", out)

    status, out, err = senet("compare", *words, "--seeds", 1, "--width", 3, "--out", folder)
    assert (status, out) == (2, "")
    assert re.search(r"senet: error: .*comparison holds .*width was 2 and is now 3", err)
    status, out, err = senet("train", *words, "--width", 2, "--no-resume", "--out", folder / "se-0")
    assert (status, out) == (2, "")
    assert "se-0 holds a study already" in err


class _Said:
    def parts(self):
        return [str(self)]

    def __str__(self):
        return "what was found"


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("train --model m --data d --out o", {"spec": None, "where": None, "seed": 0, "resume": True}),
        ("train --model m --data d --out o --bias --seed 4", {"spec": SESpec(bias=True), "seed": 4}),
        ("train --model m --data d --out o --where a b", {"spec": SESpec(), "where": ["a", "b"]}),
        ("train --model m --data d --out o --start paper", {"spec": SESpec(start="paper")}),
        (
            "compare --model m --data d --out o --weights w --size 8 --batch-size 9 --epochs 7 --lr 0.5 --seeds 6 "
            "--devices cpu --workers 0 --data-root r --no-resume --where x*",
            {
                "model": "m",
                "data": "d",
                "out": "o",
                "weights": "w",
                "size": 8,
                "batch_size": 9,
                "epochs": 7,
                "lr": 0.5,
                "seeds": 6,
                "devices": "cpu",
                "workers": 0,
                "data_root": "r",
                "resume": False,
                "where": ["x*"],
                "spec": SESpec(),
            },
        ),
        (
            "train --model m --data d --out o --recipe cifar-wrn --optimiser adamw --se-lr 0.1 --lr-scaling sqrt "
            "--momentum 0.8 --no-nesterov --weight-decay 0 --no-decay-norms-and-biases --schedule step "
            "--milestones 0.3 0.6 --lr-factor 0.2 --warm-up 0 --label-smoothing 0.1 --mixup 0.2 --cutmix 1 "
            "--crop-scale 0.08 --trivial-augment --random-erasing 0.5 --cutout 8 --ema 0.9 --freeze-statistics 0.9 "
            "--accumulate 2 --clip 1 --precision bf16 --no-channels-last --compile",
            {
                "recipe": "cifar-wrn",
                "optimiser": "adamw",
                "se_lr": 0.1,
                "lr_scaling": "sqrt",
                "momentum": 0.8,
                "nesterov": False,
                "weight_decay": 0.0,
                "decay_norms_and_biases": False,
                "schedule": "step",
                "milestones": [0.3, 0.6],
                "lr_factor": 0.2,
                "warm_up": 0.0,
                "label_smoothing": 0.1,
                "mixup": 0.2,
                "cutmix": 1.0,
                "crop_scale": 0.08,
                "trivial_augment": True,
                "random_erasing": 0.5,
                "cutout": 8,
                "ema": 0.9,
                "freeze_statistics": 0.9,
                "accumulate": 2,
                "clip": 1.0,
                "precision": "bf16",
                "channels_last": False,
                "compile": True,
            },
        ),
        (
            "train --model m --data d --out o --devices 2 --nodes 3 --strategy fsdp --checkpoint-minutes 0.5",
            {"devices": "2", "nodes": 3, "strategy": "fsdp", "checkpoint_minutes": 0.5},
        ),
        (
            "compare --model m --data d --out o --reduction-ratio 8 --width 4 --squeeze max --gate tanh "
            "--placement pre --start paper",
            {"seeds": 3, "spec": SESpec(8, 4, "max", "tanh", False, "pre", "paper")},
        ),
        (
            "evaluate --model m --data d --weights w --classes c --class-offset 1 --num-classes 5 --split all",
            {"weights": "w", "classes": "c", "class_offset": 1, "num_classes": 5, "split": "all"},
        ),
        (
            "evaluate --model m --data d --size 96 --crop 0.875 --mean 0.5 0.4 0.3 --std 0.1 0.2 0.3 "
            "--interpolation bicubic --channels BGR",
            {"size": 96, "crop": 0.875, "mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3], "channels": "BGR"},
        ),
        ("evaluate --model m --data d --resize 100", {"resize": 100, "mean": None, "crop": None}),
        (
            "evaluate --model m --data d --max-bad 5% --out o --predictions parquet",
            {"max_bad": "5%", "out": "o", "predictions": "parquet", "size": None},
        ),
        ("train --model m --data d --out o --max-bad 40", {"max_bad": "40"}),
        (
            "predict --model m --data a.jpg b/ --weights w --classes c --class-offset 1 --top 3 --out o.csv",
            {"data": ["a.jpg", "b/"], "weights": "w", "classes": "c", "class_offset": 1, "top": 3, "out": "o.csv"},
        ),
    ],
)
def test_what_the_studies_are_given(senet, study, monkeypatch, words, given):
    verb = words.split()[0]
    signature = inspect.signature(getattr(study, verb))
    calls = []

    def record(*arguments, **named):
        bound = signature.bind(*arguments, **named).arguments
        calls.append(bound | bound.pop("options", {}))
        return _Said()

    monkeypatch.setattr(study, verb, record)
    status, out, err = senet(*words.split())
    assert (status, out.splitlines()[0], err) == (0, "what was found", "")
    assert calls[0] | given == calls[0]


def test_several_sizes_are_measured_in_turn_and_pictures_are_named(senet, study, tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    for at, count in (("train", 8), ("val", 4)):
        for shade, name in ((40, "a"), (200, "b")):
            (data / at / name).mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (8, 8), (shade + index,) * 3).save(data / at / name / f"{index:03}.png")
    (data / "val/a/002.png").write_bytes(b"")
    options = ("--epochs", 1, "--batch-size", 8, "--devices", "cpu")
    status, out, _ = senet("train", "--model", "resnet20", "--data", data, "--out", run, *options)
    assert (status, out.splitlines()[-2:]) == (0, ["1 files were skipped:", "  val/a/002.png: the file is empty"])
    status, out, _ = senet("evaluate", "--model", run, "--data", data, "--size", 8, 16, "--out", tmp_path / "measured")
    assert status == 0
    assert [f"middle {size} × {size}" in out for size in (8, 16)] == [True, True]
    assert out.count("of 7 images") == 2
    assert sorted(p.name for p in (tmp_path / "measured").iterdir()) == ["size-16", "size-8"]
    status, out, _ = senet("predict", "--model", run, "--data", data / "val", "--out", tmp_path / "said.csv")
    assert status == 0
    assert "7 pictures" in out
    assert out.endswith(f"a/002.png: the file is empty\nwritten to {tmp_path}/said.csv\n")
    status, _, err = senet("evaluate", "--model", run, "--data", data, "--max-bad", 0)
    assert (status, "max_bad (0) allows 0" in err) == (2, True)


def test_real_weights_with_what_they_expect_as_options(senet, shared, imagenet100):
    pytest.importorskip("timm", reason="timm is not there")
    weights = shared / "weights/tf_mobilenetv3_small_100.imagenet1001.safetensors"
    classes = ("--classes", shared / "data/imagenet-wnids.json", "--class-offset", 1)
    how = "--size 224 --crop 0.875 --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5 --interpolation bilinear".split()
    network = ("--model", "timm:tf_mobilenetv3_small_100", "--weights", weights)
    status, out, _ = senet("evaluate", *network, "--data", imagenet100, *classes, *how, "--workers", 0)
    assert status == 0
    assert "(77 of 100 images)" in out
    assert "(93 of 100)" in out
    assert "has 1001 classes" in out


@pytest.mark.parametrize(
    ("verb", "error", "status", "message"),
    [
        ("compare", KeyboardInterrupt(), 130, "the same command goes on where it was"),
        ("train", KeyboardInterrupt(), 130, "the same command goes on where it was"),
        ("evaluate", KeyboardInterrupt(), 130, "senet: interrupted\n"),
        ("train", Stopped(15, "stopped by SIGTERM"), 143, "stopped by SIGTERM; the same command goes on where"),
        ("compare", ModuleNotFoundError("No module", name="lightning.pytorch"), 2, "pip install 'senet[study]'"),
        ("compare", ModuleNotFoundError("No module", name="timm"), 2, "pip install 'senet[timm]'"),
        ("compare", ImportError("one line\nand another"), 2, "senet: error: one line and another\n"),
        ("train", OSError(28, "No space left on device", "runs/x"), 2, "runs/x: No space left on device"),
    ],
)
def test_interruptions_and_missing_extras(senet, study, monkeypatch, verb, error, status, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(study, verb, fail)
    out = () if verb == "evaluate" else ("--out", "x")
    found, _, err = senet(verb, "--model", "resnet20", "--data", "digits", *out)
    assert found == status
    assert message in err


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_explains_every_flag_and_has_examples_that_work(capsys, verb):
    with pytest.raises(SystemExit) as left:
        cli.main([verb, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 110
    for parameter in flags._parameters(cli.VERBS[verb]):
        name = flags._typed(parameter.name) if parameter.name != "pattern" else "PATTERN"
        assert re.search(rf"^  {name}\b", text, re.MULTILINE)
        assert " ".join(flags.FLAGS[parameter.name].help.split()) in " ".join(text.split())
        usual = parameter.usual
        if usual is not None and usual is not False and usual is not True and name != "PATTERN":
            assert f"(default: {usual})" in " ".join(text.split())
    examples = re.findall(r"^  senet (.*)$", text, re.MULTILINE)
    assert len(examples) >= 2
    for example in examples:
        words = shlex.split(example)
        assert words[0] == verb
        flags.parse(cli.VERBS, "", "", words)


def test_flags_have_one_name_and_a_help_text():
    used = {p.name for function in cli.VERBS.values() for p in flags._parameters(function)}
    assert used == set(flags.FLAGS)
    assert {field.name for field in dataclasses.fields(SESpec)} <= used


def test_the_help_of_a_training_says_what_the_recipe_does(study):
    from senet.study.recipe import recipe_for

    digits = study.open_data("digits")
    kinds = {
        "weights": recipe_for(digits, pretrained=True),
        "digits": recipe_for(digits, pretrained=False),
        "small": recipe_for(dataclasses.replace(digits, name="other"), pretrained=False),
        "photos": recipe_for(dataclasses.replace(digits, name="other", native_size=None), pretrained=False),
    }
    assert (
        f"{kinds['weights'].epochs} from weights, and from scratch {kinds['digits'].epochs} for digits, "
        f"{kinds['small'].epochs} for other small images, {kinds['photos'].epochs} for photos"
    ) in flags.FLAGS["epochs"].help
    assert kinds["digits"].lr == kinds["photos"].lr
    assert (
        f"{kinds['weights'].lr} from weights, {kinds['digits'].lr} from scratch, {kinds['small'].lr} for small images"
    ) in flags.FLAGS["lr"].help
    assert kinds["digits"].batch_size == kinds["photos"].batch_size
    assert (
        f"{kinds['weights'].batch_size} from weights, {kinds['digits'].batch_size} from scratch, "
        f"{kinds['small'].batch_size} for small images"
    ) in flags.FLAGS["batch_size"].help


def test_help_and_version(capsys):
    for words, part in ((["--help"], "senet sites --model"), (["--version"], f"senet {__version__} (PyTorch")):
        with pytest.raises(SystemExit) as left:
            cli.main(words)
        assert left.value.code == 0
        assert part in capsys.readouterr().out


def test_numbers_are_checked_where_they_are_typed():
    assert flags._number("3", kind=int, least=1) == 3
    assert flags._number("0.5", kind=float, least=None) == 0.5
    with pytest.raises(argparse.ArgumentTypeError, match="a whole number of at least 1, not '0'"):
        flags._number("0", kind=int, least=1)


def _python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120, check=False)


def test_help_starts_without_the_heavy_libraries():
    code = (
        "import sys; from senet.cli import main\n"
        "try: main(['compare', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'lightning', 'torchvision', 'timm', 'sklearn', 'matplotlib', 'torchmetrics'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    ran = _python("-W", "error", "-c", code)
    assert ran.returncode == 0, ran.stderr


def test_as_a_module_and_into_a_pipe_that_closes():
    ran = _python("-m", "senet", "models", "resnet20")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "resnet20\n", "")
    code = f"{sys.executable} -m senet models | true"
    ran = subprocess.run(code, shell=True, capture_output=True, text=True, timeout=120, check=False)
    assert ran.stderr == ""


@pytest.mark.parametrize("words", [("sites", "--model", "resnet20"), ("cost", "--model", "resnet20")])
def test_logs_have_no_colours_wrapped_names_or_trailing_spaces(senet, monkeypatch, words):
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = senet(*words)[1].splitlines()
    assert max(map(len, lines)) <= display.LOG_WIDTH  # of the tables
    assert not any("\x1b" in line or line != line.rstrip() for line in lines)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_colours(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert cli.main(["sites", "--model", "resnet20"]) == 0
    assert "\x1b[36mlayer1.0.bn2" in terminal.getvalue()
    assert max(map(len, re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue()).splitlines())) <= 80


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (display.count, 0, "0"),
        (display.count, 999, "999"),
        (display.count, 1000, "1.00 k"),
        (display.count, 25_557_032, "25.56 M"),
        (display.count, 999_999, "1.00 M"),
        (display.count, 4_089_184_256, "4.09 G"),
        (display.count, 123_456, "123.5 k"),
        (display.bytes_of, 512, "512 B"),
        (display.bytes_of, 1024**2, "1.00 MiB"),
        (display.bytes_of, 1311 * 1024**2, "1.28 GiB"),
        (display.bytes_of, 1024**2 - 1, "1.00 MiB"),
        (display.share, 0, "0 %"),
        (display.share, 0.000651, "0.065 %"),
        (display.share, 0.0895, "8.9 %"),
        (display.share, 0.0999, "10 %"),
        (display.share, 0.266, "27 %"),
        (display.share, 1.5, "150 %"),
    ],
)
def test_numbers_as_people_say_them(function, value, text):
    assert function(value) == text
