"""What the machine does to a training: one line, and the run goes on from its checkpoint."""

import functools
import os
import signal

import pytest
import torch

from senet.console.stopping import Stopped
from senet.data.sampling import hold
from senet.errors import BadImageError, StudyError
from senet.evaluation.logits import Predictions, predict_all
from senet.files.atomic import _cleaned, atomic_write
from senet.files.lock import locked
from senet.recipe.recipe import Recipe
from senet.training.checkpointing import newest, place
from senet.training.failures import in_plain_words
from senet.training.processes.processes import joined_predictions
from senet.training.train import train
from tests.forked import forked
from tests.training.test_resuming import At
from tests.training.test_train import SHORT

RECIPE = Recipe(batch_size=8, epochs=1, lr=0.1)


@pytest.mark.parametrize("ignored", [False, True])
def test_a_closed_terminal_leaves_a_checkpoint_but_not_where_nohup_ignores_it(tiny, pictures, tmp_path, ignored):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        how = {"out": tmp_path / "run", "callbacks": [At(2, lambda *_: os.kill(os.getpid(), signal.SIGHUP))], **SHORT}
        if ignored:
            train(tiny, pictures, **how)
        else:
            with pytest.raises(Stopped, match="stopped by SIGHUP after step 2 of 9; a checkpoint is written"):
                train(tiny, pictures, **how)
            assert newest(tmp_path / "run").path == place(tmp_path / "run", 2)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_vanishes_is_one_line(tiny, pictures, tmp_path, monkeypatch, workers):
    monkeypatch.setattr("senet.training.setup.hold", functools.partial(hold, budget=0))
    files = sorted((pictures / "train").rglob("*.png"))
    kept = {file: file.read_bytes() for file in files}

    def vanish(*_):
        for file in files:
            file.unlink(missing_ok=True)

    how = {"out": tmp_path / "run", "workers": workers, **SHORT}
    with pytest.raises(
        StudyError, match=r"png cannot be read as an image .No such file.*put it back\. The last ch"
    ) as error:
        train(tiny, pictures, callbacks=[At(4, vanish)], **how)
    assert "\n" not in str(error.value)
    for file, content in kept.items():
        file.write_bytes(content)
    whole = train(tiny, pictures, out=tmp_path / "whole", **SHORT)
    assert train(tiny, pictures, **how).correct == whole.correct


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(24, "Too many open files"), r"too few file descriptors: .*ulimit -n 4096"),
        (RuntimeError("received 0 items of ancdata"), "too few file descriptors"),
        (RuntimeError("can't start new thread"), "memory is exhausted"),
        (RuntimeError("It has parameters that were not used in producing loss"), "its scores do not depend on"),
        (RuntimeError("It has parameters that were not used in producing the loss"), "its scores do not depend on"),
        (
            BadImageError("Caught BadImageError.\nTraceback\nsenet.errors.BadImageError: x.png is gone"),
            r"^x.png is gone\.",
        ),
    ],
)
def test_what_the_machine_lacks_is_said(tmp_path, error, words):
    with pytest.raises(StudyError, match=words), in_plain_words(tmp_path, RECIPE):
        raise error


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "processes", "remedy"),
    [(9, 1, 1, "--accumulate 3 "), (12, 2, 2, "--accumulate 6 "), (4, 4, 1, "a smaller --size"), (1, 1, 1, "a smal")],
)
def test_the_remedy_for_exhausted_memory_can_be_followed(tmp_path, batch_size, accumulate, processes, remedy):
    recipe = Recipe(batch_size=batch_size, epochs=1, lr=0.1, accumulate=accumulate)
    words = f"a batch of {batch_size} in {accumulate} parts?: in another folder, {remedy}"
    with pytest.raises(StudyError, match=words), in_plain_words(tmp_path, recipe, processes):
        raise MemoryError


def _lock(pipe, folder):
    with locked(folder):
        pipe.send("locked")
        pipe.recv()


def test_two_commands_on_one_folder(tiny, pictures, tmp_path):
    (tmp_path / "run").mkdir()
    other, pipe = forked(_lock, tmp_path / "run")
    assert pipe.recv() == "locked"
    with pytest.raises(StudyError, match=rf"process {other.pid} on .* is working in .*run: wait"):
        train(tiny, pictures, out=tmp_path / "run", **SHORT)
    pipe.send("go on")
    other.join(60)
    train(tiny, pictures, out=tmp_path / "run", **SHORT)
    with locked(tmp_path / "run"):
        pass


def _end_in_the_middle(_, path):
    with atomic_write(path) as temporary:
        temporary.write_text("half")
        os._exit(9)


def test_what_killed_writers_left_is_removed(tmp_path):
    process, _ = forked(_end_in_the_middle, tmp_path / "x.onnx")
    process.join(60)
    assert process.exitcode == 9
    (left,) = tmp_path.iterdir()
    old, young, mine = (tmp_path / f".senet-{name}" for name in ("0" * 16, "1" * 16 + ".pt", "notes"))
    for file in (old, young, mine):
        file.write_text("x")
    os.utime(old, (0, 0))
    os.utime(mine, (0, 0))
    _cleaned.discard(tmp_path)
    with atomic_write(tmp_path / "y") as temporary:
        assert {path.name for path in tmp_path.iterdir()} == {young.name, mine.name, temporary.name}
        _cleaned.discard(tmp_path)
        with atomic_write(tmp_path / "z"):
            assert temporary.exists()
    assert not left.exists()


def test_a_process_without_an_image(tiny):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 2))
    none = predict_all(network, [], None, device=torch.device("cpu"))
    one = Predictions(torch.tensor([1]), torch.tensor([[1, 0]]), torch.tensor([[0.9, 0.1]]), 0.5, 2)
    for parts in ([one, none, none], [none, one][::-1]):
        joined = joined_predictions(parts)
        assert (joined.accuracy, joined.loss, joined.classes) == (1.0, 0.5, 2)
