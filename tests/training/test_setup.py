import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from senet import create, save
from senet.cli import VERBS
from senet.console.progress import Progress
from senet.errors import DataError, InputError, StudyError
from senet.evaluation.evaluate import evaluate
from senet.evaluation.networks import NetworkSpec, known_preprocessing
from senet.flags import parse
from senet.training.processes.processes import DeviceLayout, Processes, device_layout
from senet.training.train import settings_of, setup_of, train

EARLIER = {"preprocessing": {"size": 8, "resize": 8}, "recipe": {"warm_up": 0.1}}


class Told(Progress):
    def __init__(self):
        super().__init__(False)
        self.lines = []

    def note(self, text):
        self.lines.append(text)


def _setup(data, out, told=None, **options):
    layout = device_layout("cpu", None, None)
    return setup_of(NetworkSpec("resnet20"), data, options, layout, Processes(), told or Told(), out, seed=0)[0]


def test_the_learning_rate_follows_the_batch_that_is_used(pictures, tmp_path):
    told = Told()
    recipe = _setup(pictures, tmp_path / "run", told).recipe  # 24 images; a batch of small ones is 128 at 0.1
    assert (recipe.batch_size, recipe.lr) == (24, pytest.approx(0.1 * 24 / 128))
    assert told.lines[0].endswith("a batch is 24, the learning rate 0.01875")
    assert told.lines[1] == f"{pictures}: 24 to train on, 8 to measure (val), 2 classes: dark, light"
    given = _setup(pictures, tmp_path / "run", batch_size=48, lr=0.3).recipe
    assert (given.batch_size, given.lr) == (24, 0.3)
    few = _setup(pictures, tmp_path / "run", batch_size=8).recipe
    assert (few.batch_size, few.lr) == (8, pytest.approx(0.1 * 8 / 128))


def test_a_moving_average_that_is_longer_than_the_run_is_said(pictures, tmp_path):
    for ema, said in ((0.99, True), (0.9, False)):
        told = Told()
        _setup(pictures, tmp_path / "run", told, ema=ema)  # 30 epochs of a step
        assert (f"(ema {ema:g}) is over more steps than the 30 of this run" in told.lines[-1]) == said


@pytest.mark.parametrize("run", ["study", "study/se-0"])
def test_what_an_earlier_version_began_is_planned_as_it_did(pictures, tmp_path, run):
    (tmp_path / "study").mkdir()
    (tmp_path / "study/settings.json").write_text(json.dumps(EARLIER))
    setup = _setup(pictures, tmp_path / run)
    assert (setup.recipe.batch_size, setup.recipe.lr) == (128, 0.1)
    assert setup.preprocessing.transparency is setup.augmentation.transparency is None
    assert _setup(pictures, tmp_path / run, recipe="cifar-resnet").recipe.warm_up_steps == 0
    assert _setup(pictures, tmp_path / "new", recipe="cifar-resnet").recipe.warm_up_steps == 400
    new = _setup(pictures, tmp_path / "new")
    assert new.preprocessing.transparency == new.augmentation.transparency == "white"


def test_a_run_may_be_called_as_its_network_and_its_data(pictures, tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    (tmp_path / "resnet20").mkdir()
    save(create("resnet20"), tmp_path / "resnet20/model.safetensors")
    monkeypatch.chdir(tmp_path)
    arm, layout = NetworkSpec("resnet20"), device_layout("cpu", None, None)
    setup, made = setup_of(arm, "digits", {}, layout, Processes(), Told(), "digits/run", seed=0)
    assert setup.recipe.epochs == 15  # from scratch
    assert settings_of(arm, setup, made)["model"] == {"name": "resnet20", "content": "resnet20"}
    with pytest.raises(StudyError, match=r"output folder .*pictures/run lies inside the data .*pictures: choose"):
        _setup(pictures, pictures / "run")


@pytest.mark.parametrize(
    "wrong",
    [
        *({"recipe": "nope"}, {"logger": "nope"}, {"checkpoint_minutes": -1}, {"size": 0}, {"crop_scale": 0.5}),
        {"checkpoint_minutes": "10"},
        *({"workers": -1}, {"batch_size": 48, "accumulate": 16}),  # of 24 images
    ],
)
def test_what_else_is_wrong_is_said_before_every_image_is_decoded(pictures, tmp_path, monkeypatch, wrong):
    monkeypatch.setattr("senet.training.train.checked", None)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        _setup(pictures, tmp_path / "run", **wrong)


def test_shards_of_weights_have_no_average(pictures, tmp_path):
    several = DeviceLayout(torch.device("cuda"), (0, 1), strategy="fsdp", launched="torchrun")
    setup = _setup(pictures, tmp_path / "run", ema=0.9)
    with pytest.raises(StudyError, match="strategy='fsdp' has no ema"):
        dataclasses.replace(setup, layout=several)
    clipped = _setup(pictures, tmp_path / "run", clip=1.0)
    with pytest.raises(StudyError, match="no clip and no decay"):
        dataclasses.replace(clipped, layout=several)


def test_the_settings_of_another_program_beside_a_run_are_not_read(pictures, tmp_path):
    (tmp_path / "settings.json").write_text("// an editor's\n{}")
    assert _setup(pictures, tmp_path / "run").preprocessing.transparency == "white"


def test_deep_grey_is_trained_and_measured_on_one_scale(tiny, tmp_path):
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name, least in (("dark", 0), ("light", 2000)):
            (tmp_path / "grey" / split / name).mkdir(parents=True)
            for index in range(count):
                grey = random.integers(least, least + 2000, (8, 8)).astype(np.uint16)
                Image.fromarray(grey).save(tmp_path / "grey" / split / name / f"{index}.png")
    how = {"epochs": 1, "batch_size": 4, "devices": "cpu", "progress": False}
    result = train(tiny, tmp_path / "grey", out=tmp_path / "run", **how)
    known = known_preprocessing(NetworkSpec(str(result.folder)))
    assert (known.range, known.transparency) == ((0, 4095), "white")
    measured = evaluate(tiny, tmp_path / "grey", weights=result.folder, progress=False)
    assert measured.preprocessing == known
    assert measured.correct == result.correct
    with pytest.raises(DataError, match=r"val/dark/0\.png: a grey picture has values .* outside the range 0 to 255"):
        evaluate(tiny, tmp_path / "grey", weights=result.folder, progress=False, range=(0, 255))
    with pytest.raises(DataError, match=r"\.png: a grey picture has values .* outside the range 0 to 255 .*--range"):
        train(tiny, tmp_path / "grey", out=tmp_path / "narrow", range=[0, 255], **how)


def test_the_range_is_two_values(pictures, tmp_path):
    with pytest.raises(InputError, match=r"range is two numbers, what is black and what is white, not \[0, 128, 255\]"):
        _setup(pictures, tmp_path / "run", range=[0, 128, 255])
    words = "evaluate --model resnet20 --data pictures --range -1024 3071"
    assert parse(VERBS, "", "", words.split())[1]["range"] == [-1024, 3071]
