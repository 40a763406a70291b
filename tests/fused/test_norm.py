"""SE in its normalisation's pass: the straightforward block's outputs, gradients and running statistics, for less."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from contextvars import ContextVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import senet
from senet import SEBlock, SESpec
from senet.fused import switch
from senet.fused.norm import normalise_and_excite
from senet.fused.passes import choose, library
from senet.fused.passes.native import NativePasses
from senet.fused.passes.operations import TorchPasses
from senet.fused.switch import unfused, watching
from senet.insertion.joining.attach import attach
from senet.insertion.rules.site import Site
from tests.fused.passes import CASES, LAST, check_passes

SPACES = {1: (nn.BatchNorm1d, nn.InstanceNorm1d), 2: (nn.BatchNorm2d, nn.InstanceNorm2d)}
SPACES[3] = (nn.BatchNorm3d, nn.InstanceNorm3d)


def norm_of(kind: str, channels: int, dimensions: int, **options) -> nn.Module:
    batch, instance = SPACES[dimensions]
    if kind == "group":
        return nn.GroupNorm(max(g for g in (1, 2, 4) if channels % g == 0), channels, **options)
    return (batch if kind == "batch" else instance)(channels, **({"affine": True} | options))


def randomised(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return module


def joined(norm: nn.Module, spec: SESpec, channels: int) -> nn.Sequential:
    """SE joined to `norm`, as insertion does it."""
    model = nn.Sequential(norm)
    attach(model, Site("0", channels, 0, "residual", ""), spec)
    return randomised(model)


def watched(model: nn.Module, x: Tensor) -> tuple[Tensor, int]:
    """The output, and how many SE blocks ran in their normalisation's pass."""
    ran: list[nn.Module] = []
    with watching(lambda block, _: ran.append(block)):
        return model(x), len(ran)


def both_ways(model: nn.Module, x: Tensor, dy: Tensor) -> list[tuple[Tensor, ...]]:
    """Output, gradients and buffers: in one pass, and straightforwardly."""
    results = []
    for apart in (False, True):
        each, v = copy.deepcopy(model), x.clone(memory_format=torch.preserve_format).requires_grad_()
        with unfused() if apart else nullcontext():
            y, ran = watched(each, v)
        assert bool(ran) is not apart
        y.backward(dy)
        results.append((y.detach(), v.grad, *(p.grad for p in each.parameters()), *each.buffers()))
    return results


def assert_equal(one: tuple[Tensor, ...], other: tuple[Tensor, ...], tolerance: float) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        largest = float(b.abs().max()) if b.numel() else 0.0
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * max(largest, 1e-3))


@settings(max_examples=60, derandomize=True)
@given(
    st.sampled_from(["batch", "batch", "group", "instance"]),
    st.integers(1, 3),
    st.integers(1, 5),
    st.sampled_from([1, 2, 4, 12, 70]),
    st.integers(2, 6),
    st.booleans(),
    st.builds(
        SESpec,
        reduction_ratio=st.sampled_from([1, 2, 16]),
        gate=st.sampled_from(["sigmoid", "tanh", "hard_sigmoid"]),
        bias=st.booleans(),
    ),
    st.booleans(),
    st.integers(0, 1 << 30),
)
def test_outputs_gradients_and_statistics(kind, dimensions, samples, channels, side, last, spec, affine, seed):
    torch.manual_seed(seed)
    norm = norm_of(kind, channels, dimensions, affine=affine)
    model = joined(norm, spec, channels).double().train()
    x, dy = (torch.randn(samples, channels, *(side + i for i in range(dimensions))).double() for _ in range(2))
    if last and dimensions > 1:
        x = x.contiguous(memory_format=LAST[x.dim()])
    assert_equal(*both_ways(model, x, dy), 1e-10)


@pytest.mark.parametrize("kind", ["batch", "group", "instance"])
@pytest.mark.parametrize("offset", [0, 300])
@pytest.mark.parametrize("last", [False, True])
def test_float32_against_float64_also_with_a_mean_of_300_deviations(kind, offset, last):
    model = joined(norm_of(kind, 16, 2), SESpec(4, bias=True), 16).train()
    x, dy = torch.randn(4, 16, 9, 10) + offset, torch.randn(4, 16, 9, 10)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    ours = both_ways(model, x, dy)[0]
    exact = both_ways(copy.deepcopy(model).double(), x.double(), dy.double())[1]
    assert_equal(tuple(t.double() if t.is_floating_point() else t for t in ours), exact, 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("parameters", ["half", "float32"])
def test_half_precision(dtype, parameters):
    model = joined(nn.BatchNorm2d(16), SESpec(4), 16).train()
    model = model.to(dtype) if parameters == "half" else model
    x, dy = torch.randn(4, 16, 9, 10).to(dtype), torch.randn(4, 16, 9, 10).to(dtype)
    ours = both_ways(model, x, dy)[0]
    exact = both_ways(copy.deepcopy(model).double(), x.double(), dy.double())[1]
    tolerance = 0.02 if dtype == torch.bfloat16 else 0.003
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=tolerance * max(1e-3, float(b.abs().max())))


