"""The zoo's networks against timm's and torchvision's: parameters and multiply-adds to the last one, and outputs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from senet.zoo import create

TIMM = {
    "se_resnet50": "legacy_seresnet50",
    "se_resnet101": "legacy_seresnet101",
    "se_resnet152": "legacy_seresnet152",
    "se_resnext50_32x4d": "legacy_seresnext50_32x4d",
    "se_resnext101_32x4d": "legacy_seresnext101_32x4d",
    "senet154": "legacy_senet154",
    "se_resnet50_v1_5": "seresnet50",
    "inception_resnet_v2": "inception_resnet_v2",
    "mobilenet_v1": "mobilenetv1_100",
    "mobilenet_v3_small": "mobilenetv3_small_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
}
TORCHVISION = {
    **{
        name: name
        for name in ("resnet18", "resnet34", "resnext50_32x4d", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn")
    },
    **{f"resnet{depth}_v1_5": f"resnet{depth}" for depth in (50, 101, 152)},
    **{name: name for name in ("mobilenet_v3_small", "mobilenet_v3_large")},
}


def costs(model, side):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, 3, side, side, device="meta"))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops()


@pytest.mark.parametrize("name", TIMM)
def test_costs_are_timms(name):
    timm = pytest.importorskip("timm", reason="timm is not there")
    side = 299 if "inception" in name else 224
    with torch.device("meta"):
        ours, theirs = create(name), timm.create_model(TIMM[name])
    assert costs(ours, side) == costs(theirs, side)


@pytest.mark.parametrize("name", TORCHVISION)
def test_network_is_torchvisions(name, torchvision_models):
    with torch.device("meta"):
        ours, theirs = create(name), torchvision_models.get_model(TORCHVISION[name])
    assert str(ours) == str(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_the_papers_resnet_has_torchvisions_keys_and_another_stride(depth, torchvision_models):
    with torch.device("meta"):
        ours, theirs = create(f"resnet{depth}"), torchvision_models.get_model(f"resnet{depth}")
    shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1]
    for stage in (ours.layer2, ours.layer3, ours.layer4):
        assert [stage[0].conv1.stride, stage[0].conv2.stride] == [(2, 2), (1, 1)]
    assert costs(ours, 224)[1] < costs(theirs, 224)[1]


def test_an_option_chooses_the_stride_as_the_name_does(torchvision_models):
    with torch.device("meta"):
        by_option, by_name = create("resnet50", v1_5=True), create("resnet50_v1_5")
        wide, theirs = create("resnet50_v1_5", width=2), torchvision_models.wide_resnet50_2()
        padded = create("resnet50", caffe_pool=False)
    assert str(by_option) == str(by_name)
    assert str(wide) == str(theirs)
    assert padded.maxpool.padding == 1


@pytest.mark.parametrize(
    ("name", "theirs", "options", "side"),
    [
        ("inception_resnet_v2", "inception_resnet_v2", {}, 96),
        ("mobilenet_v1", "mobilenetv1_100", {"act_layer": "relu"}, 64),
        ("resnet50", "resnet50", {}, 65),
    ],
)
def test_outputs_are_timms_for_the_same_weights(name, theirs, options, side):
    timm = pytest.importorskip("timm", reason="timm is not there")
    ours, theirs = create(name, num_classes=7), timm.create_model(theirs, num_classes=7, **options)
    if name == "resnet50":  # timm's has the stride in the 3×3 and pads
        for stage in (theirs.layer2, theirs.layer3, theirs.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
        theirs.maxpool = ours.maxpool
    state = theirs.state_dict()
    for key, value in state.items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif value.is_floating_point() and value.dim() == 1:
            value.normal_(0.5, 0.2)
    keys = list(ours.state_dict())
    assert [v.shape for v in ours.state_dict().values()] == [v.shape for v in state.values()]  # in the same order
    ours.load_state_dict(dict(zip(keys, state.values(), strict=True)))
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected = theirs.eval()(x)
        torch.testing.assert_close(ours.eval()(x), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
