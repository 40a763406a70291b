"""A network tells when the SE that was put into it is lost; `check` says what is left, `rejoin` joins it again."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import torch
from torch import nn

import senet
from senet.insertion import attach, inserted
from senet.insertion.staying.joined import ENDS_IN
from senet.insertion.staying.record import Record
from tests.insertion.staying.test_staying import Block, Detector, randomise


def quiet(net, x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return net(x)


def by_modules(net):
    net[0]._modules["bn"] = copy.deepcopy(senet.remove(net)[0].bn)


def by_delattr(net):
    bn = copy.deepcopy(senet.remove(net)[0].bn)
    del net[0].bn
    net[0].bn = bn


def by_rebuilding(net):
    net[0] = copy.deepcopy(senet.remove(net)[0])


def by_class(net):
    net[0].bn.__class__ = nn.BatchNorm2d


LOSSES = [by_modules, by_delattr, by_rebuilding, by_class]


@pytest.mark.parametrize("lose", LOSSES)
def test_told_once_and_joined_again(net, x, lose):
    expected = net(x)
    lose(net)
    with pytest.warns(senet.SEWarning, match=r"0\.bn \(.*rejoin") as told:
        lost = net(x)
    assert told[0].filename == __file__
    assert not torch.allclose(lost, expected)
    torch.testing.assert_close(quiet(net, x), lost)
    found = senet.check(net)
    assert list(found.lost) == ["0.bn"]
    assert "0.bn" in repr(found)
    assert "lost" in repr(found)
    assert senet.rejoin(net) is net
    torch.testing.assert_close(quiet(net, x), expected)
    assert not senet.check(net).lost
    assert set(inserted(net)) == {"0.bn", "1.bn"}
    lose(net)
    with pytest.warns(senet.SEWarning):
        net(x)


def test_where_nothing_is_lost(net, x):
    found = senet.check(net)
    assert found.there == ("0.bn.se", "1.bn.se")
    assert found.runs is None
    assert found.idle == ()
    assert not found.lost
    assert senet.check(net, x).runs == found.there
    assert senet.rejoin(net) is net
    quiet(net, x)


def test_skipped_branches_are_no_alarm(x):
    class Early(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = randomise(Block()), randomise(Block())
            self.deep = True

        def forward(self, x):
            x = self.first(x)
            return self.second(x) if self.deep else x

    net = senet.insert(Early().eval(), x)
    net.deep = False
    quiet(net, x)
    found = senet.check(net, x)
    assert found.idle == ("second.bn.se",)
    assert "did not run" in str(found)
    assert not found.lost


def test_a_host_that_is_passed_by(net, x):
    class Short(type(net[0].bn)):
        def forward(self, x):
            return nn.BatchNorm2d.forward(self, x)

    net[0].bn.__class__ = Short
    assert senet.check(net, x).lost == {"0.bn": "passed by"}


def test_a_part_that_moved_is_not_lost(net, x):
    expected = net(x)
    net[0] = nn.Sequential(net[0])
    torch.testing.assert_close(quiet(net, x), expected)
    assert senet.check(net).there == ("0.0.bn.se", "1.bn.se")


def test_what_is_taken_out_is_not_missed(net, x):
    senet.remove(net[0], inplace=True)
    quiet(net, x)
    assert not senet.check(net).lost
    senet.remove(net, inplace=True)
    assert not net._forward_pre_hooks
    assert not [key for key in net.__dict__ if "senet" in key]


def test_what_was_lost_is_not_missed_when_all_is_taken_out(net, x, tmp_path):
    """`rejoin` says to do so where it cannot help; what was lost was then reported for ever."""
    plain = senet.remove(net)
    by_rebuilding(net)
    removed = senet.remove(net)
    assert not removed._forward_pre_hooks
    torch.testing.assert_close(quiet(removed, x), plain(x))
    again = quiet(lambda net: senet.insert(net, x, senet.SESpec(2), where="1.bn"), removed)
    assert not senet.check(again).lost
    senet.save(again, tmp_path / "net.safetensors")
    assert not senet.check(senet.load(tmp_path / "net.safetensors", net)).lost


def test_of_a_network_whose_inserted_se_is_all_lost_its_own_stays(x):
    net = senet.insert(nn.Sequential(Block(), senet.SEBlock(8, 2)).eval(), x)
    by_rebuilding(net)
    assert list(senet.blocks(senet.remove(net))) == ["1"]


@pytest.mark.parametrize("own", [False, True])
def test_a_sequence_with_a_forward_of_its_own_does_not_stand_for_its_last_module(own):
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU()))
    ((site, spec),) = inserted(senet.insert(net, torch.randn(1, 3, 4, 4), where="1.1")).values()
    if own:
        net[1].forward = lambda x: x
    attach(net, site, spec)
    assert (ENDS_IN in vars(net[1])) != own


def test_the_unit_around_takes_what_has_no_place(x):
    net = senet.insert(randomise(Detector()).eval(), x, senet.SESpec(2, start="paper"))
    assert list(inserted(net)) == ["unit.bn"]
    expected = net(x)
    net.unit.fuse()
    with pytest.warns(senet.SEWarning, match=r"unit\.bn \(gone\)"):
        net(x)
    senet.rejoin(net)
    torch.testing.assert_close(quiet(net, x), expected)
    assert list(inserted(net)) == ["unit"]
    torch.testing.assert_close(senet.remove(net)(x), net.unit.conv(x) + x)


def test_what_cannot_be_joined_again(net, x):
    expected = net(x)
    net[0]._modules["bn"] = nn.Softmax(1)
    del net[1].bn
    net[1].forward = lambda x: x
    with pytest.raises(senet.InsertionError, match=r"0\.bn \(replaced by a Softmax\), 1\.bn \(gone\)"):
        senet.rejoin(net)
    assert not torch.allclose(expected, net[0].conv(x))
    assert list(senet.check(net).lost) == ["0.bn", "1.bn"]


class Stemmed(nn.Module):
    """The shortcut is given to the convolution alone."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(8, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)

    def forward(self, x):
        x = self.stem(x).relu()
        return x + self.bn(self.conv(x))


