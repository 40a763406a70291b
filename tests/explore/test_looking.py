"""What the page shows, against hooks put on by hand, in networks of ours, timm's and torchvision's."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import senet
from senet.explore import Held, Means, look, open_subject
from senet.explore.looking import mean_gates
from senet.study import Preprocessing, StudyError

SMALL = Preprocessing(64, 64)
NETWORKS = ["se_resnet20", "timm:tf_mobilenetv3_small_100", "torchvision:mobilenet_v3_small"]


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    if request.param.startswith("timm"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    model = senet.create(request.param).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # so that the maps are no constants
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
    return model


@pytest.fixture
def pixels():
    return torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)


def by_hand(model, x):
    """Scores, and each block's input and output, with nothing of ours."""
    taken = {}

    def keep(name):
        return lambda block, args, output: taken.update({name: (args[0].clone(), output.clone())})

    hooks = [block.register_forward_hook(keep(name)) for name, block in senet.blocks(model).items()]
    with torch.no_grad():
        scores = model(x)
    for hook in hooks:
        hook.remove()
    return scores, taken


def test_probabilities_gates_and_maps_are_those_of_hooks(network, pixels):
    scores, taken = by_hand(network, SMALL.normalise(pixels[None]))
    last = list(taken)[-1]
    seen = look(network, SMALL, pixels, maps_of=last)
    torch.testing.assert_close(seen.probabilities, scores[0].double().softmax(0))
    assert list(seen.gates) == list(taken)
    for name, (before, after) in taken.items():
        torch.testing.assert_close(before * seen.gates[name][None, :, None, None], after, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen.maps.before, taken[last][0][0])
    torch.testing.assert_close(seen.maps.after, taken[last][1][0])
    assert seen.top(3)[0] == (int(scores.argmax()), pytest.approx(float(scores.softmax(1).max())))


def replaced(model, name, value, x):
    """The scores where the block multiplies by `value` (a number, or (C, 1, 1)): its forward is swapped by hand."""
    block = senet.blocks(model)[name]
    block.forward = lambda u: u * value
    try:
        with torch.no_grad():
            return model(x)[0].double().softmax(0)
    finally:
        del block.forward


@pytest.mark.parametrize("kind", ["one", "mean", "scaled"])
def test_a_held_block_says_what_a_replaced_one_says(network, pixels, kind):
    name = list(senet.blocks(network))[1]
    others = [(str(seed), torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)) for seed in range(3)]
    means = mean_gates(network, SMALL, others)
    gates = look(network, SMALL, pixels).gates[name]
    average = torch.stack([look(network, SMALL, each).gates[name] for _, each in others]).mean(0)
    value = {"one": torch.ones(1), "mean": average, "scaled": 0.3 * gates}[kind][:, None, None]
    seen = look(network, SMALL, pixels, held={name: Held(kind, 0.3)}, means=means, maps_of=name)
    expected = replaced(network, name, value, SMALL.normalise(pixels[None]))
    torch.testing.assert_close(seen.probabilities, expected)
    torch.testing.assert_close(seen.gates[name], value[:, 0, 0].expand_as(gates))
    torch.testing.assert_close(seen.maps.after, seen.maps.before * value)
    again = look(network, SMALL, pixels)  # and afterwards it is as it was
    torch.testing.assert_close(again.gates[name], gates, rtol=0, atol=0)


def test_a_picture_counts_once_in_a_mean():
    means = Means()
    means.add("a", {"x": torch.tensor([1.0, 0.0])})
    means.add("a", {"x": torch.tensor([1.0, 0.0])})
    means.add("b", {"x": torch.tensor([0.0, 0.5])})
    assert means.pictures == 2
    assert means["x"].tolist() == [0.5, 0.25]
    assert "y" not in means


def test_gates_that_differ_from_place_to_place_are_shown_by_their_mean(pixels):
    model = senet.create("resnet20", spec=senet.SESpec(squeeze="none", start="paper")).eval()
    name = next(iter(senet.blocks(model)))
    seen = look(model, SMALL, pixels, maps_of=name, held={name: Held("scaled", 0.5)})
    assert seen.gates[name].shape == (16,)
    half = look(model, SMALL, pixels, maps_of=name)
    torch.testing.assert_close(seen.maps.after, 0.5 * half.maps.after)


@pytest.mark.parametrize(("kind", "factor"), [("two", 1), ("scaled", 2.1), ("scaled", -0.1), ("scaled", float("nan"))])
def test_nothing_else_is_held(kind, factor):
    with pytest.raises(ValueError, match=r"held as one of|scaled by 0 to 2"):
        Held(kind, factor)


