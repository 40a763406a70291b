"""Advice by a made clock: SE costs what the test says, so that the right proposal is known."""

import json
import re
import shlex

import pytest
import torch
from torch import nn

import senet
from senet import cli
from senet.bench import Placed, Ratio, advise
from senet.bench.advice import patterns
from senet.bench.timing import Effort
from senet.extras import how_to_install


class Unit(nn.Module):
    def __init__(self, channels, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.bn3 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Conv2d(channels, channels, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        u = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(torch.relu(self.conv1(x)))))))
        return torch.relu(u + self.shortcut(x))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.layer1 = nn.Sequential(Unit(32), Unit(32))
        self.layer2 = nn.Sequential(Unit(32, 2), Unit(32), Unit(32))

    def forward(self, x):
        return self.layer2(self.layer1(self.stem(x))).mean((2, 3))


EXAMPLE = torch.zeros(1, 3, 16, 16)


@pytest.fixture
def clock(monkeypatch):
    """A clock by which a block costs so much, by the first part of its name; `clock["inner"]`: times that, inside."""
    costs = {"layer1": 0.03, "layer2": 0.01, "inner": 1.0}

    def seconds(network):
        return 1 + sum(
            costs[name.split(".")[0]] * (costs["inner"] if ".conv3" in name else 1) for name in senet.blocks(network)
        )

    monkeypatch.setattr("senet.bench.advising.inference", lambda engine, form, x: form)
    monkeypatch.setattr("senet.bench.advising.optimized", lambda network, example: network)
    monkeypatch.setattr("senet.bench.advising.folded", lambda network, example: network)
    monkeypatch.setattr(
        "senet.bench.advising.in_turn", lambda runs, effort: {name: [seconds(run)] * 7 for name, run in runs.items()}
    )
    return costs


def ask(**options):
    return advise(Network(), EXAMPLE, progress=False, **options)


def test_all_sites_where_all_fit(clock):
    found = ask(budget=1.2)
    assert found.where == ["layer1.0.bn3", "layer1.1.bn3", "layer2.0.bn3", "layer2.1.bn3", "layer2.2.bn3"]
    assert found.proposal.ratio.value == pytest.approx(1.09)
    assert found.spec == senet.SESpec(16, placement="standard")
    assert found.command == (
        "senet insert --model Network --placement standard --reduction-ratio 16 --out se.safetensors"
    )
    assert "--model Network --weights net.pth --placement" in ask(budget=1.2, flags=("--weights", "net.pth")).command
    assert [(each.placement, each.what) for each in found.measured] == [
        ("standard", "all stages"),
        ("inner", "all stages"),
        ("standard", "stage 0"),
        ("standard", "stage 1"),
        ("inner", "stage 0"),
        ("inner", "stage 1"),
    ]
    assert {each.parameters for each in found.measured if each.what == "stage 0"} == {2 * 2 * 32 * 2}


def test_the_stage_with_the_most_sites_for_its_time(clock):
    found = ask(budget=1.035)
    assert found.where == ["layer2.0.bn3", "layer2.1.bn3", "layer2.2.bn3"]
    assert found.proposal.what == "stage 1"
    assert found.command.split("--where ")[1] == "'layer2.*' --out se.safetensors"
    again = senet.insert(Network(), EXAMPLE, found.spec, where=found.where)
    assert list(senet.blocks(again)) == [f"{name}.se" for name in found.where]


def test_a_stage_that_fits_in_part_is_filled_from_its_end(clock):
    assert ask(budget=1.025).where == ["layer2.1.bn3", "layer2.2.bn3"]
    assert ask(budget=1.065).where == ["layer1.1.bn3", "layer2.0.bn3", "layer2.1.bn3", "layer2.2.bn3"]


