import copy
import time

import pytest
import torch

from senet.block import SESpec
from senet.data.transforms import Preprocessing
from senet.evaluation.networks import NetworkSpec, known_preprocessing
from senet.insertion import blocks, insert, inserted
from senet.saving.saving import load, read_metadata, save
from senet.zoo import WeightsError, create, load_weights, read_weights
from senet.zoo.weights.load import noted_preprocessing
from senet.zoo.weights.reading import read_file, read_preprocessing
from tests.zoo.published import close, legacy, outputs, randomised, same

pytest.importorskip("google.protobuf", reason="protobuf is not there: pip install 'senet[caffe]'")

from tests.zoo import caffe_files


def through_opencv(path, x):
    """The logits that an independent reader of Caffe's files computes."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not there")
    if int(cv2.__version__.split(".")[0]) > 4:
        pytest.skip("OpenCV 5 reads no Caffe files")
    net = cv2.dnn.readNetFromCaffe(str(path.with_suffix(".prototxt")), str(path))
    net.setInput(x.numpy())
    return torch.from_numpy(net.forward("classifier"))


@pytest.fixture(scope="module")
def se_resnet50(tmp_path_factory):
    """SE-ResNet-50 with random weights, and the same as the authors would have written it."""
    model = randomised(create("se_resnet50", num_classes=7))
    path = tmp_path_factory.mktemp("caffe") / "se_resnet50.caffemodel"
    caffe_files.residual(legacy(model.state_dict()), stride="1x1").write(path)
    return model, path


def test_se_resnet50_is_the_authors(se_resnet50):
    model, path = se_resnet50
    x = torch.randn(1, 3, 64, 64)
    made = create("se_resnet50", weights=path)
    assert close(outputs(made, x), through_opencv(path, x))
    assert close(outputs(made, x), outputs(model, x))
    for name, block in blocks(made).items():
        z = torch.randn(2, block.in_channels, 3, 3)
        assert close(block.gate(z), model.get_submodule(name).gate(z))
    report = load_weights(made, path)
    assert (report.dialect, report.classes, report.tensors) == ("the authors' .caffemodel", 7, 331)
    assert report.notes == ("its images are BGR, in [0, 255], less a mean of each channel",)


def test_se_resnet50_survives_saving(se_resnet50, tmp_path):
    made = create("se_resnet50", weights=se_resnet50[1])
    save(made, tmp_path / "saved.safetensors")
    again = load(tmp_path / "saved.safetensors")
    assert same(again.state_dict(), made.state_dict())
    found = read_metadata(tmp_path / "saved.safetensors")["metadata"]["preprocessing"]
    assert found == read_preprocessing(se_resnet50[1]) == noted_preprocessing(again)
    assert known_preprocessing(NetworkSpec(str(tmp_path / "saved.safetensors"))).channels == "BGR"


def test_other_weights_have_another_input(small_state, tmp_path):
    model = narrow()
    path = caffe_files.residual(small_state).write(tmp_path / "net.caffemodel")
    load_weights(model, path)
    assert noted_preprocessing(copy.deepcopy(model))["channels"] == "BGR"
    state = {key: value.clone() for key, value in model.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    assert not load_weights(model, tmp_path / "w.pth").preprocessing
    assert noted_preprocessing(model) == {}


def test_bn_inception_is_the_authors(tmp_path):
    model = randomised(create("se_bn_inception", num_classes=7))
    path = caffe_files.bn_inception(model.state_dict()).write(tmp_path / "net.caffemodel")
    made = create("se_bn_inception", weights=path)
    x = torch.randn(1, 3, 64, 64)
    assert close(outputs(made, x), through_opencv(path, x))
    assert close(outputs(made, x), outputs(model, x))


@pytest.fixture(scope="module")
def timm_senet():
    return pytest.importorskip("timm.models.senet", reason="timm is not there")


FORMS = {
    "ResNet": ("SEResNetBottleneck", 1, {"inplanes": 64}, {"stride": "1x1"}),
    "ResNeXt": ("SEResNeXtBottleneck", 32, {"inplanes": 64}, {"groups": 32}),
    "SENet": (
        "SEBottleneck",
        64,
        {"inplanes": 128, "input_3x3": True, "downsample_kernel_size": 3, "downsample_padding": 1},
        {"groups": 64},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_residual_form(tmp_path, timm_senet, form):
    """One block a stage: what is read by the way the layers are joined."""
    block, groups, options, written = FORMS[form]
    bottleneck = getattr(timm_senet, block)
    model = timm_senet.SENet(bottleneck, (1, 1, 1, 1), groups=groups, reduction=16, num_classes=5, **options)
    state = randomised(model).state_dict()
    path = caffe_files.residual(state, **written).write(tmp_path / "net.caffemodel")
    found = read_weights(path)
    assert same(found, {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}, 1e-6)
    x = torch.randn(1, 3, 64, 64)
    assert close(outputs(model, x), through_opencv(path, x))
    file = read_file(path)
    assert (file.stride, file.caffe_pool) == (written.get("stride", "3x3"), True)


def narrow():
    """Two blocks a stage, 32 times narrower than SE-ResNet-50."""
    resnet = pytest.importorskip("torchvision.models.resnet", reason="torchvision is not there")
    model = resnet.ResNet(resnet.Bottleneck, [2, 2, 2, 2], width_per_group=2, num_classes=5)
    return insert(model, torch.randn(1, 3, 64, 64), SESpec(bias=True))


@pytest.fixture(scope="module")
def small_state():
    """Its state dict with the port's keys."""
    return legacy(randomised(narrow()).state_dict())