@pytest.mark.parametrize("kind", ["batch", "group", "instance"])
@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_gradcheck_once_and_twice(kind, other, relu):
    norm, block = randomised(norm_of(kind, 4, 2)).double(), randomised(SEBlock(4, 2, bias=True)).double()
    v, shortcut = (torch.randn(3, 4, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def function(v, shortcut, *_):
        return normalise_and_excite(norm, type(norm), block, v, shortcut if other else None, relu=relu)

    inputs = (v, shortcut, *norm.parameters(), *block.parameters())
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("kind", ["batch", "group"])
def test_a_vectorised_jacobian(kind):
    model = joined(norm_of(kind, 4, 2), SESpec(2, bias=True), 4).double().train()
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)

    def function(x):
        y, ran = watched(model, x)
        assert ran == 1
        return y.flatten()[:5]

    one_by_one = torch.autograd.functional.jacobian(function, x)
    torch.testing.assert_close(torch.autograd.functional.jacobian(function, x, vectorize=True), one_by_one)
    x.requires_grad_()
    y = function(x)
    (rows,) = torch.func.vmap(lambda dy: torch.autograd.grad(y, x, dy))(torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(rows, one_by_one)


def test_twice_through_a_shortcut_alone():
    norm, block, v = nn.BatchNorm2d(4), SEBlock(4, 2), torch.randn(2, 4, 3, 3)
    shortcut = torch.randn(2, 4, 3, 3, requires_grad=True)
    y = normalise_and_excite(norm.requires_grad_(False), nn.BatchNorm2d, block.requires_grad_(False), v, shortcut)
    (dy,) = torch.autograd.grad(y.square().sum(), shortcut, create_graph=True)
    (twice,) = torch.autograd.grad(dy.sum(), shortcut)
    torch.testing.assert_close(twice, torch.full_like(shortcut, 2.0))


@pytest.mark.parametrize(
    "options",
    [{"momentum": None}, {"momentum": 0.3}, {"track_running_stats": False}, {"affine": False}, {"eps": 0.1}],
    ids=str,
)
def test_options_of_batch_norm_over_three_batches(options):
    model = joined(nn.BatchNorm2d(8, **options), SESpec(2), 8).train()
    apart = copy.deepcopy(model)
    for step in range(3):
        x = torch.randn(2 + step, 8, 5, 5)
        y = model(x)
        with unfused():
            torch.testing.assert_close(y, apart(x), rtol=1e-5, atol=1e-6)
    for a, b in zip(model.buffers(), apart.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), apart.load_state_dict(model.state_dict()) and apart.eval()(x))


def runs(model: nn.Module, x: Tensor) -> int:
    return watched(model, x)[1]


def test_where_it_is_not_used():
    def case(spec: SESpec, norm: nn.Module) -> tuple[nn.Module, Tensor]:
        return joined(norm, spec, 8).train(), torch.randn(2, 8, 4, 4)

    model, x = case(SESpec(4), nn.BatchNorm2d(8))
    assert runs(model, x) == 1
    assert runs(copy.deepcopy(model).eval(), x) == 0
    frozen = copy.deepcopy(model)
    frozen[0].eval()  # a frozen normalisation in a network that trains
    assert runs(frozen, x) == 0
    for spec in (SESpec(4, squeeze="max"), SESpec(4, squeeze="none")):
        assert runs(*case(spec, nn.BatchNorm2d(8))) == 0
    assert runs(*case(SESpec(4), nn.InstanceNorm2d(8, track_running_stats=True))) == 0
    assert runs(model, x.permute(0, 1, 3, 2)[:, :, ::2]) == 0
    assert runs(model, x.requires_grad_()) == 1
    with torch.no_grad():
        assert runs(model, x) == 1
    seen: list[object] = []  # someone wants to see it called
    for register in (model[0].se.register_forward_hook, nn.modules.module.register_module_forward_hook):
        hook = register(lambda module, *_: seen.append(module))
        try:
            assert runs(model, x) == 0
        finally:
            hook.remove()
        assert model[0].se in seen
        seen.clear()
    nn.utils.parametrizations.weight_norm(model[0].se.fc1)
    assert runs(model, x) == 0
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        case(SESpec(4), nn.BatchNorm2d(8))[0](torch.randn(1, 8, 1, 1))


def test_a_scale_that_is_learned_has_its_gradient():
    model, scale = joined(nn.BatchNorm2d(8), SESpec(4), 8).train(), torch.tensor(2.0, requires_grad=True)
    torch.func.functional_call(model, {"0.se.scale": scale}, torch.randn(2, 8, 4, 4)).square().sum().backward()
    assert scale.grad is not None


@pytest.mark.parametrize(
    ("norm", "shape", "message"),
    [(nn.BatchNorm2d(8), (2, 8, 4), "4D"), (nn.InstanceNorm2d(8), (2, 8, 1, 1), "more than 1 spatial element")],
    ids=str,
)
def test_what_the_normalisation_refuses_is_refused(norm, shape, message):
    with pytest.raises(ValueError, match=message):
        joined(norm, SESpec(4), 8).train()(torch.randn(shape))


def test_tensors_kept():
    """Autograd keeps what the plain normalisation keeps, and vectors."""
    model, x = joined(nn.BatchNorm2d(32), SESpec(4), 32).train(), torch.randn(4, 32, 20, 20, requires_grad=True)
    plain = copy.deepcopy(model)
    senet.remove(plain, inplace=True)

    def maps(network):
        kept = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: kept.setdefault(t.untyped_storage().data_ptr(), t) is None or t, lambda t: t
        ):
            network(x)
        return [t for t in kept.values() if t.numel() == x.numel()]

    assert len(maps(plain)) == len(maps(model)) == 1
    with unfused():
        assert len(maps(model)) == 2


