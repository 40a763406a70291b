"""What must hold on a GPU, as plain functions: a rented machine may have no pytest. On a CPU they hold as well."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import senet
from senet.fused.switch import fuse_any_size, unfused

CHECKS: dict[str, Callable[[str], None]] = {}
_LAYOUTS = (torch.contiguous_format, torch.channels_last)


def check(function: Callable[[str], None]) -> Callable[[str], None]:
    CHECKS[function.__name__] = function
    return function


class Unit(nn.Module):
    """A residual unit as torchvision writes it, one operation a line."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + x)


def network(device: str, spec: senet.SESpec | None = None) -> tuple[nn.Module, nn.Module, Tensor]:
    """A small network, the same with SE, and a batch."""
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), Unit(32), Unit(32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)
    ).to(device)
    x = torch.randn(4, 3, 13, 13).to(device)
    return plain, senet.insert(plain, x, spec), x


def gradients(model: nn.Module, x: Tensor, dtype: torch.dtype | None = None) -> list[Tensor]:
    """Of every parameter, from one training step's loss."""
    model.zero_grad(set_to_none=True)
    with torch.autocast(x.device.type, dtype, enabled=dtype is not None):
        loss = F.cross_entropy(model(x).float(), torch.arange(len(x), device=x.device))
    loss.backward()
    return [parameter.grad.double().cpu() for parameter in model.parameters() if parameter.grad is not None]


def distance(given: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference, over the largest value of the same tensor."""
    return max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1e-12)) for a, b in zip(given, expected, strict=True)
    )


@check
def the_network_is_unchanged_at_first(device: str) -> None:
    plain, se, x = network(device)
    for layout in _LAYOUTS:
        pictures = x.to(memory_format=layout)
        assert torch.equal(se.eval()(pictures), plain.eval()(pictures))


@check
def fused_training_is_the_equations_in_float32(device: str) -> None:
    _, se, x = network(device, senet.SESpec(4, start="paper"))
    exact = copy.deepcopy(se).double().train()
    with unfused():
        expected = gradients(exact, x.double())
    for layout in _LAYOUTS:
        each = copy.deepcopy(se).train().to(memory_format=layout)
        with fuse_any_size():
            found = gradients(each, x.to(memory_format=layout))
        assert distance(found, expected) < 2e-2, distance(found, expected)  # TF32 convolutions


@check
def fused_training_is_as_near_as_unfused_in_bfloat16(device: str) -> None:
    _, se, x = network(device, senet.SESpec(4, start="paper"))
    exact = copy.deepcopy(se).double().train()
    with unfused():
        expected = gradients(exact, x.double())
        plain_distance = distance(gradients(copy.deepcopy(se).train(), x, torch.bfloat16), expected)
    with fuse_any_size():
        fused_distance = distance(gradients(copy.deepcopy(se).train(), x, torch.bfloat16), expected)
    assert fused_distance < 2 * plain_distance + 1e-2, (fused_distance, plain_distance)


@check
def autocast_has_the_same_dtypes(device: str) -> None:
    unit = Unit(32)
    unit.bn2 = nn.GroupNorm(4, 32)  # which autocast computes in float32 on CUDA
    network = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), unit).to(device)
    x = torch.randn(4, 3, 13, 13, device=device)
    se = senet.insert(network, x, senet.SESpec(4, start="paper")).train()
    with torch.autocast(device, torch.bfloat16):
        with fuse_any_size():
            found = se(x)
        with unfused():
            expected = se(x)
    assert found.dtype == expected.dtype
    assert distance([found.detach().float()], [expected.detach().float()]) < 2e-2


@check
def the_inference_form_computes_the_same(device: str) -> None:
    _, se, x = network(device, senet.SESpec(4, start="paper"))
    se = se.cpu().eval()
    form = senet.optimize(se, x.cpu())
    with torch.no_grad():
        expected = se(x.cpu())
        given = form.to(device)(x).cpu()
    assert (given - expected).abs().max() < 1e-2 * expected.abs().max()  # TF32


@check
def it_compiles_whole(device: str) -> None:
    _, se, x = network(device, senet.SESpec(4, start="paper"))
    backend = "inductor" if device == "cuda" else "aot_eager"
    compiled = torch.compile(se.eval(), fullgraph=True, backend=backend)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), se(x), rtol=1e-2, atol=1e-2)


@check
def gates_look_the_same_wherever_they_are_computed(device: str) -> None:
    _, se, _ = network(device, senet.SESpec(4, start="paper"))
    block = next(iter(senet.blocks(se).values()))
    u = torch.randn(3, 32, 7, 7)
    on_device = block.gate(u.to(device)).cpu()
    torch.testing.assert_close(on_device, copy.deepcopy(block).cpu().gate(u), rtol=1e-3, atol=1e-4)


@check
def the_cost_is_counted_without_a_trace(device: str) -> None:
    _, se, x = network(device)
    before = {name: value.clone() for name, value in se.state_dict().items()}
    assert senet.cost(se, x[:1]).se_parameters > 0
    assert all(torch.equal(value, before[name]) for name, value in se.state_dict().items())
