import copy
import logging
import sys

import pytest
import torch
from torch import nn

import senet
from senet.block import SEBlock, SESpec
from senet.insertion import blocks, insert, inserted, remove
from senet.saving.saving import save
from senet.zoo import ModelError, WeightsError, create, list_models
from senet.zoo.names.naming import origin


@pytest.fixture(scope="module")
def se_resnet20():
    return create("se_resnet20", num_classes=10)


def se_names(model):
    return [name for name, module in model.named_modules() if isinstance(module, SEBlock)]


def test_list_models():
    names = list_models()
    assert names == sorted(names)
    assert {"resnet20", "se_resnet20", "senet154", "senet154_plain"} <= set(names)
    assert list_models("se_resne*") == ["se_" + name for name in list_models("resne*")]
    assert list_models("nothing*") == []


@pytest.mark.parametrize("name", ["resnet20", "se_resnet20"])
def test_every_zoo_network_runs_forwards_and_backwards(name):
    model = create(name, num_classes=4)
    assert model.training
    assert origin(model) == (name.removeprefix("se_"), {"num_classes": 4})
    model(torch.randn(2, 3, 16, 16)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert bool(se_names(model)) == name.startswith("se_")


def test_default_number_of_classes():
    assert create("resnet20").fc.out_features == 1000


def test_se_network_is_the_papers(se_resnet20):
    found = inserted(se_resnet20)
    assert list(found) == [f"layer{stage}.{block}.bn2" for stage in (1, 2, 3) for block in range(3)]
    assert {spec for _, spec in found.values()} == {SESpec(bias=True, start="paper")}
    assert all(block.scale == 1 and block.fc2.weight.any() for block in blocks(se_resnet20).values())


@pytest.mark.parametrize(
    ("name", "spec", "kept"),
    [
        ("resnet20", SESpec(4), SESpec(4, start="paper")),
        ("se_resnet20", SESpec(8, gate="tanh"), SESpec(8, gate="tanh", start="paper")),
        ("resnet20", SESpec(start="identity"), SESpec(start="identity")),
    ],
)
def test_a_spec_that_is_given_is_taken_as_it_is(name, spec, kept):
    assert {spec for _, spec in inserted(create(name, spec=spec)).values()} == {kept}


def test_plain_part_does_not_depend_on_se():
    torch.manual_seed(3)
    plain = create("resnet20", num_classes=10)
    torch.manual_seed(3)
    se = create("se_resnet20", num_classes=10)
    state = se.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in plain.state_dict().items())


def test_origin_survives_copies():
    model = create("resnet20", num_classes=3)
    example = torch.randn(1, 3, 32, 32)
    for other in (copy.deepcopy(model), insert(model, example), remove(insert(model, example))):
        assert origin(other) == ("resnet20", {"num_classes": 3})
    assert origin(nn.Linear(2, 2)) == (None, {})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resent20", "no network 'resent20'; did you mean 'resnet20'"),
        ("se_resnet21", "did you mean .*'se_resnet20'"),
        ("mobilenet_v2", "did you mean 'torchvision:mobilenet_v2'"),
        ("torchvison:resnet18", "did you mean 'torchvision:resnet18'"),
        ("torchvision:resnet19", "torchvision has no network 'resnet19'; did you mean 'resnet18'"),
        ("timm:convnext_tinny", "timm has no network 'convnext_tinny'; did you mean 'convnext_tiny'"),
        ("timm:hf-hub:owner/name", "timm has no network 'hf-hub:owner/name'"),
        ("qqqqqqqq", "no network 'qqqqqqqq'; the zoo has bn_inception, .*: list_models\\(\\) names all"),
        ("", "there is no network ''"),
        ("nowhere/net.py", "say which function of it makes the network: nowhere/net.py:FUNCTION"),
        ("nowhere/net.py:build", "nowhere/net.py does not exist"),
        ("nowhere/run", "'nowhere/run' does not exist; a network is a name of the zoo"),
        ("model.safetensors", "'model.safetensors' does not exist"),
        ("weights.pth", "holds weights, not a network: name the network, and give weights='weights.pth'"),
    ],
)
def test_unknown_names(name, message):
    pytest.importorskip("torchvision", reason="torchvision is not there")
    pytest.importorskip("timm", reason="timm is not there")
    with pytest.raises(ModelError, match=message):
        create(name)


