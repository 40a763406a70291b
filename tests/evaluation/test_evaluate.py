import copy
import json
import os
import signal

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from senet.block import SESpec
from senet.data.readable import Readable
from senet.data.sampling import eval_loader, hold
from senet.data.sources import open_data
from senet.data.transforms import Preprocessing
from senet.errors import DataError, InputError, StudyError
from senet.evaluation.evaluate import evaluate
from senet.evaluation.logits import answers
from senet.evaluation.open import native_preprocessing
from senet.evaluation.predict import predict
from senet.export.export import export
from senet.export.formats import FORMATS
from senet.export.runtimes import OnnxRuntime, OpenVino
from senet.inference.optimize import optimize
from senet.training.train import train
from senet.zoo import create
from senet.zoo.weights.load import note_preprocessing

QUIET = {"devices": "cpu", "workers": 0, "progress": False}
SHORT = {"epochs": 2, "batch_size": 8, "lr": 0.05, "devices": "cpu", "progress": False}


def test_figures_are_those_of_the_definition(tiny, paint, tmp_path):
    folder = paint({"val/a": 5, "val/b": 4, "val/c": 3})
    network = create(tiny, num_classes=7)
    (tmp_path / "classes.json").write_text('["a", "b", "c"]')
    found = evaluate(network, folder, classes=tmp_path / "classes.json", batch_size=5, **QUIET)
    source = open_data(folder)
    how = Preprocessing(8, 8)
    pixels = torch.stack([how(source.val.load(index)) for index in range(12)])
    with torch.no_grad():
        logits = network.eval()(how.normalise(pixels))
    order = logits.argsort(1, descending=True)
    labels = source.val.labels
    assert found.correct == tuple((order[:, 0] == labels).tolist())
    assert found.top1 == (order[:, 0] == labels).double().mean().item()
    assert found.top5 == pytest.approx((order[:, :5] == labels[:, None]).any(1).double().mean().item())
    assert found.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert (found.count, found.classes, found.split, found.preprocessing) == (12, 7, "val", how)
    assert f"{sum(found.correct)} of 12 images" in str(found)


def test_the_callers_network_is_left_as_it_was(tiny, pictures):
    network = create(tiny, num_classes=2)
    network.blocks.eval()
    modes = [module.training for module in network.modules()]
    state = {key: value.clone() for key, value in network.state_dict().items()}
    before = torch.get_rng_state()
    evaluate(network, pictures, **QUIET)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("spec", [None, SESpec()])
def test_a_run_is_measured_as_it_was_trained(tiny, pictures, tmp_path, spec):
    result = train(tiny, pictures, out=tmp_path / "run", spec=spec, size=16, **SHORT)
    found = evaluate(tiny, pictures, weights=tmp_path / "run/model.safetensors", **QUIET)
    assert found.preprocessing.size == 16
    assert found.top1 == result.accuracy
    assert found.correct == result.correct
    assert found == evaluate(tiny, pictures, weights=tmp_path / "run", **QUIET)


def test_folders_are_matched_by_the_names_that_the_run_saved(tiny, paint, tmp_path):
    three = paint({"train/a": 6, "train/b": 6, "train/c": 6, "val/a": 2, "val/b": 2, "val/c": 2})
    train(tiny, three, out=tmp_path / "run", **SHORT)
    expected = evaluate(tiny, three, weights=tmp_path / "run", **QUIET)
    (three / "val/a").rename(tmp_path / "a")
    some = tmp_path / "some"
    some.mkdir()
    (three / "val").rename(some / "val")
    found = evaluate(tiny, some, weights=tmp_path / "run", **QUIET)
    assert found.correct == expected.correct[2:]  # b and c are classes 1 and 2, not 0 and 1
    (some / "val/c").rename(some / "val/cc")
    with pytest.raises(StudyError, match=r"'cc' of .* is none of them \(the nearest is 'c'\)"):
        evaluate(tiny, some, weights=tmp_path / "run", **QUIET)


def test_a_classes_file_decides_where_it_is_given(tiny, paint, tmp_path):
    folder = paint({"val/a": 3, "val/b": 3})
    network = create(tiny, num_classes=4)
    file = tmp_path / "classes.json"
    file.write_text(json.dumps(["b", "x", "a"]))
    found = evaluate(network, folder, classes=file, class_offset=1, **QUIET)
    with torch.no_grad():
        how = Preprocessing(8, 8)
        source = open_data(folder)
        pixels = torch.stack([how(source.val.load(index)) for index in range(6)])
        best = network.eval()(how.normalise(pixels)).argmax(1)
    assert found.correct == tuple((best == torch.tensor([3, 3, 3, 1, 1, 1])).tolist())
    with pytest.raises(StudyError, match=r"has 4 classes and the images have class 5"):
        evaluate(network, folder, classes=file, class_offset=3, **QUIET)
    file.write_text(json.dumps(["b", "x"]))
    with pytest.raises(DataError, match="does not name 'a'"):
        evaluate(network, folder, classes=file, **QUIET)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"size": 16}, Preprocessing(16, 18)),
        ({"size": 16, "resize": 16}, Preprocessing(16, 16)),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}, Preprocessing(8, 8, (0.5,) * 3, (0.5,) * 3)),
        ({"interpolation": "bicubic", "resize": 9}, Preprocessing(8, 9, interpolation="bicubic")),
        ({"size": 16, "crop": 0.875}, Preprocessing(16, 18)),
        ({"crop": 1.0}, Preprocessing(8, 8)),
        ({"channels": "BGR"}, Preprocessing(8, 8, channels="BGR")),
    ],
)
def test_preprocessing_can_be_said(tiny, pictures, asked, expected):
    assert evaluate(create(tiny, num_classes=2), pictures, **asked, **QUIET).preprocessing == expected