@pytest.mark.parametrize("name", ["se_resnet20", "se_resnet18", "se_mobilenet_v1"])
def test_checkpointing_autocast_compile_and_functions_of_it(name):
    model = senet.create(name, num_classes=4).train()
    x = torch.randn(2, 3, 32, 32)
    layer = next(m for m in model.modules() if isinstance(m, nn.Sequential) and len(senet.blocks(m)) > 1)
    h = torch.randn(2, next(m for m in layer.modules() if isinstance(m, nn.Conv2d)).in_channels, 16, 16)
    apart, checkpointed = copy.deepcopy(layer)[:3], copy.deepcopy(layer)  # rounding to 8 bits grows with depth
    layer(h).sum().backward()
    torch.utils.checkpoint.checkpoint(checkpointed, h, use_reentrant=False).sum().backward()
    for a, b in zip(layer.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    with torch.autocast("cpu", torch.bfloat16):
        ours = apart(h)
        with unfused():
            theirs = apart(h)
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=0.1, atol=0.1)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    with unfused():
        torch.testing.assert_close(compiled(x), copy.deepcopy(model)(x), rtol=1e-4, atol=1e-4)


def test_a_training_of_both_ways():
    """Fifty steps of the CIFAR network: the same losses within what rounding makes of them."""
    torch.manual_seed(0)
    networks = [senet.create("se_resnet20", num_classes=10).double().train()]
    networks.append(copy.deepcopy(networks[0]))
    optimisers = [torch.optim.SGD(n.parameters(), 0.05, momentum=0.9) for n in networks]
    x, y = torch.randn(100, 3, 8, 8, dtype=torch.float64), torch.randint(10, (100,))
    for step in range(50):
        part = slice(step % 10 * 10, step % 10 * 10 + 10)
        losses = []
        for network, optimiser in zip(networks, optimisers, strict=True):
            optimiser.zero_grad()
            if network is networks[1]:
                with unfused():
                    loss = nn.functional.cross_entropy(network(x[part]), y[part])
            else:
                loss = nn.functional.cross_entropy(network(x[part]), y[part])
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-6), step


def test_other_kinds_of_pass_and_a_machine_without_a_compiler(monkeypatch, caplog):
    model, x = joined(nn.BatchNorm2d(8), SESpec(4), 8).train(), torch.randn(2, 8, 4, 4)
    expected = model(x)
    monkeypatch.setenv(library.OFF, "0")
    library.library.cache_clear()
    try:
        assert isinstance(choose.passes_for(x), TorchPasses)
        torch.testing.assert_close(model(x), expected)
        monkeypatch.delenv(library.OFF)
        library.library.cache_clear()
        monkeypatch.setattr(library.shutil, "which", lambda _: None)
        with caplog.at_level("INFO", logger="senet"):
            assert library.library() is library.library() is None
        assert [r.message for r in caplog.records] == [
            "no C compiler here: normalisation and SE share a pass in PyTorch's operations, which is slower"
        ]
    finally:
        library.library.cache_clear()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_passes_in_c(case):
    found = library.library()
    if found is None:
        pytest.skip("there is no C compiler here")
    check_passes(case, NativePasses(found))


def test_a_rectified_nan_stays_one():
    v = torch.tensor([[[float("nan"), -1.0, 2.0]]])
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    for ways in filter(None, (TorchPasses(), library.library() and NativePasses(library.library()))):
        assert ways.affine(v, zero, one, zero, relu=True).isnan().tolist() == [[[True, False, False]]]


def test_small_tensors_take_the_straightforward_path(monkeypatch):
    monkeypatch.setattr(switch, "_any_size", ContextVar("nothing asks for small ones", default=False))
    model = joined(nn.BatchNorm2d(16), SESpec(), 16).train()
    assert watched(model, torch.randn(7, 16, 32, 32))[1] == 0
    assert watched(model, torch.randn(8, 16, 32, 32))[1] == 1
