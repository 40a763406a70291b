import gc
import io
import json
import re
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from senet.data.image_folders import files_below
from senet.data.sampling import forking, hold, train_loader
from senet.data.shards import index as shardindex
from senet.data.sources import (
    open_data,
)
from senet.data.transforms import Augmentation
from senet.data.unreadable import checked
from senet.errors import DataError
from senet.saving.saving import load
from senet.training.train import train
from senet.zoo import create
from tests.data.realfolder import bad_files, encoded, picture

webdataset = pytest.importorskip("webdataset", reason="the extra 'wds' is not installed")

SHORT = {"epochs": 2, "batch_size": 8, "lr": 0.05, "devices": "cpu", "progress": False}


def shards_of(folder, to, *, each=7, label="cls"):
    """Write class folders as webdataset itself writes shards, in the same order; shards are named after splits."""
    to.mkdir(exist_ok=True)
    splits = [p for p in sorted(folder.iterdir()) if p.name in ("train", "val", "test")] or [folder]
    for split in splits:
        prefix = f"{split.name}-" if len(splits) > 1 else ""
        with webdataset.ShardWriter(f"{to}/{prefix}%04d.tar", maxcount=each, verbose=0) as writer:
            classes = sorted(p.name for p in split.iterdir() if p.is_dir())
            for number, name in enumerate(classes):
                for file in files_below(split / name)[0]:
                    value = {"cls": number, "json": {"label": number, "text": "ä"}}[label]
                    sample = {"__key__": f"{name}/{file.stem}", file.suffix[1:]: file.read_bytes(), label: value}
                    writer.write(sample)
    (to / "classes.json").write_text(json.dumps(classes))
    return f"wds:{to}"


def _pixels(images):
    return [np.asarray(images.load(index)) for index in range(len(images))]


def _same(one, other):
    assert one.labels.tolist() == other.labels.tolist()
    assert all(np.array_equal(a, b) for a, b in zip(_pixels(one), _pixels(other), strict=True))


@pytest.mark.parametrize("label", ["cls", "json"])
def test_shards_hold_what_the_folders_hold(paint, tmp_path, label):
    folder = paint({"train/a": 12, "train/b": 9, "val/a": 4, "val/b": 3})
    source, expected = open_data(shards_of(folder, tmp_path / "wds", label=label)), open_data(folder)
    assert (source.classes, source.native_size, source.bad) == (("a", "b"), 8, ())
    _same(source.train, expected.train)
    _same(source.val, expected.val)
    assert source.train.names[0] == "train-0000.tar/a/000.png"
    assert source.fingerprint() == open_data(f"wds:{tmp_path}/wds").fingerprint()


def test_the_library_reads_the_same_samples(paint, tmp_path):
    folder = paint({"a": 12, "b": 9})
    shards_of(folder, tmp_path / "wds")
    pattern = f"{tmp_path}/wds/{{0000..0002}}.tar"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves its files to the garbage collector
        theirs = list(webdataset.WebDataset(pattern, shardshuffle=False).decode("rgb8").to_tuple("png", "cls"))
        gc.collect()
    images = open_data(f"wds:{pattern}").split("all")[1]
    ours = sorted(zip(images.names, _pixels(images), images.labels.tolist(), strict=True), key=lambda item: item[0])
    for (pixels, label), (_, our_pixels, our_label) in zip(theirs, ours, strict=True):
        assert np.array_equal(pixels, our_pixels)
        assert label == our_label


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_on_shards_is_that_on_folders(paint, tiny, tmp_path, workers):
    folder = paint({"a": 20, "b": 20})  # divided by us
    name = shards_of(folder, tmp_path / "wds") + "/{0000..0005}.tar"
    runs = [
        train(tiny, data, out=tmp_path / out, workers=at, **SHORT)
        for data, out, at in ((folder, "f", 0), (name, "s", workers))
    ]
    assert runs[0].correct == runs[1].correct
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in run.history] for run in runs]
    assert rows[0] == rows[1]
    networks = [load(run.folder / "model.safetensors", create(tiny, num_classes=2)).state_dict() for run in runs]
    assert all(torch.equal(value, networks[1][key]) for key, value in networks[0].items())


