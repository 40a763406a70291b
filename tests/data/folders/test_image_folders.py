"""Image folders: their splits, classes and files, those that are refused, and copies on both sides."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from senet.data.image_folders import class_indices, read_folder, stratified_split
from senet.data.sources import open_data
from senet.data.unreadable import checked
from senet.errors import DataError

FULL = {"train/a": 3, "train/b": 2, "val/a": 2, "val/b": 1, "test/a": 1, "test/b": 1}


def lengths(source):
    return [None if images is None else len(images) for images in (source.train, source.val, source.test)]


@pytest.mark.parametrize(
    ("layout", "sizes", "reported", "monitored"),
    [
        (FULL, [5, 3, 2], "test", "val"),
        ({"train/a": 3, "train/b": 2, "val/a": 2, "val/b": 1}, [5, 3, None], "val", "val"),
        ({"train/a": 3, "train/b": 2, "test/a": 2, "test/b": 1}, [5, None, 3], "test", "test"),
        ({"train/a": 10, "train/b": 5}, [12, 3, None], "val", "val"),
        ({"a": 10, "b": 5}, [12, 3, None], "val", "val"),
        ({"a": 2, "b": 2}, [2, 2, None], "val", "val"),
        ({"val/a": 3, "val/b": 2}, [None, 5, None], "val", "val"),
        ({"train/a": 3, "train/b": 2, "validation/a": 2, "validation/b": 1}, [5, 3, None], "val", "val"),
        ({"train": 5, "plane": 5}, [8, 2, None], "val", "val"),  # classes, not splits
        ({"Train/a": 3, "Train/b": 2, "Val/a": 2, "Val/b": 1}, [5, 3, None], "val", "val"),
        ({"train_set/a": 3, "train_set/b": 2, "test_set/a": 2, "test_set/b": 1}, [5, None, 3], "test", "test"),
        ({"training/a": 3, "training/b": 2, "validation/a": 2, "validation/b": 1}, [5, 3, None], "val", "val"),
        ({"TRAINING-DATA/a": 3, "TRAINING-DATA/b": 2, "Testing/a": 2, "Testing/b": 1}, [5, None, 3], "test", "test"),
        ({"a/images": 5, "b/images": 5}, [8, 2, None], "val", "val"),  # as tiny-imagenet has them
    ],
)
def test_folders_are_split_as_they_say(paint, layout, sizes, reported, monitored):
    source = open_data(paint(layout))
    assert lengths(source) == sizes
    assert (source.reported[0], source.monitored[0]) == (reported, monitored)
    assert source.native_size == 8


def test_a_split_holds_out_a_fifth_of_each_class_and_is_always_the_same(paint):
    folder = paint({"a": 20, "b": 10})
    source = open_data(folder)
    assert source.val.labels.bincount().tolist() == [4, 2]
    assert {*source.train.names, *source.val.names} == {
        *(f"a/{i:03}.png" for i in range(20)),
        *(f"b/{i:03}.png" for i in range(10)),
    }
    again = open_data(folder)
    assert list(again.val.names) == list(source.val.names)
    assert list(open_data(folder, split_seed=1).val.names) != list(source.val.names)


def test_files_are_listed_in_the_order_of_their_names_whatever_lies_beside_them(paint):
    folder = paint({"train/b": 2, "train/a": 2, "val/a": 1, "val/b": 1})
    (folder / "train/a/.hidden.png").write_bytes(b"")
    (folder / "train/a/notes.txt").write_text("no image")
    (folder / "train/.git").mkdir()
    (folder / "train/a/more").mkdir()
    Image.new("L", (8, 8)).save(folder / "train/a/more/Z.PNG")
    (folder / "README.md").write_text("no image")
    classes, splits, others = read_folder(folder)
    assert [(other.name, "ends in .txt" in other.reason) for other in others] == [("train/a/notes.txt", True)]
    assert classes == ("a", "b")
    assert splits["train"].names == [
        *("train/a/000.png", "train/a/001.png", "train/a/more/Z.PNG", "train/b/000.png", "train/b/001.png"),
    ]
    assert splits["train"].labels.tolist() == [0, 0, 0, 1, 1]


def test_links_are_followed_but_not_round_and_round(paint):
    folder = paint({"a": 2, "b": 2})
    (folder / "a/more").symlink_to(folder / "b")
    (folder / "b/round").symlink_to(folder)
    source = open_data(folder)
    assert len(source.train) + len(source.val) == 2 * (2 + 2)  # each holds both


def test_names_that_are_no_utf8_can_be_written(paint):
    folder = paint({"a": 2, "b": 2})
    try:
        (folder / "a/000.png").rename(folder / os.fsdecode(b"a/\xff.png"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    source = open_data(folder)
    names = [*source.train.names, *source.val.names]
    assert "a/\\xff.png" in names
    assert source.fingerprint()
    assert "\n".join(names).encode()


def test_native_size_is_known_only_where_images_are_squares_of_one_size(paint):
    assert open_data(paint({"a": 2, "b": 2}, size=(9, 8), root="wide")).native_size is None
    folder = paint({"a": 2, "b": 2}, root="mixed")
    Image.new("RGB", (16, 16)).save(folder / "b/000.png")
    assert open_data(folder).native_size is None
    large = open_data(paint({"a": 2, "b": 2}, size=(65, 65), root="large"))
    assert (large.native_size, large.small) == (65, False)


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ({}, "is empty"),
        ({"a": 2}, "one class, 'a'"),
        ({"a": 0, "b": 0}, "hold no images"),
        ({"a": 2, "b": 0}, "no images in these class folders.*'b'"),
        ({"a": 2, "b": 1}, "one of 'b'"),
        ({"train/a": 2, "train/b": 2, "val/a": 1, "val/c": 1}, "only in train/: 'b'; only in val/: 'c'"),
        ({"train/a": 2, "train/b": 2, "val/a": 1}, "one class"),
        ({"train/a": 2, "train/b": 2, "eval/a": 1, "eval/b": 1}, "'eval', which is not a split"),
        ({"val/a": 2, "val/b": 2, "valid/a": 1, "valid/b": 1}, "'val', 'valid', which mean the same"),
        ({"a/train": 2, "a/val": 2, "b/train": 2, "b/val": 2}, "all hold the same folders .*a/train should be train/a"),
        ({"left/cat": 2, "left/dog": 2, "right/cat": 2, "right/dog": 2}, "'left', 'right'.*'cat', 'dog'"),
    ],
)
def test_folders_that_cannot_be_used_are_refused(paint, layout, words):
    with pytest.raises(DataError, match=words):
        open_data(paint(layout))


def test_a_folder_that_is_missing_is_named_with_the_nearest(paint):
    folder = paint({"a": 2, "b": 2})
    with pytest.raises(DataError, match=r"no data folder .*pictuers; did you mean .*pictures\?.*torchvision:NAME"):
        open_data(folder.with_name("pictuers"))
    with pytest.raises(DataError, match=r"no data folder digit; did you mean digits\?"):
        open_data("digit")
    with pytest.raises(DataError, match="is a file"):
        open_data(folder / "a/000.png")
    with pytest.raises(DataError, match="holds 2 images but no class folders"):
        open_data(folder / "a")


def test_a_class_whose_images_cannot_be_read_is_an_error(paint):
    folder = paint({"a": 2, "b": 2})
    (folder / "b/000.png").write_bytes(b"broken")
    assert len(open_data(folder).train) == 2  # one of b can be read; training would name the other
    (folder / "b/001.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"no image of class 'b' can be read; the first: .*000\.png"):
        open_data(folder)


def test_a_folder_that_cannot_be_listed_is_an_error(paint, monkeypatch):
    folder = paint({"a": 2, "a/more": 1, "b": 2})
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "more":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"the folder .*a/more cannot be read: Permission denied"):
        open_data(folder)


def test_a_folder_called_as_our_data_is_told_from_it(paint, tmp_path, monkeypatch):
    paint({"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1}, root="digits")
    monkeypatch.chdir(tmp_path)
    own, ours = open_data("./digits"), open_data("digits")
    assert (own.name, own.kind, own.classes, own.notes) == ("./digits", "small", ("a", "b"), ())
    assert (ours.name, ours.kind, len(ours.classes)) == ("digits", "digits", 10)
    assert ours.notes == ("digits is a data set of senet's own: the folder of that name is ./digits",)
    (tmp_path / "digits/settings.json").write_text("{}")  # a run's folder may well be called so
    assert open_data("digits").notes == ()


def test_one_folder_by_two_names_is_no_split(paint):
    folder = paint({"train/a": 2, "train/b": 2})
    (folder / "val").symlink_to("train")
    with pytest.raises(DataError, match=r"train/ and val/ of .* are one folder"):
        open_data(folder)


@pytest.mark.parametrize("name", ["@eaDir", "__MACOSX", ".thumbnails", "$RECYCLE.BIN"])
def test_other_programs_pictures_are_left_out_and_said(paint, name):
    folder = paint({"a": 5, "b": 5})
    for place in (folder, folder / "a"):
        (place / name).mkdir()
        Image.new("RGB", (8, 8)).save(place / name / "x.png")
    (folder / "b/._000.png").write_bytes(b"a resource fork")
    source = open_data(folder)
    assert lengths(source) == [8, 2, None]
    assert source.classes == ("a", "b")
    assert [other.name for other in source.others] == [name, f"a/{name}", "b/._000.png"]
    assert all("another program" in other.reason for other in source.others)


def test_what_was_read_is_one_line(paint):
    assert open_data("digits").summary == (
        "digits: 1,438 to train on, 359 to measure (val), 10 classes: 0, 1, 2, 3, 4, 5, 6, 7 and 2 more"
    )
    folder = paint(FULL)
    assert open_data(folder).summary == (
        f"{folder}: 5 to train on, 3 to measure (val), 2 to measure (test), 2 classes: a, b"
    )


def test_a_split_of_ours_keeps_copies_on_one_side(paint):
    folder = paint({"a": 10, "b": 10})
    for index in range(5):
        for copy in (1, 2):
            shutil.copy(folder / f"a/{index:03}.png", folder / f"a/copy{copy}-{index}.png")
    for seed in range(5):
        source = checked(open_data(folder, split_seed=seed))
        assert lengths(source)[0] + lengths(source)[1] == 30
        sides = [
            {hashlib.sha256((folder / name).read_bytes()).digest() for name in images.names}
            for images in (source.train, source.val)
        ]
        assert not sides[0] & sides[1]
        assert set(source.val.labels.tolist()) == {0, 1}
        assert source.notes == ()


def test_copies_on_both_sides_are_counted_and_said(paint):
    folder = paint({"train/a": 3, "train/b": 3, "val/a": 2, "val/b": 2})
    shutil.copy(folder / "train/a/001.png", folder / "val/a/other.png")
    shutil.copy(folder / "train/a/001.png", folder / "val/b/000.png")  # and of another class
    (note,) = checked(open_data(folder)).notes
    assert note.startswith("2 of the 5 images of val are byte for byte images of train (val/a/other.png")
    twice = paint({"a": 2, "b": 2}, root="twice")  # nothing else could be held out
    shutil.copy(twice / "a/000.png", twice / "a/001.png")
    assert checked(open_data(twice)).notes[0].startswith("1 of the 2 images of val")


def test_splits_by_name(paint):
    source = open_data(paint(FULL))
    assert [len(source.split(name)[1]) for name in ("train", "val", "test", "all")] == [5, 3, 2, 10]
    assert source.split(None)[0] == "test"
    with pytest.raises(DataError, match="no split 'dev'; it has train, val, test and all"):
        source.split("dev")


@pytest.mark.parametrize(
    ("content", "offset", "labels"),
    [(["x", "b", "a"], 0, [2, 1]), (["x", "x", "b", "a"], 1, [4, 3]), ({"a": 7, "b": 0}, 0, [7, 0])],
)
def test_a_classes_file_says_which_folder_is_which_class(paint, tmp_path, content, offset, labels):
    file = tmp_path / "classes.json"
    file.write_text(json.dumps(content), encoding="utf-8-sig")  # as some editors do
    source = open_data(paint({"val/a": 1, "val/b": 1}), classes=file, class_offset=offset)
    assert source.val.labels.tolist() == labels
    assert source.train is None
    assert source.indices == tuple(labels)


def test_an_offset_alone_shifts_the_classes(paint):
    assert open_data(paint({"val/a": 1, "val/b": 1}), class_offset=3).val.labels.tolist() == [3, 4]
    for offset in (-1, 0.5, "1"):
        with pytest.raises(DataError, match="class_offset"):
            open_data("digits", class_offset=offset)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("3", "neither a list of names nor"),
        ('["a", 1]', "neither a list of names nor"),
        ('{"a": -1, "b": 0}', "neither a list of names nor"),
        ('["a", "bb"]', "does not name 'b'; the nearest to 'b' is 'bb'"),
        ('["a", "b", "c", "b"]', "lists 'b' more than once: say which with an object name -> index"),
        ('{"a": 0, "b": 1, "b": 2}', "lists 'b' more than once"),
    ],
)
def test_a_classes_file_that_does_not_fit_is_refused(tmp_path, content, words):
    file = tmp_path / "classes.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=words):
        class_indices(file, ["a", "b"])


def test_a_split_takes_at_least_one_of_each_class():
    train, held = stratified_split([0] * 10 + [1] * 2, ["a", "b"])
    assert sorted(train + held) == list(range(12))
    assert [sum(i < 10 for i in part) for part in (train, held)] == [8, 2]
    with pytest.raises(DataError, match="'a', 'b'"):
        stratified_split([0, 1], ["a", "b"])


def test_real_photos(caltech20):
    source = open_data(caltech20)
    assert (len(source.classes), *lengths(source)[:2]) == (20, 1396, 359)
    assert source.native_size is None
