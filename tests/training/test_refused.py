"""What a training refuses: before it begins, at its first step, and in a folder that another left."""

from pathlib import Path

import lightning.pytorch as L
import pytest

from senet.block import SEBlock, SESpec
from senet.data.sources import open_data
from senet.errors import DataError, InputError, StudyError
from senet.evaluation.logits import device_of
from senet.fused.switch import _watchers
from senet.training.train import train
from tests.training.test_train import SHORT, Interrupt, Watch

SHALLOW = """

class Shallow(Tiny):
    shallow = False

    def forward(self, x):
        x = self.blocks[0](self.stem(x))
        return self.fc((x if self.training and self.shallow else self.blocks[1](x)).mean((2, 3)))

def shallow(num_classes=10):
    return Shallow(num_classes)
"""


HEADLESS = """

class Headless(Tiny):
    def forward(self, x):
        return super().forward(x).unflatten(1, (-1, 2)).sum(2)

def headless(num_classes=10):
    return Headless(2 * num_classes)
"""


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"epochs": 4}, "recipe.epochs was 3 and is now 4"),
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"spec": SESpec(4)}, "se.reduction_ratio was 16 and is now 4"),
        ({"spec": SESpec(), "where": "blocks.0*"}, "sites was .* and is now"),
        ({"size": 16}, "preprocessing.size was 8 and is now 16"),
    ],
)
def test_a_folder_of_other_settings_is_left_alone(tiny, pictures, tmp_path, changed, words):
    asked = {**SHORT, "spec": SESpec()}
    with pytest.raises(RuntimeError, match="power"):
        train(tiny, pictures, out=tmp_path / "run", callbacks=[Interrupt(0)], **asked)
    with pytest.raises(StudyError, match=f"other settings: {words}"):
        train(tiny, pictures, out=tmp_path / "run", **{**asked, **changed})


def test_a_folder_whose_images_have_changed_since_is_left_alone(tiny, pictures, tmp_path):
    train(tiny, pictures, out=tmp_path / "run", **SHORT)
    (pictures / "train/dark/000.png").unlink()
    with pytest.raises(StudyError, match=r"data .*pictures has changed since"):
        train(tiny, pictures, out=tmp_path / "run", **SHORT)
    moved = pictures.rename(tmp_path / "elsewhere")
    with pytest.raises(StudyError, match=r"data was .*pictures' and is now .*elsewhere'"):
        train(tiny, moved, out=tmp_path / "run", **SHORT)


@pytest.mark.parametrize(("wrong", "words"), [({"precision": "16"}, "needs a GPU"), ({"freeze": "plain"}, "2 outputs")])
def test_a_training_that_cannot_begin_leaves_no_folder(tiny, pictures, tmp_path, wrong, words):
    file = Path(tiny.removesuffix(":tiny"))
    file.write_text(file.read_text() + HEADLESS)
    with pytest.raises(StudyError, match=words):
        train(f"{file}:headless", pictures, out=tmp_path / "run", **wrong, **SHORT)
    assert not (tmp_path / "run").exists()


def test_going_on_can_be_refused(tiny, pictures, tmp_path):
    train(tiny, pictures, out=tmp_path / "run", **SHORT)
    with pytest.raises(StudyError, match="holds a study already"):
        train(tiny, pictures, out=tmp_path / "run", resume=False, **SHORT)


def test_a_folder_that_cannot_be_written_is_said_before_training(tiny, pictures, tmp_path):
    (tmp_path / "file").write_text("")
    watch = Watch()
    with pytest.raises(StudyError, match=r"output folder .*file.* cannot be written"):
        train(tiny, pictures, out=tmp_path / "file/run", callbacks=[watch], **SHORT)
    assert watch.weights == {}


