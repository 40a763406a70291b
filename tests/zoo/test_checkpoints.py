import logging
import re

import pytest
import torch
from torch import nn

from senet.block import STARTS, SEBlock, SESpec
from senet.insertion import blocks, insert, inserted
from senet.insertion.recognise import gate
from senet.saving.saving import load, save
from senet.zoo import WeightsError, create, load_weights
from senet.zoo.weights.adapt import for_model, take_se
from senet.zoo.weights.compatibility import MismatchError, compare
from senet.zoo.weights.dialects import DIALECTS, detect
from senet.zoo.weights.load import load_tensors
from senet.zoo.weights.reading import WeightsFile
from tests.zoo.published import close, legacy, outputs, randomised, same

LEGACY = "the authors' release as ported (timm's legacy_*, pretrained-models.pytorch)"
TIMM = "timm's ResNet with SE"
MOSKOMULE = "moskomule's senet.pytorch"
ARTICLE = "the article's block"


def theirs(name, classes=7):
    """Another library's network with random weights."""
    library, _, bare = name.partition(":")
    if library == "timm":
        timm = pytest.importorskip("timm", reason="timm is not there")
        return randomised(timm.create_model(bare, num_classes=classes))
    models = pytest.importorskip("torchvision.models", reason="torchvision is not there")
    return randomised(models.get_model(bare, num_classes=classes))


LARGER = [
    *((f"timm:legacy_seresnet{depth}", f"se_resnet{depth}", LEGACY) for depth in (101, 152)),
    ("timm:legacy_seresnext101_32x4d", "se_resnext101_32x4d", LEGACY),
    *((f"timm:seresnet{depth}", f"se_resnet{depth}_v1_5", TIMM) for depth in (101, 152)),
    ("timm:seresnet34", "se_resnet34", TIMM),
    ("timm:seresnext101_32x4d", "se_resnext101_32x4d", TIMM),
    *((f"torchvision:resnet{depth}", f"resnet{depth}_v1_5", "torchvision's ResNet") for depth in (101, 152)),
    ("torchvision:mobilenet_v3_large", "mobilenet_v3_large", "torchvision's MobileNetV3"),
    *((f"torchvision:vgg{depth}_bn", f"vgg{depth}_bn", "torchvision's VGG") for depth in (11, 13, 16, 19)),
]


@pytest.mark.parametrize(
    ("published", "ours", "dialect"),
    [
        ("timm:legacy_seresnet50", "se_resnet50", LEGACY),
        ("timm:legacy_seresnext50_32x4d", "se_resnext50_32x4d", LEGACY),
        ("timm:legacy_senet154", "senet154", LEGACY),
        ("timm:seresnet18", "se_resnet18", TIMM),  # whose first stage has wider layers: 8, not 64 // 16
        ("timm:seresnet50", "se_resnet50_v1_5", TIMM),
        ("timm:seresnext50_32x4d", "se_resnext50_32x4d", TIMM),
        ("torchvision:resnet18", "resnet18", "torchvision's ResNet"),
        ("torchvision:resnet50", "resnet50_v1_5", "torchvision's ResNet"),
        ("torchvision:resnext50_32x4d", "resnext50_32x4d", "torchvision's ResNet"),
        ("torchvision:mobilenet_v2", "torchvision:mobilenet_v2", "torchvision's MobileNetV2"),
        ("torchvision:mobilenet_v3_small", "mobilenet_v3_small", "torchvision's MobileNetV3"),
        ("timm:legacy_seresnet18", "timm:legacy_seresnet18", LEGACY),  # a dialect read by those who speak it
        # With random weights 152 layers multiply a rounding by 1e12: 9e-5 remain in float64, so keys alone there.
        *(pytest.param(*row, marks=pytest.mark.long) for row in LARGER if row[0] != "timm:legacy_seresnet152"),
    ],
)
def test_a_published_network_computes_the_same(tmp_path, published, ours, dialect):
    network = theirs(published)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    made = create(ours, weights=tmp_path / "w.pth")
    made, network = made.double(), network.double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    assert close(outputs(made, x), outputs(network, x))
    here, there = blocks(made).values(), blocks(network).values()
    assert len(here) == len(there)
    for one, other in zip(here, there, strict=True):
        z = torch.randn(2, channels(one), 3, 3, dtype=torch.float64)
        assert close(gate(one, z), gate(other, z))
    report = load_weights(made, tmp_path / "w.pth")
    assert (report.dialect, report.classes, report.fresh, report.unplaced) == (dialect, 7, (), ())
    assert str(report).startswith(f"{tmp_path / 'w.pth'}: {len(network.state_dict())} tensors loaded, named as in")


