"""Data sets that have a name: scikit-learn's digits, and torchvision's, where they lie or downloaded."""

import struct
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from senet.data.sources import open_data
from senet.errors import DataError
from tests.data.folders.test_image_folders import lengths
from tests.forked import forked


def test_digits():
    source = open_data("digits")
    assert source.classes == tuple("0123456789")
    assert lengths(source) == [1438, 359, None]
    assert (source.native_size, source.small, source.flip) == (8, True, False)
    image = source.train.load(0)
    assert (image.mode, image.size) == ("RGB", (8, 8))
    labels = np.concatenate([source.train.labels, source.val.labels])
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # of scikit-learn
    assert source.reported[0] == source.monitored[0] == "val"
    assert open_data("digits").fingerprint() == source.fingerprint()
    assert open_data("digits", split_seed=1).fingerprint() != source.fingerprint()


def _write_idx(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.tobytes())


def test_torchvision_data_sets_are_read_where_they_lie(tmp_path):
    random = np.random.default_rng(0)
    for part, count in (("train", 20), ("t10k", 10)):
        raw = tmp_path / "FashionMNIST/raw"
        _write_idx(raw / f"{part}-images-idx3-ubyte", random.integers(0, 255, (count, 28, 28), dtype=np.uint8))
        _write_idx(raw / f"{part}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    source = open_data("torchvision:FashionMNIST", data_root=tmp_path)
    assert lengths(source) == [20, None, 10]
    assert source.classes[9] == "Ankle boot"
    assert (source.native_size, source.flip) == (28, True)
    assert source.test.load(3).mode == "RGB"
    assert source.test.labels.tolist() == list(range(10))


def test_torchvision_data_sets_without_splits_are_split():
    source = open_data("torchvision:FakeData")
    assert sum(lengths(source)[:2]) == 1000
    assert len(source.classes) == 10
    assert source.native_size == 224


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("torchvision:CIFAR1", "no data set 'CIFAR1'; did you mean 'CIFAR10'"),
        ("torchvision:ImageFolder", "no data set 'ImageFolder'"),
        ("torchvision:ImageNet", "not in .* as it expects"),
        ("torchvision:CocoDetection", "CocoDetection needs annFile too: make two in Python"),
    ],
)
def test_torchvision_data_sets_that_are_not_there(tmp_path, name, words):
    with pytest.raises(DataError, match=words):
        open_data(name, data_root=tmp_path)


def test_a_download_that_fails_is_a_clear_error(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(DataError, match=r"CIFAR10 is not in .* and could not be downloaded \(no network\).*data_root"):
        open_data("torchvision:CIFAR10", data_root=tmp_path / "new")


def test_the_root_of_torchvision_data_sets_follows_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("SENET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(DataError, match=str(tmp_path / "senet" / "data")):
        open_data("torchvision:CIFAR10")


class SlowlyDownloaded:
    """A data set of torchvision's kind, whose download takes a moment and fails where another is at it."""

    classes = ("dark", "light")

    def __init__(self, root, train=True, download=False):
        if not (Path(root) / "done").exists():
            if not download:
                raise RuntimeError("it is not there")
            (Path(root) / "begun").touch(exist_ok=False)
            time.sleep(0.5)
            (Path(root) / "done").touch()
        self.data, self.targets = np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 0, 1]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return Image.fromarray(self.data[index]), self.targets[index]


def _open(pipe, root):
    pipe.send("now")
    try:
        pipe.send(lengths(open_data("torchvision:CIFAR10", data_root=root)))
    except DataError as error:
        pipe.send(str(error))


def test_of_several_processes_one_downloads_and_the_others_wait(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10", SlowlyDownloaded)
    monkeypatch.setenv("SENET_CACHE", str(tmp_path / "cache"))
    others = [forked(_open, tmp_path / "data") for _ in range(2)]
    for process, pipe in others:
        assert [pipe.recv(), pipe.recv()] == ["now", [4, None, 4]]
        process.join()