def test_an_exported_file_is_no_network_to_make(tmp_path):
    (tmp_path / "net.pt2").touch()
    with pytest.raises(ModelError, match=r"net.pt2' is an exported program: name the network, or the run"):
        create(str(tmp_path / "net.pt2"))


def test_a_folder_without_a_network(tmp_path):
    with pytest.raises(ModelError, match=r"is not a run folder: it has no model.safetensors"):
        create(str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_classes": 0}, ModelError, "num_classes is a whole number of at least 1, not 0"),
        ({"num_classes": True}, ModelError, "num_classes is a whole number"),
        ({"num_classes": "10"}, ModelError, "not '10'"),
        ({"num_clases": 10}, ModelError, "unexpected keyword argument 'num_clases'; it takes num_classes, in_channels"),
        ({"weights": "pretrained"}, ModelError, "no published weights of the zoo's resnet20"),
        ({"spec": "se"}, TypeError, "spec is an SESpec, not str"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        create("resnet20", **arguments)
    with pytest.raises(TypeError, match="a network's name is a string, not int"):
        create(20)


@pytest.mark.parametrize(
    ("name", "end"), [("resnet20", "or None$"), ("se_resnet50_v1_5", "torchvision has some for torchvision:resnet50$")]
)
def test_published_weights_are_where_they_are(name, end):
    pytest.importorskip("torchvision", reason="torchvision is not there")
    with pytest.raises(ModelError, match=end):
        create(name, weights="pretrained")


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        ("torchvision", "torchvision:resnet18", r"torchvision is not installed: pip install .*\[study\]'"),
        ("timm", "timm:resnet18", r"timm is not installed: pip install .*\[timm\]'"),
    ],
)
def test_missing_extras(monkeypatch, module, name, message):
    for known in [known for known in sys.modules if known.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, known)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=message):
        create(name)
    with pytest.raises(ModelError, match="did you mean 'resnet20'"):
        create("resnet_20")


