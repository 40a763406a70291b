import re

import pytest
import torch
from safetensors.torch import save_file

from senet import SESpec
from senet.insertion import blocks
from senet.saving import create, load, save


def test_sites(senet):
    status, out, err = senet("sites", "--model", "resnet20")
    assert (status, err) == (0, "")
    assert out.startswith("SE can go into resnet20 in 9 places\n")
    rows = re.findall(r"^ (layer\S+) +(\d+) +(\d) +residual +(.*)$", out, re.MULTILINE)
    assert [(name, int(channels)) for name, channels, _, _ in rows] == [
        (f"layer{stage}.{block}.bn2", 8 * 2**stage) for stage in (1, 2, 3) for block in range(3)
    ]
    assert all("shortcut" in why or "input" in why for *_, why in rows)


def test_sites_where_and_placement(senet):
    status, out, _ = senet("sites", "--model", "resnet20", "--where", "layer3*", "*1.0.*", "--placement", "pre")
    assert status == 0
    assert "in 4 places" in out
    assert "layer2" not in out
    words = ("--where", "layer3*", "--where", "*1.0.*", "--placement", "pre")  # each counts
    assert senet("sites", "--model", "resnet20", *words) == (0, out, "")


@pytest.mark.parametrize(
    ("function", "shape"), [("grey", "(1, 1, 8, 8)"), ("signal", "(1, 2, 8)"), ("volume", "(1, 1, 8, 8, 8)")]
)
def test_a_network_of_ones_own(senet, nets, function, shape):
    status, out, err = senet("cost", "--model", f"{nets}:{function}", "--size", 8, "--reduction-ratio", 4)
    assert (status, err) == (0, "")
    assert f"on a float32 tensor of shape {shape}" in out
    assert re.search(r"^ bn\.se +8 +2 +32 +32 ", out, re.MULTILINE)


def test_a_volume_of_unknown_size_is_small(senet, nets):
    """At 224³ a network of usual width fills the memory."""
    status, out, _ = senet("cost", "--model", f"{nets}:volume")
    assert status == 0
    assert "on a float32 tensor of shape (1, 1, 64, 64, 64)" in out


def test_a_network_with_no_place(senet, nets):
    status, out, err = senet("sites", "--model", f"{nets}:linear", "--size", 8)
    assert (status, out) == (2, "")
    assert err.startswith("senet: error: Sequential has no place for SE")
    assert len(err.splitlines()) == 1


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_network_with_lazy_layers_is_one_line(senet, nets):
    nets.write_text(nets.read_text() + "\ndef lazy():\n    return nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU())\n")
    for verb in ("sites", "cost", "check"):
        status, out, err = senet(verb, "--model", f"{nets}:lazy")
        assert (status, out) == (2, "")
        assert err.endswith("nets.py:lazy has lazy layers without values: let its function run the network once\n")


def test_insert_proves_and_writes_what_load_reads(senet, tmp_path):
    file = tmp_path / "se.safetensors"
    words = ("--reduction-ratio", 4, "--bias", "--where", "layer3*", "--num-classes", 7, "--in-channels", 1)
    status, out, err = senet("insert", "--model", "resnet20", "--size", 8, *words, "--out", file)
    assert (status, err) == (0, "")
    assert "SE is in resnet20, in 3 places" in out
    assert "shape (1, 1, 8, 8): the same as before, bit for bit (largest difference 0)" in out
    assert "116 of 116 tensors are unchanged; 15 are new" in out
    assert str(file) in out
    network = load(file)
    assert list(blocks(network)) == [f"layer3.{block}.bn2.se" for block in range(3)]
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 7)
    assert [path.name for path in tmp_path.iterdir()] == ["se.safetensors"]