@pytest.mark.parametrize(
    ("options", "split"),
    [
        ({}, True),
        ({"gate": "linear"}, False),
        ({"gate": "scale"}, False),
        ({"gate": "scale"}, True),
        ({"factor": 1.0}, False),
        ({"eps": 1e-3}, False),
    ],
)
def test_forms_of_one_network(tmp_path, small_state, options, split):
    """Snapshots with copying layers; inner products; scaling and sum apart; another factor; another epsilon."""
    net = caffe_files.residual(small_state, **options)
    if split:
        net.split()
    found = read_weights(net.write(tmp_path / "net.caffemodel"))
    expected = dict(small_state)
    for key in expected if "eps" in options else ():
        if key.endswith("running_var"):
            expected[key] = expected[key] + (1e-3 - 1e-5)
    found = {key: value.flatten(1) if "se_module" in key and value.dim() > 1 else value for key, value in found.items()}
    assert same(found, expected, 1e-6)


def test_a_plain_residual_network(tmp_path, small_state):
    state = {key: value for key, value in small_state.items() if "se_module" not in key}
    net = caffe_files.residual(state, gate=None)
    assert same(read_weights(net.write(tmp_path / "net.caffemodel")), state, 1e-6)


def test_a_convolution_with_a_bias_shifts_the_mean(tmp_path, small_state):
    net = caffe_files.residual(small_state)
    bias = torch.randn(64)
    layer = next(layer for layer in net.net.layer if layer.name == "conv1/7x7_s2")
    blob = layer.blobs.add()
    blob.shape.dim.append(64)
    blob.data.extend(bias.tolist())
    found = read_weights(net.write(tmp_path / "net.caffemodel"))
    torch.testing.assert_close(found["layer0.bn1.running_mean"], small_state["layer0.bn1.running_mean"] - bias)
    assert found.keys() == small_state.keys()


def test_old_shapes(tmp_path, small_state):
    """Before blobs had shapes they had four sizes."""
    net = caffe_files.residual(small_state, gate="linear")
    for layer in net.net.layer:
        for blob in layer.blobs:
            sizes = list(blob.shape.dim)
            sizes = [1] * (4 - len(sizes)) + sizes
            blob.ClearField("shape")
            blob.num, blob.channels, blob.height, blob.width = sizes
    found = read_weights(net.write(tmp_path / "net.caffemodel"))
    assert {key: value.shape for key, value in found.items()} == {k: v.shape for k, v in small_state.items()}


@pytest.mark.parametrize(
    ("mean", "scale", "expected"),
    [
        (None, None, ([123 / 255, 117 / 255, 104 / 255], 1 / 255)),
        ([103.0, 116.0, 124.0], None, ([124 / 255, 116 / 255, 103 / 255], 1 / 255)),
        ([128.0], 1 / 128, ([128 / 255] * 3, 128 / 255)),
    ],
)
def test_the_input_is_noted(tmp_path, small_state, mean, scale, expected):
    net = caffe_files.residual(small_state)
    if mean is not None:
        net.net.layer[0].transform_param.mean_value.extend(mean)
    if scale is not None:
        net.net.layer[0].transform_param.scale = scale
    path = net.write(tmp_path / "net.caffemodel")
    found = read_preprocessing(path)
    assert found == read_file(path).preprocessing
    assert found["channels"] == "BGR"
    assert known_preprocessing(NetworkSpec("se_resnet50", str(path))) == Preprocessing.from_json(found)
    assert found["mean"] == pytest.approx(expected[0])
    assert found["std"] == pytest.approx([expected[1]] * 3)


def test_the_stride_must_be_the_networks(se_resnet50):
    """All shapes fit, and the function would be another."""
    with pytest.raises(WeightsError, match=r"in the first 1×1 .* ResNet has it in the 3×3 .* Make 'se_resnet50'"):
        create("se_resnet50_v1_5", weights=se_resnet50[1])


def test_a_file_by_another_name(tmp_path, small_state):
    path = caffe_files.residual(small_state).write(tmp_path / "net.bin")
    assert read_weights(path).keys() == small_state.keys()


