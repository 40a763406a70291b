"""The made task that only context can solve, and the network that cannot see it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import senet
from senet.data import context
from senet.data.context import CLASSES, SIDE, draw_context
from senet.data.sources import open_data
from senet.data.transforms import augmentation_for, preprocessing_for
from senet.recipe.choose import recipe_for


def marks(picture: np.ndarray) -> tuple[bool, bool, int]:
    """Whether the mark is a cross, whether the square is blue, and the pixels between the two."""
    white = (picture > 220).all(-1)
    red, green, blue = (picture[..., channel].astype(int) for channel in range(3))
    square = ((abs(green - blue) > 60) & (red < 80)).any(0)
    rows, columns = (np.flatnonzero(white.any(axis)) for axis in (1, 0))
    middle = white[rows.min() + 3, columns.min()]  # a plus has a stroke there, a cross has none
    is_blue = bool((blue - green)[(abs(green - blue) > 60) & (red < 80)].mean() > 0)
    return not middle, is_blue, int(np.flatnonzero(square).min() - columns.max() - 1)


def test_the_label_is_the_exclusive_or_of_two_marks_far_apart():
    pictures, labels = draw_context(400, seed=3)
    found = [marks(picture) for picture in pictures]
    assert [cross ^ blue for cross, blue, _ in found] == [bool(label) for label in labels]
    assert min(gap for *_, gap in found) > 11
    assert sum(labels) == 200


def test_neither_mark_alone_tells_the_label():
    pictures, labels = draw_context(2000, seed=4)
    found = np.array([marks(picture)[:2] for picture in pictures])
    for column in found.T:
        assert abs(np.corrcoef(column, labels)[0, 1]) < 0.06


def test_the_same_seed_draws_the_same_pictures():
    one, two, other = (draw_context(8, seed=seed) for seed in (0, 0, 1))
    assert (one[0] == two[0]).all()
    assert one[1] == two[1]
    assert (one[0] != other[0]).any()


@pytest.mark.parametrize("name", ["context", "context-random"])
def test_it_is_opened_by_name_and_trained_by_its_own_recipe(name):
    source = open_data(name)
    assert (source.name, source.classes, source.native_size, source.flip) == (name, CLASSES, SIDE, False)
    assert source.train is not None
    assert (len(source.train), len(source.reported[1])) == (2400, 600)
    assert recipe_for(source.kind, pretrained=False) == recipe_for("context", pretrained=False)


def test_random_labels_say_nothing_of_the_pictures():
    pictures, labels = draw_context(2000, seed=4, random_labels=True)
    same, solved = draw_context(2000, seed=4)
    assert (pictures == same).all()
    assert sum(labels) == 1000
    assert abs(np.corrcoef(labels, solved)[0, 1]) < 0.06


def test_pictures_are_trained_on_whole():
    """A crop would cut off the mark or the square, on which the label depends."""
    source = open_data("context")
    preprocessing = preprocessing_for(source)
    augmentation = augmentation_for(source, preprocessing)
    for index in range(5):
        image = source.train.load(index)
        assert torch.equal(augmentation(augmentation.base(image)), preprocessing(image))


def test_the_network_sees_eleven_pixels():
    model = senet.create("short_sighted", num_classes=2).double().eval()
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.units(model.stem(x))[0, :, 8, 8].sum(), x)
    seen = gradient[0].abs().sum(0).nonzero()
    assert (seen.min().item(), seen.max().item()) == (11, 21)


@pytest.mark.parametrize(
    ("squeeze", "can"), [(None, False), ("none", False), ("avg", True)], ids=["plain", "no squeeze", "SE"]
)
def test_only_the_squeeze_can_tell_an_exclusive_or(squeeze, can):
    """Without it the logits are a sum over the two marks, whatever the weights: their interaction is zero."""
    pictures = torch.full((2, 2, SIDE, SIDE, 3), 128, dtype=torch.float64)
    for cross, shape in enumerate(context._plus_and_cross()):
        pictures[cross, :, 10:17, 2:9][:, torch.from_numpy(shape)] = context._WHITE
    for blue, colour in enumerate((context._GREEN, context._BLUE)):
        pictures[:, blue, 8:18, 21:31] = torch.tensor(colour, dtype=torch.float64)
    torch.manual_seed(0)
    model = senet.create("short_sighted", num_classes=2).double()
    if squeeze:
        model = senet.insert(model, pictures[0, :1].movedim(-1, 1), senet.SESpec(squeeze=squeeze, start="paper"))
    batch = pictures.flatten(0, 1).movedim(-1, 1) / 255
    logits = model.eval()(batch).view(2, 2, 2)
    interaction = (logits[0, 0] - logits[0, 1] - logits[1, 0] + logits[1, 1]).abs().max()
    assert (interaction > 1e-10) == can
    assert can or interaction < 1e-13


@pytest.mark.long
def test_compare_finds_se_better_with_its_defaults(tmp_path):
    result = senet.study.compare("short_sighted", "context", out=tmp_path, seeds=3, progress=False)
    assert result.se.accuracy == (1.0, 1.0, 1.0)
    assert all(0.4 < each < 0.6 for each in result.plain.accuracy)
    assert result.verdict.startswith("SE is better by ")


@pytest.mark.long
def test_ablate_finds_no_gain_without_the_squeeze(tmp_path):
    result = senet.study.ablate(
        "short_sighted", "context", out=tmp_path, grid={"squeeze": ["avg", "none"]}, seeds=2, progress=False
    )
    assert min(result.cells["se"].accuracy) == 1
    assert all(0.4 < each < 0.6 for each in result.cells["squeeze-none"].accuracy)


@pytest.mark.long
def test_compare_shows_no_difference_on_random_labels(tmp_path):
    result = senet.study.compare("short_sighted", "context-random", out=tmp_path, seeds=3, progress=False)
    assert result.verdict.startswith("There is no difference shown")
