"""What holds of every network of the zoo: options, SE's places, initialisation, feature maps, training."""

import inspect

import pytest
import torch
from torch import nn

from senet.block import SESpec
from senet.insertion import blocks, inserted
from senet.zoo import ModelError, create, list_models
from senet.zoo.names.create import insert_without_values
from senet.zoo.names.naming import origin, resolve
from senet.zoo.networks.layers import with_in_channels

pytest.importorskip("torchvision", reason="torchvision is not there")
from torchvision.models.feature_extraction import create_feature_extractor

PLACES = {  # of SE: how many, and the first and the last
    "se_short_sighted": (2, "units.0.pointwise.bn", "units.1.pointwise.bn"),
    **{f"se_light_{sight}": (4, "units.0.pointwise.bn", "units.3.pointwise.bn") for sight in (11, 19, 35)},
    "se_resnet18": (8, "layer1.0.bn2", "layer4.1.bn2"),
    "se_resnet34": (16, "layer1.0.bn2", "layer4.2.bn2"),
    **{
        f"se_resnet{d}{v}": (n, "layer1.0.bn3", "layer4.2.bn3")
        for d, n in ((50, 16), (101, 33), (152, 50))
        for v in ("", "_v1_5")
    },
    "se_resnext50_32x4d": (16, "layer1.0.bn3", "layer4.2.bn3"),
    "se_resnext101_32x4d": (33, "layer1.0.bn3", "layer4.2.bn3"),
    "se_vgg11_bn": (8, "features.2", "features.27"),
    "se_vgg13_bn": (10, "features.2", "features.33"),
    "se_vgg16_bn": (13, "features.2", "features.42"),
    "se_vgg19_bn": (16, "features.2", "features.51"),
    "se_bn_inception": (10, "inception.3a", "inception.5b"),
    "se_inception_resnet_v2": (40, "repeat.0.conv2d", "block8.conv2d"),
    **{f"se_mobilenet_v1{v}": (13, "units.0.pointwise.relu", "units.12.pointwise.relu") for v in ("", "_small")},
    "se_mobilenet_v3_small": (6, "features.3.block.2.1", "features.11.block.3.1"),
    "se_mobilenet_v3_large": (10, "features.1.block.1.1", "features.15.block.3.1"),
    "se_shufflenet_v1": (13, "stage2.1.expand.bn", "stage4.3.expand.bn"),
    "senet154": (50, "layer1.0.bn3", "layer4.2.bn3"),
    **{f"se_resnet{6 * n + 2}": (3 * n, "layer1.0.bn2", f"layer3.{n - 1}.bn2") for n in (3, 5, 7, 9, 18)},
    "se_preact_resnet164": (54, "layer1.0.conv3", "layer3.17.conv3"),
    "se_wrn16_8": (6, "layer1.0.conv2", "layer3.1.conv2"),
    "se_wrn28_10": (12, "layer1.0.conv2", "layer3.3.conv2"),
    "se_shake_shake26_2x96d": (12, "layer1.0.shake", "layer3.3.shake"),
}
PLAIN = [name for name in list_models() if name not in PLACES]
DEEPER = {"resnet34", "resnet101", "resnet152", "resnet101_v1_5", "resnet152_v1_5", "resnext101_32x4d", "vgg13_bn"}
DEEPER |= {"vgg16_bn", "vgg19_bn", "resnet32", "resnet44", "resnet56", "resnet110", "wrn28_10"}
ONE_OF_EACH = [name for name in PLAIN if name not in DEEPER]
BIG_ENOUGH = {"bn_inception": 64, "inception_resnet_v2": 96, "mobilenet_v1": 64, "shufflenet_v1": 64}  # else 32


def meta(name, **options):
    with torch.device("meta"):
        return create(name, **options)


def side_of(name):
    plain = name.removeprefix("se_")
    return BIG_ENOUGH.get(plain, 64 if "res" in plain or "senet" in plain else 32)


def test_every_network_has_a_twin():
    held = {"mobilenet_v3_small", "mobilenet_v3_large"}  # SE of their own
    plain_of = {name: resolve(name)[0].name for name in PLACES}
    assert set(plain_of.values()) | held == set(PLAIN)
    assert plain_of["senet154"] == "senet154_plain"
    assert plain_of["se_mobilenet_v3_small"] == "mobilenet_v3_small_plain"
    with pytest.raises(ModelError, match="no network 'se_senet154'; did you mean"):
        create("se_senet154")


