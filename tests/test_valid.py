"""Padding does not count: at the block against the cropped map, in a network against each sample alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import senet
from senet import SEBlock
from senet.block.equations import valid_mask
from tests.insertion.networks import Residual

LENGTHS = (4, 7, 10)
EXAMPLE = torch.randn(2, 4, 10)


@pytest.mark.parametrize("squeeze", ["avg", "max", "none"])
@pytest.mark.parametrize("space", [(10,), (3, 10), (2, 3, 10)])
@pytest.mark.parametrize("padded_with", [1e3, float("nan")])
def test_a_block_squeezes_what_is_valid(squeeze, space, padded_with):
    block, x = SEBlock(8, 2, squeeze=squeeze), torch.randn(3, 8, *space)
    for sample, length in zip(x, LENGTHS, strict=True):
        sample[..., length:] = padded_with
    lengths = torch.tensor(LENGTHS) / 10
    mask = torch.arange(10) < torch.tensor(LENGTHS)[:, None]
    mask = mask.view(3, *[1] * (len(space) - 1), 10).expand(3, *space)
    outputs = block(x, lengths=lengths), block(x, mask), block(x, mask.unsqueeze(1))
    with senet.valid(lengths):
        outputs = (*outputs, block(x))
    for y in outputs:
        for index, length in enumerate(LENGTHS):
            alone = block(x[index : index + 1, ..., :length])
            torch.testing.assert_close(y[index : index + 1, ..., :length], alone, rtol=1e-6, atol=1e-6)


def test_another_axis():
    block, x = SEBlock(4, 2), torch.randn(2, 4, 6, 5)
    y = block(x, lengths=[0.5, 1.0], axis=2)
    torch.testing.assert_close(y[:1, :, :3], block(x[:1, :, :3]))
    torch.testing.assert_close(y[1:], block(x[1:]))


def test_lengths_hold_at_every_resolution():
    """At a stride of 2 that gives ⌈L / 2⌉ positions, of an even L: as many as of the sample alone."""
    for whole in (8, 10, 64, 1000):
        lengths = torch.arange(0, whole + 1) / whole
        at, halved = (torch.zeros(whole + 1, 1, n) for n in (whole, whole // 2))
        assert valid_mask(lengths, at).sum((1, 2)).tolist() == list(range(whole + 1))
        assert valid_mask(lengths, halved).sum((1, 2)).tolist() == [-(-n // 2) for n in range(whole + 1)]


@pytest.mark.parametrize("training", [False, True])
def test_a_pointwise_network_runs_each_sample_as_if_alone(training):
    branch = nn.Sequential(nn.Conv1d(4, 8, 1), nn.GroupNorm(8, 8), nn.ReLU(), nn.Conv1d(8, 4, 1))
    branch[1] = nn.Identity()  # a norm over positions would count padding itself
    net = senet.insert(nn.Sequential(Residual(branch), Residual(nn.Conv1d(4, 4, 1))), torch.randn(1, 4, 10))
    for block in senet.blocks(net).values():
        nn.init.normal_(block.fc2.weight)
    net.train(training)
    x = torch.randn(3, 4, 10)
    with senet.valid([n / 10 for n in LENGTHS]):
        y = net(x)
    for index, length in enumerate(LENGTHS):
        alone = net(x[index : index + 1, :, :length])
        torch.testing.assert_close(y[index : index + 1, :, :length], alone, rtol=1e-6, atol=1e-6)
    assert not torch.equal(net(x), y)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning", "ignore:`torch.jit.trace:DeprecationWarning")
def test_a_graph_would_keep_the_lengths():
    block, x = SEBlock(4, 2), torch.randn(2, 4, 6)
    compiled = torch.compile(block, backend="aot_eager")
    torch.testing.assert_close(compiled(x), block(x))
    with senet.valid([0.5, 1.0]):
        assert torch.equal(compiled(x), block(x))
        for look in (torch.fx.symbolic_trace, lambda net: torch.jit.trace(net, x, check_trace=False)):
            with pytest.raises(ValueError, match=r"cannot be traced, exported or optimised inside senet\.valid"):
                look(block)
        with pytest.raises(Exception, match=r"inside senet\.valid"):
            torch.export.export(block, (x,))
    torch.testing.assert_close(compiled(x), block(x))


@pytest.mark.parametrize("training", [False, True])
def test_replicas_in_other_threads_do_not_miss_the_lengths_in_silence(training):
    branch = nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4))
    norm = senet.insert(nn.Sequential(Residual(branch)), EXAMPLE)[0].branch[1].train(training)
    replica = norm._replicate_for_data_parallel()
    replica._parameters, replica._modules = norm._parameters, {"se": norm.se._replicate_for_data_parallel()}

    def run():
        with torch.set_grad_enabled(training):
            return replica(EXAMPLE)

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(run).result().shape == EXAMPLE.shape
        with senet.valid([0.5, 1.0]), pytest.raises(ValueError, match=r"valid does not reach the threads of DataPar"):
            threads.submit(run).result()


def test_an_empty_sample_is_no_nan():
    for squeeze in ("avg", "max"):
        assert SEBlock(4, 2, squeeze=squeeze)(torch.randn(2, 4, 5), lengths=[0.0, 1.0]).isfinite().all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lengths": [1.5, 1]}, "from 0 to 1 per sample, not"),
        ({"lengths": [float("nan"), 1]}, "from 0 to 1"),
        ({"lengths": "all"}, "from 0 to 1"),
        ({"lengths": [1.0]}, r"one number per sample, \(2,\)"),
        ({"lengths": [1.0, 1.0], "axis": 1}, "axis=1 is not a spatial axis"),
        ({"lengths": [1.0, 1.0], "mask": torch.ones(2, 5, dtype=torch.bool)}, "not both"),
        ({"mask": torch.ones(2, 4, dtype=torch.bool)}, r"is \(2, 1, 5\)"),
    ],
)
def test_wrong_masks_and_lengths(given, message):
    with pytest.raises(ValueError, match=message):
        SEBlock(4, 2)(torch.randn(2, 4, 5), **given)
    for mask, kind in ((torch.ones(2, 5), "torch.float32"), ([[True] * 5] * 2, "a list")):
        with pytest.raises(TypeError, match=f"true where a position counts, not {kind}"):
            SEBlock(4, 2)(torch.randn(2, 4, 5), mask)
