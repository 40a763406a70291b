"""Where SE goes in networks that everybody knows: counted by hand from each architecture, not from a run of ours."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import senet
from senet import InsertionError, SESpec
from tests.insertion.networks import randomise

torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")

# network, input size, rule, number of sites, where the number comes from
COUNTED = [
    ("torchvision:resnet18", 64, "residual", 8, "He et al. table 1: 2+2+2+2 basic blocks"),
    ("torchvision:resnet34", 64, "residual", 16, "3+4+6+3 basic blocks"),
    ("torchvision:resnet50", 64, "residual", 16, "3+4+6+3 bottlenecks"),
    ("torchvision:resnet101", 64, "residual", 33, "3+4+23+3 bottlenecks"),
    ("torchvision:resnet152", 64, "residual", 50, "3+8+36+3 bottlenecks"),
    ("torchvision:resnext50_32x4d", 64, "residual", 16, "3+4+6+3, grouped"),
    ("torchvision:wide_resnet50_2", 64, "residual", 16, "3+4+6+3"),
    (
        "torchvision:mobilenet_v2",
        64,
        "residual",
        10,
        "Sandler et al. table 2: groups of 1,2,3,4,3,3,1, n-1 shortcuts each",
    ),
    ("torchvision:mnasnet1_0", 64, "residual", 10, "groups of 3,3,3,2,4,1, n-1 shortcuts each"),
    ("torchvision:convnext_tiny", 64, "residual", 18, "Liu et al.: 3+3+9+3"),
    ("torchvision:regnet_x_400mf", 64, "residual", 22, "Radosavovic et al.: depths 1,2,7,12"),
    ("torchvision:densenet121", 64, "dense", 58, "Huang et al. table 1: 6+12+24+16"),
    ("torchvision:densenet169", 64, "dense", 82, "6+12+32+32"),
    ("torchvision:googlenet", 96, "aggregated", 9, "Szegedy et al. table 1: nine inception modules"),
    ("torchvision:inception_v3", 128, "aggregated", 11, "3 A, 1 reduction, 4 C, 1 reduction, 2 E"),
    ("torchvision:squeezenet1_1", 96, "aggregated", 8, "Iandola et al. table 1: fire2 to fire9"),
    ("torchvision:shufflenet_v2_x1_0", 64, "shuffled", 16, "Ma et al. table 5: 4+8+4"),
    ("torchvision:vgg16_bn", 64, "plain", 13, "13 convolutions"),
    ("torchvision:vgg11", 64, "plain", 8, "8 convolutions"),
    ("torchvision:alexnet", 96, "plain", 5, "5 convolutions"),
    ("torchvision:efficientnet_v2_s", 64, "residual", 8, "Tan and Le table 4: fused stages of 2,4,4 without SE: 2+3+3"),
    ("timm:darknet53", 64, "residual", 23, "Redmon and Farhadi table 1: 1+2+8+8+4"),
    ("timm:cspdarknet53", 64, "residual", 23, "the same blocks in CSP stages"),
    ("timm:inception_resnet_v2", 128, "residual", 40, "10 A + 20 B + 10 C"),
    ("timm:inception_v4", 128, "aggregated", 19, "3 in the stem, 4 A, 1 reduction, 7 B, 1 reduction, 3 C"),
    ("timm:resnetv2_50", 64, "residual", 16, "3+4+6+3, pre-activation"),
    ("timm:dla34", 64, "residual", 12, "Yu et al. table 1: trees of 2, 4, 4, 2 basic blocks"),
    ("timm:xception41", 96, "residual", 12, "entry 3, middle 8, exit 1 with a shortcut"),
    ("timm:legacy_xception", 96, "residual", 12, "Chollet figure 5: 12 of 14 modules have a shortcut"),
    ("timm:res2net50_26w_4s", 64, "residual", 16, "3+4+6+3; the sums inside the split are none"),
    ("timm:convmixer_768_32", 56, "residual", 32, "depth 32"),
    ("timm:skresnet18", 64, "residual", 8, "2+2+2+2; the sum over kernels is none"),
    ("timm:repvgg_a0", 64, "plain", 22, "1+2+4+14+1 blocks of twin branches under one activation"),
    ("timm:mobileone_s0", 64, "plain", None, "every activation; no sum of twins"),
    ("timm:vovnet39a", 64, "aggregated", 6, "OSA modules 1+1+2+2"),
    ("timm:dpn68", 64, "residual", 22, "3+4+12+3 dual-path blocks"),
    ("timm:starnet_s1", 64, "residual", 15, "2+2+8+3"),
    ("timm:fasternet_t0", 64, "residual", 13, "1+2+8+2"),
    ("timm:mambaout_femto", 64, "residual", 18, "3+3+9+3, maps with the channels last"),
    ("timm:ghostnet_100", 64, "residual", 9, "16 bottlenecks, 7 of which hold SE already"),
    ("timm:repvit_m0_9", 64, "residual", 26, "channel mixers of 3+1+4+1+16+1 blocks, without the last stage's 3"),
]


def build(name: str) -> nn.Module:
    library, _, model = name.partition(":")
    if library == "timm":
        return timm.create_model(model)
    options = {"init_weights": False} if model in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(model, weights=None, **options)


@pytest.mark.parametrize(("name", "size", "rule", "count", "source"), COUNTED, ids=[row[0] for row in COUNTED])
def test_counted_by_hand(name, size, rule, count, source):
    found = senet.sites(build(name), torch.randn(1, 3, size, size))
    assert {site.rule for site in found} == {rule}
    if count is not None:
        assert len(found) == count, source
    assert all(site.reason and site.channels > 1 for site in found)
    assert len({site.name for site in found}) == len(found)


@pytest.mark.parametrize(
    "name", ["timm:efficientnet_b0", "timm:seresnet50", "timm:ese_vovnet19b_dw", "timm:hgnet_tiny"]
)
def test_se_that_is_there_is_not_doubled(name):
    with pytest.raises(InsertionError, match="holds SE already wherever it could go"):
        senet.sites(build(name), torch.randn(1, 3, 96, 96))


@pytest.mark.parametrize(
    "name", ["timm:vit_tiny_patch16_224", "timm:swin_tiny_patch4_window7_224", "timm:mixer_s32_224", "timm:levit_128s"]
)
def test_transformers_get_the_clean_error(name):
    with pytest.raises(InsertionError, match="has no place for SE"):
        senet.sites(build(name), torch.randn(1, 3, 224, 224))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("torchvision:densenet121", 32),
        ("torchvision:squeezenet1_1", 64),
        ("torchvision:shufflenet_v2_x0_5", 32),
        ("torchvision:vgg11_bn", 32),
        ("torchvision:convnext_tiny", 32),
        ("timm:repvgg_a0", 32),
        ("timm:mambaout_femto", 64),
        ("timm:ghostnet_050", 32),
        ("timm:dpn48b", 32),
    ],
)
def test_the_function_is_kept_and_comes_back(name, size):
    plain = randomise(build(name))
    x = torch.randn(2, 3, size, size)
    se = senet.insert(plain, x)
    with torch.no_grad():
        expected = plain.eval()(x)
        assert torch.equal(se.eval()(x), expected)
        assert torch.equal(senet.remove(se)(x), expected)
    assert len(senet.insertion.inserted(se)) == len(senet.sites(plain, x))


PLACED = {  # network: placement -> the first site, by hand; None where there is none
    "torchvision:squeezenet1_1": {
        "standard": ("features.3", "output"),
        "pre": ("features.3", "input"),
        "post": ("features.3", "output"),
        "identity": None,
        "inner": None,
    },
    "torchvision:shufflenet_v2_x0_5": {
        "standard": ("stage2.0.branch2.7", "output"),
        "pre": ("stage2.0.branch2.0", "input"),
        "post": ("stage2.0", "output"),
        "identity": None,
        "inner": ("stage2.0.branch2.4", "output"),
    },
    "torchvision:densenet121": {
        "standard": ("features.denseblock1.denselayer1.conv2", "output"),
        "pre": ("features.denseblock1.denselayer1.norm1", "input"),
        "post": None,
        "identity": None,
        "inner": ("features.denseblock1.denselayer1.conv2", "output"),
    },
    "torchvision:vgg11_bn": {
        "standard": ("features.2", "output"),
        "pre": ("features.4", "input"),
        "post": ("features.2", "output"),
        "identity": None,
        "inner": ("features.2", "output"),
    },
}


@pytest.mark.parametrize("name", PLACED)
@pytest.mark.parametrize("placement", ["standard", "pre", "post", "identity", "inner"])
def test_placements_of_other_networks(name, placement):
    plain, x = randomise(build(name)), torch.randn(2, 3, 64, 64)
    expected = PLACED[name][placement]
    if expected is None:
        with pytest.raises(InsertionError, match=f"placement '{placement}'"):
            senet.sites(plain, x, placement=placement)
        return
    first = senet.sites(plain, x, placement=placement)[0]
    assert (first.name, first.position) == expected
    se = senet.insert(plain, x, SESpec(placement=placement)).eval()
    with torch.no_grad():
        assert torch.equal(se(x), plain.eval()(x))


def test_fusions_across_scales_are_no_sites():
    """FPN, U-Net skips and HRNet's fusions: only the residual branches of the backbone remain."""
    detector = torchvision.models.detection.retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=96, max_size=160
    )
    found = senet.sites(detector, ([torch.rand(3, 96, 96)],))
    assert len(found) == 16
    assert all(site.name.startswith("backbone.body.layer") for site in found)
    names = [site.name for site in senet.sites(timm.create_model("hrnet_w18_small"), torch.randn(1, 3, 64, 64))]
    assert not any("fuse" in name for name in names)