@pytest.mark.parametrize("name", PLACES)
def test_places_of_se(name):
    model = meta(name)
    found = inserted(model)
    places = list(found)
    assert (len(places), places[0], places[-1]) == PLACES[name]
    assert {spec for _, spec in found.values()} == {SESpec(bias=True, start="paper")}
    assert len(blocks(model)) == len(places)


@pytest.mark.parametrize("kind", ["small", "large"])
def test_se_of_its_own_and_of_none(kind):
    own, none = meta(f"mobilenet_v3_{kind}"), meta(f"mobilenet_v3_{kind}_plain")
    assert len(blocks(own)) == {"small": 9, "large": 8}[kind]
    assert not blocks(none)
    assert not inserted(own)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_options(name):
    model = meta(name, num_classes=5, in_channels=2, dropout=0.125)
    assert origin(model) == (name, {"num_classes": 5, "in_channels": 2, "dropout": 0.125})
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    assert first.in_channels == 2
    assert any(m.p == 0.125 for m in model.modules() if isinstance(m, nn.Dropout))
    side = side_of(name)
    assert model.eval()(torch.empty(1, 2, side, side, device="meta")).shape == (1, 5)
    assert list(model.state_dict()) == list(meta(name, dropout=0).state_dict())


@pytest.mark.parametrize(
    ("name", "width", "channels"),
    [
        ("mobilenet_v1", 0.5, 512),
        ("shufflenet_v1", 0.5, 480),
        ("mobilenet_v3_small", 0.5, 512),
        ("mobilenet_v1", 1, 1024),
    ],
)
def test_width(name, width, channels):
    linear = [m for m in meta(name, width=width).modules() if isinstance(m, nn.Linear)][-1]
    assert linear.in_features == channels


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        *((name, {"in_channels": 0}, "in_channels is a whole number of at least 1, not 0") for name in PLAIN),
        *((name, {"dropout": 1.5}, "dropout is a probability, from 0 to 1, not 1.5") for name in PLAIN),
        ("resnet20", {"dropout": "x"}, "dropout is a probability, from 0 to 1, not 'x'"),
        ("wrn16_8", {"dropout": float("nan")}, "not nan"),
        ("vgg11_bn", {"dropout": True}, "not True"),
        ("mobilenet_v1", {"width": 0}, "width is a positive number that multiplies the paper's channels, not 0"),
        ("mobilenet_v3_small", {"width": -1}, "width is a positive number"),
        ("shufflenet_v1", {"width": float("nan")}, "width is a positive number"),
        ("resnet50", {"width": "2"}, "not '2'"),
        ("shufflenet_v1", {"groups": 5}, "groups is one of 1, 2, 3, 4, 8, not 5"),
        ("shufflenet_v1", {"groups": 3.0}, "not 3.0"),
        ("shufflenet_v1", {"groups": True}, "not True"),
        ("resnet18", {"width": 2}, "unexpected keyword argument 'width'; it takes num_classes, in_channels, dropout$"),
        ("wrn16_8", {"width": 2}, "it takes num_classes, in_channels, dropout$"),
        ("mobilenet_v1_small", {"stem_stride": 0}, "stem_stride is a whole number of at least 1, not 0"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        meta(name, **options)


def test_a_first_convolution_for_other_channels_starts_as_the_others():
    model = nn.Sequential(nn.Conv2d(3, 64, 3, 2, 1), nn.ReLU())  # VGG's has a bias, which starts at 0
    with_in_channels(model, 5)
    assert (model[0].in_channels, model[0].stride, model[0].padding) == (5, (2, 2), (1, 1))
    assert not model[0].bias.any()
    assert model[0].weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.1)


def test_every_builder_takes_options_by_name_alone():
    for name in PLAIN:
        parameters = inspect.signature(resolve(name)[0].entry.build).parameters
        assert {"num_classes", "in_channels", "dropout"} <= parameters.keys()
        assert all(p.kind is p.KEYWORD_ONLY for p in parameters.values()), name


