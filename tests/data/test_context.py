"""The made task that only context can solve, and the network that cannot see it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import senet
from senet.data.context import CLASSES, SIDE, draw_context
from senet.data.sources import open_data


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


def test_it_is_opened_by_name():
    source = open_data("context")
    assert (source.name, source.classes, source.native_size, source.flip) == ("context", CLASSES, SIDE, False)
    assert source.train is not None
    assert (len(source.train), len(source.reported[1])) == (2400, 600)


def test_the_network_sees_eleven_pixels():
    model = senet.create("short_sighted", num_classes=2).double().eval()
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    maps = model.blocks(model.relu(model.bn1(model.conv1(x))))
    (gradient,) = torch.autograd.grad(maps[0, :, 16, 16].sum(), x)
    seen = gradient[0].abs().sum(0).nonzero()
    assert (seen.min().item(), seen.max().item()) == (11, 21)


@pytest.mark.long
@pytest.mark.parametrize(
    ("squeeze", "least", "most"), [("avg", 0.95, 1.0), ("none", 0.4, 0.6), (None, 0.4, 0.6)], ids=str
)
def test_only_se_with_its_squeeze_solves_it(tmp_path, squeeze, least, most):
    spec = senet.SESpec(4, squeeze=squeeze) if squeeze else None
    result = senet.study.train("short_sighted", "context", out=tmp_path, spec=spec)
    assert least <= result.accuracy <= most