@pytest.mark.parametrize(
    "name", ["fasterrcnn_mobilenet_v3_large_320_fpn", "ssd300_vgg16", "fcos_resnet50_fpn", "maskrcnn_resnet50_fpn"]
)
def test_detectors(name):
    """Networks with data-dependent shapes: the same detections after, a training step with targets works."""
    small = {} if name.startswith("ssd") else {"min_size": 96, "max_size": 160}
    plain = randomise(torchvision.models.get_model(name, weights=None, weights_backbone=None, **small))
    images = [torch.rand(3, 120, 120)]
    se = senet.insert(plain, (images,))
    with torch.no_grad():
        expected, given = plain.eval()(images), se.eval()(images)
    assert all(torch.equal(a[key], b[key]) for a, b in zip(expected, given, strict=True) for key in a)
    target = {"boxes": torch.tensor([[10.0, 12, 90, 100]]), "labels": torch.tensor([1])}
    if "mask" in name:
        target["masks"] = torch.ones(1, 120, 120, dtype=torch.uint8)
    losses = se.train()(images * 2, [target] * 2)
    sum(losses.values()).backward()
    assert all(block.fc2.weight.grad is not None for block in senet.blocks(se).values() if hasattr(block, "scale"))


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18"])
def test_video(name):
    plain, x = randomise(torchvision.models.get_model(name)), torch.randn(1, 3, 8, 32, 32)
    found = senet.sites(plain, x)
    assert len(found) == 8
    with torch.no_grad():
        assert torch.equal(senet.insert(plain, x).eval()(x), plain.eval()(x))


def test_optical_flow():
    """RAFT's recurrent update is called many times; its two encoders have 6 residual blocks each."""
    plain = torchvision.models.optical_flow.raft_small()
    images = (torch.rand(1, 3, 128, 128), torch.rand(1, 3, 128, 128))
    assert len(senet.sites(plain, images)) == 12
