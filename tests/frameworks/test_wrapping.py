"""accelerate, PEFT, Torch-Pruning: tools that look for layers, wrap them, move them or cut them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import senet
from tests.frameworks.staying import OPEN, assert_same, differ, opened, outputs


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c)
        self.conv2, self.bn2 = nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c)

    def forward(self, x):
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), Block(16), Block(16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
    )


def need(name):
    return pytest.importorskip(name, reason=f"{name} is not installed", exc_type=ImportError)


@pytest.fixture
def x():
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net(x):
    return opened(make(), x, count=2)


class TestAccelerate:
    @pytest.mark.parametrize("tool", ["cpu_offload", "disk_offload", "dispatch_model"])
    def test_offloading(self, tool, net, x, tmp_path, row):
        accelerate = need("accelerate")
        row("accelerate", f"`{tool}`", 2)
        expected, plain = outputs(net, x), outputs(senet.remove(net), x)
        if tool == "cpu_offload":
            moved = accelerate.cpu_offload(net, "cpu")
        elif tool == "disk_offload":
            moved = accelerate.disk_offload(net, str(tmp_path), "cpu")
        else:
            device_map = {"0": "cpu", "1": "cpu", "2": "disk", "5": "cpu"}
            moved = accelerate.dispatch_model(
                net, device_map, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True
            )
        assert_same(outputs(moved, x), expected, plain)
        accelerate.hooks.remove_hook_from_submodules(moved)
        assert len(senet.blocks(moved)) == 2

    def test_prepare_save_and_load(self, net, x, tmp_path, row):
        accelerate = need("accelerate")
        row("accelerate", "`prepare`, a step, `save_state`, `load_state`, `save_model`", 2)
        accelerator = accelerate.Accelerator(cpu=True)
        model, optimizer = accelerator.prepare(net, torch.optim.SGD(net.parameters(), 0.1))
        accelerator.backward(model.train()(x).square().mean())
        optimizer.step()
        accelerator.save_state(tmp_path / "state")
        expected, plain = outputs(model, x), outputs(senet.remove(accelerator.unwrap_model(model)), x)
        accelerator.backward(model(x).square().mean())
        optimizer.step()
        assert differ(outputs(model, x), expected)
        accelerator.load_state(tmp_path / "state")
        assert_same(outputs(model, x), expected, plain)
        accelerator.save_model(model, tmp_path / "model")
        fresh = senet.insert(make(), x, OPEN)
        accelerate.load_checkpoint_in_model(fresh, str(tmp_path / "model"))
        assert_same(outputs(fresh, x), expected)


class TestPeft:
    @pytest.mark.parametrize("targets", [["fc1", "fc2"], ["conv1", "conv2"], ["fc1", "fc2", "conv1", "conv2", "0"]])
    def test_lora(self, targets, net, x, tmp_path, row):
        peft = need("peft")
        row("peft", f"LoRA on {', '.join(targets)}; a step, saved, loaded, merged", 2)
        expected, plain = outputs(net, x), outputs(senet.remove(net), x)
        fresh = copy.deepcopy(net)
        config = peft.LoraConfig(r=2, target_modules=targets)
        adapted = peft.get_peft_model(net, config)
        assert_same(outputs(adapted, x), expected, plain)
        optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], 1.0)
        for _ in range(2):
            adapted(x).square().sum().backward()
            assert all(p.grad is not None for n, p in adapted.named_parameters() if "lora_B" in n)
            optimizer.step()
        learnt = outputs(adapted, x)
        assert differ(learnt, expected), "the adapter does nothing"
        adapted.save_pretrained(tmp_path)
        assert_same(outputs(peft.PeftModel.from_pretrained(fresh, str(tmp_path)), x), learnt)
        merged = adapted.merge_and_unload()
        assert_same(outputs(merged, x), learnt)
        assert len(senet.blocks(merged)) == 2

    def test_only_se_learns(self, net, x, tmp_path, row):
        peft = need("peft")
        row("peft", "LoRA elsewhere and SE whole: `modules_to_save=['se']`", 2)
        expected = outputs(net, x)
        fresh = copy.deepcopy(net)
        adapted = peft.get_peft_model(net, peft.LoraConfig(r=2, target_modules=["conv1"], modules_to_save=["se"]))
        assert_same(outputs(adapted, x), expected)
        optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], 1.0)
        adapted(x).square().sum().backward()
        optimizer.step()
        learnt = outputs(adapted, x)
        assert differ(learnt, expected)
        adapted.save_pretrained(tmp_path)
        assert_same(outputs(peft.PeftModel.from_pretrained(fresh, str(tmp_path)), x), learnt)
        assert_same(outputs(adapted.merge_and_unload(), x), learnt)


class TestTorchPruning:
    def test_half_of_the_channels(self, net, x, row):
        pruning = need("torch_pruning")
        row("torch-pruning", "`BasePruner`, half of the channels; a step of training", 2)
        pruner = pruning.pruner.BasePruner(
            net, x, importance=pruning.importance.MagnitudeImportance(), pruning_ratio=0.5, ignored_layers=[net[5]]
        )
        pruner.step()
        blocks = [m for m in net.modules() if isinstance(m, senet.SEBlock)]
        assert len(blocks) == 2
        for block, bn in zip(blocks, (net[1].bn2, net[2].bn2), strict=True):
            assert block.fc1.in_features == block.fc2.out_features == bn.num_features == block.in_channels
        assert net[0].out_channels < 16
        assert_same(outputs(copy.deepcopy(net), x), outputs(net, x), outputs(senet.remove(net), x))
        net.train()(x).square().mean().backward()
        assert all(block.fc2.weight.grad is not None for block in blocks)
