"""A state dict from a person's own loop goes wherever weights go; a saved network of their own names the command."""

import dataclasses
import logging

import pytest
import torch
from safetensors.torch import save_file

import senet
from senet.cli import main
from senet.errors import StudyError, WeightsError
from senet.evaluation.given import given_model
from senet.evaluation.networks import NetworkSpec, heard, make, network_of
from senet.study import compare, evaluate, explain, predict

HOW = {"devices": "cpu", "progress": False, "workers": 0}
EXAMPLE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def own(tiny):
    """The plain network's name, and the same with SE and values of its own."""
    model = senet.insert(senet.create(tiny, num_classes=2), EXAMPLE, senet.SESpec(2, bias=True), where="blocks.1*")
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn_like(value) * 0.3)
    return tiny, model.eval()


@pytest.mark.parametrize("kind", ["w.pth", "w.safetensors", "lightning.ckpt"])
def test_a_state_dict_is_taken_by_every_verb(own, pictures, tmp_path, kind, capsys):
    name, model = own
    file = tmp_path / kind
    state = model.state_dict()
    if kind == "w.safetensors":
        save_file(state, file)
    else:
        torch.save(
            {"state_dict": {f"model.{k}": v for k, v in state.items()}} if "ckpt" in kind else state, file
        )  # a copy
    with heard() as notes:
        network = network_of(NetworkSpec(name, str(file)), num_classes=2)
    assert torch.equal(network.eval()(EXAMPLE), model(EXAMPLE))
    assert f"1 SE block of {file} joined (standard placement), with avg squeeze and sigmoid gate" in notes[0]
    assert (", as the file says" in notes[0]) == (kind == "w.pth")
    assert ("write a file that says so (senet insert --model" in notes[0]) == (kind != "w.pth")
    found = evaluate(name, pictures, weights=file, size=16, **HOW)
    assert torch.equal(found.answers.probabilities, evaluate(model, pictures, size=16, **HOW).answers.probabilities)
    if kind == "w.pth":
        assert len(predict(name, pictures / "val/dark", weights=file, size=16, devices="cpu", progress=False).rows())
        assert [each.name for each in explain(name, pictures, weights=file, size=16, **HOW).blocks] == [
            "blocks.1.bn2.se"
        ]
        words = ["--model", name, "--weights", str(file), "--num-classes", "2", "--size", "16"]
        for verb in ("sites", "cost"):
            assert main([verb, *words]) == 0
        assert main(["insert", *words, "--out", str(tmp_path / "x.safetensors")]) == 0
        assert main(["export", *words, "--out", str(tmp_path / "x.pt2")]) == 0
        assert "Traceback" not in capsys.readouterr().err


def test_a_function_of_ones_own_is_called_once_for_each_network(own, pictures, tmp_path):
    name, model = own
    path, calls = tmp_path / "net.py", tmp_path / "calls"
    counted = f"p = pathlib.Path({str(calls)!r})\n    p.write_text(p.read_text() + '.')\n    return Tiny"
    path.write_text("import pathlib\n" + path.read_text().replace("return Tiny", counted))
    torch.save({k: v for k, v in model.state_dict().items() if ".se." not in k}, tmp_path / "plain.pth")
    torch.save(model.state_dict(), tmp_path / "se.pth")
    senet.save(model, tmp_path / "se.safetensors")
    data = ["--data", pictures, "--size", 16]
    short = [*data, "--epochs", 1, "--batch-size", 8, "--devices", "cpu"]

    def count(verb, *words):
        calls.write_text("")
        assert main([verb, "--model", name, *map(str, words)]) == 0
        return len(calls.read_text())

    for kind in ("plain.pth", "se.pth", "se.safetensors"):
        weights = ["--weights", tmp_path / kind, "--num-classes", 2]
        assert count("evaluate", *weights, *data) == count("check", *weights, "--size", 16) == 1
    made = ["--num-classes", 2, "--size", 16, "--out", tmp_path / "new.safetensors"]
    assert count("insert", "--weights", tmp_path / "plain.pth", *made) == 1
    assert count("train", *short, "--weights", tmp_path / "se.safetensors", "--out", tmp_path / "train") == 1
    assert count("compare", *short, "--seeds", 1, "--out", tmp_path / "compare") == 2
    assert (
        count("compare", *short, "--only", "se", "--seed", 2, "--out", tmp_path / "compare") == 2
    )  # plain is looked at
    only = ["--grid", "squeeze=avg", "--only", "se", "--seed", 0, "--out", tmp_path / "ablate"]
    assert count("ablate", *short, *only) == 2


