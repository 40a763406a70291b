"""Copies of networks whose forwards are wrapped: they share closures with the original, and run their own SE once."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import senet
from senet.insertion import inserted
from tests.insertion.staying.test_record import quiet


def wrap(module):
    """As many tools do: what was there is kept in the closure alone."""
    old = module.forward
    module.forward = lambda *args, **kwargs: old(*args, **kwargs)
    return old


def change(net):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.5)


COPIES = {"deepcopy": copy.deepcopy, "of a copy": lambda net: copy.deepcopy(copy.deepcopy(net))}
ENGINES = {
    "eager": lambda net, x: net,
    "compile": lambda net, x: torch.compile(net, fullgraph=True, backend="eager"),
    "export": lambda net, x: torch.export.export(net, (x,)).module(),
}


@pytest.mark.parametrize(
    ("how", "wrappers", "engine"),
    [*((how, n, "eager") for how in COPIES for n in (1, 2)), ("deepcopy", 2, "compile"), ("deepcopy", 1, "export")],
)
def test_a_copy_of_a_wrapped_network(net, x, how, wrappers, engine):
    expected = net(x)
    for _ in range(wrappers):
        wrap(net[0].bn)
    other = COPIES[how](net)
    wrap(other[0].bn)
    change(net)  # what the closure holds is the original's, and its weights are not the copy's
    torch.testing.assert_close(quiet(ENGINES[engine](other, x), x), expected)
    assert not torch.allclose(net(x), expected)


def test_taking_the_wrapper_off(net, x):
    expected = net(x)
    first = wrap(net[0].bn)
    other = copy.deepcopy(net)
    net[0].bn.forward = first
    torch.testing.assert_close(quiet(other, x), expected)
    torch.testing.assert_close(quiet(net, x), expected)
    other[0].bn.forward = first  # of the original, as a tool has it that keeps forwards by name
    change(net)
    torch.testing.assert_close(quiet(other, x), expected)
    torch.testing.assert_close(senet.remove(senet.insert(senet.remove(other), x))(x), senet.remove(other)(x))


def test_a_student_may_call_its_teacher(net, x):
    student = copy.deepcopy(net)
    old, teacher = student[0].bn.forward, net[0].bn
    student[0].bn.forward = lambda u: old(u) + teacher(u)
    plain = senet.remove(net)[0].bn(x)
    se = teacher.se
    torch.testing.assert_close(student[0].bn(x), se(plain + se(plain)))


class Closed(nn.Module):
    """Calls the module that it replaced, which only a closure holds."""

    def __init__(self, inner):
        super().__init__()
        self.call = lambda x: inner(x)

    def forward(self, x):
        return self.call(x)


def test_a_copy_of_a_wrapper_that_hides_the_host(net, x):
    expected, plain = net(x), senet.remove(net)
    net[0].bn = Closed(net[0].bn)
    other = copy.deepcopy(copy.deepcopy(net))
    for each in (net, other):
        torch.testing.assert_close(quiet(each, x), expected)
    for refused in (lambda: senet.remove(net), lambda: senet.remove(other, inplace=True)):
        with pytest.raises(senet.InsertionError, match=r"0\.bn calls the module that it replaced through a closure"):
            refused()
    assert list(inserted(other)) == ["0.bn", "1.bn"]
    torch.testing.assert_close(senet.remove(net, inplace=True)(x), plain(x))