def test_another_placement_where_more_of_its_sites_fit(clock):
    clock["inner"] = 0.5
    found = ask(budget=1.05)
    assert found.spec.placement == "inner"
    assert len(found.where) == 5
    assert found.proposal.ratio.value == pytest.approx(1.045)
    assert ask(budget=1.2).spec.placement == "standard"  # of two with as many sites the first
    for placements in ("inner", iter(["inner"])):
        assert ask(budget=1.2, placements=placements).spec.placement == "inner"


def test_a_proposal_that_costs_more_than_its_parts_gets_smaller(clock, monkeypatch):
    def dearer(runs, effort):
        cost = {name: [1.0 if name == "plain" else 1.01] * 7 for name in runs}
        if len(runs) == 2:  # a proposal
            cost["0"] = [next(wholes)] * 7
        return cost

    wholes = iter([1.2, 1.2, 1.01])  # at r = 16, at 32, with fewer sites
    monkeypatch.setattr("senet.bench.advising.in_turn", dearer)
    found = ask(budget=1.02)
    assert [(len(each.sites), each.reduction_ratio) for each in found.tried[:3]] == [(5, 16), (5, 32), (1, 16)]
    assert found.proposal is found.tried[-1]
    assert found.proposal.ratio.value == 1.01


def test_it_runs_on_the_processor_in_float32_whatever_it_was(clock, monkeypatch):
    class Elsewhere(Network):
        def cpu(self):
            self.taken = True
            return super().cpu()

    def inference(engine, form, x):
        assert {each.dtype for each in form.parameters()} == {x.dtype} == {torch.float32}
        assert form.taken
        return form

    monkeypatch.setattr("senet.bench.advising.inference", inference)
    assert advise(Elsewhere().bfloat16(), EXAMPLE.bfloat16(), budget=1.2, progress=False).proposal is not None


def test_where_nothing_fits_it_is_said(clock):
    found = ask(budget=1.001)
    assert found.proposal is None
    assert found.where is None
    assert found.spec is None
    assert "Nothing that was tried keeps within 1.001 times the time without SE." in str(found)


def test_an_interval_beyond_the_budget_is_said(clock, monkeypatch):
    monkeypatch.setattr("senet.bench.rows.median_interval", lambda values: (1.0, 1.3))
    assert "its interval reaches to 1.300: a longer measurement may say otherwise" in str(ask(budget=1.2))


def test_a_network_that_has_se_gets_no_command_that_would_fail(clock):
    found = advise(senet.insert(Network(), EXAMPLE), EXAMPLE, budget=1.2, progress=False)
    assert found.command == ""
    assert "Put it in" not in str(found)
    assert "The network has SE already" in str(found)
    again = senet.insert(senet.remove(Network(), everything=True), EXAMPLE, found.spec, where=found.where)
    assert len(senet.blocks(again)) == 5


def test_accuracies_of_an_ablation_stand_beside(clock, tmp_path):
    def cell(stages, placement="standard", mean=0.5, sites=5, **se):
        spec = senet.SESpec(placement=placement, **se).to_json()
        return {"se": spec, "stages": stages, "mean": mean, "sites": sites}

    cells = {"a": cell(None, mean=0.75), "b": cell([1], mean=0.6, sites=3), "c": cell([0], gate="tanh", mean=0.1)}
    cells["plain"] = {"se": None, "stages": None, "mean": 0.4}
    cells["bias"] = cell(None, bias=True, mean=0.1)
    cells["at some sites"] = cell(None, "inner", mean=0.9, sites=2)
    cells["eca"] = {"se": {"make": {"name": "eca"}, "placement": "standard"}, "stages": None, "mean": 0.1}
    (tmp_path / "result.json").write_text(json.dumps({"cells": cells}))
    found = ask(budget=1.035, ablation=tmp_path, out=tmp_path / "advice")
    accuracies = {(each.placement, each.what): each.accuracy for each in found.measured}
    assert accuracies["standard", "all stages"] == 0.75
    assert accuracies["standard", "stage 1"] == 0.6
    assert accuracies["standard", "stage 0"] is None  # another gate was trained there
    assert accuracies["inner", "all stages"] is None
    assert found.proposal.accuracy == 0.6
    assert "60.00%" in str(found)
    kept = json.loads((tmp_path / "advice" / "advice.json").read_text())
    assert kept["proposal"]["sites"] == found.where
    assert kept["budget"] == 1.035


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "opnvino"}, "there is no engine 'opnvino'; did you mean 'openvino'"),
        ({"batch_size": -1}, "batch_size is a whole number of at least 1, not -1"),
        ({"budget": 0.98}, "the budget is the time with SE over the time without, such as 1.02, not 0.98"),
        ({"budget": float("nan")}, "the budget is the time with SE"),
        ({"placements": []}, "name one placement at least, of standard"),
        ({"placements": ["outer"]}, "placement is one of .*, not 'outer'"),
        ({"ablation": "nowhere"}, "nowhere holds no finished ablation"),
    ],
)
def test_what_cannot_be_asked(options, message):
    with pytest.raises(ValueError, match=message):
        ask(**options)


