import logging
import sys

import pytest
import torch
from torch import nn

from senet.block import SESpec
from senet.insertion import blocks, inserted
from senet.zoo import ModelError, create
from senet.zoo.names.naming import origin


class TestTorchvision:
    def test_builds_and_knows_its_classes(self, torchvision_models):
        model = create("torchvision:mobilenet_v2", num_classes=5, width_mult=0.25)
        assert model.classifier[1].out_features == 5
        assert origin(model) == ("torchvision:mobilenet_v2", {"num_classes": 5, "width_mult": 0.25})
        assert origin(create("torchvision:mobilenet_v2"))[1] == {"num_classes": 1000}

    def test_spec_needs_no_example(self, torchvision_models):
        model = create("torchvision:mobilenet_v2", width_mult=0.25, spec=SESpec())
        residual = [m for m in model.modules() if getattr(m, "use_res_connect", False)]
        assert len(blocks(model)) == len(residual) > 0
        assert {spec.start for _, spec in inserted(model).values()} == {"paper"}

    def test_nothing_is_downloaded(self, torchvision_models, monkeypatch):
        monkeypatch.setattr(torch.hub, "load_state_dict_from_url", _no_network)
        model = create("torchvision:lraspp_mobilenet_v3_large")  # whose backbone torchvision would fetch
        assert origin(model) == ("torchvision:lraspp_mobilenet_v3_large", {})  # 21 classes: its own number
        with pytest.raises(ModelError, match="weights_backbone='DEFAULT' would fetch weights"):
            create("torchvision:lraspp_mobilenet_v3_large", weights_backbone="DEFAULT")
        again = create("torchvision:lraspp_mobilenet_v3_large", weights_backbone=None)
        assert origin(again) == origin(model)
        with pytest.raises(ModelError, match="what torchvision:lraspp_mobilenet_v3_large takes as input is not known"):
            create("torchvision:lraspp_mobilenet_v3_large", spec=SESpec())

    def test_wrong_option(self, torchvision_models):
        with pytest.raises(ModelError, match=r"resnet18 cannot be built with \{'widht': 2\}: .*'widht'"):
            create("torchvision:resnet18", widht=2)

    @pytest.mark.parametrize("classes", [None, 1000, 4])
    def test_pretrained(self, torchvision_models, monkeypatch, caplog, classes):
        caplog.set_level(logging.INFO, "senet")
        published = torchvision_models.mobilenet_v2().state_dict()
        monkeypatch.setattr(torchvision_models._api.WeightsEnum, "get_state_dict", lambda self, **options: published)
        given = {} if classes is None else {"num_classes": classes}
        spec = SESpec() if classes == 4 else None
        model = create("torchvision:mobilenet_v2", weights="pretrained", spec=spec, **given)
        assert model.classifier[1].out_features == (classes or 1000)
        assert origin(model)[1] == {"num_classes": classes or 1000}
        assert {used.start for _, used in inserted(model).values()} == ({"identity"} if spec else set())
        assert torch.equal(model.state_dict()["features.0.0.weight"], published["features.0.0.weight"])
        assert ("classifier.1: 1000 classes in the file, 4 wanted: starts fresh" in caplog.text) == (classes == 4)

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
        assert len(blocks(model)) == 4
        assert model.eval()(torch.randn(1, 1, 64, 64)).shape == (1, 3)

    def test_knows_its_classes(self):
        assert origin(create("timm:resnet10t", pretrained=False))[1] == {"num_classes": 1000}
        assert origin(create("timm:resnet10t", num_classes=0))[1] == {"num_classes": 0}

    @pytest.mark.parametrize("option", ["pretrained", "checkpoint_path", "pretrained_cfg", "cache_dir"])
    def test_nothing_is_fetched(self, option):
        with pytest.raises(ModelError, match=f"{option}='x' would fetch weights; ask with weights='pretrained'"):
            create("timm:resnet10t", **{option: "x"})

    def test_pretrained_is_asked_of_timm(self, monkeypatch, caplog):
        import timm

        asked = {}

        def created(name, **options):
            asked.update(name=name, **options)
            model = nn.Linear(1, 1)
            model.pretrained_cfg = {"num_classes": 1000}
            return model

        monkeypatch.setattr(timm, "create_model", created)
        with caplog.at_level(logging.INFO, "senet"):
            create("timm:resnet10t", weights="pretrained", num_classes=3)
        assert "timm:resnet10t with timm's weights: 1000 classes, 3 wanted: starts fresh" in caplog.text
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
        file.write_text(file.read_text() + "\n# changed\n")
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
