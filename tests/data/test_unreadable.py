import json
import multiprocessing
import os
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from senet.data import unreadable as badfiles
from senet.data.images import FileImages
from senet.data.sampling import forking, hold, train_loader
from senet.data.sources import (
    open_data,
)
from senet.data.transforms import Augmentation
from senet.data.unreadable import BadFile, allowed, checked, listed
from senet.errors import DataError
from senet.files.cache import remembered
from senet.study.comparison.compare import compare
from senet.training.train import train
from tests.data.realfolder import lay_real_folder

SHORT = {"epochs": 1, "batch_size": 32, "lr": 0.01, "size": 16, "devices": "cpu", "progress": False}


@pytest.fixture
def real(tmp_path):
    """The folder, and the names of what is good and bad in it."""
    return tmp_path / "real", *lay_real_folder(tmp_path / "real")


def test_a_real_folder_trains_through_and_the_list_of_bad_files_is_exact(real, tiny, tmp_path):
    folder, good, bad = real
    (folder / "dark/notes.txt").write_text("no image, and not called one")
    deep = {"range": [0, 65535]}  # some of the pictures have 16 bits
    result = train(tiny, folder, out=tmp_path / "run", **deep, **SHORT)
    assert [file.name for file in result.skipped] == [*bad, "dark/notes.txt"]
    told = json.loads((tmp_path / "run/result.json").read_text())["bad_files"]
    assert [file["name"] for file in told] == [*bad, "dark/notes.txt"]
    assert all(file["reason"] for file in told)
    assert "41 files were skipped:" in str(result)
    assert "dark/zero.png: the file is empty" in str(result)
    assert "dark/notes.txt: not an image by its name: its name ends in .txt" in str(result)
    again = train(tiny, folder, out=tmp_path / "run", **deep, **SHORT)
    assert again.skipped == result.skipped
    source = checked(open_data(folder))
    assert sorted([*source.train.names, *source.val.names]) == good


def test_batches_of_a_real_folder_are_the_same_for_any_number_of_workers(real):
    how = Augmentation(16)

    def batches(workers, budget):
        held = hold(checked(open_data(real[0])).train, how, budget=budget)
        with forking():
            return list(train_loader(held, how, 16, seed=3, workers=workers))

    expected = batches(0, 2**29)
    for workers, budget in ((0, 0), (2, 0), (3, 2**29)):
        found = batches(workers, budget)
        assert all(torch.equal(a, x) and torch.equal(b, y) for (a, b), (x, y) in zip(expected, found, strict=True))


def test_a_comparison_lists_them_too(paint, tiny, tmp_path):
    folder = paint({"a": 10, "b": 10})
    (folder / "a/003.png").write_bytes(b"")
    result = compare(tiny, folder, out=tmp_path / "out", seeds=1, **{**SHORT, "batch_size": 8, "size": None})
    assert [file.name for file in result.skipped] == ["a/003.png"]
    assert str(result).endswith("1 file was skipped:\n  a/003.png: the file is empty")
    assert json.loads((tmp_path / "out/result.json").read_text())["bad_files"][0]["name"] == "a/003.png"


@pytest.mark.parametrize(
    ("max_bad", "count", "expected"),
    [
        *((0, 50, 0), (3, 50, 3), ("3", 50, 3), (1, 50, 1), (1.0, 50, 50), ("1.0", 50, 50), (0.2, 50, 10)),
        *(("5%", 40, 2), ("12.5 %", 40, 5), (0.29, 100, 29), ("100%", 7, 7)),
    ],
)
def test_what_is_allowed_is_a_number_or_a_share(max_bad, count, expected):
    assert allowed(max_bad, count) == expected


@pytest.mark.parametrize("max_bad", ["", "few", -1, "-3", 1.5, "120%", "nan", None])
def test_what_is_neither_is_refused(max_bad, pictures):
    with pytest.raises(DataError, match=r"a number of files \(40\) or a share of them"):
        checked(open_data(pictures), max_bad=max_bad)


def test_more_than_is_allowed_stops_before_anything_is_trained(real, tiny, tmp_path):
    folder, _, bad = real
    for max_bad in (39, "16%", 0):
        with pytest.raises(DataError, match=rf"of the 240 images of .* cannot be read.*max_bad \({max_bad}\) allows"):
            train(tiny, folder, out=tmp_path / "run", max_bad=max_bad, **SHORT)
    assert not (tmp_path / "run").exists()
    assert len(checked(open_data(folder), max_bad=40).bad) == len(bad)


