import dataclasses
import json
import math

import lightning.pytorch as L
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from senet.block import SESpec
from senet.data.sources import open_data
from senet.errors import StudyError
from senet.evaluation.networks import BuiltNetwork, NetworkSpec
from senet.files.run_folder import (
    read_csv,
    read_json,
)
from senet.saving.saving import load
from senet.study import compare as public
from senet.study.comparison.arms import checked_plain
from senet.study.comparison.compare import compare
from senet.study.statistics import bootstrap_over_images, paired_difference
from senet.zoo import create

SHORT = {"epochs": 2, "batch_size": 8, "lr": 0.05, "devices": "cpu", "progress": False}


class Count(L.Callback):
    """Lists the runs that train, and can stop one like a power cut in its second epoch."""

    def __init__(self, stop=None):
        self.stop = stop
        self.trained = []

    def on_train_epoch_start(self, trainer, pl_module):
        name = f"{trainer.default_root_dir}".rpartition("/")[2]
        self.trained.append((name, trainer.current_epoch))
        if (name, trainer.current_epoch) == (self.stop, 1):
            raise RuntimeError("the power is gone")


def _result(folder):
    return read_json(folder / "result.json")


def _without_times(result):
    """What of result.json does not depend on how fast the machine was."""
    arms = {name: {k: v for k, v in result[name].items() if k != "seconds"} for name in ("plain", "se")}
    return {**arms, **{key: result[key] for key in ("difference", "verdict", "sites", "settings", "images")}}


def test_the_public_name():
    assert public is compare


def test_a_comparison_writes_everything_it_says(tiny, pictures, tmp_path):
    out = tmp_path / "study"
    count = Count()
    found = compare(tiny, pictures, out=out, seeds=2, callbacks=[count], **SHORT)
    runs = [("plain-0", "se-0"), ("plain-1", "se-1")]
    assert count.trained == [(name, epoch) for pair in runs for name in pair for epoch in range(2)]  # in turn
    result = _result(out)
    accuracy = {arm: [_result(out / f"{arm}-{seed}")["accuracy"] for seed in range(2)] for arm in ("plain", "se")}
    assert result["plain"]["accuracy"] == accuracy["plain"] == list(found.plain.accuracy)
    assert result["se"]["accuracy"] == accuracy["se"] == list(found.se.accuracy)
    difference = paired_difference(accuracy["plain"], accuracy["se"])
    assert (result["difference"]["mean"], result["difference"]["low"], result["difference"]["high"]) == (
        difference.mean,
        difference.low,
        difference.high,
    )
    right = {
        arm: [
            [row["correct"] == "True" for row in read_csv(out / f"{arm}-{seed}" / "predictions.csv")]
            for seed in range(2)
        ]
        for arm in ("plain", "se")
    }
    assert result["difference"]["images"] == dataclasses.asdict(bootstrap_over_images(right["plain"], right["se"]))
    assert result["verdict"] == found.verdict
    assert result["images"] == 8
    for arm in ("plain", "se"):
        loaded = load(out / f"{arm}-0" / "model.safetensors", create(tiny, num_classes=2))
        parameters = sum(parameter.numel() for parameter in loaded.parameters())
        assert result["cost"][arm]["parameters"] == parameters
        assert result["cost"][arm]["multiply_adds"] > 0
        assert result["cost"][arm]["activation_bytes"] > 0
        assert len(result[arm]["seconds"]) == 2
    assert result["cost"]["se"]["parameters"] - result["cost"]["plain"]["parameters"] == 2 * 2 * 8
    assert result["latency_ratio"] > 0
    assert [site["name"] for site in result["sites"]] == ["blocks.0.bn2", "blocks.1.bn2"]
    assert result["settings"]["se"]["start"] == "paper"
    assert {"processor", "torch", "threads"} <= set(result["machine"])

    rows = read_csv(out / "metrics.csv")
    assert [(row["arm"], row["seed"], row["epoch"]) for row in rows] == [
        (arm, str(seed), str(epoch)) for arm in ("plain", "se") for seed in range(2) for epoch in (1, 2)
    ]
    last = [float(row["val_accuracy"]) for row in rows if row["epoch"] == "2"]
    assert last == pytest.approx([*accuracy["plain"], *accuracy["se"]])  # the last epoch's
    for name in ("learning_curves", "difference"):
        with Image.open(out / f"{name}.png") as picture:
            assert picture.size[0] > 600
        assert (out / f"{name}.svg").read_text().startswith("<?xml")
    events = EventAccumulator(str(out / "se-1/tensorboard")).Reload()
    assert [point.step for point in events.Scalars("val_accuracy")] == [1, 2]

    text = str(found)
    for words in (
        "seed",
        "mean ± sd",
        "interval over 2 seeds (paired t)",
        "interval over 8 images (paired bootstrap)",
        "parameters",
        "multiply-adds",
        "Training time of a run",
        "time of a forward pass",
        f"Report: {out}/report.html",
    ):
        assert words in text
    assert " ".join(found.verdict.split()) in " ".join(text.split())


def test_an_interrupted_comparison_goes_on_where_it_was(tiny, pictures, tmp_path):
    source = open_data(pictures)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    compare(tiny, source, out=whole, seeds=2, **SHORT)
    with pytest.raises(RuntimeError, match="the power is gone"):
        compare(tiny, source, out=cut, seeds=2, callbacks=[Count(stop="se-0")], **SHORT)
    assert not (cut / "result.json").exists()
    count = Count()
    compare(tiny, source, out=cut, seeds=2, callbacks=[count], **SHORT)
    assert count.trained == [("se-0", 1), ("plain-1", 0), ("plain-1", 1), ("se-1", 0), ("se-1", 1)]
    expected, found = _without_times(_result(whole)), _without_times(_result(cut))
    assert expected == found

    count = Count()
    again = compare(tiny, source, out=cut, seeds=3, callbacks=[count], **SHORT)  # one more seed
    assert {name for name, _ in count.trained} == {"plain-2", "se-2"}
    assert again.plain.accuracy[:2] == tuple(found["plain"]["accuracy"])
    assert len(_result(cut)["se"]["accuracy"]) == 3