def test_batches_of_shards_are_the_same_for_any_number_of_workers(paint, tmp_path):
    source = open_data(shards_of(paint({"a": 20, "b": 20}), tmp_path / "wds"))
    how = Augmentation(8, padding=1)
    found = []
    for workers, budget in ((0, 2**29), (0, 0), (2, 0)):
        with forking():
            found.append(list(train_loader(hold(source.train, how, budget=budget), how, 8, seed=1, workers=workers)))
    for other in found[1:]:
        assert all(torch.equal(a, x) and torch.equal(b, y) for (a, b), (x, y) in zip(found[0], other, strict=True))


def _tar(path, members):
    path.parent.mkdir(exist_ok=True, parents=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


PNG, JPEG = encoded(picture(0), "PNG"), encoded(picture(1), "JPEG")
GOOD = [
    ("000.png", PNG),
    ("000.cls", b"0"),
    ("001.jpg", JPEG),
    ("001.cls", b"1\n"),
    ("002.png", PNG),
    ("002.cls", b"0"),
]


@pytest.mark.parametrize(
    ("members", "classes", "labels"),
    [
        ([("a.png", PNG), ("a.cls", b"1"), ("b.PNG", PNG), ("b.cls", b"0")], ("0", "1"), [1, 0]),
        ([("a.png", PNG), ("a.cls", b"cat"), ("b.webp", PNG), ("b.json", b'"ape"')], ("ape", "cat"), [1, 0]),
        ([("a.json", b'{"class_id": 2}'), ("a.png", PNG), ("b.png", PNG), ("b.json", b"0")], ("0", "1", "2"), [2, 0]),
        ([("x/a.image.jpg", JPEG), ("x/a.cls", b"0"), ("y/a.image.jpg", JPEG), ("y/a.cls", b"1")], ("0", "1"), [0, 1]),
        ([("ä.png", PNG), ("ä.cls", "Bär".encode()), ("日.png", PNG), ("日.cls", b"ape")], ("Bär", "ape"), [0, 1]),
        ([("a.png", PNG), ("a.cls", b"0"), ("a.json", b'{"label": 7}'), ("b.png", PNG), ("b.cls", b"1")], "01", [0, 1]),
        ([("__meta__", b"x"), ("readme", b"x"), *GOOD], ("0", "1"), [0, 1, 0]),
        ([("a.png", PNG), ("a.cls", b"e"), ("b.png", PNG), ("b.cls", b"E5")], ("E5", "e"), [1, 0]),
    ],
)
def test_samples_are_pictures_with_labels(tmp_path, members, classes, labels):
    _tar(tmp_path / "val-0.tar", members)
    source = open_data(f"wds:{tmp_path}/val-0.tar")
    assert source.classes == tuple(classes)
    assert source.val.labels.tolist() == labels
    assert source.bad == ()
    assert {image.size for image in map(source.val.load, range(len(source.val)))} == {(24, 20)}


@pytest.mark.parametrize(
    ("train", "other", "split"),
    [
        ("Train-0.tar", "Val-0.tar", "val"),
        ("training-0.tar", "validation_1.tar", "val"),
        ("Train/0.tar", "TEST/0.tar", "test"),
        ("train_set-0.tar", "test_set-0.tar", "test"),
        ("imagenet-train-000.tar", "imagenet-val-000.tar", "val"),
        ("cars.Training.0.tar", "cars.testing.0.tar", "test"),
    ],
)
def test_splits_are_told_by_a_word_of_the_names(tmp_path, train, other, split):
    _tar(tmp_path / "wds" / train, GOOD)
    _tar(tmp_path / "wds" / other, GOOD[2:])
    source = open_data(f"wds:{tmp_path}/wds")
    assert (len(source.train), len(getattr(source, split))) == (3, 2)


def test_a_word_within_some_names_is_no_split(tmp_path):
    for name in ("steam-train", "car"):
        _tar(tmp_path / f"{name}-0.tar", GOOD * 2)
    assert len(open_data(f"wds:{tmp_path}").split("all")[1]) == 12


def test_classes_without_images_and_copies_are_said(tmp_path):
    _tar(tmp_path / "train-0.tar", [*GOOD[:2], ("b.jpg", JPEG), ("b.cls", b"3")])
    _tar(tmp_path / "val-0.tar", GOOD)
    source = checked(open_data(f"wds:{tmp_path}"))
    assert source.notes[0] == "there is no image to train on in 2 of the 4 classes: 1, 2"
    assert source.notes[1].startswith("3 of the 3 images of val are byte for byte images of train (val-0.tar/000.png")


BAD_SAMPLES = {
    "no picture in this sample": [("x.cls", b"0")],
    "several pictures": [("x.png", PNG), ("x.jpg", JPEG), ("x.cls", b"0")],
    "stands twice in this shard": [("x.png", PNG), ("x.png", PNG), ("x.cls", b"0")],
    r"no label \(.cls or .json; .txt is taken for a caption\)": [("x.png", PNG), ("x.txt", b"0")],
    r"its label \(.cls\) is not a class": [("x.png", PNG), ("x.cls", b"-1")],
    r"its label \(.json\) is not a class": [("x.png", PNG), ("x.json", b'{"boxes": []}')],
    "is not a class": [("x.png", PNG), ("x.json", b"{")],
    r"its label \(.cls\) is not a": [("x.png", PNG), ("x.cls", b"1e5")],
    r"label \(.cls\) is not a class": [("x.png", PNG), ("x.cls", b"999999999")],
    r"\(.cls\) is no": [("x.png", PNG), ("x.cls", b"\xff\xfe")],
    r"\(.json\) is no": [("x.png", PNG), ("x.json", b"1.5")],
}


@pytest.mark.parametrize("words", BAD_SAMPLES)
def test_samples_that_cannot_be_used_are_listed(tmp_path, words):
    _tar(tmp_path / "train-0.tar", [*GOOD, *BAD_SAMPLES[words]])
    _tar(tmp_path / "val-0.tar", GOOD)
    source = open_data(f"wds:{tmp_path}")
    (bad,) = source.bad
    assert bad.name.startswith("train-0.tar/x")
    assert re.search(words, bad.reason)
    assert (len(source.train), len(source.val)) == (3, 3)
    with pytest.raises(DataError, match=r"1 or more of the 7 images of .* cannot be read"):
        checked(source, max_bad=0)


def test_pictures_that_cannot_be_decoded_are_listed(tmp_path):
    bad = [(f"bad{i}{Path(name).suffix}", content) for i, (name, content) in enumerate(bad_files(0).items())]
    labels = [(f"{Path(name).stem}.cls", b"1") for name, _ in bad]
    mixed = [member for pair in zip(bad, labels, strict=True) for member in pair]
    _tar(tmp_path / "train-0.tar", GOOD + mixed)
    _tar(tmp_path / "val-0.tar", GOOD)
    source = checked(open_data(f"wds:{tmp_path}"), max_bad=len(bad))
    assert [file.name for file in source.bad] == sorted(f"train-0.tar/{name}" for name, _ in bad)
    assert len(source.train) == 3


def test_a_shard_that_ends_early_keeps_what_is_whole(tmp_path):
    whole = _tar(tmp_path / "train-0.tar", GOOD)
    _tar(tmp_path / "val-0.tar", GOOD)
    content = whole.read_bytes()
    whole.write_bytes(content[: content.index(b"002.png") + 512 + 100])
    source = open_data(f"wds:{tmp_path}")
    assert [str(file).partition(" (")[0] for file in source.bad] == [
        "train-0.tar/002.png: the shard ends early",
        "train-0.tar: damaged, what follows is lost",
    ]
    assert len(source.train) == 2
    _tar(tmp_path / "train-1.tar", GOOD)
    (tmp_path / "train-2.tar").write_bytes(b"no tar file" * 100)
    (tmp_path / "train-3.tar").write_bytes(b"")
    source = open_data(f"wds:{tmp_path}")
    assert [file.name for file in source.bad[2:]] == ["train-2.tar", "train-3.tar"]
    assert len(source.train) == 2 + 3


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("{0000..0003}.tar", "3 of the 4 shards are not there, the first: .*0001.tar"),
        ("nowhere.tar", "1 of the 1 shards are not there"),
        ("*.tgz", "there is no .tar file in"),
        ("0000.tar.gz", "is compressed"),
        ("{0000.tar", "a brace too many"),
        ("{0..999999}{0..999999}.tar", "names no shards or more than 100,000"),
        ("{5..3}.tar", "names no shards"),
        ("../http://x/a.tar", "is not on this machine"),
        ("mixed", r"some shards of .* are of val"),
        ("both", r"some labels of .* are numbers \(1\) and some are names \('cat'\)"),
        ("one", "one class, '0'"),
        ("none", r"holds no picture with a label.*the first: 0.tar/a.png: no label .*senet judge takes"),
        ("names", r"has class 1 \(from 0\), and .*classes.json names 1"),
        ("words", "does not name the class 'dog'"),
        ("noclasses", "should be a list of the classes' names"),
    ],
)
def test_shards_that_cannot_be_used_are_refused(tmp_path, pattern, words):
    dog = [("a.png", PNG), ("a.cls", b"dog"), ("b.png", PNG), ("b.cls", b"cat")]
    _tar(tmp_path / "0000.tar", GOOD)
    (tmp_path / "0000.tar.gz").write_bytes(b"")
    _tar(tmp_path / "mixed/val-0.tar", GOOD)
    _tar(tmp_path / "mixed/0.tar", GOOD)
    _tar(tmp_path / "both/0.tar", [*dog[2:], ("c.png", PNG), ("c.cls", b"1")])
    _tar(tmp_path / "one/0.tar", GOOD[:2])
    _tar(tmp_path / "none/0.tar", [("a.png", PNG)])
    for folder, members, names in (
        ("names", GOOD, '["a"]'),
        ("words", dog, '["cat", "ape"]'),
        ("noclasses", GOOD, "3"),
    ):
        _tar(tmp_path / folder / "0.tar", members)
        (tmp_path / folder / "classes.json").write_text(names)
    with pytest.raises(DataError, match=words):
        open_data(f"wds:{tmp_path}/{pattern}")


def test_the_index_of_a_large_shard_is_kept(paint, tmp_path, monkeypatch):
    monkeypatch.setenv("SENET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shardindex, "KEPT", 1)
    name = shards_of(paint({"a": 10, "b": 10}), tmp_path / "wds", each=100)
    before = open_data(name)
    monkeypatch.setattr(shardindex.tarfile, "open", None)
    again = open_data(name)
    assert again.fingerprint() == before.fingerprint()
    _same(again.val, before.val)


@pytest.mark.long
@pytest.mark.timeout(3 * 3600)
def test_cifar10_in_shards_gives_the_accuracy_that_folders_give(cifar10, tmp_path):
    name = shards_of(cifar10, tmp_path / "wds", each=5000)
    assert len(list((tmp_path / "wds").glob("*.tar"))) == 12
    options = {"epochs": 1, "batch_size": 128, "devices": "cpu", "progress": False}
    runs = [train("resnet20", data, out=tmp_path / out, **options) for data, out in ((cifar10, "f"), (name, "s"))]
    print([(run.accuracy, run.seconds) for run in runs])
    assert runs[0].accuracy == runs[1].accuracy
    assert runs[0].correct == runs[1].correct
    states = [load(run.folder / "model.safetensors").state_dict() for run in runs]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