def test_a_class_that_cannot_be_read_is_named(paint):
    folder = paint({"train/a": 4, "train/b": 4, "val/a": 2, "val/b": 2})
    source = open_data(folder)
    for file in (folder / "train/b").iterdir():
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"no image of class 'b' in train of .* can be read"):
        checked(source, max_bad=1.0)
    with pytest.raises(DataError, match="no image of class 'b' can be read"):
        open_data(folder)


def test_which_image_is_held_out_does_not_hang_on_bad_ones(paint):
    folder = paint({"a": 20, "b": 20})
    before = checked(open_data(folder))
    gone = before.train.names[5]
    (folder / gone).write_bytes(b"")
    after = checked(open_data(folder))
    assert list(after.val.names) == list(before.val.names)
    assert list(after.train.names) == [name for name in before.train.names if name != gone]
    assert after.fingerprint()["train"] != before.fingerprint()["train"]


def test_images_in_memory_are_not_looked_at(monkeypatch):
    source = open_data("digits")
    monkeypatch.setattr("senet.data.images.ArrayImages.load", None)
    assert checked(source).checked


def test_the_list_on_the_screen_ends():
    lines = listed([BadFile(f"{i}.png", "the file is empty") for i in range(60)])
    assert len(lines) == 52
    assert lines[-1] == "  and 10 more, in result.json"
    assert listed([]) == []
    bad = [BadFile(f"{i}.png", "the file is empty") for i in range(60)]
    assert listed(bad, recorded=False)[-1] == "  and 10 more"  # of what writes no result.json


def test_what_was_found_is_kept_until_a_file_changes(paint, monkeypatch, tmp_path):
    monkeypatch.setenv("SENET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(badfiles, "FEW", 10)
    folder = paint({"train/a": 10, "train/b": 10, "val/a": 5, "val/b": 5})
    (folder / "train/a/003.png").write_bytes(b"")
    looked = []
    load = FileImages.load
    monkeypatch.setattr(FileImages, "load", lambda self, at: (looked.append(self.names[at]), load(self, at))[1])

    def found():
        source = open_data(folder)
        looked.clear()
        return [file.name for file in checked(source).bad], len(looked)

    assert found() == (["train/a/003.png"], 30)
    assert found() == (["train/a/003.png"], 0)
    for source in (open_data(folder), checked(open_data(folder))):
        with pytest.raises(DataError, match=r"1 or more of the 30 images .* max_bad \(0\) allows 0"):
            checked(source, max_bad=0)
    stamp = (folder / "val/a/001.png").stat().st_mtime_ns + 1
    os.utime(folder / "val/a/001.png", ns=(stamp, stamp))
    assert found() == (["train/a/003.png"], 10)
    (folder / "train/b/009.png").write_bytes(b"no image")
    assert found() == (["train/a/003.png", "train/b/009.png"], 20)
    (folder / "train/b/008.png").unlink()
    (folder / "train/b/008.png").symlink_to("nowhere")  # the file may come back without a change here
    assert [found(), found()] == [(["train/a/003.png", "train/b/008.png", "train/b/009.png"], 20)] * 2
    for kept in (tmp_path / "cache").rglob("*.json"):
        kept.write_text("damaged")
    assert found()[1] == 30
    assert not list((tmp_path / "cache").rglob("*.lock"))


def _ask(told):
    def make():
        told.put("made")
        time.sleep(0.3)
        return [1, "two"], True

    sys.exit(remembered("kind", b"key", make) != [1, "two"])


def test_several_processes_find_out_once(tmp_path, monkeypatch):
    monkeypatch.setenv("SENET_CACHE", str(tmp_path))
    processes = multiprocessing.get_context("fork")
    told = processes.SimpleQueue()
    with forking():
        running = [processes.Process(target=_ask, args=(told,)) for _ in range(3)]
        for process in running:
            process.start()
        for process in running:
            process.join()
    assert [process.exitcode for process in running] == [0, 0, 0]
    assert told.get() == "made"
    assert told.empty()


def test_a_home_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SENET_CACHE", str(tmp_path / "file"))
    assert remembered("kind", b"key", lambda: (7, True)) == 7


def test_files_of_torchvision_data_sets_are_skipped_as_well(monkeypatch, tmp_path):
    from torchvision import datasets

    class Broken(datasets.FakeData):
        def __init__(self, root=None):
            super().__init__()
            self.targets = [index % 10 for index in range(1000)]

        def __getitem__(self, index):
            if index == 7:
                raise OSError("image file is truncated")
            return Image.fromarray(np.full((8, 8, 3), 20 * (index % 10), dtype=np.uint8)), index % 10

    monkeypatch.setattr(datasets, "FakeData", Broken)
    source = checked(open_data("torchvision:FakeData"))
    assert [str(file) for file in source.bad] == ["7: image file is truncated"]
    assert len(source.train) + len(source.val) == 999
