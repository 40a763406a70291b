"""Networks of one channel and of four: trained, compared, measured, asked, explained and exported on pictures."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import senet
from senet.data.decoding import to_mode
from senet.data.transforms import Preprocessing
from senet.errors import InputError, StudyError
from senet.evaluation.networks import NetworkSpec, make
from senet.evaluation.open import native_preprocessing
from senet.export.runtimes import OnnxRuntime
from senet.saving import read_metadata
from senet.study import evaluate, predict, train

NET = """\
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)

    def forward(self, x):
        return (x + self.bn(self.conv(x))).relu()


class Net(nn.Module):
    def __init__(self, channels, num_classes):
        super().__init__()
        self.stem, self.block, self.fc = nn.Conv2d(channels, 6, 3), Block(), nn.Linear(6, num_classes)

    def forward(self, x):
        return self.fc(self.block(self.stem(x)).mean((2, 3)))


def one(num_classes=2): return Net(1, num_classes)
def two(num_classes=2): return Net(2, num_classes)
def four(num_classes=2): return Net(4, num_classes)
"""
HOW = {"devices": "cpu", "progress": False, "workers": 0}


@pytest.fixture
def net(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    return str(tmp_path / "net.py")


@pytest.fixture
def clear(tmp_path):
    """Black circles and black squares on clear ground whose colour is black too: only the fourth channel tells them."""
    generator = np.random.default_rng(0)
    side = 12
    y, x = np.mgrid[:side, :side] - 5.5
    shapes = {"circle": x**2 + y**2 < 20, "square": np.maximum(abs(x), abs(y)) < 5}
    for split, count in (("train", 24), ("val", 8)):
        for name, shape in shapes.items():
            folder = tmp_path / "clear" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = np.zeros((side, side, 4), np.uint8)
                pixels[..., 3] = np.roll(shape, generator.integers(-1, 2, 2), (0, 1)) * 255
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "clear"


class TestPictures:
    def test_grey_stays_grey(self):
        ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
        for image in (Image.fromarray(ramp), Image.fromarray(ramp).convert("RGB")):
            assert np.array_equal(np.asarray(to_mode(image, "L")), ramp)
        deep = Image.fromarray(ramp.astype(np.int32) * 257)
        assert np.array_equal(np.asarray(to_mode(deep, "L")), ramp)

    def test_the_fourth_channel_is_for_four_channels_alone(self):
        pixels = np.zeros((4, 4, 4), np.uint8)
        pixels[:2, :, 3] = 255
        image = Image.fromarray(pixels)
        assert np.array_equal(np.asarray(to_mode(image, "RGBA")), pixels)
        assert np.asarray(to_mode(image, "L"))[:, 0].tolist() == [0, 0, 255, 255]
        assert np.asarray(to_mode(image, "RGB"))[:, 0, 0].tolist() == [0, 0, 255, 255]
        assert np.asarray(to_mode(image.convert("RGB"), "RGBA"))[..., 3].min() == 255

    def test_preprocessing(self):
        plain = Preprocessing(8, 8)
        grey, clear = plain.for_channels(1), plain.for_channels(4)
        assert (grey.channels, grey.mean, grey.std) == ("grey", (0.449,), (0.226,))
        assert (clear.channels, clear.mean[3:], clear.std[3:]) == ("RGBA", (0.5,), (0.5,))
        image = Image.new("RGBA", (8, 8), (0, 0, 0, 255))
        for how, count in ((grey, 1), (plain, 3), (clear, 4)):
            assert how(image).shape == (count, 8, 8)
            assert how.normalise(how(image)[None]).shape == (1, count, 8, 8)
            assert Preprocessing.from_json(json.loads(json.dumps(how.to_json()))) == how
            assert how.for_channels(count) is how
            assert how.for_channels(3) == plain
        assert clear.normalise(clear(image)[None])[0, 3].unique().tolist() == [1.0]
        with pytest.raises(InputError, match=r"takes 2 channels, and pictures have 3 .RGB., 1 .grey. or 4"):
            plain.for_channels(2)
        with pytest.raises(InputError, match=r"mean is a list of one number, one a channel .grey., not"):
            Preprocessing(8, 8, channels="grey")


class TestVerbs:
    @pytest.mark.parametrize(("name", "channels", "right"), [("one", "grey", 1.0), ("four", "RGBA", 1.0)])
    def test_train_evaluate_predict_and_export(self, net, clear, tmp_path, name, channels, right):
        how = {"epochs": 8, "batch_size": 8, "lr": 0.03, "trivial_augment": name == "one", **HOW}
        run = train(f"{net}:{name}", clear, out=tmp_path / "run", spec=senet.SESpec(2), **how)
        metadata = read_metadata(tmp_path / "run/model.safetensors")["metadata"]
        assert metadata["preprocessing"]["channels"] == channels
        weights = {"weights": str(tmp_path / "run"), **HOW}
        found = evaluate(f"{net}:{name}", clear, **weights)
        assert found.top1 == run.accuracy == right
        assert found.preprocessing.channels == channels
        said = predict(f"{net}:{name}", clear / "val/square", **{**weights, "devices": "cpu"})
        assert {row["predicted"] for row in said.rows()} == {"square"}

    def test_a_zoo_network_of_one_channel(self, clear):
        model = senet.create("resnet20", num_classes=2, in_channels=1)
        assert evaluate(model, clear, **HOW).preprocessing.channels == "grey"
        with pytest.raises(InputError, match="channels is the order of three colours, and this network"):
            evaluate(model, clear, channels="BGR", **HOW)

    def test_a_form_and_a_file_say_their_channels_and_size(self, clear, tmp_path):
        pytest.importorskip("onnxruntime", reason="the extra 'ship' is not installed")
        model, x = senet.create("resnet20", num_classes=2, in_channels=1), torch.zeros(1, 1, 80, 80)
        senet.export(model, x, tmp_path / "net.onnx")
        for given in (senet.optimize(model, x), str(tmp_path / "net.onnx")):
            assert evaluate(given, clear, size=80, **HOW).preprocessing.channels == "grey"
            network = OnnxRuntime(given) if isinstance(given, str) else given
            assert native_preprocessing(network) == Preprocessing().at(80)

    def test_two_channels_are_one_line(self, net, clear, tmp_path):
        for act in (
            lambda: train(f"{net}:two", clear, out=tmp_path / "run", epochs=1, **HOW),
            lambda: evaluate(f"{net}:two", clear, **HOW),
            lambda: make(NetworkSpec(f"{net}:two"), num_classes=2, size=8, seed=0),
        ):
            with pytest.raises(StudyError, match=r"net.py:two does not take pictures: its first layer takes 2 ch"):
                act()

    def test_colours_of_four_channels_are_not_changed(self, net, clear, tmp_path):
        with pytest.raises(StudyError, match="trivial_augment changes colours"):
            train(f"{net}:four", clear, out=tmp_path / "run", epochs=1, trivial_augment=True, **HOW)

    def test_se_is_inserted(self, net):
        for name, channels in (("one", 1), ("four", 4)):
            made = make(NetworkSpec(f"{net}:{name}", spec=senet.SESpec(2)), num_classes=2, size=12, seed=0)
            assert [site.name for site in made.sites] == ["block.bn"]
            assert made.network(torch.zeros(2, channels, 12, 12)).shape == (2, 2)