class TestWeights:
    @pytest.fixture
    def plain(self, tmp_path):
        path = tmp_path / "plain.pth"
        torch.save(create("resnet20", num_classes=10).state_dict(), path)
        return path

    def test_number_of_classes_is_the_weights(self, plain):
        model = create("resnet20", weights=plain)
        assert model.fc.out_features == 10
        assert torch.equal(model.fc.weight, torch.load(plain, weights_only=True)["fc.weight"])

    def test_another_number_starts_fresh_and_is_told(self, plain, caplog):
        with caplog.at_level(logging.INFO, "senet"):
            model = create("resnet20", weights=plain, num_classes=4)
        assert model.fc.out_features == 4
        assert "fc: 10 classes in the file, 4 wanted: starts fresh" in caplog.text

    def test_function_that_does_not_take_the_number_is_no_silent_replacement(self, file, tmp_path):
        path = tmp_path / "other.pth"
        torch.save({"0.weight": torch.zeros(3, 3, 1, 1), "0.bias": torch.zeros(3)}, path)
        with pytest.raises(WeightsError, match=r"0.weight \(3, 3, 1, 1\) in the file, \(6, 3, 1, 1\) in the network"):
            create(f"{file}:build", weights=path)

    @pytest.mark.parametrize("spec", [None, SESpec(4)])
    def test_plain_weights_and_se_start_as_the_identity(self, plain, spec):
        name = "se_resnet20" if spec is None else "resnet20"
        model = create(name, weights=plain, spec=spec).eval()
        x = torch.randn(2, 3, 32, 32)
        assert torch.equal(model(x), create("resnet20", weights=plain).eval()(x))
        with pytest.raises(ValueError, match="start='paper'"):
            create("resnet20", weights=plain, spec=SESpec(gate="tanh"))

    def test_weights_with_se(self, tmp_path):
        model = create("se_resnet20", num_classes=10).eval()
        torch.save(model.state_dict(), tmp_path / "se.pth")
        again = create("se_resnet20", weights=tmp_path / "se.pth").eval()
        x = torch.randn(2, 3, 32, 32)
        assert torch.equal(model(x), again(x))
        with pytest.raises(WeightsError, match="The file has SE, the network has none"):
            create("resnet20", weights=tmp_path / "se.pth")

    @pytest.mark.parametrize("kind", ["w.pth", "w.safetensors"])
    def test_squeeze_and_gate_are_those_of_the_file(self, tmp_path, kind):
        spec = SESpec(gate="hard_sigmoid", squeeze="max", bias=True)
        model = create("resnet20", spec=spec, num_classes=10).eval()
        file = tmp_path / kind
        (torch.save if kind == "w.pth" else lambda _, path: save(model, path))(model.state_dict(), file)
        x = torch.randn(2, 3, 32, 32)
        for again in (create("se_resnet20", weights=file), create("resnet20", weights=file, spec=spec)):
            assert torch.equal(again.eval()(x), model(x))
        with pytest.raises(WeightsError, match=r"has avg squeeze and sigmoid gate, and the file's has max and hard"):
            create("resnet20", weights=file, spec=SESpec(bias=True))

    @pytest.mark.parametrize(
        ("there", "message"),
        [([], "has none of model.safetensors"), (["pytorch_model.bin"], ""), (["model.safetensors"], "")],
    )
    def test_hub(self, monkeypatch, plain, there, message):
        hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not there")

        def download(repository, file, revision):
            assert repository == "owner/name"
            if file not in there:
                raise hub.errors.EntryNotFoundError.__new__(hub.errors.EntryNotFoundError, "404")
            return str(plain)

        monkeypatch.setattr(hub, "hf_hub_download", download)
        if message:
            with pytest.raises(WeightsError, match=message):
                create("resnet20", weights="hf:owner/name")
        else:
            assert create("resnet20", weights="hf:owner/name").fc.out_features == 10

    def test_hub_failures(self, monkeypatch):
        with pytest.raises(WeightsError, match="is not a name on the Hub, such as hf:owner/name"):
            create("resnet20", weights="hf:name")
        hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not there")

        def download(*_, **__):
            raise ConnectionError("no network")

        monkeypatch.setattr(hub, "hf_hub_download", download)
        with pytest.raises(WeightsError, match="hf:owner/name cannot be fetched: ConnectionError: no network"):
            create("resnet20", weights="hf:owner/name")
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(ImportError, match=r"pip install .*\[hub\]'"):
            create("resnet20", weights="hf:owner/name")


class TestSaved:
    @pytest.fixture
    def run(self, tmp_path, se_resnet20):
        save(se_resnet20, tmp_path / "model.safetensors")
        return tmp_path

    @pytest.mark.parametrize("name", [".", "model.safetensors"])
    def test_file_and_run_folder(self, run, name):
        model = senet.create(str(run / name), num_classes=10)
        assert model.training
        assert len(se_names(model)) == 9

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"num_classes": 20}, "has 10 classes, not 20; for a fresh classifier .* create 'resnet20' with weights="),
            ({"spec": SESpec()}, "it takes no spec="),
            ({"weights": "x.pth"}, "it takes no weights="),
            ({"in_channels": 1}, "it takes no in_channels="),
        ],
    )
    def test_takes_nothing_else(self, run, given, message):
        with pytest.raises(ModelError, match=message):
            senet.create(str(run), **given)

    def test_the_zoo_alone_says_who_opens_it(self, run):
        with pytest.raises(ModelError, match=r"is a saved network: senet.create and senet.load open it"):
            create(str(run))

    def test_as_weights_with_a_fresh_classifier(self, run):
        model = senet.create("se_resnet20", weights=run / "model.safetensors", num_classes=3)
        assert model.fc.out_features == 3

    def test_a_name_of_the_zoo_is_not_a_folder(self, run, monkeypatch):
        (run / "resnet20").mkdir()
        (run / "model.safetensors").rename(run / "resnet20" / "model.safetensors")
        monkeypatch.chdir(run)
        assert not se_names(senet.create("resnet20"))
