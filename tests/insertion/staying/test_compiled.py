"""A compiled network tells what is lost when it is traced, and it is traced again when SE is lost after that."""

from __future__ import annotations

import copy
import io
import warnings
from contextlib import ExitStack

import pytest
import torch

import senet
from senet.running import uncompiled
from tests.insertion.staying.test_record import LOSSES, quiet


def wrapped(net):
    return torch.compile(net, fullgraph=True, backend="eager")


def in_place(net):
    net.compile(fullgraph=True, backend="eager")
    return net


@pytest.fixture(autouse=True)
def _fresh():
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("when", "how", "lose"),
    [("before", wrapped, LOSSES[0]), ("after", in_place, LOSSES[1]), *(("after", wrapped, lose) for lose in LOSSES)],
)
def test_told_once(net, x, lose, how, when):
    plain = copy.deepcopy(net)
    if when == "after":
        compiled = how(net)
        quiet(compiled, x)
        lose(net)
    else:
        lose(net)
        compiled = how(net)
    with pytest.warns(senet.SEWarning, match=r"0\.bn") as told:
        lost = compiled(x)
    assert [each.filename for each in told if each.category is senet.SEWarning] == [__file__]
    torch.testing.assert_close(quiet(compiled, x), lost)
    assert not torch.allclose(lost, plain(x))


def test_a_copy_and_a_pickle_tell_by_themselves(net, x):
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(net), torch.load(buffer, weights_only=False)):
        compiled = wrapped(other)
        quiet(compiled, x)
        LOSSES[0](other)
        with pytest.warns(senet.SEWarning, match=r"0\.bn"):
            compiled(x)
    quiet(wrapped(net), x)


def test_an_error_where_that_is_asked_for(net, x):
    LOSSES[0](net)
    with warnings.catch_warnings():
        warnings.simplefilter("error", senet.SEWarning)
        with pytest.raises(Exception, match="SEWarning: inserted SE is lost"):
            wrapped(net)(x)


def test_export_tells_as_well(net, x):
    LOSSES[0](net)
    with pytest.warns(senet.SEWarning, match=r"0\.bn"):
        torch.export.export(net, (x,))


def test_one_compilation_serves_all_copies(net, x):
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    call = torch.compile(lambda net, x: net(x), backend=counter, fullgraph=True)
    for _ in range(10):
        call(copy.deepcopy(net), x)
    assert counter.frame_count == 1


@pytest.mark.filterwarnings("ignore:Using .torch.compile.module")  # PyTorch's counter of operations has global hooks
def test_a_network_compiled_before_is_checked_and_counted(net, x):
    compiled = wrapped(net)
    quiet(compiled, x)
    found = senet.check(compiled, x)
    assert found.runs == found.there
    assert senet.cost(compiled, x).multiply_adds == senet.cost(net, x).multiply_adds


def test_threads_leave_what_runs_uncompiled_in_any_order():
    compiled, zero = torch.compile(lambda x: x + int(torch.compiler.is_compiling()), backend="eager"), torch.zeros(1)
    first, second = ExitStack(), ExitStack()
    assert compiled(zero) == 1
    for each in (first, second):
        each.enter_context(uncompiled())
    first.close()
    assert compiled(zero) == 0
    second.close()
    assert compiled(zero) == 1