def test_a_network_without_a_place_and_an_example_that_is_none():
    with pytest.raises(senet.InsertionError, match="no place"):
        advise(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.zeros(1, 3, 2, 2), progress=False)
    with pytest.raises(ValueError, match="takes one picture"):
        advise(Network(), torch.zeros(2, 3, 16, 16), progress=False)


def test_an_engine_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = rf"ncnn: not installed: ncnn, pnnx \(the extra 'devices'\): {re.escape(how_to_install('devices'))}"
    with pytest.raises(ValueError, match=message):
        ask(engine="ncnn")


def test_patterns_name_the_chosen_and_no_others():
    known = ["a.0.x", "a.1.x", "b.0.x", "b.1.x", "b.10.x", "c"]
    assert patterns(known, known) == []
    assert patterns(["b.0.x", "b.1.x", "b.10.x"], known) == ["b.*"]
    assert patterns(["a.0.x", "a.1.x", "b.1.x", "c"], known) == ["a.*", "b.1.*", "c"]
    assert patterns(["c"], ["c", "c.x"]) == ["c"]
    assert patterns(["c", "c.x"], ["c", "c.x", "d"]) == ["c", "c.*"]


def test_the_command_for_real(monkeypatch, tmp_path, capsys):
    """In PyTorch itself, in no time: what is proposed can be put in by the command that is printed."""
    effort = Effort(least=2, most=2, seconds=0, warm_up=0)
    monkeypatch.setattr("senet.bench.advising.QUICK", effort)
    monkeypatch.setattr("senet.bench.timing._LEAST_S", 0)
    monkeypatch.setattr("senet.bench.advising.folded", lambda network, example: network.eval())  # an export saved
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\nfrom tests.bench.test_advise import Network\n\ndef make():\n"
        "    return Network()\n"
    )
    words = "advise --model net.py:make --size 16 --budget 1000 --quick --out advice"
    assert cli.main(words.split()) == 0
    shown = capsys.readouterr().out
    assert "Within 1000: SE at 5 sites (all stages, placement standard, r = 16" in " ".join(shown.split())
    command = shlex.split(json.loads((tmp_path / "advice" / "advice.json").read_text())["command"])
    assert command[:6] == "senet insert --model net.py:make --size 16".split()
    assert cli.main(command[1:]) == 0
    assert (tmp_path / "se.safetensors").exists()


def test_a_cost_below_nothing_is_nothing():
    placed = Placed("stage 1", "standard", ("a", "b"), 16, "optimized", 10, Ratio(0.99, 0.97, 1.01))
    assert (placed.cost, placed.site_cost, placed.tells_sites_apart) == (0, 0, False)
    placed = Placed("stage 1", "standard", ("a", "b"), 16, "optimized", 10, Ratio(1.1, 1.09, 1.11))
    assert placed.tells_sites_apart