FEATURES = {  # layers, channels, and the side of the input over that of the map
    "se_resnet50": {"layer1": (256, 4), "layer4": (2048, 32)},
    "se_resnext50_32x4d": {"layer2": (512, 8), "layer3": (1024, 16)},
    "se_vgg11_bn": {"features.7": (128, 4), "features.28": (512, 32)},
    "se_bn_inception": {"inception.3b": (320, 8), "inception.4d": (608, 16), "inception.5b": (1024, 32)},
    "se_mobilenet_v1": {"units.4": (256, 8), "units.12": (1024, 32)},
    "se_mobilenet_v3_small": {"features.3": (24, 8), "features.12": (576, 32)},
    "mobilenet_v3_small": {"features.3": (24, 8), "features.12": (576, 32)},
    "se_shufflenet_v1": {"stage2": (240, 8), "stage4": (960, 32)},
    "senet154": {"layer1": (256, 4), "layer4": (2048, 32)},
    "se_resnet20": {"layer1": (16, 1), "layer3": (64, 4)},
    "se_short_sighted": {"units": (64, 2)},
    "se_preact_resnet164": {"layer1": (64, 1), "layer3": (256, 4)},
    "se_wrn16_8": {"layer1": (128, 1), "layer3": (512, 4)},
    "se_shake_shake26_2x96d": {"layer1": (96, 1), "layer3": (384, 4)},
    "se_inception_resnet_v2": {"mixed_5b": (320, 0), "repeat_1": (1088, 0), "conv2d_7b": (1536, 0)},  # no round sizes
}


@pytest.mark.parametrize("name", FEATURES)
def test_feature_maps(name):
    model = meta(name)
    extractor = create_feature_extractor(model, list(FEATURES[name]))
    side = 96 if "inception_resnet" in name else 64
    maps = extractor.eval()(torch.empty(1, 3, side, side, device="meta"))
    for layer, (channels, stride) in FEATURES[name].items():
        assert maps[layer].shape[1] == channels
        if stride:
            assert maps[layer].shape[2:] == (side // stride, side // stride)


def test_every_family_is_asked_for_feature_maps():
    def family(name):
        build = resolve(name)[0].entry.build
        return inspect.getmodule(getattr(build, "func", build)).__name__

    assert {family(name) for name in FEATURES} == {family(name) for name in PLAIN}


SMALL = {  # real weights, forwards and backwards: name, options, side
    "se_resnet50": ({"width": 0.25}, 64),
    "se_bn_inception": ({}, 64),
    "se_mobilenet_v1": ({"width": 0.25}, 64),
    "se_mobilenet_v3_small": ({"width": 0.5}, 64),
    "mobilenet_v3_small_plain": ({"width": 0.5}, 64),
    "se_shufflenet_v1": ({"groups": 8}, 64),
    "se_preact_resnet164": ({}, 8),
    "se_wrn16_8": ({"dropout": 0.3}, 8),
    "se_shake_shake26_2x96d": ({}, 8),
}


@pytest.mark.parametrize("name", SMALL)
def test_forwards_and_backwards(name):
    options, side = SMALL[name]
    model = create(name, num_classes=4, **options)
    assert model.training
    logits = model(torch.randn(4, 3, side, side))
    assert logits.shape == (4, 4)
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(block.fc1.weight.grad.any() for name, block in blocks(model).items())
    for module in model.modules():  # He, section 5: of the convolutions with enough weights to tell
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 20_000:
            expected = (2 / (module.kernel_size[0] * module.kernel_size[1] * module.out_channels)) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05)
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert not module.bias.any()
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            assert not module.bias.any()


@pytest.mark.parametrize("name", [name for name in ONE_OF_EACH if resolve(name)[0].entry.input_size[0] == 224])
def test_places_do_not_depend_on_the_size_they_are_looked_for_on(name):
    """`create` looks on pictures of 128² where the network was made for 224², which is quicker."""
    entry = resolve(name)[0].entry
    if entry.se_name is None:
        return
    model = meta(name, num_classes=5)
    with_se = insert_without_values(model, torch.empty(1, 3, *entry.input_size, device="meta"), SESpec(), entry.where)
    sites = [site for site, _ in inserted(with_se).values()]
    assert sites == [site for site, _ in inserted(meta(entry.se_name or f"se_{name}")).values()]
