import csv
import json

import pytest
import torch
from torch import nn

from senet.data.transforms import Preprocessing
from senet.errors import DataError, StudyError
from senet.evaluation.classnames import published_classes, published_preprocessing
from senet.evaluation.networks import NetworkSpec
from senet.evaluation.open import OpenedNetwork
from senet.saving.saving import save
from senet.study import predict
from senet.training.train import train
from senet.zoo import create
from tests.data.realfolder import bad_files, lay_real_folder, odd_pictures, picture

QUIET = {"devices": "cpu", "progress": False}


@pytest.fixture
def run(tiny, pictures, tmp_path):
    train(tiny, pictures, out=tmp_path / "run", epochs=1, batch_size=8, lr=0.05, devices="cpu", progress=False)
    return tiny, tmp_path / "run"


@pytest.fixture
def album(tmp_path):
    """Pictures that nobody sorted, nested, some of them odd and some broken."""
    folder = tmp_path / "album"
    (folder / "2024/june").mkdir(parents=True)
    for name, content in odd_pictures(0).items():
        (folder / "2024" / name).write_bytes(content)
    for name in ("zero.png", "text.jpg", "truncated.jpg"):
        (folder / "2024/june" / name).write_bytes(bad_files(0)[name])
    picture(1).save(folder / "light.png")
    (folder / "notes.txt").write_text("about them")
    return folder


@pytest.mark.parametrize("workers", [None, 2])
def test_every_picture_below_a_folder_gets_its_classes(run, album, workers):
    model, weights = run
    found = predict(model, album, weights=weights, workers=workers, **QUIET)
    names = [f"2024/{name}" for name in odd_pictures(0)]
    assert sorted(found.images) == sorted([*names, "light.png"])
    assert [file.name for file in found.skipped] == [
        *(f"2024/june/{name}" for name in ("text.jpg", "truncated.jpg", "zero.png")),
        "notes.txt",
    ]
    assert {frozenset(each) for each in found.classes} == {frozenset({"dark", "light"})}
    assert all(first >= second for first, second in found.probabilities)
    assert all(sum(each) == pytest.approx(1, abs=1e-5) for each in found.probabilities)
    assert found.preprocessing.size == 8
    assert "30 pictures" in str(found)
    assert "4 files were skipped:" in str(found)


def test_probabilities_are_those_of_the_definition(run, album):
    model, weights = run
    found = predict(model, album / "light.png", weights=weights, **QUIET)
    network = create(model, num_classes=2, weights=weights / "model.safetensors").eval()
    how = Preprocessing(8, 8)
    with torch.no_grad():
        expected = network(how.normalise(how(picture(1))[None])).softmax(1)[0]
    assert found.images == ("light.png",)
    order = expected.argsort(descending=True)
    assert found.indices == (tuple(order.tolist()),)
    assert found.probabilities[0] == pytest.approx(expected[order].tolist(), abs=1e-6)
    assert found.classes[0] == tuple(("dark", "light")[index] for index in order)


def test_a_bad_picture_beside_it_changes_no_answer(run, album, tmp_path):
    model, weights = run
    alone = predict(model, album / "light.png", weights=weights, **QUIET)
    several = predict(model, [album / "2024/june/zero.png", album / "light.png"], weights=weights, **QUIET)
    assert several.images == (str(album / "light.png"),)
    assert several.probabilities == alone.probabilities
    assert [file.name for file in several.skipped] == [str(album / "2024/june/zero.png")]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_answers_are_written_with_a_row_for_each_file(run, album, tmp_path, kind):
    model, weights = run
    out = tmp_path / f"answers.{kind}"
    found = predict(model, album, weights=weights, out=out, top=1, **QUIET)
    if kind == "csv":
        with out.open(newline="", encoding="utf-8") as file:
            rows = [{name: value or None for name, value in row.items()} for row in csv.DictReader(file)]
    else:
        rows = pytest.importorskip("pyarrow.parquet").read_table(out).to_pylist()
    assert list(rows[0]) == ["image", "predicted", "probability", "error"]
    assert [row["image"] for row in rows] == [*found.images, *(file.name for file in found.skipped)]
    assert [row["error"] for row in rows if row["error"]] == [file.reason for file in found.skipped]
    assert [row["predicted"] for row in rows] == [*(each[0] for each in found.classes), *[None] * 4]


def test_a_real_folder_ends_no_prediction(tiny, tmp_path):
    good, bad = lay_real_folder(tmp_path / "real")
    found = predict(create(tiny, num_classes=3), tmp_path / "real", size=16, top=2, workers=0, **QUIET)
    assert sorted(found.images) == good
    assert sorted(file.name for file in found.skipped) == bad
    assert {name for each in found.classes for name in each} <= {"0", "1", "2"}
    assert "150 more pictures are not shown" in str(found)


def test_the_screen_shows_five_classes_and_the_file_all(tiny, album, tmp_path):
    network = create(tiny, num_classes=300)
    found = predict(network, album / "light.png", top=5000, out=tmp_path / "all.csv", **QUIET)
    assert len(found.classes[0]) == 300
    assert "1 picture, 5 of 300 classes shown" in str(found)
    assert "all are written with --out FILE.csv" in str(found)
    row = next(line for line in str(found).splitlines() if "light.png" in line)
    assert row.count("%") == 5
    assert (tmp_path / "all.csv").read_text().count("probability_") == 299


