"""Folders as people have them: what each is read as, what is left out and said, and what is refused in which words."""

from __future__ import annotations

import os

import pytest
from PIL import Image

from senet.data.sources import open_data
from senet.errors import DataError

EACH = 4


def made(paint, tmp_path, folders, files=(), links=()):
    """A folder with four pictures in each of `folders` ("." for itself), empty files, and links to where they lead."""
    root = paint({folder: EACH for folder in folders if folder != "."})
    for number in range(EACH if "." in folders else 0):
        Image.new("RGB", (8, 8)).save(root / f"{number}.png")
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    for name, target in links:
        (root / name).symlink_to(target if target.startswith("/") else root / target)
    return root


def both(first, second):
    return [f"{split}/{name}" for split in (first, second) for name in "ab"]


READ = {
    "train/ and val/": (both("train", "val"), "8 to train on, 8 to measure (val)"),
    "Train/ and Val/": (both("Train", "Val"), "8 to train on, 8 to measure (val)"),
    "train_set/ and test_set/": (both("train_set", "test_set"), "8 to train on, 8 to measure (test)"),
    "training/ and validation/": (both("training", "validation"), "8 to train on, 8 to measure (val)"),
    "TRAIN-images/ and Test Images/": (both("TRAIN-images", "Test Images"), "8 to train on, 8 to measure (test)"),
    "class folders": ("ab", "6 to train on, 2 to measure (val)"),
    "train/ alone": (["train/a", "train/b"], "6 to train on, 2 to measure (val)"),
    "numbers in numbers": (["train/a/0/1", "train/a/0/2", "train/b/1/0", "val/a/9", "val/b/3"], "12 to train on, 8 to"),
}


@pytest.mark.parametrize(("folders", "words"), READ.values(), ids=READ)
def test_what_is_read(paint, tmp_path, folders, words):
    source = open_data(made(paint, tmp_path, folders))
    assert source.summary.partition(": ")[2].startswith(words)
    assert source.summary.endswith("2 classes: a, b")
    assert source.others == ()


LEFT_OUT = {
    "a NAS's thumbnails": (["a", "b", "a/@eaDir"], (), (), "a/@eaDir", "made by another program"),
    "a Mac's archive": (["a", "b", "__MACOSX/a"], (), (), "__MACOSX", "made by another program"),
    "a resource fork": ("ab", ["a/._0.png", "a/.DS_Store", "Thumbs.db"], (), "a/._0.png", "made by another program"),
    "a contest's test pictures": (
        ["train/a", "train/b", "test"],
        (),
        (),
        "test",
        "4 pictures in no class folder",
    ),
    "pictures beside class folders": (["a", "b", "."], (), (), ".", "4 pictures in no class folder"),
    "pictures beside classes": (["val", *both("train", "val")], (), (), "val", "4 pictures in no class folder"),
    "a link to nowhere": ("ab", (), [("c", "/nowhere")], "c", "a link that leads nowhere"),
    "a table of labels": ("ab", ["a/labels.csv"], (), "a/labels.csv", "not an image by its name: its name ends"),
}


@pytest.mark.parametrize(("folders", "files", "links", "name", "words"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_what_is_left_out_is_said(paint, tmp_path, folders, files, links, name, words):
    source = open_data(made(paint, tmp_path, folders, files, links))
    assert source.classes == ("a", "b")
    (other,) = source.others
    assert (other.name, words in other.reason) == (name, True)


def test_class_folders_may_be_links(paint, tmp_path):
    root = made(paint, tmp_path, ["x/deep/a", "y/b", "data/c"], (), [("data/a", "x/deep/a"), ("data/b", "y/b")])
    source = open_data(root / "data")
    assert (source.classes, len(source.train) + len(source.val)) == (("a", "b", "c"), 3 * EACH)


REFUSED = {
    "classes with the same folders": ([f"{c}/{s}" for c in "ab" for s in ("left", "right")], (), "all hold the same"),
    "a split inside each class": (
        [f"{c}/{s}" for c in "ab" for s in ("train", "val")],
        (),
        "a/train should be train/a",
    ),
    "a table beside pictures": (
        ["."],
        ["labels.csv"],
        r"4 images but no class folders \('labels.csv': labels in a table",
    ),
    "a table beside a folder": (
        ["images"],
        ["labels.csv"],
        r"one class, 'images' \('labels.csv': labels in a table are",
    ),
    "a contest's splits": (
        ["train", "test"],
        ["train.csv"],
        r"'test', 'train' of .* hold no class folders \('train.csv': .* senet judge takes a training that reads them",
    ),
    "a folder around it": (
        ["flowers/a", "flowers/b"],
        (),
        r"one folder, and that the folders 'a', 'b': give .*flowers",
    ),
    "a folder around splits": ([f"f/{x}" for x in both("train", "val")], (), "the folders 'train', 'val': give .*/f"),
    "one class": ("a", (), "one class, 'a': a classifier needs at least two"),
    "one class in a split": (["train/a", "val/a"], (), "train has one class, 'a'"),
    "an empty class": ("ab", ["c/notes.txt"], "no images in these class folders of .*: 'c'"),
    "a detector's": (
        ["images/train", "images/val"],
        ["labels/train/a.txt"],
        r"no images in .*: 'labels' \(labels in files are not read; senet judge takes",
    ),
    "two words for one split": (
        [*both("val", "valid"), "train/a", "train/b"],
        (),
        "'val', 'valid', which mean the same",
    ),
    "another case": (
        ["train/Cat", "train/dog", "val/cat", "val/dog"],
        (),
        "only in train/: 'Cat'; only in val/: 'cat'",
    ),
    "zip files": ((), ["a.zip", "b.zip"], r"'a.zip', 'b.zip': archives are not read; unpack them\)"),
    "shards without wds:": ((), ["000.tar"], r"unpack them, or name shards of WebDataset as wds:.*pictures\)"),
    "photos of a phone": ((), ["a/1.heic", "b/2.HEIC"], "end in .heic: convert them, such as to .png .by ImageMagick"),
    "nothing": ((), (), "is empty"),
    "no folders": ((), ["read.me"], "holds no images: images belong in one folder for each class"),
}


@pytest.mark.parametrize(("folders", "files", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(paint, tmp_path, folders, files, words):
    with pytest.raises(DataError, match=words) as error:
        open_data(made(paint, tmp_path, folders, files))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [("z.zip", "is an archive: unpack it$"), ("t.tar", "is an archive: unpack it, or .* wds:.*t.tar$")],
)
def test_an_archive_is_no_folder(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=words):
        open_data(tmp_path / name)


def test_a_class_whose_name_is_not_utf8_is_refused_before_it_is_trained(paint, tmp_path):
    root = made(paint, tmp_path, "ab")
    try:
        (root / "b").rename(root / os.fsdecode(b"\xff\xfe"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(DataError, match=r"a class called .* is not in UTF-8: rename it"):
        open_data(root)