@pytest.mark.parametrize("depth", [18, 34])
def test_timms_blocks_with_one_more_relu_are_refused(depth):
    """All keys and shapes fit, and the outputs would be others."""
    tensors = theirs(f"timm:legacy_seresnet{depth}").state_dict()
    model = create(f"se_resnet{depth}", num_classes=7)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=f"one more ReLU, before SE: .*'timm:legacy_seresnet{depth}'"):
        load_tensors(model, tensors, "w.pth")
    assert same(model.state_dict(), before)


def channels(block):
    first = next(m for m in block.modules() if isinstance(m, nn.Linear | nn.Conv2d))
    return first.weight.shape[1]


@pytest.mark.parametrize(("published", "ours", "dialect"), LARGER)
def test_every_key_of_the_larger_ones_has_its_place(published, ours, dialect):
    """Without values, in no time: the same keys and shapes, whose outputs the smaller ones compare."""
    with torch.device("meta"):
        tensors = theirs(published).state_dict()
        model = create(ours, num_classes=7)
    file = WeightsFile.of(tensors, published)
    assert file.dialect.name == dialect
    take_se(model, file)
    tensors, _, _ = for_model(model, file)
    assert not compare(model, tensors)


def test_a_round_trip_is_exact(tmp_path):
    torch.save(theirs("timm:seresnet18").state_dict(), tmp_path / "w.pth")
    made = create("se_resnet18", weights=tmp_path / "w.pth").eval()
    save(made, tmp_path / "saved.safetensors")
    again = load(tmp_path / "saved.safetensors")
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(outputs(again, x), outputs(made, x))
    assert same(again.state_dict(), made.state_dict())
    ratios = [spec.reduction_ratio for _, spec in inserted(again).values()]
    assert ratios == [8, 8, 16, 16, 16, 16, 16, 16]  # timm's layers are never narrower than 8


@pytest.fixture
def small():
    """A bottleneck ResNet 8 times narrower than 50 layers', with SE; and a state dict of it."""
    return network(), randomised(network()).state_dict()


def network(classes=5, **spec):
    resnet = pytest.importorskip("torchvision.models.resnet", reason="torchvision is not there")
    torch.manual_seed(0)
    plain = resnet.ResNet(resnet.Bottleneck, [1, 2, 1, 1], width_per_group=8, num_classes=classes)
    return insert(plain, torch.randn(1, 3, 64, 64), SESpec(start="paper", **spec))


def in_dialect(state, dialect, *, convolutions=False):
    """The state dict with SE named otherwise, and no scale."""
    names = {MOSKOMULE: ("se.fc.0", "se.fc.2"), ARTICLE: ("attention.excitation.0", "attention.excitation.2")}
    names |= {TIMM: ("se.fc1", "se.fc2")}
    renamed = {}
    for key, value in state.items():
        found = re.fullmatch(r"(layer\d\.\d)\.bn3\.se\.fc([12])\.(weight|bias)", key)
        if found:
            key = f"{found[1]}.{names[dialect][int(found[2]) - 1]}.{found[3]}"
            value = value[..., None, None] if convolutions and found[3] == "weight" else value
        if not key.endswith(".se.scale"):
            renamed[key] = value
    return renamed


@pytest.mark.parametrize("convolutions", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dialect", [MOSKOMULE, ARTICLE, TIMM])
def test_se_in_every_form(tmp_path, dialect, bias, convolutions):
    model, network_of_theirs = network(bias=bias), randomised(network(bias=bias))
    torch.save(in_dialect(network_of_theirs.state_dict(), dialect, convolutions=convolutions), tmp_path / "w.pth")
    report = load_weights(model, tmp_path / "w.pth")
    assert report.dialect == dialect
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(outputs(model, x), outputs(network_of_theirs, x))
    assert all(block.scale == 1 for block in blocks(model).values())


@pytest.mark.parametrize("under", ["", "model."])
def test_parameters_alone_have_lost_the_scale(tmp_path, under):
    """Only another library's gates have a scale of 1 for certain."""
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 1))
    started, made = (insert(plain, torch.randn(1, 3, 8, 8), SESpec(start=each), where="1") for each in STARTS)
    for model in (started, made):
        torch.save({under + key: value for key, value in model.named_parameters()}, tmp_path / "w.pth")
        if model is started:
            with pytest.raises(MismatchError, match=r"1 missing from the file: 1.se.scale \(\). It holds parameters"):
                load_weights(model, tmp_path / "w.pth")
        else:
            assert "the constant scale of 1 SE block is not among" in str(load_weights(model, tmp_path / "w.pth"))
    assert (started[1].se.scale, made[1].se.scale) == (2, 1)


