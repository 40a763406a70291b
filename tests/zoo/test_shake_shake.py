import pytest
import torch

from senet.zoo import create
from senet.zoo.networks.shake_shake import Shake, ShakeBlock, ShakeShake, ShiftedShortcut


def test_mixture_is_the_mean_in_eval_mode():
    a, b = torch.randn(2, 3, 4, 5, 5)
    assert torch.equal(Shake().eval()(a, b), (a + b) / 2)


def test_mixture_is_random_for_each_picture_and_again_for_its_gradients():
    shake = Shake()
    a, b = torch.ones(512, 2, 3, 3, requires_grad=True), torch.zeros(512, 2, 3, 3, requires_grad=True)
    mixed = shake(a, b)
    alpha = mixed.detach()
    assert torch.equal(alpha, alpha[:, :1, :1, :1].expand_as(alpha))  # one number for each picture
    assert 0 <= alpha.min() < 0.05
    assert 0.95 < alpha.max() <= 1
    assert alpha[:, 0, 0, 0].mean().item() == pytest.approx(0.5, abs=0.05)
    mixed.sum().backward()
    beta = a.grad
    assert torch.allclose(beta + b.grad, torch.ones(()))
    assert torch.equal(beta, beta[:, :1, :1, :1].expand_as(beta))
    both = torch.stack([alpha[:, 0, 0, 0], beta[:, 0, 0, 0]])
    assert both.corrcoef()[0, 1].abs() < 0.15  # drawn anew
    assert both.std(1).min() > 0.25  # 1/√12 = 0.29: uniform


def test_mixture_of_others():
    torch.manual_seed(1)
    a, b = torch.randn(2, 6, 4, 5, 5)
    mixed = Shake()(a, b)
    alpha = ((mixed - b) / (a - b))[:, 0, 0, 0]
    expected = alpha[:, None, None, None] * a + (1 - alpha[:, None, None, None]) * b
    torch.testing.assert_close(mixed, expected, rtol=1e-3, atol=1e-4)


def test_shortcut_against_two_paths():
    """As the author wrote it: every second pixel, and every second pixel of the map shifted, each with its own 1×1."""
    shortcut = ShiftedShortcut(4, 6, 2).eval()
    x = torch.randn(2, 4, 6, 6)
    first, second = shortcut.conv.weight[:, :, 0, 0].split(3)
    activated = x.relu()
    shifted = torch.zeros_like(activated)
    shifted[:, :, 1:, 1:] = activated[:, :, :-1, :-1]
    paths = [torch.einsum("oc,nchw->nohw", w, m[:, :, ::2, ::2]) for w, m in ((first, activated), (second, shifted))]
    torch.testing.assert_close(shortcut(x), shortcut.bn(torch.cat(paths, 1)))


def test_block_adds_the_mixture_to_the_shortcut():
    block = ShakeBlock(4, 4, 1).eval()
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(block(x), x + (block.branch1(x) + block.branch2(x)) / 2)


def test_parameters_against_the_paper():
    """26.2 M for 2×96d (table 1 of its paper), and layer by layer."""
    with torch.device("meta"):
        model = create("shake_shake26_2x96d", num_classes=10)

    def block(inputs, outputs):
        branch = 9 * inputs * outputs + 9 * outputs**2 + 4 * outputs
        return 2 * branch + (inputs * outputs + 2 * outputs if inputs != outputs else 0)

    widths = ((16, 96), (96, 192), (192, 384))
    expected = 27 * 16 + 32 + sum(block(i, o) + 3 * block(o, o) for i, o in widths) + 384 * 10 + 10
    found = sum(p.numel() for p in model.parameters())
    assert found == expected
    assert round(found / 1e6, 1) == 26.2


@pytest.mark.parametrize(
    ("depth", "width", "message"),
    [
        (27, 96, r"depth is 6n \+ 2 \(26, .*not 27"),
        (2, 96, r"depth is 6n \+ 2"),
        (26, 95, "width is an even number of channels, such as 96, not 95"),
        (26, 0, "width is a whole number of at least 1, not 0"),
    ],
)
def test_bad_arguments(depth, width, message):
    with pytest.raises(ValueError, match=message):
        ShakeShake(depth, width)