def test_a_network_tells_its_input(tiny, pictures):
    network = create(tiny, num_classes=2)
    note_preprocessing(network, Preprocessing(8, 9, channels="BGR").to_json())
    assert evaluate(network, pictures, **QUIET).preprocessing == Preprocessing(8, 9, channels="BGR")
    assert "BGR" in str(evaluate(network, pictures, **QUIET))


def test_what_is_noted_of_a_network_stays_with_its_other_forms(tiny, pictures):
    network, how = create(tiny, num_classes=2), Preprocessing(8, 9, channels="BGR")
    note_preprocessing(network, how.to_json())
    form, wanted = optimize(network, torch.zeros(1, 3, 8, 8)), evaluate(network, pictures, **QUIET)
    assert form is not network
    for other in (form, copy.deepcopy(form), torch.compile(network, backend="eager")):
        found = evaluate(other, pictures, **QUIET)
        assert (found.preprocessing, found.correct) == (how, wanted.correct)
    compiled = torch.compile(create("resnet20"), backend="eager")
    assert native_preprocessing(compiled) == Preprocessing(32, 32)


@pytest.mark.parametrize(("suffix", "runtime"), [(".onnx", OnnxRuntime), (".xml", OpenVino)])
def test_an_exported_file_is_measured_and_asked_as_it_says(tiny, paint, tmp_path, suffix, runtime):
    for module in FORMATS[suffix].modules:
        pytest.importorskip(module, reason="the extra 'ship' is not installed")
    folder, how = paint({"val/dark": 4, "val/light": 3}), Preprocessing(8, 9, channels="BGR")
    network, names = create(tiny, num_classes=2), ["light", "dark"]
    metadata = {"classes": names, "preprocessing": how.to_json()}
    export(network, torch.zeros(1, 3, 8, 8), tmp_path / f"net{suffix}", metadata=metadata)
    file = str(tmp_path / f"net{suffix}")
    note_preprocessing(network, how.to_json())
    (tmp_path / "classes.json").write_text(json.dumps(names))
    wanted = evaluate(network, folder, classes=tmp_path / "classes.json", **QUIET)
    for given in (file, runtime(file)):
        found = evaluate(given, folder, **QUIET)
        assert (found.preprocessing, found.names, found.correct) == (how, {0: "light", 1: "dark"}, wanted.correct)
        assert found.loss == pytest.approx(wanted.loss, rel=1e-3)
        assert {row["predicted"] for row in predict(given, folder, devices="cpu", progress=False).rows()} <= {*names}
    with pytest.raises(InputError, match=r"is an exported network, complete with its weights.*: leave weights out"):
        evaluate(file, folder, weights="x.pth", **QUIET)


def test_any_split_can_be_measured(tiny, pictures):
    network = create(tiny, num_classes=2)
    assert [evaluate(network, pictures, split=split, **QUIET).count for split in ("train", "val", "all")] == [24, 8, 32]


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"workers": -1},
        {"size": 0},
        {"split": "dev"},
        {"devices": 7},
        {"crop": 0.0},
        {"crop": "0.875"},
        {"size": "16", "crop": 0.5},
        {"crop": 1.5},
        {"resize": 9, "crop": 0.875},
        {"channels": "GBR"},
    ],
)
def test_what_makes_no_sense_is_refused(tiny, pictures, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        evaluate(create(tiny, num_classes=2), pictures, **{**QUIET, **wrong})


def _killed(_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_process_that_loads_images_says_is_one_line(pictures):
    images, how = open_data(pictures).train, Preprocessing(8, 8)
    killed = Readable(images, _killed, 8, workers=1)
    (pictures / images.names[0]).write_bytes(b"")
    broken = eval_loader(hold(images, how, budget=0), 8, workers=1)
    for batches, words in ((killed, "ended from outside.* fewer --workers need less$"), (broken, "the file is empty")):
        with pytest.raises(DataError, match=words) as error:
            list(answers(nn.Flatten(), batches, how, device=torch.device("cpu")))
        assert "\n" not in str(error.value)


def test_real_weights_on_real_photos(shared, imagenet100):
    found = evaluate(
        "torchvision:mobilenet_v2",
        imagenet100,
        weights=shared / "weights/mobilenet_v2-b0353104.pth",
        classes=shared / "data/imagenet-wnids.json",
        **QUIET,
    )
    assert (sum(found.correct), round(found.top5 * 100), found.count) == (83, 97, 100)
    assert found.preprocessing == Preprocessing()


def test_real_weights_with_se_and_a_background_class(shared, imagenet100):
    pytest.importorskip("timm")
    found = evaluate(
        "timm:tf_mobilenetv3_small_100",
        imagenet100,
        weights=shared / "weights/tf_mobilenetv3_small_100.imagenet1001.safetensors",
        classes=shared / "data/imagenet-wnids.json",
        class_offset=1,
        **QUIET,
    )
    assert (sum(found.correct), round(found.top5 * 100), found.classes) == (77, 93, 1001)
