"""Statistics over processes: two processes do what one does with the whole batch, and every SE is still there."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import senet
from senet.fast import straightforward, synchronise
from senet.fused.normalisations import normalises
from senet.fused.switch import fuse_any_size
from senet.insertion.joining.synchronise import SynchronisedBatchNorm


def network() -> nn.Module:
    torch.manual_seed(0)
    model = senet.create("se_resnet20", num_classes=4).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(6, 3, 8, 8, dtype=torch.float64), torch.arange(6) % 4


def step(model: nn.Module, x: torch.Tensor, y: torch.Tensor, share: float = 1.0) -> float:
    loss = nn.functional.cross_entropy(model(x), y, reduction="sum") * share / 6
    loss.backward()
    return float(loss.detach())


def worker(rank: int, folder: Path) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for apart in (False, True):
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{apart}", rank=rank, world_size=2)
        torch.save(share_of_a_step(rank, apart), folder / f"{rank}-{apart}.pt")
        dist.destroy_process_group()


def share_of_a_step(rank: int, apart: bool) -> tuple[float, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    x, y = batch()
    first = 6 if apart else 4  # not the same number, or none
    part = slice(0, first) if rank == 0 else slice(first, 6)
    model = nn.parallel.DistributedDataParallel(synchronise(network()).train())
    if apart:
        with straightforward():
            loss = step(model, x[part], y[part], 2.0)  # DDP takes the mean over processes
    else:
        with fuse_any_size():
            loss = step(model, x[part], y[part], 2.0)
    gradients = {name: p.grad for name, p in model.module.named_parameters()}
    return loss, gradients, dict(model.module.named_buffers())


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both steps of two processes gave: a process takes seconds to begin."""
    folder = tmp_path_factory.mktemp("steps")
    mp.spawn(worker, (folder,), nprocs=2)
    return folder


@pytest.mark.parametrize("apart", [False, True])
def test_two_processes_are_one(apart, steps):
    model = network().train()
    loss = step(model, *batch())
    results = [torch.load(steps / f"{rank}-{apart}.pt") for rank in range(2)]
    assert sum(result[0] for result in results) / 2 == pytest.approx(loss, rel=1e-12)
    for _, gradients, buffers in results:
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-9, atol=1e-12, msg=name)
        for name, buffer in model.named_buffers():
            torch.testing.assert_close(buffers[name], buffer, rtol=1e-10, atol=1e-12, msg=name)


def test_se_keys_and_hooks_stay():
    model = network()
    before, blocks = model.state_dict(), list(senet.blocks(model))
    seen = []
    hook = model.bn1.register_forward_hook(lambda *_: seen.append(1))
    assert synchronise(model) is model
    assert sum(isinstance(m, SynchronisedBatchNorm) for m in model.modules()) == 19
    assert list(senet.blocks(model)) == blocks
    assert list(model.state_dict()) == list(before)
    x, _ = batch()
    for training in (False, True):  # alone, it is batch normalisation
        alone, plain = copy.deepcopy(model).train(training), network().train(training)
        assert torch.equal(alone(x), plain(x))
    assert len(seen) == 2
    hook.remove()
    assert torch.equal(copy.deepcopy(senet.remove(model)).eval()(x), senet.remove(network()).eval()(x))


def test_what_it_refuses():
    norm = SynchronisedBatchNorm(4)
    with pytest.raises(ValueError, match=r"takes \(N, 4, ...\), not \(2, 3\)"):
        norm(torch.randn(2, 3))
    with pytest.raises(TypeError, match=r"floating-point tensors, not torch.int64"):
        norm(torch.ones(2, 4, dtype=torch.int64))


def test_a_subclass_with_a_forward_of_its_own_is_not_taken_for_it():
    class Half(SynchronisedBatchNorm):
        def forward(self, x):
            return super().forward(x) / 2

    assert normalises(SynchronisedBatchNorm)
    assert not normalises(Half)
