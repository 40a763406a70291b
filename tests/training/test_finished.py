"""A finished run is read back whole or not at all, and a run writes into its own folder alone."""

import csv
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from senet.errors import StudyError
from senet.study.comparison.pages import read_comparison
from senet.training.checkpointing import newest, place, sweep, write_checkpoint
from senet.training.finished import finished_run
from senet.training.train import train
from tests.training.test_train import SHORT, Interrupt

YESTERDAY = Path(__file__).parent.parent / "yesterday/run"
IMAGES = [row["image"] for row in csv.DictReader((YESTERDAY / "predictions.csv").read_text().splitlines())]


@pytest.fixture
def run(tmp_path):
    shutil.copytree(YESTERDAY, tmp_path / "run")
    return tmp_path / "run"


def edited(**changes):
    """An edit of result.json; None takes the field away."""

    def edit(run):
        found = {**json.loads((run / "result.json").read_text()), **changes}
        (run / "result.json").write_text(json.dumps({k: v for k, v in found.items() if v is not None}))

    return edit


def written(name, text):
    return lambda run: (run / name).write_text(text)


def rows(change):
    """An edit of predictions.csv, of its head and its rows."""

    def edit(run):
        head, *lines = (run / "predictions.csv").read_text().splitlines()
        (run / "predictions.csv").write_text("\n".join([head, *change(lines)]) + "\n")

    return edit


def pipe(name):
    def edit(run):
        (run / name).unlink()
        os.mkfifo(run / name)

    return edit


EDITS = {
    "twice as good": (edited(accuracy=2.0), r"result.json: accuracy is 2.0, not a finite number of at least 0 and at"),
    "better": (edited(accuracy=0.9), r"result.json: accuracy is 0.9, not the 144 right answers of 359 in predictions"),
    "no accuracy": (edited(accuracy=None), "result.json: accuracy is missing, not a number"),
    "an accuracy in words": (edited(accuracy="high"), "result.json: accuracy is 'high', not a number"),
    "not a number": (written("result.json", '{"accuracy": NaN}'), "NaN is not a number that a study writes"),
    "another split": (edited(split="all"), "result.json: split is 'all', not one of test, val"),
    "fewer images": (edited(images=3), r"predictions.csv has 359 images, and result.json says 3"),
    "no whole number": (edited(images=1e300), r"result.json: images is 1e\+300, not a whole number"),
    "time runs back": (edited(seconds=-1), "result.json: seconds is -1, not a finite number of at least 0"),
    "notes": (edited(notes="none"), "result.json: notes is 'none', not a list of texts"),
    "bad files": (edited(bad_files=[{"name": 3}]), r"result.json, bad_files\[0\]: name is 3, not a text"),
    "other settings": (edited(settings={"seed": 9}), "result.json: settings are not those of settings.json"),
    "a list": (written("result.json", "[]"), r"result.json holds \[\] where fields with names should be"),
    "cut short": (written("result.json", '{"accuracy": 0.'), "result.json cannot be read"),
    "deep": (written("result.json", "[" * 100_000), "result.json cannot be read .it is nested too deeply"),
    "many digits": (written("result.json", '{"accuracy": 1' + "0" * 5000 + "}"), "result.json cannot be read"),
    "no text": (lambda run: (run / "result.json").write_bytes(b"\xff\xfe"), "result.json cannot be read .it is not in"),
    "a pipe": (pipe("predictions.csv"), "predictions.csv is not a file"),
    "an epoch more": (
        written("metrics.csv", "epoch,lr\n1,0.1\n2,0.1\n"),
        "metrics.csv has 2 epochs, and result.json says 1",
    ),
    "an accuracy of 200 %": (
        written("metrics.csv", "epoch,train_loss,val_accuracy\n1,2.0,200\n"),
        "metrics.csv, row 2: val_accuracy is '200', not a finite number",
    ),
    "a field more": (
        written("metrics.csv", "epoch,lr\n1,0.1,3\n"),
        "metrics.csv, row 2: 3 fields, where the head has 2",
    ),
    "the second epoch first": (written("metrics.csv", "epoch\n2\n"), "metrics.csv, row 2: epoch is '2', not 1"),
    "sorted": (
        rows(lambda lines: lines[::-1]),
        "row 2: image is '1787', not '1'",
    ),
    "doubled": (rows(lambda lines: lines * 2), "predictions.csv has 718 images"),
    "cut": (rows(lambda lines: lines[:-1]), "predictions.csv has 358 images"),
    "of other pictures": (rows(lambda lines: ["x" + line for line in lines]), "row 2: image is 'x1', not '1'"),
    "right where it is wrong": (
        rows(lambda lines: [line.replace("False", "True") for line in lines]),
        "row 3: correct is 'True', not False: the class is '3', predicted '5'",
    ),
    "neither": (rows(lambda lines: [line.replace("True", "yes") for line in lines]), "row 2: correct is 'yes'"),
    "no columns": (rows(lambda lines: []), "predictions.csv has 0 images"),
    "a field of a megabyte": (rows(lambda lines: ['"' + "a" * 10**6 + '"']), "field larger than field limit"),
}