def test_absent_biases_are_zero(tmp_path, small):
    model = network(bias=True)
    torch.save(in_dialect(small[1], MOSKOMULE), tmp_path / "w.pth")
    report = load_weights(model, tmp_path / "w.pth")
    assert report.notes == ("biases of 5 SE blocks are not in the file: they are 0, which is the same",)
    assert not any(value.any() for key, value in model.state_dict().items() if ".se." in key and key.endswith("bias"))


def test_one_absent_bias_is_an_error(tmp_path):
    state = network(bias=True).state_dict()
    del state["layer1.0.bn3.se.fc1.bias"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"1 missing from the file: layer1.0.bn3.se.fc1.bias"):
        load_weights(network(bias=True), tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("there", "here", "message"),
    [
        (
            {"bias": True},
            {},
            r"10 unknown to the network: .*fc1.bias .*The file's SE is SESpec\(reduction_ratio=16, bias",
        ),
        ({"reduction_ratio": 4}, {}, r"The file's SE is SESpec\(reduction_ratio=4, bias=False\): insert that"),
        ({"width": 3}, {}, r"The file's SE is SESpec\(width=3, bias=False\): insert that"),
        ({}, {"placement": "pre"}, r"in standard placement, this one has it elsewhere"),
    ],
)
def test_another_block_is_named(tmp_path, there, here, message):
    torch.save(in_dialect(network(**there).state_dict(), MOSKOMULE), tmp_path / "w.pth")
    model = network(**here)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        load_weights(model, tmp_path / "w.pth")
    assert same(model.state_dict(), before)


def test_the_plain_network_is_told_to_take_se(tmp_path, small):
    torch.save(in_dialect(small[1], MOSKOMULE), tmp_path / "w.pth")
    from senet import remove

    with pytest.raises(WeightsError, match=r"insert it first, with SESpec\(reduction_ratio=16, bias=False\)"):
        load_weights(remove(small[0]), tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["last_linear", "head.classifier"])
@pytest.mark.parametrize(("classes", "fresh"), [(5, ()), (9, ("fc",))])
def test_another_head(tmp_path, small, name, classes, fresh):
    model, state = small
    head = nn.Linear(2048, classes)
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    state |= {f"{name}.{key}": value for key, value in head.state_dict().items()}
    before = model.fc.weight.clone()
    torch.save(state, tmp_path / "w.pth")
    report = load_weights(model, tmp_path / "w.pth")
    assert f"fc is what the file calls {name}" in report.notes
    assert (report.classes, report.fresh) == (classes, fresh)
    assert report.unplaced == ((f"{name}.weight", f"{name}.bias") if fresh else ())
    assert torch.equal(model.fc.weight, before if fresh else head.weight)


def test_no_head(tmp_path, small):
    model, state = small
    torch.save({key: value for key, value in state.items() if not key.startswith("fc.")}, tmp_path / "w.pth")
    report = load_weights(model, tmp_path / "w.pth")
    assert report.fresh == ("fc",)
    assert "fc: not in the file: starts fresh" in report.notes
    with pytest.raises(WeightsError, match=r"2 missing from the file: fc.weight"):
        load_weights(model, tmp_path / "w.pth", head="strict")