def test_a_home_that_the_shell_left_as_it_is(senet, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    status, out, err = senet("insert", "--model", "resnet20", "--size", 8, "--out=~/se.safetensors")
    assert (status, err) == (0, "")
    assert f"Written: {tmp_path}/se.safetensors (" in out
    assert len(blocks(load(tmp_path / "se.safetensors"))) == 9
    assert senet("check", "--model=~/se.safetensors", "--size", 8)[0] == 0


def test_a_state_that_no_file_holds_is_one_line(senet, nets, tmp_path):
    with nets.open("a") as file:
        file.write('\nclass Stateful(Residual):\n    def get_extra_state(self):\n        return {"a": 1}\n')
        file.write("\ndef stateful():\n    return Stateful(nn.Conv2d, nn.BatchNorm2d, 3)\n")
    words = ("--model", f"{nets}:stateful", "--size", 8, "--out", tmp_path / "se.safetensors")
    assert senet("insert", *words) == (
        2,
        "",
        "senet: error: _extra_state is a dict, not a tensor; a file of weights holds only tensors\n",
    )


def test_insert_with_random_gates_says_that_the_output_is_another(senet, tmp_path):
    file = tmp_path / "se.safetensors"
    status, out, _ = senet("insert", "--model", "resnet20", "--gate", "tanh", "--start", "paper", "--out", file)
    assert status == 0
    assert re.search(r"not the same as before \(largest difference (?!0\))", out)


def test_check(senet, nets, tmp_path):
    file = tmp_path / "se.safetensors"
    senet("insert", "--model", "resnet20", "--size", 8, "--out", file)
    status, out, err = senet("check", "--model", file, "--size", 8)
    assert (status, err) == (0, "")
    assert "9 blocks there, 9 of them ran on the example; none lost" in out
    nets.write_text(nets.read_text() + LOST)
    status, out, err = senet("check", "--model", f"{nets}:lost", "--size", 8)
    assert (status, err) == (1, "")
    assert "0 blocks there, 0 of them ran on the example; 1 lost" in out
    assert re.search(r"\n bn +lost: replaced by a BatchNorm2d\n", out)
    assert "senet.rejoin" in out


LOST = """
def lost():
    import senet

    network = senet.insert(colour(), torch.zeros(1, 3, 8, 8))
    network._modules["bn"] = nn.BatchNorm2d(8)
    return network
"""


def test_cost(senet, tmp_path):
    status, out, err = senet("cost", "--model", "resnet20", "--num-classes", 10)
    assert (status, err) == (0, "")
    added = 3 * 2 * (16 + 2 * 32 + 4 * 64)
    for words in (
        "on a float32 tensor of shape (1, 3, 32, 32)",
        "269.7 k",  # 269,722: the CIFAR ResNet-20 of He et al. with batch norm and option A
        f"{(269_722 + added) / 1000:.1f} k",
        "+0.75 %",
        "The 9 SE blocks",
    ):
        assert words in out
    assert "forward pass" not in out
    file = tmp_path / "se.safetensors"
    senet("insert", "--model", "resnet20", "--num-classes", 10, "--out", file)
    again = senet("cost", "--model", file)[1]
    assert again.partition("\n")[2] == out.partition("\n")[2]


def test_flags_of_blocks_that_are_there_already_are_not_dropped_unsaid(senet, tmp_path):
    words = ("--model", "se_resnet20", "--size", 8)
    status, out, err = senet("cost", *words)
    assert (status, err) == (0, "")
    for flag in (("--reduction-ratio", 4), ("--where", "layer3*"), ("--make", "eca")):
        assert senet("cost", *words, *flag) == (
            0,
            out,
            "se_resnet20 holds SE already, which is counted as it is: the flags of SE blocks change nothing here\n",
        )
    state = tmp_path / "state.pth"
    torch.save(create("resnet20", spec=SESpec()).state_dict(), state)
    words = ("insert", "--model", "resnet20", "--weights", state, "--size", 8, "--out", tmp_path / "se.safetensors")
    for flag in (("--make", "eca"), ("--where", "layer3*")):
        status, out, err = senet(*words, *flag)
        assert (status, out) == (2, "")
        assert "holds SE already, which keeps its sites: leave --where and --make out" in err
    assert senet(*words)[0] == 0


def test_the_plain_network_of_the_cost_has_neither_inserted_nor_built_in_se(senet, nets):
    mixed = "senet.insert(nn.Sequential(colour(), senet.SEBlock(8, 2)), torch.zeros(1, 3, 8, 8))"
    nets.write_text(f"import senet\n{nets.read_text()}\ndef mixed():\n    return {mixed}\n")
    status, out, _ = senet("cost", "--model", f"{nets}:mixed", "--size", 8)
    assert status == 0
    assert re.search(r"^ *parameters +824 +904 ", out, re.MULTILINE)  # 16 in the inserted block, 64 in the other


def test_cost_with_latency_and_a_gate_without_identity_start(senet):
    status, out, _ = senet("cost", "--model", "resnet20", "--size", 8, "--gate", "relu", "--latency")
    assert status == 0
    assert re.search(r"forward pass, measured in turn +1 +\d+\.\d\d\d ", out)


def test_the_papers_tables(senet, tmp_path):
    pytest.importorskip("torchvision", reason="torchvision is not there")
    pytest.importorskip("matplotlib", reason="matplotlib is not there")
    status, out, err = senet("cost", "--table", "--out", tmp_path / "paper.svg")
    assert (status, err) == (0, "")
    assert "Multiply-adds of the plain networks for one image of 224²" in out
    assert f"Written: {tmp_path / 'paper.svg'}" in out
    assert (tmp_path / "paper.svg").read_bytes().startswith(b"<?xml")


def test_models(senet):
    assert senet("models", "se_resnet[24]*") == (0, "se_resnet20\nse_resnet44\n", "")
    assert "resnet20" in senet("models")[1].splitlines()


def test_insert_makes_the_folder_and_writes_over_its_own_file_alone(senet, tmp_path):
    words = ("insert", "--model", "resnet20", "--size", 8, "--num-classes", 4, "--out")
    file = tmp_path / "not" / "yet" / "se.safetensors"
    assert senet(*words, file)[0] == 0
    assert senet(*words, file)[0] == 0  # as a second `make demo` does
    trained = tmp_path / "run.safetensors"
    save(load(file), trained, metadata={"classes": ["a"], "accuracy": 0.5})
    own = tmp_path / "own.safetensors"
    save(load(file), own)  # as in a loop of one's own, after training
    others = tmp_path / "others.safetensors"
    save_file({"w": torch.zeros(1)}, others)
    for each in (trained, own, others):
        before = each.read_bytes()
        status, out, err = senet(*words, each)
        assert (status, out) == (2, "")
        assert "is there already, and this command did not write it: choose another name, or add --force" in err
        assert each.read_bytes() == before
        assert senet(*words, each, "--force")[0] == 0
        assert list(blocks(load(each))) == list(blocks(load(file)))


def test_a_network_of_ones_own_goes_on_with_what_was_saved(senet, nets, tmp_path):
    """`--model nets.py:make --weights FILE` in the verbs that need no images, and the command said without it."""
    file, model = tmp_path / "se.safetensors", f"{nets}:colour"
    status, out, _ = senet("insert", "--model", model, "--size", 8, "--out", file)
    assert status == 0
    assert f"--model {model} --weights {file} makes it again" in out
    status, out, _ = senet("cost", "--model", model, "--weights", file, "--size", 8)
    assert status == 0
    assert re.search(r"^ bn\.se +8 ", out, re.MULTILINE)
    status, _, err = senet("sites", "--model", model, "--weights", file, "--size", 8)
    assert (status, "holds SE already" in err) == (2, True)
    for words in (("sites",), ("cost",), ("insert", "--out", tmp_path / "x"), ("export", "--out", tmp_path / "x.pt2")):
        status, out, err = senet(*words, "--model", file)
        assert (status, out) == (2, "")
        assert f"give --model {model} --weights {file} (in Python" in err