class TestDoor:
    def test_what_was_not_touched_is_read(self, run):
        found = finished_run(run, IMAGES)
        assert (len(found.correct), sum(found.correct)) == (359, 144)
        assert finished_run(run) == found

    @pytest.mark.parametrize(("edit", "words"), EDITS.values(), ids=EDITS)
    def test_what_was_edited_is_named(self, run, edit, words):
        edit(run)
        with pytest.raises(StudyError, match=words) as error:
            finished_run(run, IMAGES)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 400

    def test_data_that_has_grown(self, run):
        with pytest.raises(StudyError, match=r"predictions\.csv has 359 images, and the data has 360 now"):
            finished_run(run, [*IMAGES, "new"])

    def test_no_result_is_not_finished(self, run):
        (run / "result.json").unlink()
        assert finished_run(run) is None


class TestLinks:
    def test_a_link_in_the_place_of_a_file_gives_way(self, tiny, pictures, tmp_path):
        run, outside = tmp_path / "run", tmp_path / "outside"
        run.mkdir()
        names = ("metrics.csv", "predictions.csv", "best.safetensors", "model.safetensors")
        outside.write_text("precious")
        (run / "checkpoints").mkdir()
        with pytest.raises(StudyError, match="has checkpoints but no settings"):
            train(tiny, pictures, out=run, **SHORT)
        (run / "checkpoints").rmdir()
        with pytest.raises(RuntimeError, match="power"):
            train(tiny, pictures, out=run, callbacks=[Interrupt(0)], **SHORT)
        for name in names:
            (run / name).unlink(missing_ok=True)
            (run / name).symlink_to(outside)
        (run / "tensorboard/hparams.yaml").unlink()
        (run / "tensorboard/hparams.yaml").symlink_to(tmp_path / "nowhere")
        (run / "checkpoints").mkdir(exist_ok=True)
        for step in range(1, 10):
            place(run, step).symlink_to(outside)
        train(tiny, pictures, out=run, **SHORT)
        assert outside.read_text() == "precious"
        assert not (tmp_path / "nowhere").exists()
        assert not any(path.is_symlink() for path in run.rglob("*"))

    @pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow.db"])
    def test_a_folder_that_leads_out_is_refused(self, tiny, pictures, tmp_path, name):
        run, outside = tmp_path / "run", tmp_path / "outside"
        for folder in (run, outside):
            folder.mkdir()
        (run / name).symlink_to(outside)
        with pytest.raises(StudyError, match=rf"run/{name} is a link to .*outside, and a study writes only into its"):
            train(tiny, pictures, out=run, **SHORT)
        assert list(outside.iterdir()) == []

    def test_checkpoints_on_another_disk(self, tiny, pictures, tmp_path):
        run, scratch = tmp_path / "run", tmp_path / "scratch"
        scratch.mkdir()
        (scratch / "other.txt").write_text("precious")
        with pytest.raises(RuntimeError, match="power"):
            train(tiny, pictures, out=run, callbacks=[Interrupt(0)], **SHORT)
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
        (run / "checkpoints").symlink_to(scratch)
        with pytest.raises(RuntimeError, match="power"):
            train(tiny, pictures, out=run, callbacks=[Interrupt(1)], **SHORT)
        assert newest(run).path is not None
        other = tmp_path / "other"
        with pytest.raises(RuntimeError, match="power"):
            train(tiny, pictures, out=other, seed=1, callbacks=[Interrupt(0)], **SHORT)
        shutil.rmtree(other / "checkpoints", ignore_errors=True)
        (other / "checkpoints").symlink_to(scratch)
        with pytest.raises(StudyError, match="scratch, which holds another run's checkpoints"):
            train(tiny, pictures, out=other, seed=1, **SHORT)
        train(tiny, pictures, out=run, **SHORT)
        assert [path.name for path in scratch.iterdir()] == ["other.txt"]
        assert (run / "checkpoints").is_symlink()

    def test_a_link_to_nothing(self, tiny, pictures, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run/checkpoints").symlink_to(tmp_path / "nowhere")
        with pytest.raises(StudyError, match=r"checkpoints is a link to .*nowhere, which is not a folder"):
            train(tiny, pictures, out=tmp_path / "run", **SHORT)

    def test_a_pipe_among_the_checkpoints_is_not_waited_for(self, tmp_path):
        write_checkpoint({"step": 1}, place(tmp_path, 1))
        os.mkfifo(place(tmp_path, 2))
        assert newest(tmp_path).path == place(tmp_path, 1)
        sweep(tmp_path, kept=0)
        assert list(tmp_path.iterdir()) == []


class TestForeignCheckpoints:
    def test_of_another_network(self, tiny, pictures, tmp_path):
        for name, model in (("one", tiny), ("two", "resnet20")):
            with pytest.raises(RuntimeError, match="power"):
                train(model, pictures, out=tmp_path / name, callbacks=[Interrupt(1)], **SHORT)
        file = newest(tmp_path / "one").path
        shutil.copy(file, newest(tmp_path / "two").path)
        with pytest.raises(StudyError, match=r"the checkpoint .*two/checkpoints/.*ckpt is not of this run"):
            train("resnet20", pictures, out=tmp_path / "two", **SHORT)

    def test_renamed(self, tiny, pictures, tmp_path):
        with pytest.raises(RuntimeError, match="power"):
            train(tiny, pictures, out=tmp_path / "run", callbacks=[Interrupt(1)], **SHORT)
        newest(tmp_path / "run").path.rename(place(tmp_path / "run", 17))
        with pytest.raises(StudyError, match=r"step-000000017.ckpt is of step \d+: it was renamed"):
            train(tiny, pictures, out=tmp_path / "run", **SHORT)


VALUES = (None, True, -1, 2.0, 1e308, "x", [], {}, [[1]], {"a": 1}, "\x1b[2J", 10**30)


@pytest.mark.parametrize(
    ("seeds", "said"), [(["a", 1], r"seeds\[0\]"), ([0], "names 1 seed and holds 2 accuracies of plain")]
)
def test_seeds_that_were_edited_are_named(tmp_path, seeds, said):
    shutil.copytree(YESTERDAY.parent / "comparison", tmp_path / "comparison")
    file = tmp_path / "comparison" / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"seeds": seeds}))
    with pytest.raises(StudyError, match=said):
        read_comparison(file.parent)