def test_a_subject_knows_its_classes_and_input(subject):
    assert subject.preprocessing.size == 32
    assert subject.classes[1] == "an ordinary class"
    assert set(subject.channels.values()) == {16, 32, 64}
    assert not subject.notes


def test_class_names_of_a_file(saved, tmp_path):
    file = tmp_path / "names.json"
    file.write_text(json.dumps(["crane", "heron", "crane"]))  # two classes of one name, as in ImageNet
    assert open_subject(saved, classes=file).classes == ("crane", "heron", "crane", "class 3")
    assert open_subject(saved, classes=file, class_offset=1).classes == ("class 0", "crane", "heron", "crane")
    with pytest.raises(ValueError, match=r"names 3 classes; with class_offset 2 'crane' would be class 4; .* 0 to 3"):
        open_subject(saved, classes=file, class_offset=2)
    file.write_text(json.dumps({"crane": 3}))
    assert open_subject(saved, classes=file).classes == ("class 0", "class 1", "class 2", "crane")


def test_means_over_data(saved):
    subject = open_subject(saved, data="digits", preprocessing={"size": 16})
    assert 150 < subject.means.pictures <= 200
    name = next(iter(subject.channels))
    pixels = torch.zeros(3, 16, 16, dtype=torch.uint8)
    seen = subject.look(pixels, held={name: Held("mean")}, means=Means())
    torch.testing.assert_close(seen.gates[name], subject.means[name])


def test_a_picture_that_cannot_be_read_counts_in_no_mean(saved, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(4):
            grey = np.full((40, 40, 3), 30 * number + ord(name) - 97, np.uint8)
            Image.fromarray(grey).save(tmp_path / f"{name}/{number}.png")
    (tmp_path / "a/2.png").write_bytes(b"no picture")
    subject = open_subject(saved, data=tmp_path)
    assert subject.means.pictures == 7
    assert subject.notes[-2] == "1 file was skipped:"
    assert "a/2.png" in subject.notes[-1]


def test_random_weights_are_said_to_be():
    assert "random" in open_subject("se_resnet20").notes[0]


NETS = """
from torch import nn
import senet
def maps(): return nn.Sequential(nn.Conv2d(3, 8, 3), senet.SEBlock(8))
def grey(): return nn.Sequential(nn.Conv2d(1, 8, 3), senet.SEBlock(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
class Idle(nn.Module):
    def __init__(self):
        super().__init__()
        self.se, self.fc = senet.SEBlock(8), nn.Linear(3, 4)
    def forward(self, x): return self.fc(x.mean((2, 3)))
def idle(): return Idle()
def one(): return nn.Sequential(*grey(), nn.Linear(8, 1))
def lost():
    network = grey()
    nn.init.constant_(network[0].bias, float("nan"))
    return network
class ECA(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1)
    def forward(self, x): return x * self.conv(x.mean((2, 3))[:, None]).sigmoid().transpose(1, 2)[..., None]
def eca(): return nn.Sequential(nn.Conv2d(3, 8, 3), ECA(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


def test_a_block_of_any_number_of_channels_shows_those_that_it_rescales(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    assert open_subject(f"{tmp_path / 'nets.py'}:eca").channels == {"1": 8}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet20", "holds no SE block.*senet insert"),
        ("maps", "takes networks that return"),
        ("idle", "none of the SE blocks"),
        ("one", "has one output, as for regression, and classes are told apart by one output each"),
        ("lost", "scores of 1 of 1 image are not finite"),
        ("se_resnet2O", "there is no network 'se_resnet2O'"),
    ],
)
def test_what_cannot_be_looked_at_gets_a_message(tmp_path, name, words):
    file = tmp_path / "nets.py"
    file.write_text(NETS)
    with pytest.raises(ValueError, match=words) as caught:
        open_subject(f"{file}:{name}" if name in NETS else name)
    assert isinstance(caught.value, StudyError) == (name != "se_resnet2O")


def test_classes_are_in_the_order_of_their_scores_where_probabilities_are_0_in_float32(pixels):
    scores = torch.full((20,), -400.0)
    scores[19], scores[:4] = 0, torch.tensor([-110.0, -111, -112, -113])

    model = senet.create("se_resnet20", num_classes=20).eval()
    torch.nn.init.zeros_(model.fc.weight)
    model.fc.bias.data.copy_(scores)
    assert [index for index, _ in look(model, SMALL, pixels).top(5)] == [19, 0, 1, 2, 3]