class TestDamage:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda s: s.pop("layer2.1.conv1.weight"),
                r"1 missing from the file: layer2.1.conv1.weight \(16, 512, 1, 1\)",
            ),
            (
                lambda s: s.update({"layer0.conv1.weight": torch.zeros(64, 3, 5, 5)}),
                r"conv1.weight \(64, 3, 5, 5\) in the file, \(64, 3, 7, 7\) .*\(the file's layer0.conv1.weight\)",
            ),
            (
                lambda s: s.update({"layer1.0.se_module.fc2.weight": torch.zeros(256, 15, 1, 1)}),
                r"layer1.0.bn3.se.fc2.weight \(256, 15\) in .*\(the file's layer1.0.se_module.fc2.weight\)",
            ),
            (lambda s: s.update({"layer9.0.se_module.fc1.weight": torch.zeros(2, 2)}), r"\(the file's layer9.0.se_mod"),
            (lambda s: [s.pop(key) for key in list(s)[::2]], r"\d+ missing from the file: .* and \d+ more"),
        ],
    )
    def test_what_differs_is_named_as_in_the_file(self, tmp_path, change, message):
        state = legacy(network(bias=True).state_dict())
        change(state)
        torch.save(state, tmp_path / "w.pth")
        model = network(bias=True)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises(MismatchError, match=message) as caught:
            load_weights(model, tmp_path / "w.pth")
        assert same(model.state_dict(), before)
        assert caught.value.difference

    def test_all_that_differs_is_listed(self, tmp_path):
        state = legacy(network(bias=True).state_dict())
        gone = [key for key in state if key.startswith("layer2.0.bn")]
        torch.save({key: value for key, value in state.items() if key not in gone}, tmp_path / "w.pth")
        with pytest.raises(MismatchError) as caught:
            load_weights(network(bias=True), tmp_path / "w.pth")
        assert sorted(caught.value.difference.missing) == sorted(gone)

    def test_another_network_is_named(self, tmp_path):
        torch.save(theirs("timm:legacy_seresnext50_32x4d").state_dict(), tmp_path / "w.pth")
        with pytest.raises(WeightsError, match=r"By its shapes it is of 'se_resnext50_32x4d'"):
            create("se_resnet50", weights=tmp_path / "w.pth")

    def test_the_stride_is_the_dialects(self, tmp_path):
        torch.save(theirs("timm:seresnet50").state_dict(), tmp_path / "w.pth")
        with pytest.raises(WeightsError, match=r"stride in the 3×3 .*all shapes fit.* Make 'se_resnet50_v1_5'"):
            create("se_resnet50", weights=tmp_path / "w.pth")

    def test_torchvisions_stride_may_be_another(self, tmp_path, caplog):
        torch.save(theirs("torchvision:resnet50").state_dict(), tmp_path / "w.pth")
        with caplog.at_level(logging.INFO, "senet"):
            create("resnet50", weights=tmp_path / "w.pth")
        assert "if the weights are theirs, the network is resnet50_v1_5" in caplog.text

    def test_two_names_for_one(self, tmp_path):
        """Neither wins: a file that has both is none of the dialect's."""
        state = legacy(network(bias=True).state_dict())
        state["conv1.weight"] = state["layer0.conv1.weight"]
        torch.save(state, tmp_path / "w.pth")
        with pytest.raises(WeightsError, match=r"1 unknown to the network: layer0.conv1.weight"):
            load_weights(network(bias=True), tmp_path / "w.pth")


def test_the_pooling_of_the_file(tmp_path, caplog):
    torch.save(theirs("timm:legacy_seresnext50_32x4d").state_dict(), tmp_path / "w.pth")
    assert create("se_resnext50_32x4d", weights=tmp_path / "w.pth").maxpool.ceil_mode
    with caplog.at_level(logging.INFO, "senet"):
        assert not create("se_resnext50_32x4d", weights=tmp_path / "w.pth", caffe_pool=False).maxpool.ceil_mode
    assert "which changes its outputs (in the zoo, caffe_pool=True)" in caplog.text


def test_blocks_that_the_file_has_not_are_the_identity(tmp_path):
    plain = randomised(create("resnet20", num_classes=4))
    some = insert(plain, torch.randn(1, 3, 32, 32), SESpec(start="paper", width=2), where="layer3*")
    torch.save(some.state_dict(), tmp_path / "w.pth")
    made = create("se_resnet20", weights=tmp_path / "w.pth")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(outputs(made, x), outputs(some, x))
    assert len(blocks(made)) == 9


def test_a_spec_that_is_given_is_taken_as_it_is(tmp_path):
    torch.save(randomised(create("se_resnet20", num_classes=4)).state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"The file's SE is SESpec\(reduction_ratio=16, bias=True\)"):
        create("resnet20", weights=tmp_path / "w.pth", spec=SESpec(reduction_ratio=4))
    made = create("resnet20", weights=tmp_path / "w.pth", spec=SESpec(bias=True))
    assert all(block.fc1.bias is not None for block in blocks(made).values())


def test_dialects_are_a_table_that_stays():
    assert isinstance(DIALECTS, tuple)
    assert len({dialect.name for dialect in DIALECTS}) == len(DIALECTS)
    assert detect({}) is None
    assert detect({"weight": torch.zeros(2, 2)}) is None
    assert detect(nn.Sequential(SEBlock(4, 2)).state_dict()) is None  # `0.fc1.weight`: own keys, no one's dialect
    with pytest.raises(AttributeError):
        DIALECTS[0].name = "other"