def mutated(generator, value):
    """The same JSON with one field gone or something else."""
    value = node = json.loads(json.dumps(value))
    while isinstance(node, dict | list) and node:
        key = generator.choice(list(node)) if isinstance(node, dict) else generator.randrange(len(node))
        if generator.random() < 0.4 or not isinstance(node[key], dict | list) or not node[key]:
            node[key] = generator.choice(VALUES)
            break
        node = node[key]
    return value


@pytest.mark.parametrize(("kind", "read"), [("run", finished_run), ("comparison", read_comparison)])
def test_whatever_stands_in_a_result_is_read_or_one_line(tmp_path, kind, read):
    shutil.copytree(YESTERDAY.parent / kind, tmp_path / kind)
    file, generator = tmp_path / kind / "result.json", random.Random(0)
    whole, refused = json.loads(file.read_text()), []
    for _ in range(100):
        file.write_text(json.dumps(mutated(generator, whole)))
        try:
            str(read(tmp_path / kind))
        except StudyError as error:
            refused.append(str(error))
    assert len(refused) > 30
    assert not any("\n" in words or "\x1b" in words for words in refused)


@pytest.mark.parametrize("edit", [lambda run: (run / "model.safetensors").unlink(), pipe("model.safetensors")])
def test_a_finished_run_without_its_network_is_named(tiny, pictures, tmp_path, edit):
    train(tiny, pictures, out=tmp_path / "run", **SHORT)
    edit(tmp_path / "run")
    with pytest.raises(StudyError, match=r"run is a finished run, and its model.safetensors is missing or no file"):
        train(tiny, pictures, out=tmp_path / "run", **SHORT)
