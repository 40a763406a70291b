import copy
import logging
import sys

import pytest
import torch
from torch import nn

from senet.block import SEBlock, SESpec
from senet.insertion import blocks, insert, inserted, remove
from senet.saving import save
from senet.zoo import ModelError, WeightsError, create, list_models
from senet.zoo.naming import origin

NETWORK = """
from dataclasses import dataclass
from torch import nn
from beside import CHANNELS

RUNS = []

def build(width: int = CHANNELS):
    return nn.Sequential(nn.Conv2d(3, width, 1))

def counted(num_classes=5, width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(width, num_classes))

def demanding(num_classes):
    return nn.Linear(4, num_classes)

def anything(**options):
    return nn.Linear(4, options["num_classes"])

class Network(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)

def wrong():
    return "a network"
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "beside.py").write_text("CHANNELS = 6\n")
    path = tmp_path / "my net.py"
    path.write_text(NETWORK)
    yield path
    for name in [name for name in sys.modules if name == "beside" or name.startswith("_senet_file_my net")]:
        del sys.modules[name]


@pytest.fixture
def torchvision_models():
    return pytest.importorskip("torchvision.models", reason="torchvision is not there")


@pytest.fixture(scope="module")
def se_resnet20():
    return create("se_resnet20", num_classes=10)


def se_names(model):
    return [name for name, module in model.named_modules() if isinstance(module, SEBlock)]


def test_list_models():
    names = list_models()
    assert names == sorted(names)
    assert {"resnet20", "se_resnet20"} <= set(names)
    assert list_models("se_*") == ["se_" + name for name in list_models("resnet*")]
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
        ("qqqqqqqq", "no network 'qqqqqqqq'; the zoo has resnet110"),
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


def test_a_folder_without_a_network(tmp_path):
    with pytest.raises(ModelError, match=r"is no run folder: it has no model.safetensors"):
        create(str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_classes": 0}, ModelError, "num_classes is a whole number of at least 1, not 0"),
        ({"num_classes": True}, ModelError, "num_classes is a whole number"),
        ({"num_classes": "10"}, ModelError, "not '10'"),
        ({"num_clases": 10}, ModelError, "unexpected keyword argument 'num_clases'; it takes num_classes, in_channels"),
        ({"weights": "pretrained"}, ModelError, "no published weights of the zoo's resnet20"),
        ({"spec": "se"}, TypeError, "spec is a SESpec, not str"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        create("resnet20", **arguments)
    with pytest.raises(TypeError, match="a network's name is a string, not int"):
        create(20)


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        ("torchvision", "torchvision:resnet18", r"torchvision is not installed: pip install 'senet\[study\]'"),
        ("timm", "timm:resnet18", r"timm is not installed: pip install 'senet\[timm\]'"),
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


class TestTorchvision:
    def test_builds_and_knows_its_classes(self, torchvision_models):
        model = create("torchvision:mobilenet_v2", num_classes=5, width_mult=0.25)
        assert model.classifier[1].out_features == 5
        assert origin(model) == ("torchvision:mobilenet_v2", {"num_classes": 5, "width_mult": 0.25})
        assert origin(create("torchvision:mobilenet_v2"))[1] == {"num_classes": 1000}

    def test_spec_needs_no_example(self, torchvision_models):
        model = create("torchvision:mobilenet_v2", width_mult=0.25, spec=SESpec())
        residual = [m for m in model.modules() if getattr(m, "use_res_connect", False)]
        assert len(se_names(model)) == len(residual) > 0
        assert {spec.start for _, spec in inserted(model).values()} == {"paper"}

    def test_nothing_is_downloaded(self, torchvision_models, monkeypatch):
        monkeypatch.setattr(torch.hub, "load_state_dict_from_url", _no_network)
        model = create("torchvision:lraspp_mobilenet_v3_large")  # whose backbone torchvision would fetch
        assert origin(model) == ("torchvision:lraspp_mobilenet_v3_large", {})  # 21 classes: its own number
        with pytest.raises(ModelError, match="weights_backbone='DEFAULT' would fetch weights"):
            create("torchvision:lraspp_mobilenet_v3_large", weights_backbone="DEFAULT")
        with pytest.raises(ModelError, match="what torchvision:lraspp_mobilenet_v3_large takes as input is not known"):
            create("torchvision:lraspp_mobilenet_v3_large", spec=SESpec())

    def test_wrong_option(self, torchvision_models):
        with pytest.raises(ModelError, match=r"resnet18 cannot be built with \{'widht': 2\}: .*'widht'"):
            create("torchvision:resnet18", widht=2)

    @pytest.mark.parametrize("classes", [None, 1000, 4])
    def test_pretrained(self, torchvision_models, monkeypatch, classes):
        published = torchvision_models.mobilenet_v2().state_dict()
        monkeypatch.setattr(torchvision_models._api.WeightsEnum, "get_state_dict", lambda self, **options: published)
        given = {} if classes is None else {"num_classes": classes}
        spec = SESpec() if classes == 4 else None
        model = create("torchvision:mobilenet_v2", weights="pretrained", spec=spec, **given)
        assert model.classifier[1].out_features == (classes or 1000)
        assert origin(model)[1] == {"num_classes": classes or 1000}
        assert {used.start for _, used in inserted(model).values()} == ({"identity"} if spec else set())
        assert torch.equal(model.state_dict()["features.0.0.weight"], published["features.0.0.weight"])

    @pytest.mark.parametrize(
        ("name", "built_with", "options"),
        [
            ("googlenet", {"init_weights": False}, {"aux_logits": False, "transform_input": True, "num_classes": 1000}),
            ("deeplabv3_mobilenet_v3_large", {"aux_loss": True}, {"aux_loss": True, "num_classes": 21}),
        ],
    )
    def test_pretrained_settings_are_kept(self, torchvision_models, monkeypatch, name, built_with, options):
        """torchvision turns these on with its weights alone; a network built again without would differ."""
        if name != "googlenet":
            built_with = {**built_with, "weights_backbone": None}
        published = torchvision_models.get_model(name, **built_with).state_dict()
        monkeypatch.setattr(torchvision_models._api.WeightsEnum, "get_state_dict", lambda self, **options: published)
        assert origin(create(f"torchvision:{name}", weights="pretrained"))[1] == options

    def test_pretrained_of_an_unknown_network(self, torchvision_models):
        with pytest.raises(ModelError, match=r"torchvision has no network 'mnasnet1_1'; did you mean .*'mnasnet1_0'"):
            create("torchvision:mnasnet1_1", weights="pretrained")


def _no_network(*args, **kwargs):
    raise AssertionError("a test tried to download")


class TestTimm:
    @pytest.fixture(autouse=True)
    def _timm(self):
        pytest.importorskip("timm", reason="timm is not there")

    def test_builds(self):
        model = create("timm:resnet10t", num_classes=3, in_chans=1, spec=SESpec())
        assert origin(model) == ("timm:resnet10t", {"num_classes": 3, "in_chans": 1})
        assert len(se_names(model)) == 4
        assert model.eval()(torch.randn(1, 1, 64, 64)).shape == (1, 3)

    def test_knows_its_classes(self):
        assert origin(create("timm:resnet10t"))[1] == {"num_classes": 1000}
        assert origin(create("timm:resnet10t", num_classes=0))[1] == {"num_classes": 0}

    @pytest.mark.parametrize("option", ["pretrained", "checkpoint_path", "pretrained_cfg", "cache_dir"])
    def test_nothing_is_fetched(self, option):
        with pytest.raises(ModelError, match=f"{option}='x' would fetch weights; ask with weights='pretrained'"):
            create("timm:resnet10t", **{option: "x"})

    def test_pretrained_is_asked_of_timm(self, monkeypatch):
        import timm

        asked = {}

        def created(name, **options):
            asked.update(name=name, **options)
            return nn.Linear(1, 1)

        monkeypatch.setattr(timm, "create_model", created)
        create("timm:resnet10t", weights="pretrained", num_classes=3)
        assert asked == {"name": "resnet10t", "pretrained": True, "num_classes": 3}


class TestFile:
    @pytest.mark.parametrize(
        ("function", "given", "options"),
        [
            ("build", {}, {}),
            ("build", {"num_classes": 10, "width": 2}, {"width": 2}),  # which takes no num_classes
            ("counted", {}, {}),  # 5 is its own default
            ("counted", {"num_classes": 1000}, {"num_classes": 1000}),
            ("demanding", {}, {"num_classes": 1000}),
            ("anything", {"num_classes": 3}, {"num_classes": 3}),
            ("Network", {"num_classes": 3}, {}),
        ],
    )
    def test_calls_the_function(self, file, function, given, options):
        path_before = list(sys.path)
        model = create(f"{file}:{function}", **given)
        assert isinstance(model, nn.Module)
        assert origin(model) == (f"{file}:{function}", options)
        assert sys.path == path_before

    def test_is_run_again_only_when_it_changed(self, file):
        first = type(create(f"{file}:Network"))
        assert type(create(f"{file}:Network")) is first
        file.write_text(NETWORK + "\n# changed\n")
        assert type(create(f"{file}:Network")) is not first

    @pytest.mark.parametrize(
        ("function", "given", "message"),
        [
            ("buidl", {}, "has no function 'buidl'; did you mean 'build'"),
            ("RUNS", {}, "has no function 'RUNS'"),
            ("wrong", {}, "returned a str, not a torch.nn.Module"),
            ("build", {"widht": 3}, "unexpected keyword argument 'widht'; it takes width"),
            ("build", {"weights": "pretrained"}, "weights='pretrained' is for torchvision's and timm's"),
            ("build", {"spec": SESpec()}, r"takes as input is not known.*senet\.insert\(model, example, spec\)"),
        ],
    )
    def test_bad_use(self, file, function, given, message):
        with pytest.raises(ModelError, match=message):
            create(f"{file}:{function}", **given)

    @pytest.mark.parametrize(
        ("text", "message"), [("def f(:", "SyntaxError"), ("import no_such_module", "no_such_module")]
    )
    def test_a_file_that_does_not_run(self, tmp_path, text, message):
        path = tmp_path / "broken.py"
        path.write_text(text)
        for _ in range(2):
            with pytest.raises(ModelError, match=f"broken.py cannot be imported: .*{message}"):
                create(f"{path}:f")
        assert not [name for name in sys.modules if name.startswith("_senet_file_broken")]


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

    @pytest.mark.parametrize(
        ("there", "message"),
        [([], "has none of model.safetensors"), (["pytorch_model.bin"], ""), (["model.safetensors"], "")],
    )
    def test_hub(self, monkeypatch, plain, there, message):
        hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not there")

        def download(repository, file):
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
        with pytest.raises(WeightsError, match="on the hub they are named hf:owner/name"):
            create("resnet20", weights="hf:name")
        hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not there")

        def download(*_):
            raise ConnectionError("no network")

        monkeypatch.setattr(hub, "hf_hub_download", download)
        with pytest.raises(WeightsError, match="hf:owner/name cannot be fetched: ConnectionError: no network"):
            create("resnet20", weights="hf:owner/name")
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(ImportError, match=r"pip install 'senet\[hub\]'"):
            create("resnet20", weights="hf:owner/name")


class TestSaved:
    @pytest.fixture
    def run(self, tmp_path, se_resnet20):
        save(se_resnet20, tmp_path / "model.safetensors")
        return tmp_path

    @pytest.mark.parametrize("name", [".", "model.safetensors"])
    def test_file_and_run_folder(self, run, name):
        model = create(str(run / name), num_classes=10)
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
            create(str(run), **given)

    def test_as_weights_with_a_fresh_classifier(self, run):
        model = create("se_resnet20", weights=run / "model.safetensors", num_classes=3)
        assert model.fc.out_features == 3

    def test_a_name_of_the_zoo_is_not_a_folder(self, run, monkeypatch):
        (run / "resnet20").mkdir()
        (run / "model.safetensors").rename(run / "resnet20" / "model.safetensors")
        monkeypatch.chdir(run)
        assert not se_names(create("resnet20"))
