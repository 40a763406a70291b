"""The statistics of gates against their definitions, computed another way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from senet import SEBlock
from senet.study.explanation.explain import _ends
from senet.study.explanation.statistics import BINS, GateStatistics


def _counted(gates, classes, top=1.0, batches=3, bottom=0.0):
    statistics = GateStatistics(gates.shape[1], int(classes.max()) + 1, top, bottom)
    for part, labels in zip(gates.chunk(batches), classes.chunk(batches), strict=True):
        statistics.add(part, labels)
    return statistics.take()


def test_against_numpy():
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(0, 4, (60,), generator=generator)
    gates = torch.rand(60, 5, generator=generator) * 0.2 + classes[:, None] * torch.tensor([0, 0.05, 0.1, 0.15, 0.2])
    found = _counted(gates, classes)
    x, k = gates.double().numpy(), classes.numpy()
    for name, expected in (("mean", x.mean(0)), ("sd", x.std(0)), ("low", x.min(0)), ("high", x.max(0))):
        np.testing.assert_allclose(getattr(found, name).numpy(), expected, rtol=1e-9, atol=1e-12)
    means = np.stack([x[k == c].mean(0) for c in range(4)])
    np.testing.assert_allclose(found.class_means.numpy(), means)
    between = sum((k == c).sum() * (means[c] - x.mean(0)) ** 2 for c in range(4))
    total = ((x - x.mean(0)) ** 2).sum(0)
    np.testing.assert_allclose(found.channel_specificity.numpy(), between / total)
    assert found.specificity == pytest.approx(between.sum() / total.sum())
    assert found.specificity_by_chance == 3 / 59
    np.testing.assert_array_equal(found.histogram.numpy(), np.histogram(x, BINS, (0, 1))[0])
    for share in (0.05, 0.5, 0.95):
        assert found.quantile(share) == pytest.approx(np.quantile(x, share), abs=1 / BINS)


def test_what_chance_gives():
    """Of gates that the class says nothing of, the share comes out near (K − 1) / (n − 1)."""
    generator = torch.Generator().manual_seed(1)
    gates = torch.rand(400, 300, generator=generator)
    found = _counted(gates, torch.arange(400) % 20)
    assert found.specificity == pytest.approx(found.specificity_by_chance, rel=0.05)


def test_dead_saturated_and_constant_channels():
    gates = torch.tensor([[0.0, 1.0, 0.5, 0.1, 0.99], [0.015, 0.985, 0.51, 0.9, 0.96]])
    found = _counted(gates, torch.tensor([0, 0]), batches=1)
    assert found.dead.tolist() == [True, False, False, False, False]
    assert found.saturated.tolist() == [False, True, False, False, False]
    assert found.constant.tolist() == [True, True, True, False, False]
    double = _counted(2 * gates, torch.tensor([0, 0]), top=2.0, batches=1)  # a block with scale 2
    assert double.saturated.tolist() == found.saturated.tolist()
    assert double.constant.tolist() == found.constant.tolist()
    relu = _counted(torch.tensor([[0.0, 3.0, 9.0], [0.0, 3.1, 1.0]]), torch.tensor([0, 0]), top=None, batches=1)
    assert relu.dead.tolist() == [True, False, False]
    assert not relu.saturated.any()
    assert relu.constant.tolist() == [True, True, False]


def test_gates_below_0_are_not_dead():
    """A tanh's: a channel at -0.9 is used as much as one at 0.9."""
    gates = torch.tensor([[-0.9, 0.01, 0.5], [-0.8, -0.01, -0.5]])
    found = _counted(gates, torch.tensor([0, 0]), batches=1, bottom=-1.0)
    assert found.dead.tolist() == [False, True, False]
    for share in (0.1, 0.5, 0.9):
        expected = np.quantile(gates.numpy(), share, method="inverted_cdf")
        assert found.quantile(share) == pytest.approx(expected, abs=3 / BINS)


@pytest.mark.parametrize(
    ("options", "ends"),
    [
        ({}, (1.0, 0.0)),
        ({"scale": 2.0}, (2.0, 0.0)),
        ({"gate": "tanh"}, (1.0, -1.0)),
        ({"gate": "relu"}, (None, 0.0)),
    ],
)
def test_the_ends_of_a_gate(options, ends):
    assert _ends(SEBlock(8, **options)) == ends


def test_where_class_specificity_has_no_meaning():
    one_each = _counted(torch.rand(6, 3), torch.arange(6))
    assert (one_each.specificity, one_each.specificity_by_chance) == (None, None)
    assert one_each.channel_specificity.isnan().all()
    still = _counted(torch.full((6, 3), 0.3), torch.tensor([0, 0, 0, 1, 1, 1]))
    assert still.specificity is None
    assert still.sd.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="no gates were counted"):
        GateStatistics(3, 2, 1.0).take()