@pytest.mark.parametrize(("placement", "what"), [("pre", "replaced by a Conv2d"), ("identity", "without its shortcut")])
def test_other_placements(x, placement, what):
    net = senet.insert(randomise(Stemmed()).eval(), x, senet.SESpec(2, start="paper", placement=placement))
    expected = net(x)
    net._modules["conv"] = copy.deepcopy(senet.remove(net).conv)
    with pytest.warns(senet.SEWarning, match=what):
        senet.blocks(net)
    senet.rejoin(net)
    torch.testing.assert_close(quiet(net, x), expected)


class Hidden(nn.Module):
    """Calls the module that it replaced, which is no child of it."""

    def __init__(self, inner):
        super().__init__()
        self.__dict__["inner"] = inner

    def forward(self, x):
        return self.inner(x)


@pytest.mark.parametrize("how", ["eager", "compile", "deepcopy", "export"])
def test_a_wrapper_that_hides_the_host_applies_se_once(net, x, how):
    expected, plain = net(x), senet.remove(net)(x)
    net[0].bn = Hidden(net[0].bn)
    if how == "compile":
        net = torch.compile(net, fullgraph=True, backend="aot_eager")
    elif how == "export":
        net = torch.export.export(net, (x,)).module()
    elif how == "deepcopy":
        net = copy.deepcopy(net)
    torch.testing.assert_close(quiet(net, x), expected)
    if how in ("eager", "deepcopy"):
        torch.testing.assert_close(senet.remove(net)(x), plain)


def test_a_wrapper_that_shows_the_host_later(net, x):
    expected, plain = net(x), senet.remove(net)(x)
    old = net[0].bn
    net[0].bn = Hidden(old)
    net[0].bn.shown = old
    torch.testing.assert_close(quiet(net, x), expected)
    assert list(inserted(net)) == ["0.bn", "1.bn"]
    torch.testing.assert_close(senet.remove(net)(x), plain)
    assert not senet.blocks(senet.remove(net))


def test_keys_and_networks_are_as_without_a_record(net, x):
    assert [key for key in net.state_dict() if "record" in key] == []
    assert not [name for name, _ in net.named_modules() if "record" in name]
    for other in (copy.deepcopy(net), copy.copy(net)):
        torch.testing.assert_close(quiet(other, x), net(x))
    other = copy.deepcopy(net)
    by_modules(other)
    quiet(net, x)
    with pytest.warns(senet.SEWarning):
        other(x)
    assert other[0].bn is not net[0].bn
    senet.rejoin(other)
    assert other[0].bn.se is not net[0].bn.se


