import importlib
import inspect
import re

import pytest
from PIL import Image

from senet import SESpec


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
    home = importlib.import_module("senet.study.comparison.compare") if verb == "compare" else study
    name = "compare_cells" if verb == "compare" else verb
    signature = inspect.signature(getattr(home, name))
    calls = []

    def record(*arguments, **named):
        bound = signature.bind(*arguments, **named).arguments
        calls.append(bound | bound.pop("options", {}))
        return _Said()

    monkeypatch.setattr(home, name, record)
    status, out, err = senet(*words.split())
    assert (status, out.splitlines()[0], err) == (0, "what was found", "")
    assert {name: calls[0].get(name) for name in given} == given


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
    assert (status, out.splitlines()[-2:]) == (0, ["1 file was skipped:", "  val/a/002.png: the file is empty"])
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


@pytest.mark.parametrize(("rank", "shown"), [("0", "the result\n"), ("1", "")])
def test_of_several_processes_the_first_shows_the_result(senet, study, monkeypatch, rank, shown):
    started = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(study, "train", lambda *_, **__: "the result")
    monkeypatch.setattr("senet.study.comparison.compare.compare_cells", lambda *_, **__: ["the result"])
    ablating = importlib.import_module("senet.study.ablation.ablate")  # the folder names its function so too
    monkeypatch.setattr(ablating, "ablate_cells", lambda *_, **__: ["the result"])
    for verb in ("train", "compare", "ablate"):
        assert senet(verb, "--model", "resnet20", "--data", "digits", "--out", "x") == (0, shown, "")