def _in_json(value):
    """Whether JSON has each of these values: it has no infinite number."""
    if isinstance(value, dict | list):
        return all(map(_in_json, value.values() if isinstance(value, dict) else value))
    return value is None or isinstance(value, str | int) or math.isfinite(value)


def test_one_seed_has_no_interval_and_its_result_only_numbers_that_json_has(tiny, pictures, tmp_path):
    found = compare(tiny, pictures, out=tmp_path / "study", seeds=1, **SHORT)
    assert _in_json(json.loads((tmp_path / "study/result.json").read_text()))
    result = _result(tmp_path / "study")
    assert (result["difference"]["low"], result["difference"]["high"], result["difference"]["sd"]) == (None,) * 3
    assert result["verdict"].startswith("There is no difference shown: one seed has no interval")
    assert "none (one seed)" in str(found)
    assert "mean ± sd" not in str(found)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"epochs": 3}, "recipe.epochs was 2 and is now 3"),
        (
            {"spec": SESpec(4), "lr": 0.01},
            r"se.reduction_ratio was 16 and is now 4; recipe.lr was 0.05 and is now 0.01",
        ),
        ({"where": lambda site: site.name.endswith("0.bn2")}, r"sites was \['blocks.0.bn2', 'blocks.1.bn2'\]"),
        ({"start": "identity"}, "se.start was 'paper' and is now 'identity'"),
        ({"resume": False}, "holds a study already"),
    ],
)
def test_a_folder_with_another_study_is_left_alone(tiny, pictures, tmp_path, changed, words):
    with pytest.raises(RuntimeError, match="power"):
        compare(tiny, pictures, out=tmp_path / "study", seeds=1, callbacks=[Count(stop="plain-0")], **SHORT)
    count = Count()
    with pytest.raises(StudyError, match=words):
        compare(tiny, pictures, out=tmp_path / "study", seeds=1, callbacks=[count], **{**SHORT, **changed})
    assert count.trained == []


def test_what_cannot_be_compared_is_said_before_training(tiny, pictures, tmp_path):
    count = Count()
    asked = {**SHORT, "callbacks": [count], "out": tmp_path / "study"}
    for change, error, words in (
        ({"seeds": 0}, ValueError, "seeds is a whole number"),
        ({"where": "nowhere*"}, ValueError, "matches no site"),
        ({"weights": tmp_path / "missing.pth"}, ValueError, r"missing\.pth does not exist"),
        ({"start": "identity", "spec": SESpec(gate="relu")}, ValueError, "cannot start as the identity"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"spec": {"reduction_ratio": 4}}, TypeError, "spec is an SESpec, not dict"),
    ):
        with pytest.raises(error, match=words):
            compare(tiny, pictures, **{**asked, **change})
    with pytest.raises(StudyError, match=r"se_resnet20 holds SE already.*give 'resnet20'"):
        compare("se_resnet20", "digits", **asked)
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot be written"):
        compare(tiny, pictures, **{**asked, "out": tmp_path / "file"})
    assert count.trained == []
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("name", "plain"), [("se_mobilenet_v3_small", "mobilenet_v3_small_plain"), ("senet154", "senet154_plain")]
)
def test_the_plain_network_is_called_by_its_name(name, plain):
    with torch.device("meta"):
        made = BuiltNetwork(create(name), 1000, (), ())
    with pytest.raises(StudyError, match=rf"{name} holds SE already.*: give '{plain}'$"):
        checked_plain(NetworkSpec(name), made)


def test_from_weights_both_start_with_the_same_outputs(tiny, pictures, tmp_path):
    torch.save(create(tiny, num_classes=5).state_dict(), tmp_path / "weights.pth")
    first = {}

    class Start(L.Callback):
        def on_train_start(self, trainer, pl_module):
            network = pl_module.network.eval()
            example = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                first[f"{trainer.default_root_dir}".rpartition("/")[2]] = network(example)
            network.train()

    found = compare(
        tiny, pictures, out=tmp_path / "study", weights=tmp_path / "weights.pth", seeds=2, callbacks=[Start()], **SHORT
    )
    assert torch.equal(first["plain-0"], first["se-0"])
    assert torch.equal(first["plain-1"], first["se-1"])
    assert not torch.equal(first["plain-0"], first["plain-1"])  # each seed has a classifier of its own
    assert found.notes == (f"{tmp_path}/weights.pth: fc: 5 classes in the file, 2 wanted: starts fresh",)
    assert found.notes[0] in " ".join(str(found).split())
    assert found.settings["se"]["start"] == "identity"


def test_progress_is_a_few_lines_in_a_log(tiny, pictures, tmp_path, capfd):
    compare(tiny, pictures, out=tmp_path / "study", seeds=1, **{**SHORT, "progress": True})
    captured = capfd.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 6, lines  # what there is, reading it, and two epochs of two runs
    assert lines[0].endswith("24 to train on, 8 to measure (val), 2 classes: dark, light")
    assert lines[2].startswith("plain-0, epoch 1 of 2: training loss ")
    assert lines[2].endswith(" left)")
    assert lines[-1].startswith("se-0, epoch 2 of 2")
