"""A network and images that do not go together are one clear line before anything is measured or trained."""

import json
import shutil

import pytest
import torch
from torch import nn
from torchvision.datasets import ImageFolder

from senet import SESpec, blocks, create, insert, load, save
from senet.data.sources import open_data
from senet.errors import InputError, InputTypeError, SenetError, StudyError
from senet.evaluation import open as opening
from senet.evaluation.classnames import spoken
from senet.evaluation.networks import NetworkSpec, make, network_of
from senet.evaluation.open import in_eval_mode, open_labelled, open_network
from senet.files.run_folder import read_csv
from senet.study import evaluate, explain, predict, train

QUIET = {"devices": "cpu", "progress": False}
NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.fc = nn.Linear(4, classes)
    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))

class Flat(Net):
    def forward(self, x):
        return super().forward(x)[:, 0]

class Crashing(Net):
    def forward(self, x):
        return {}["oops"]

def few(): return Net(3)
def many(): return Net(1000)
def one(): return Net(1)
def flat(): return Flat(1)
def two(num_classes=4): return Net(num_classes, 2)

def crashing(): return Crashing(4)
def failing(): raise KeyError("no such thing")
"""
WRONG = {
    "few": r"has 3 classes and the images have (class 3|4 classes)",
    "one": r"has one output, as for regression, and the images have (class 3|4 classes)",
    "flat": r"takes networks that return \(N, classes\) scores; this one returned a tensor of shape \(1,\)",
    "two": r"two does not take pictures: its first layer takes 2 channels, and pictures have 3",
    "crashing": r"3 × 8 × 8: KeyError: 'oops' \(.*nets.py, line 19\)",
    "failing": r"failing raised KeyError: 'no such thing' \(.*nets.py, line 28\)",
}


@pytest.fixture
def nets(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    return f"{tmp_path / 'nets.py'}"


@pytest.fixture
def folder(paint):
    return paint({f"{split}/{name}": 4 for split in ("train", "val") for name in "abcd"})


@pytest.mark.parametrize(("name", "words"), WRONG.items(), ids=WRONG)
def test_the_wrong_network_is_one_line_before_any_work(nets, folder, tmp_path, name, words):
    with pytest.raises(SenetError, match=words) as measured:
        evaluate(f"{nets}:{name}", folder, out=tmp_path / "measured", **QUIET)
    with pytest.raises(SenetError, match=words) as trained:
        train(f"{nets}:{name}", folder, out=tmp_path / "run", epochs=1, batch_size=8, **QUIET)
    assert "\n" not in f"{measured.value}{trained.value}"
    assert not (tmp_path / "run").exists()


def test_a_network_of_more_classes_is_not_told_that_it_knows_nothing(nets, folder, tmp_path):
    with pytest.raises(StudyError, match=r"many has 1000 classes, and .*pictures has 4: say with `classes`"):
        evaluate(f"{nets}:many", folder, **QUIET)
    with pytest.raises(StudyError, match=r"Linear|Sequential has 7 classes, and .* has 4"):
        evaluate(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 7)), folder, **QUIET)
    with pytest.raises(StudyError, match=r"resnet20 has random weights and 1000 classes, .*\(--num-classes 4\)$"):
        evaluate("resnet20", folder, **QUIET)
    file = tmp_path / "names.json"
    file.write_text(json.dumps(["x", "d", "c", "b", "a"]))
    found = evaluate(f"{nets}:many", folder, classes=file, **QUIET)
    named = [(each.index, each.name) for each in found.per_class]
    assert named == [(1, "d"), (2, "c"), (3, "b"), (4, "a")]
    folders = tuple(ImageFolder(folder / split) for split in ("train", "val"))
    for data, classes in ((open_data(folder, classes=file), None), (open_data(folder), file), (folders, file)):
        same = evaluate(f"{nets}:many", data, classes=classes, **QUIET)
        assert same.correct == found.correct
        assert [(each.index, each.name) for each in same.per_class] == named


def test_one_output_predicts_no_class(nets, folder):
    with pytest.raises(StudyError, match="has one output, as for regression, and classes are told apart by one output"):
        predict(f"{nets}:one", folder, **QUIET)


def test_more_outputs_than_classes_in_training_are_said(nets, folder, tmp_path):
    built = make(NetworkSpec(f"{nets}:many"), num_classes=4, size=8, seed=0)
    assert built.outputs == 1000
    assert built.notes == (f"{nets}:many has 1000 classes, and the images have the first 4 of them",)
    how = {"epochs": 1, "batch_size": 8, "lr": 1e-3, "mixup": 0.2, "freeze": "plain"}
    train(f"{nets}:many", folder, out=tmp_path / "run", **how, **QUIET)
    assert {row["predicted"] for row in read_csv(tmp_path / "run/predictions.csv")} - set("abcd")  # by their numbers
    state = load(tmp_path / "run", create(f"{nets}:many")).state_dict()
    before = make(NetworkSpec(f"{nets}:many"), num_classes=4, size=8, seed=0).network.state_dict()
    assert {key for key in state if not torch.equal(state[key], before[key])} == {"fc.weight", "fc.bias"}


def test_a_networks_name_is_never_a_folders(tmp_path, monkeypatch):
    (tmp_path / "resnet20").mkdir()
    save(create("resnet20", num_classes=2), tmp_path / "resnet20/model.safetensors", metadata={"classes": ["x", "y"]})
    monkeypatch.chdir(tmp_path)
    named, run = NetworkSpec("resnet20"), NetworkSpec("./resnet20")
    assert (named.pretrained, named.saved, run.pretrained, run.saved) == (False, [], True, ["./resnet20"])
    (note,) = open_network("resnet20", {}).notes
    assert note.endswith("its answers mean nothing: give weights; the run of that name is ./resnet20")
    assert open_network("./resnet20", {}).trained_classes == ["x", "y"]
    (tmp_path / "resnet20").rename("pretrained")
    published = NetworkSpec("timm:resnet18", "pretrained")
    assert (published.weights, published.saved) == ("pretrained", [])


def test_folders_are_never_renamed_and_published_names_are_matched(paint, monkeypatch):
    """A 1,000-class network of torchvision, its file named as the published one is, on folders of five classes."""
    strange = paint({f"val/{name}": 2 for name in "abcde"})
    known = paint({f"val/{name}": 2 for name in ("goldfish", "tabby", "toaster")}, root="known")
    mixed = paint({f"val/{name}": 2 for name in ("goldfish", "mine")}, root="mixed")
    monkeypatch.setattr(opening, "network_of", lambda spec, **_: create(spec.model))
    how = {"weights": "somewhere/mobilenet_v2-b0353104.pth", "devices": "cpu", "size": 32}
    monkeypatch.setattr(opening, "known_preprocessing", lambda spec: None)
    with pytest.raises(StudyError, match=r"mobilenet_v2 has 1000 classes, and .* has 5"):
        open_labelled("torchvision:mobilenet_v2", strange, how)
    with pytest.raises(StudyError, match=r"has 1000 classes, and .* has 2"):
        open_labelled("torchvision:mobilenet_v2", mixed, how)
    found = open_labelled("torchvision:mobilenet_v2", known, how)
    assert found.images.labels.tolist() == [1, 1, 281, 281, 859, 859]
    assert [found.names[label] for label in (1, 281, 859)] == ["goldfish", "tabby", "toaster"]


@pytest.mark.parametrize("function", [evaluate, explain])
def test_a_misspelt_option_is_named(function, pictures):
    with pytest.raises(InputTypeError, match=r"has no option 'wieghts'; did you mean 'weights'\?"):
        function("resnet20", pictures, wieghts="x")
    with pytest.raises(InputTypeError, match=r"predict\(\) has no option 'split'"):
        predict("resnet20", pictures, split="val")


def test_weights_for_a_network_that_was_given_are_refused():
    with pytest.raises(InputError, match="has its weights"):
        open_network(create("resnet20"), {"weights": "x.pth"})


def test_a_given_network_goes_back_to_its_device():
    class Moved(nn.Linear):
        def to(self, device):
            self.moves = [*getattr(self, "moves", []), str(device)]
            return self

    network = Moved(1, 1)
    with in_eval_mode(network, torch.device("cuda")):
        assert network.moves == ["cuda"]
    assert network.moves == ["cuda", "cpu"]


def test_a_given_network_takes_nothing_from_the_folder_that_it_is_called_in(pictures, tmp_path, monkeypatch):
    save(create("resnet20", num_classes=2), tmp_path / "model.safetensors", metadata={"classes": ["x", "y"]})
    monkeypatch.chdir(tmp_path)
    assert evaluate(create("resnet20", num_classes=2), pictures, **QUIET).names == {0: "dark", 1: "light"}


def test_a_saved_network_of_ones_own_says_the_command(tiny, tmp_path):
    save(create(tiny), tmp_path / "net.safetensors")
    file = tmp_path / "net.safetensors"
    with pytest.raises(SenetError) as refused:
        network_of(NetworkSpec(str(file)))
    assert f"--model {tiny} --weights {file}" in str(refused.value)


def test_se_of_a_file_stays_where_the_classifier_starts_fresh(tiny, tmp_path):
    x = torch.randn(2, 3, 8, 8)
    with_se = insert(create(tiny, num_classes=4), x, SESpec(2, start="paper"))
    save(with_se, tmp_path / "net.safetensors")
    spec = NetworkSpec(tiny, str(tmp_path / "net.safetensors"))
    same, fresh = network_of(spec).eval(), network_of(spec, num_classes=6).eval()
    assert torch.equal(same(x), with_se.eval()(x))
    assert fresh(x).shape == (2, 6)
    assert list(blocks(fresh)) == list(blocks(with_se))
    inside = {key: value for key, value in with_se.state_dict().items() if not key.startswith("fc.")}
    assert all(torch.equal(value, fresh.state_dict()[key]) for key, value in inside.items())


def test_imagenets_classes_are_called_by_their_words():
    """timm has the identifiers, torchvision the words; whatever is not the whole list stays as it is."""
    info = pytest.importorskip("timm.data.imagenet_info").ImageNetInfo("imagenet-1k")
    identifiers = info.label_names()
    found = spoken(dict(enumerate(identifiers, 1)))  # behind a class for the background
    assert [found[1], found[282], found[1000]] == ["tench", "tabby", "toilet tissue"]
    agree = [word in info.index_to_description(index - 1) for index, word in found.items()]
    assert sum(agree) > 950  # the others are spelt or clipped otherwise
    for names in (identifiers[:-1], identifiers[::-1], ["n01440764", "cat"], []):
        assert spoken(dict(enumerate(names))) == dict(enumerate(names))


def test_a_folder_that_grew_since_the_training_is_said_to_be_divided_otherwise(tiny, paint):
    folder = paint({"dark": 10, "light": 10})
    run = str(folder.parent / "run")
    train(tiny, folder, out=run, epochs=1, batch_size=8, lr=0.05, **QUIET)
    assert evaluate(tiny, folder, weights=run, **QUIET).notes == ()
    otherwise = evaluate(tiny, open_data(folder, split_seed=1), weights=run, **QUIET)
    assert otherwise.notes[-1].startswith(f"{folder} holds other images than when this network was trained")
    (folder / "dark" / "broken.png").write_bytes(b"no picture")
    shutil.copy(next((folder / "dark").glob("*.png")), folder / "dark" / "zzz.png")
    notes = evaluate(tiny, folder, weights=run, max_bad=1, **QUIET).notes
    assert notes[-1].endswith("drawn anew, and it may have been trained on some of them")


def test_unreadable_images_that_the_training_left_out_are_no_other_images(tiny, paint):
    folder = paint({"dark": 10, "light": 10})
    run = str(folder.parent / "run")
    (folder / "dark" / "broken.png").write_bytes(b"no picture")
    train(tiny, folder, out=run, epochs=1, batch_size=8, lr=0.05, max_bad=1, **QUIET)
    assert evaluate(tiny, folder, weights=run, max_bad=1, **QUIET).notes == ()