@pytest.mark.parametrize("placement", ["pre", "identity"])
def test_another_placement_is_found(tiny, tmp_path, placement):
    spec = senet.SESpec(2, placement=placement)
    model = senet.insert(senet.create("resnet20", num_classes=2), EXAMPLE, spec).eval()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    network = network_of(NetworkSpec("resnet20", str(tmp_path / "w.pth"))).eval()
    assert torch.equal(network(EXAMPLE), model(EXAMPLE))


TAKEN = """
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.se = None

    def forward(self, x):
        return F.relu(x + self.conv2(F.relu(self.conv1(x))))


def build(num_classes=2):
    layers = [nn.Conv2d(3, 8, 3, padding=1), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, num_classes))
"""


def test_a_block_on_a_module_that_has_an_attribute_called_se_is_found(tmp_path):
    (tmp_path / "net.py").write_text(TAKEN)
    name = f"{tmp_path / 'net.py'}:build"
    model = senet.insert(senet.create(name), EXAMPLE, senet.SESpec(2, placement="post", start="paper")).eval()
    assert list(senet.blocks(model)) == ["1.senet_se"]
    torch.save(model.state_dict(), tmp_path / "w.pth")
    network = network_of(NetworkSpec(name, str(tmp_path / "w.pth"))).eval()
    assert torch.equal(network(EXAMPLE), model(EXAMPLE))
    with pytest.raises(WeightsError, match=r"The file has SE, the network has none: insert it first"):
        senet.zoo.load_weights(senet.create(name), tmp_path / "w.pth")


@pytest.mark.parametrize("wrap", [None, "state_dict", "module."])
def test_torch_save_keeps_the_squeeze_and_the_gate(tiny, pictures, tmp_path, wrap, capsys):
    model = senet.create(tiny, num_classes=2)
    for where, gate in (("blocks.0*", "relu"), ("blocks.1*", "tanh")):
        model = senet.insert(model, EXAMPLE, senet.SESpec(2, gate=gate, squeeze="max", start="paper"), where=where)
    state = torch.nn.DataParallel(model).state_dict() if wrap == "module." else model.state_dict()
    file = tmp_path / "w.pth"
    torch.save({"state_dict": state} if wrap == "state_dict" else state, file)
    asked = senet.SESpec(2, start="identity")  # as training from weights asks for it
    for spec in (NetworkSpec(tiny, str(file)), NetworkSpec(tiny, str(file), asked)):
        with heard() as notes:
            network = network_of(spec, num_classes=2)
        assert torch.equal(network.eval()(EXAMPLE), model.eval()(EXAMPLE))
        assert "(standard placement), with max squeeze and relu and tanh gate, as the file says" in notes[-1]
    report = senet.zoo.load_weights(senet.insert(senet.create(tiny, num_classes=2), EXAMPLE, asked), file)
    assert "blocks.0.bn2.se has avg squeeze and sigmoid gate, and the file's has max and relu, which" in str(report)
    words = ["--model", tiny, "--weights", str(file), "--size", "16"]
    assert main(["evaluate", *words, "--data", str(pictures)]) == 0
    assert main(["insert", *words, "--gate", "hard_sigmoid", "--out", str(tmp_path / "x.safetensors")]) == 2
    assert "has SE with gate='relu', and gate='hard_sigmoid' was asked for" in capsys.readouterr().err