def test_an_se_block_that_does_not_run_stops_the_run(tiny, pictures, tmp_path):
    class PassBy(L.Callback):
        def setup(self, trainer, pl_module, stage):
            pl_module.network.blocks[0].unused = SEBlock(8)

    with pytest.raises(StudyError, match=r"did not run in the first training step: blocks\.0\.unused;"):
        train(tiny, pictures, out=tmp_path / "run", spec=SESpec(), callbacks=[PassBy()], **SHORT)


def test_after_a_failure_in_the_first_step_no_block_is_watched(tiny, pictures, tmp_path):
    class Fail(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            raise RuntimeError("the power is gone")

    with pytest.raises(RuntimeError, match="power"):
        train(tiny, pictures, out=tmp_path / "run", spec=SESpec(), callbacks=[Fail()], **SHORT)
    assert _watchers.get() == ()


def test_an_se_block_that_the_first_step_left_out_by_chance_stops_nothing(tiny, pictures, tmp_path):
    file = Path(tiny.removesuffix(":tiny"))
    file.write_text(file.read_text() + SHALLOW)

    class Chance(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            pl_module.network.shallow = trainer.global_step == 0

    result = train(f"{file}:shallow", pictures, out=tmp_path / "run", spec=SESpec(), callbacks=[Chance()], **SHORT)
    assert len(result.history) == 3


def test_a_network_that_returns_no_scores_is_refused(tiny, pictures, tmp_path):
    with pytest.raises(StudyError, match=r"this one returned a tensor of shape \(1, 2, 8, 8\)"):
        train(tiny.replace(":tiny", ":maps"), pictures, out=tmp_path / "run", **SHORT)


def test_data_without_training_images_is_refused(tiny, paint, tmp_path):
    with pytest.raises(ValueError, match="nothing to train on"):
        train(tiny, paint({"val/a": 2, "val/b": 2}), out=tmp_path / "run", **SHORT)
    assert not (tmp_path / "run").exists()


def test_what_makes_no_sense_is_refused(tiny, pictures, tmp_path):
    asked = {**SHORT, "out": tmp_path / "run"}
    for seed in (-1, 0.5, "0", 2**63):
        with pytest.raises(ValueError, match="seed is a whole number of at least 0 and less than 2\\*\\*63"):
            train(tiny, pictures, seed=seed, **asked)
    for site in ({"where": "blocks*"}, {"start": "paper"}):
        with pytest.raises(ValueError, match="where and start are for blocks that are inserted: give spec"):
            train(tiny, pictures, **site, **asked)
    with pytest.raises(TypeError, match="spec is an SESpec, not dict"):
        train(tiny, pictures, spec={"reduction_ratio": 4}, **asked)
    (tmp_path / "swapped.json").write_text('["light", "dark"]')
    for classes in ({"class_offset": 1}, {"classes": tmp_path / "swapped.json"}):
        with pytest.raises(ValueError, match="classes of another network"):
            train(tiny, open_data(pictures, **classes), **asked)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("asked", "kind"), [("cpu", "cpu"), ("CPU", "cpu")])
def test_devices(asked, kind):
    assert device_of(asked).type == kind
    assert device_of("auto") == device_of(1)


@pytest.mark.parametrize("asked", [2, "3", "cuda:99", "tpu", "", "cpu:1", 0])
def test_devices_that_are_not_there(asked):
    with pytest.raises(StudyError, match="devices="):
        device_of(asked)


def test_a_learning_rate_of_se_is_refused_where_there_is_no_se(tiny, pictures, tmp_path):
    with pytest.raises(InputError, match=r"se_lr \(--se-lr\) is the learning rate of senet's own blocks, and .*none"):
        train(tiny, pictures, out=tmp_path / "run", se_lr=0.1, **SHORT)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_torchvisions_data_is_refused_beside_data_that_is_open(tiny, pictures, tmp_path):
    with pytest.raises(DataError, match=r"data_root .* is the folder of torchvision's data sets, and this is none"):
        train(tiny, open_data(pictures), out=tmp_path / "run", data_root=tmp_path, **SHORT)
