"""FSDP2's `fully_shard` around SE, whole networks and single layers: in one process, over gloo."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import senet
from senet.errors import InputError
from senet.files import fileformat
from tests.insertion.networks import randomise, small_resnet

HEADER = fileformat.Header(None, {}, (), {}, {}, "", "")
dist = torch.distributed


@pytest.fixture
def mesh(tmp_path):
    if not dist.is_available() or dist.is_initialized():
        pytest.skip("needs torch.distributed, without a group of processes yet")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("what", [None, senet.SEBlock, nn.Linear])
def test_fully_shard(mesh, what, tmp_path):
    """Before the layers of SE were called as modules their weights were read while they were still in parts."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.fsdp import fully_shard

    x = torch.randn(4, 3, 16, 16)
    plain = senet.insert(randomise(small_resnet()), x, senet.SESpec(2, start="paper")).train()
    sharded = copy.deepcopy(plain)
    for module in [m for m in sharded.modules() if what is not None and isinstance(m, what)]:
        fully_shard(module, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    for net in (plain, sharded):
        net(x).square().mean().backward()
        torch.optim.SGD(net.parameters(), 0.1).step()
    for ours, theirs in zip(sharded.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.full_tensor(), theirs)
    torch.testing.assert_close(sharded.eval()(x), plain.eval()(x))
    assert len(senet.blocks(sharded)) == 3
    with pytest.raises(senet.InsertionError, match=r"leave SE out when it synchronises its processes"):
        senet.insert(sharded, x, inplace=True)
    senet.save(sharded, tmp_path / "net.safetensors")
    again = senet.load(tmp_path / "net.safetensors", model=small_resnet())
    torch.testing.assert_close(again(x), plain(x))
    with pytest.raises(InputError, match=r"gather the whole by .*get_model_state_dict with full_state_dict=True"):
        fileformat.write(tmp_path / "parts.safetensors", sharded.state_dict(), HEADER)
    again.load_state_dict(get_model_state_dict(sharded, options=StateDictOptions(full_state_dict=True)))