def test_pickles_keep_the_record(net, x):
    by_modules(net)
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    other = torch.load(buffer, weights_only=False)
    with pytest.warns(senet.SEWarning):
        other(x)
    senet.rejoin(other)
    torch.testing.assert_close(other(x), senet.rejoin(net)(x))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_what_takes_networks_apart(net, x):
    expected = net(x)
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="aot_eager")(x), expected)
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), expected)
    torch.testing.assert_close(torch.jit.trace(net, x)(x), expected)
    replica = net._replicate_for_data_parallel()
    replica._modules = {name: copy.deepcopy(module) for name, module in net._modules.items()}
    torch.testing.assert_close(quiet(replica, x), expected)
    assert senet.insertion.staying.record._record(net)._seen is None  # which would keep the replica's weights
    larger = nn.Sequential(net, nn.ReLU())
    quiet(larger, x)
    by_modules(net)
    with pytest.warns(senet.SEWarning, match=r" 0\.bn"):
        larger(x)
    assert list(senet.check(larger).lost) == ["0.0.bn"]
    senet.rejoin(larger)
    torch.testing.assert_close(larger(x), expected.relu())


VERBS = {
    "blocks": lambda net, x, _: senet.blocks(net),
    "save": lambda net, x, path: senet.save(net, path / "net.safetensors"),
    "export": lambda net, x, path: senet.export(net, x, path / "net.pt2"),
    "optimize": lambda net, x, _: senet.optimize(net, x),
    "cost": lambda net, x, _: senet.cost(net, x),
    "forward": lambda net, x, _: net(x),
}


@pytest.mark.parametrize("verb", VERBS)
def test_who_tells(net, x, verb, tmp_path):
    by_modules(net)
    with pytest.warns(senet.SEWarning, match=r"0\.bn") as told:
        VERBS[verb](net, x, tmp_path)
    assert len([each for each in told if each.category is senet.SEWarning]) == 1
    assert told[0].filename == __file__


def test_a_root_that_is_the_host(x):
    class Unit(nn.BatchNorm2d):
        pass

    unit = randomise(Unit(8)).eval()
    site = senet.Site("", 8, 0, "plain", "given by hand")
    senet.insertion.attach(unit, site, senet.SESpec(2, start="paper"))
    expected = quiet(unit, x)
    unit.__class__ = Unit
    with pytest.warns(senet.SEWarning, match="the network itself"):
        unit(x)
    torch.testing.assert_close(senet.rejoin(unit)(x), expected)


def test_a_part_that_moved_is_looked_at_where_it_is(net, x):
    expected = net(x)
    net[0] = nn.Sequential(nn.Sequential(net[0]))
    quiet(net, x)
    net[0][0][0]._modules["bn"] = nn.BatchNorm2d(8).eval()
    with pytest.warns(senet.SEWarning, match=r" 0\.0\.0\.bn \(replaced"):
        net(x)
    net[0][0][0]._modules["bn"] = copy.deepcopy(senet.remove(net)[1].bn)
    senet.rejoin(net)
    assert set(inserted(net)) == {"0.0.0.bn", "1.bn"}
    assert net(x).shape == expected.shape


def test_a_host_with_two_names(x):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = randomise(Block()), randomise(Block())
            self.second.bn = self.first.bn

        def forward(self, x):
            return self.second(self.first(x))

    net = senet.insert(Shared().eval(), x, senet.SESpec(2, start="paper"))
    expected, plain = net(x), senet.remove(net)
    net.second._modules["bn"] = copy.deepcopy(plain.second.bn)
    with pytest.warns(senet.SEWarning, match=r"second\.bn \(replaced"):
        net(x)
    assert list(senet.check(net).lost) == ["second.bn"]
    senet.rejoin(net)
    torch.testing.assert_close(quiet(net, x), expected)
    torch.testing.assert_close(senet.remove(net)(x), plain(x))


def test_the_look_is_nothing_where_nothing_changed(net, x, monkeypatch):
    quiet(net, x)
    with monkeypatch.context() as patch:
        patch.setattr(Record, "compare", lambda *_: pytest.fail("it compares what did not change"))
        for _ in range(3):
            net(x)
            nn.Sequential(net)(x)
            net.train()(x)
    with monkeypatch.context() as patch:
        patch.setattr(Record, "unchanged", lambda *_: pytest.fail("it looks while a compiler traces"))
        net.eval()
        torch.compile(net, fullgraph=True, backend="eager")(x)
        torch.export.export(net, (x,))
    steps = net.__dict__["_senet_record"]._seen
    assert len(steps) == 4, "the two blocks and their two hosts"


def test_parts_that_change_their_places(net, x):
    net[0], net[1] = net[1], net[0]
    quiet(net, x)
    net.insert(0, nn.Identity())
    quiet(net, x)
    assert set(inserted(net)) == {"1.bn", "2.bn"}
    assert not senet.check(net).lost
    del net[1]
    with pytest.warns(senet.SEWarning, match=r"2\.bn \(gone\)|1\.bn \(replaced"):
        net(x)
    found = senet.check(net)
    assert found.there == ("1.bn.se",)
    assert len(found.lost) == 1