class TestDamage:
    @pytest.fixture
    def written(self, tmp_path, small_state):
        return caffe_files.residual(small_state).write(tmp_path / "net.caffemodel")

    @pytest.mark.parametrize("part", [0.001, 0.3, 0.5, 0.99])
    def test_truncated(self, written, part):
        whole = written.read_bytes()
        written.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(WeightsError, match=r"net.caffemodel is not a .caffemodel, or is truncated or damaged"):
            read_weights(written)

    @pytest.mark.parametrize(
        ("left", "message"), [(-1, r"0 layers are in no block \(no classifier\)"), (-6, r"\d layers .*conv5_2_1x1")]
    )
    def test_whole_layers_missing(self, written, left, message):
        net = caffe_files.messages()["NetParameter"].FromString(written.read_bytes())
        del net.layer[left:]
        written.write_bytes(net.SerializeToString())
        with pytest.raises(WeightsError, match=f"that is not known here: {message}"):
            read_weights(written)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "after 0 layers"),
            (b"\n\x03net", "holds no layers"),
            (b"not a network at all", "is not a .caffemodel"),
            (b"\xa2\x06\x05", "5 bytes where 0 are left"),
            (b"\xa2\x06\x02\x0a\x05", "5 bytes where 0 are left"),
            (b"\xa2\x06" + b"\xff" * 11, "no whole number"),
            (b"\x12\x00", "form of 2014"),
        ],
    )
    def test_no_network(self, tmp_path, content, message):
        path = tmp_path / "net.caffemodel"
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=message):
            read_weights(path)

    @pytest.mark.parametrize(
        "bomb",
        [
            b"\xa2\x06\x00" * 2_000_000,  # layers of nothing
            b"\xa2\x06" + b"\x80\x84\x3d" + b"\x3a\x00" * 500_000,  # one layer of empty blobs
            b"\xa2\x06" + b"\x80\x84\x3d" + b"\x1a\x00" * 500_000,  # of empty names
            b"\xa2\x06" + b"\x84\x84\x3d" + b"\x3a" + b"\x80\x84\x3d" + b"\x2a\x00" * 500_000,  # a blob of empty parts
        ],
        ids=["layers", "blobs", "names", "parts"],
    )
    def test_bombs_are_refused_before_they_are_parsed(self, tmp_path, bomb):
        path = tmp_path / "net.caffemodel"
        path.write_bytes(bomb)
        start = time.perf_counter()
        with pytest.raises(WeightsError, match=r"not a \.caffemodel, or is truncated or damaged"):
            read_weights(path)
        assert time.perf_counter() - start < 2

    def test_nested_groups_are_no_message(self, tmp_path):
        path = tmp_path / "net.caffemodel"
        path.write_bytes(b"\xa2\x06\x64" + b"\x0b" * 100)
        with pytest.raises(WeightsError, match="begins no field"):
            read_weights(path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda layer: layer.blobs[0].shape.dim.append(7), r"a blob of shape \(64, 3, 7, 7, 7\) with 9408 numbers"),
            (lambda layer: layer.blobs[0].shape.dim.__setitem__(0, -64), r"a blob of shape \(-64, 3, 7, 7\)"),
            (lambda layer: layer.ClearField("blobs"), r"conv1/7x7_s2 \(Convolution\) has no weights"),
            (lambda layer: setattr(layer, "type", "Deconvolution"), r"does not follow a convolution"),
            (lambda layer: layer.top.__setitem__(0, "elsewhere"), r"does not follow a convolution"),
        ],
    )
    def test_a_layer_that_is_wrong(self, written, change, message):
        net = caffe_files.messages()["NetParameter"].FromString(written.read_bytes())
        change(net.layer[1])
        written.write_bytes(net.SerializeToString())
        with pytest.raises(WeightsError, match=message):
            read_weights(written)

    def test_a_network_of_another_kind(self, tmp_path):
        net = caffe_files.CaffeNet()
        net.conv("conv1", "data", torch.zeros(4, 3, 3, 3))
        with pytest.raises(WeightsError, match=r"not known here: it has neither residual blocks nor.*Known are ResNet"):
            read_weights(net.write(tmp_path / "net.caffemodel"))

    def test_one_shape_off_leaves_the_network_as_it_was(self, written, small_state):
        model = create("se_resnet50", num_classes=5)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises(
            WeightsError, match=r"missing from the file: layer1.2.conv1.weight .*; \d+ of another shape:"
        ):
            load_weights(model, written)
        assert same(before, model.state_dict())


def test_without_protobuf(tmp_path, small_state, monkeypatch):
    from senet.zoo.weights import caffe_format

    path = caffe_files.residual(small_state).write(tmp_path / "net.caffemodel")
    caffe_format._messages.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "google.protobuf.descriptor_pb2", None)
    with pytest.raises(ImportError, match=r"pip install .*\[caffe\]'"):
        read_weights(path)
    monkeypatch.undo()
    assert read_weights(path)


def test_inserted_blocks_are_those_of_the_file(se_resnet50):
    """Its width and biases, whatever `se_resnet50` has of itself."""
    specs = {spec.bias for _, spec in inserted(create("se_resnet50", weights=se_resnet50[1])).values()}
    assert specs == {True}