def test_squeeze_and_gate_that_a_state_dict_does_not_say_are_those_asked_for(tiny, tmp_path, capsys):
    spec = senet.SESpec(2, gate="tanh", squeeze="max", start="paper")
    model = senet.insert(senet.create(tiny, num_classes=2), EXAMPLE, spec).eval()
    torch.save(dict(model.state_dict()), tmp_path / "w.pth")
    for asked in (spec, dataclasses.replace(spec, reduction_ratio=16)):  # the default may not have been asked for
        built = make(NetworkSpec(tiny, str(tmp_path / "w.pth"), asked), num_classes=2, size=16, seed=0)
        assert torch.equal(built.network.eval()(EXAMPLE), model(EXAMPLE))
        assert "with max squeeze and tanh gate, as asked for" in built.notes[0]
    for wrong, words in (
        ({"reduction_ratio": 8}, "reduction_ratio=2, and reduction_ratio=8"),
        ({"bias": True}, "bias"),
    ):
        with pytest.raises(WeightsError, match=f"w.pth has SE with {words}"):
            make(
                NetworkSpec(tiny, str(tmp_path / "w.pth"), dataclasses.replace(spec, **wrong)),
                num_classes=2,
                size=16,
                seed=0,
            )
    words = ["--model", tiny, "--weights", str(tmp_path / "w.pth"), "--gate", "tanh", "--squeeze", "max"]
    assert main(["insert", *words, "--out", str(tmp_path / "x.safetensors")]) == 0
    found = senet.load(tmp_path / "x.safetensors", senet.create(tiny, num_classes=2)).eval()
    assert torch.equal(found(EXAMPLE), model(EXAMPLE))


def test_weights_that_were_given_stay_in_the_command_that_is_said(own, tmp_path, capsys):
    name, model = own
    senet.save(model, tmp_path / "m.safetensors")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    words = ["--model", str(tmp_path / "m.safetensors"), "--weights", str(tmp_path / "w.pth"), "--size", "16"]
    assert main(["cost", *words]) == 2
    said = capsys.readouterr().err
    assert said.endswith(f"That is: senet cost --model {name} --weights {tmp_path / 'w.pth'} --size 16\n")
    assert main(said.partition("That is: senet ")[2].split()) == 0


def test_a_comparison_of_weights_with_se_names_them(own, pictures, tmp_path):
    name, model = own
    torch.save(model.state_dict(), tmp_path / "w.pth")
    with pytest.raises(StudyError, match=r"w\.pth holds SE already, and a comparison takes the plain network"):
        compare(name, pictures, out=tmp_path / "out", weights=tmp_path / "w.pth", size=16, **HOW)


def test_a_network_that_is_given_is_taken_to_where_se_is_tried():
    class Elsewhere(torch.nn.Sequential):
        def cpu(self):
            self.taken = True
            return super().cpu()

    network = Elsewhere(torch.nn.Conv2d(3, 2, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    name, given = given_model(network)
    assert make(NetworkSpec(name, given=given), num_classes=2, size=8, seed=0).network.taken


def test_sites_of_blocks_that_are_there_already_cannot_be_chosen(own, tmp_path):
    name, model = own
    torch.save(model.state_dict(), tmp_path / "w.pth")
    spec = NetworkSpec(name, str(tmp_path / "w.pth"), senet.SESpec(2, bias=True))
    assert len(make(spec, num_classes=2, size=16, seed=0).sites) == 1
    with pytest.raises(StudyError, match=r"w\.pth holds its blocks already: leave where \(--where\) out"):
        make(dataclasses.replace(spec, where="blocks.0*"), num_classes=2, size=16, seed=0)


def test_a_network_without_parameters_cannot_be_trained(tmp_path):
    (tmp_path / "net.py").write_text("from torch import nn\n\n\ndef make():\n    return nn.Flatten()\n")
    with pytest.raises(StudyError, match=r"net.py:make has no parameters that can be trained"):
        make(NetworkSpec(f"{tmp_path / 'net.py'}:make"), num_classes=2, size=8, seed=0)


def test_se_where_there_is_no_place(tmp_path):
    model = senet.insert(senet.create("resnet20", num_classes=2), EXAMPLE, senet.SESpec(2))
    state = {key.replace("layer1.0.bn2.se", "conv1.se"): value for key, value in model.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"has SE at conv1, .* where this CifarResNet has no place for it"):
        network_of(NetworkSpec("resnet20", str(tmp_path / "w.pth")))


def test_the_command_that_would_do_is_said(own, tmp_path, capsys):
    name, model = own
    senet.save(model, tmp_path / "m.safetensors")
    saved = str(tmp_path / "m.safetensors")
    assert main(["sites", "--model", saved, "--size", "16"]) == 2
    said = capsys.readouterr().err
    assert said.endswith(f". That is: senet sites --model {name} --size 16 --weights {saved}\n")
    assert main(said.partition("That is: senet ")[2].split()) == 0


def test_notes_are_heard_where_the_log_was_used_before():
    log = logging.getLogger("senet")
    log.info("nobody listens")
    with heard() as notes:
        log.info("a classifier starts fresh")
    assert notes == ["a classifier starts fresh"]
