"""A network given as a function or as itself, and images given as two data sets of PyTorch's."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder

from senet import SESpec
from senet.data.sources import folder_of
from senet.errors import DataError, InputTypeError, ModelError, StudyError
from senet.evaluation.given import given_model
from senet.evaluation.networks import NetworkSpec, network_of
from senet.files.run_folder import read_json
from senet.study import ablate, compare, evaluate, open_data, train
from senet.zoo import create

SHORT = {"epochs": 1, "batch_size": 8, "lr": 0.05, "devices": "cpu", "progress": False}


@pytest.fixture
def function(tiny):
    made = create(tiny).__class__

    def make(num_classes=10):
        return made(num_classes)

    return make


def datasets(pictures):
    """The pictures as tensors."""
    source = open_data(pictures)
    found = []
    for images in (source.train, source.val):
        pixels = [torch.from_numpy(np.array(images.load(index))).permute(2, 0, 1) for index in range(len(images))]
        found.append(TensorDataset(torch.stack(pixels), images.labels))
    return tuple(found)


def without(path, *keys):
    return {key: value for key, value in read_json(path / "result.json").items() if key not in keys}


def test_a_function_is_trained_as_its_name_is(tiny, function, pictures, tmp_path):
    vary = ("seconds", "machine", "settings", "notes")
    by_name = train(tiny, pictures, out=tmp_path / "name", seed=1, **SHORT)
    by_function = train(function, pictures, out=tmp_path / "function", seed=1, **SHORT)
    assert by_function.history[0]["train_loss"] == by_name.history[0]["train_loss"]
    assert without(tmp_path / "function", *vary) == without(tmp_path / "name", *vary)
    held = read_json(tmp_path / "function/settings.json")["model"]
    assert held["name"].endswith("test_given.py:function.<locals>.make")
    assert held["content"].startswith("sha256 ")


def test_a_comparison_and_an_ablation_take_a_function(function, pictures, tmp_path):
    own = {**SHORT, "spec": SESpec(2)}
    found = compare(function, datasets(pictures), out=tmp_path / "compare", seeds=1, **own)
    assert (found.data, found.images, len(found.sites)) == ("TensorDataset", 8, 2)
    assert ablate(function, pictures, out=tmp_path / "ablate", table="squeeze", seeds=1, **own).model == found.model
    with pytest.raises(TypeError, match="model is a function, which no command can name"):
        ablate(function, pictures, out=tmp_path / "two", table="squeeze", seeds=1, **{**own, "devices": "cpu*2"})


def test_another_function_is_another_study(function, pictures, tmp_path):
    train(function, pictures, out=tmp_path / "run", **SHORT)
    with pytest.raises(StudyError, match=r"model was .*make' and is now .*lambda"):
        train(lambda: function(2), pictures, out=tmp_path / "run", **SHORT)


def test_a_network_is_where_every_seed_starts_from(function, pictures, tmp_path):
    torch.manual_seed(5)
    network = function(2)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    found = compare(network, pictures, out=tmp_path / "out", seeds=2, **{**SHORT, "lr": 1e-9})
    assert found.model == "Tiny()"
    assert found.settings["se"]["start"] == "identity"  # as from weights
    assert found.plain.accuracy == (found.plain.accuracy[0],) * 2
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_weights_on_the_hub_go_into_a_network_of_ones_own(function, tmp_path, monkeypatch):
    weights = function(2).state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    monkeypatch.setattr("senet.evaluation.networks.fetched", lambda *_: str(tmp_path / "weights.pth"))
    name, given = given_model(function)
    state = network_of(NetworkSpec(name, "hf:me/mine", given=given), num_classes=2).state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in state.items())


def trained():
    """A network that holds what cannot be copied."""
    network = nn.Linear(3, 2)
    network.lock = threading.Lock()
    return network


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        (3, InputTypeError, "a network is a name, a torch.nn.Module, or a function that returns one, not an int"),
        (lambda: 3, ModelError, "returned an int, not a torch.nn.Module"),
        (lambda: 1 / 0, ModelError, r"raised ZeroDivisionError: division by zero \(.*test_given.py, line \d+\)"),
        (nn.Flatten, ValueError, "Flatten has no parameters that can be trained"),
        (trained(), ModelError, r"Linear cannot be copied \(TypeError: .*lock.*give a function that makes it"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(2)), ModelError, "Sequential has parameters without values: lazy"),
        (nn.Linear(3, 2, device="meta"), ModelError, "Linear has parameters without values: .* on the meta device"),
    ],
)
def test_what_is_no_network(pictures, tmp_path, model, error, words):
    with pytest.raises(error, match=words):
        compare(model, pictures, out=tmp_path / "out", seeds=1, **SHORT)


def test_two_data_sets_are_their_folder(tiny, pictures, tmp_path):
    train(tiny, pictures, out=tmp_path / "folder", **SHORT)
    train(tiny, datasets(pictures), out=tmp_path / "tensors", **SHORT)
    folders = tuple(ImageFolder(pictures / name) for name in ("train", "val"))
    train(tiny, folders, out=tmp_path / "torchvision", **SHORT)
    vary = ("seconds", "machine", "settings")
    whole = without(tmp_path / "folder", *vary)
    assert without(tmp_path / "tensors", *vary) == without(tmp_path / "torchvision", *vary) == whole
    assert open_data(folders).classes == ("dark", "light")
    assert open_data((Subset(folders[0], range(24)), folders[1])).classes == ("dark", "light")
    measured = evaluate(tiny, folders, weights=tmp_path / "torchvision", devices="cpu", batch_size=8)
    assert measured.top1 == whole["accuracy"]


class Items(Dataset):
    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        item = self.items[index]
        return item() if callable(item) else item


class Stream(IterableDataset):
    def __len__(self):
        return 1

    def __iter__(self):
        return iter([(GREY, 0)])


GREY = Image.new("L", (8, 8), 90)
GOOD = Items((GREY, 0), (GREY, 1))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((GOOD,), "two data sets .*, not 1"),
        ((GOOD, GOOD, GOOD), "not 3"),
        (GOOD, "not an Items"),
        ((Items(), GOOD), "train is empty"),
        ((GOOD, iter([1])), "val is a list_iterator: a data set has a length"),
        ((Stream(), GOOD), "train is a Stream: a data set has a length, and items by their number"),
        ((GOOD, Items(GREY, GREY)), r"item 0 of val is an Image: it is \(image, label\)"),
        ((Items((GREY, 0, 3)), GOOD), "is a tuple of 3"),
        ((Items((GREY, 0.5)), GOOD), "has 0.5 for its label: a class is a whole number from 0.*senet.study.judge"),
        ((Items((GREY, torch.tensor([0, 1]))), GOOD), "has a Tensor for its label"),
        ((Items((GREY, -1)), GOOD), "has the label -1"),
        ((Items((GREY, 0)), Items((GREY, 0))), "have one class"),
        ((Items((torch.randn(3, 8, 8), 0)), GOOD), "floats go from 0 to 1, as they are before a Normalize"),
        ((Items((torch.zeros(4, 8, 8), 0)), GOOD), r"has a tensor of shape \(4, 8, 8\)"),
        ((Items((torch.zeros(3, 8, 8, dtype=torch.int16), 0)), GOOD), "is of torch.int16"),
        ((Items(("a.png", 0)), GOOD), "has a str for its image"),
        ((Items(lambda: (torch.rand(3, 8, 8), 0), (GREY, 1)), GOOD), "gives another image at each reading"),
    ],
)
def test_what_is_no_data_set_is_one_line(given, words):
    with pytest.raises(DataError, match=words):
        open_data(given)


def test_what_is_a_data_set():
    float32, uint8 = torch.full((3, 8, 8), 90 / 255), torch.full((1, 8, 8), 90, dtype=torch.uint8)
    source = open_data((Items((float32, np.int64(0)), (uint8, torch.tensor(1))), GOOD))
    assert (source.classes, source.native_size) == (("0", "1"), 8)
    assert [source.train.load(index).getpixel((3, 3)) for index in range(2)] == [(90, 90, 90)] * 2
    reversed_, read_only = np.full((3, 8, 8), 90, np.uint8)[::-1], np.asarray(GREY)
    assert open_data((Items((reversed_, 0), (read_only, 1)), GOOD)).fingerprint() == source.fingerprint()


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["x", "y"], ("x", "y")),
        (np.array(["x", "y"]), ("x", "y")),
        (torch.tensor([3, 7]), ("3", "7")),
        ([("x", "an x"), "y"], ("x an x", "y")),
        (2, ("0", "1")),
        ({"y": 1, "x": 0}, ("0", "1")),
    ],
)
def test_what_the_classes_of_a_data_set_are_called(names, classes):
    data = Items((GREY, 0), (GREY, 1))
    data.classes = names
    assert open_data((data, GOOD)).classes == classes


def test_what_is_known_of_a_data_set(monkeypatch):
    monkeypatch.setattr(Items, "__repr__", None)  # that of a list of tensors would take minutes
    data, letters = Items((GREY, 0)), type("EMNIST", (Items,), {"__module__": "torchvision.datasets.mnist"})
    data.classes = ["x", "y", "z"]
    assert open_data((data, GOOD)).notes == ("there is no image to train on in 2 of the 3 classes: y, z",)
    flips = [open_data((Subset(kind((GREY, 0), (GREY, 1)), range(2)), GOOD)).flip for kind in (letters, Items)]
    assert flips == [False, True]
    assert folder_of((data, GOOD)) is None