def test_names_of_classes_can_be_said(tiny, album, tmp_path):
    (tmp_path / "names.json").write_text(json.dumps(["cat", "dog"]))
    network = create(tiny, num_classes=3)
    plain = predict(network, album / "light.png", **QUIET)
    named = predict(network, album / "light.png", classes=tmp_path / "names.json", class_offset=1, **QUIET)
    assert named.classes[0] == tuple({"0": "0", "1": "cat", "2": "dog"}[name] for name in plain.classes[0])


def test_a_cifar_network_sees_whole_pictures_of_its_own_size(album):
    found = predict("resnet20", album / "light.png", num_classes=4, top=9, **QUIET)
    assert found.preprocessing == Preprocessing(32, 32)
    assert len(found.classes[0]) == 4
    assert found.notes == ("resnet20 has random weights, and its answers mean nothing: give weights",)


def test_a_saved_network_needs_no_name(album, tmp_path):
    network = create("resnet20", num_classes=3)
    save(network, tmp_path / "net.safetensors", metadata={"classes": ["x", "y", "z"]})
    found = predict(str(tmp_path / "net.safetensors"), album / "light.png", **QUIET)
    assert sorted(found.classes[0]) == ["x", "y", "z"]
    assert found.notes == ()


def test_the_network_is_left_as_it_was(tiny, album):
    network = create(tiny, num_classes=2).train()
    network.blocks.eval()
    modes = [module.training for module in network.modules()]
    predict(network, album, **QUIET)
    assert [module.training for module in network.modules()] == modes


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"data": "albun"}, "did you mean album"),
        ({"data": "digits"}, "is for evaluate"),
        ({"data": "empty"}, "there is no picture in .*empty; it holds notes.txt"),
        ({"data": "album/2024/june"}, "no image of the data can be read; the first: text.jpg"),
        ({"data": []}, "there is no picture in nothing"),
        ({"top": 0}, "top is a whole number"),
        ({"batch_size": 0}, "batch_size is a whole number"),
        ({"workers": -1}, "workers is a whole number"),
        ({"out": "answers.txt"}, "ends in .csv or .parquet"),
        ({"out": "nowhere/answers.csv"}, "cannot write nowhere/answers.csv: the folder .* does not exist"),
        ({"out": "folder.csv"}, "folder.csv is a folder"),
        ({"classes": "nowhere.json"}, "nowhere.json cannot be read"),
        ({"class_offset": 1}, "class_offset shifts the numbers of a classes file: give"),
    ],
)
def test_what_makes_no_sense_is_refused(tiny, album, tmp_path, monkeypatch, given, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "empty/notes.txt").write_text("")
    with pytest.raises((DataError, StudyError, ValueError), match=words):
        predict(create(tiny, num_classes=2), **{"data": "album", **given}, **QUIET)


def test_published_weights_know_their_classes():
    arm = NetworkSpec("torchvision:mobilenet_v2", "somewhere/mobilenet_v2-b0353104.pth")
    assert published_classes(arm, 1000)[:2] == ["tench", "goldfish"]
    assert published_classes(arm, 10) is None
    assert published_classes(NetworkSpec("torchvision:mobilenet_v2", "mine.pth"), 1000) is None
    assert published_classes(NetworkSpec("torchvision:mobilenet_v2", "pretrained"), 1000)[281] == "tabby"
    assert published_classes(NetworkSpec("resnet20", "mine.pth"), 10) is None


def test_published_weights_know_their_preprocessing():
    def known(name, weights):
        return published_preprocessing(NetworkSpec(f"torchvision:{name}", weights))

    assert known("mobilenet_v2", "somewhere/mobilenet_v2-b0353104.pth") == Preprocessing()
    assert known("mobilenet_v2", "pretrained") == Preprocessing(224, 232)
    for name, weights in (("mobilenet_v2", "mine.pth"), ("mobilenet_v2", None), ("fcn_resnet50", "pretrained")):
        assert known(name, weights) is None
    arm = NetworkSpec("torchvision:efficientnet_b3", "pretrained")
    opened = OpenedNetwork(arm.model, nn.Conv2d(3, 1, 1), arm, ())
    assert opened.preprocessing({}) == Preprocessing(300, 320, interpolation="bicubic")
    assert opened.preprocessing({"size": 150, "mean": [0.5] * 3}) == Preprocessing(
        150, 160, [0.5] * 3, interpolation="bicubic"
    )


def test_timms_weights_know_their_classes():
    pytest.importorskip("timm", reason="timm is not there")
    assert "tabby" in published_classes(NetworkSpec("timm:resnet18", "pretrained"), 1000)[281]
    assert published_classes(NetworkSpec("timm:resnet18", "mine.pth"), 1000) is None


def test_real_weights_name_real_photos(shared, imagenet100):
    weights = shared / "weights/mobilenet_v2-b0353104.pth"
    photos = sorted(imagenet100.rglob("*.JPEG"))[:4]
    found = predict("torchvision:mobilenet_v2", photos, weights=weights, **QUIET)
    assert [each[0] for each in found.classes][::3] == ["tiger shark", "loggerhead"]
