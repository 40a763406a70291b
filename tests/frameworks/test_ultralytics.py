"""ultralytics: its trainer, its EMA, its checkpoints, the fuse before validation, resuming and export."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import senet
from tests.frameworks.shapes import draw
from tests.frameworks.staying import OPEN, assert_same, opened, outputs, randomise, works

ultralytics = pytest.importorskip("ultralytics", reason="ultralytics is not installed", exc_type=ImportError)
SIZE = {"imgsz": 64, "device": "cpu", "workers": 0, "plots": False}
RATE = {"optimizer": "AdamW", "lr0": 0.003, "warmup_epochs": 1, "mosaic": 0, "close_mosaic": 0, "patience": 1000}
SETTINGS = {**SIZE, **RATE, "batch": 16, "nbs": 16, "seed": 0, "amp": False}
SITES = {"yolov8n": 6, "yolov5n": 7, "yolo11n": 11}


@pytest.fixture(scope="module")
def x():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ultralytics")


@pytest.fixture(scope="module")
def data(folder):
    return draw(folder / "shapes")


@pytest.fixture(scope="module")
def run(data, folder):
    """A yolov8n with SE, from scratch; its mAP by epoch stands in results.csv."""
    from senet.integrations.ultralytics import trainer

    yolo = ultralytics.YOLO("yolov8n.yaml")
    yolo.train(trainer=trainer(OPEN), data=str(data), epochs=14, project=str(folder), name="run", **SETTINGS)
    return folder / "run"


def validate(yolo, data, folder):
    found = yolo.val(data=str(data), project=str(folder), name="val", **SIZE)
    return found.box.map50, found.box.map


@pytest.mark.parametrize("name", SITES)
def test_the_network(name, x, tmp_path, row):
    row("ultralytics", f"{name}: insert, train, save", SITES[name])
    works(ultralytics.YOLO(f"{name}.yaml").model, x, SITES[name], tmp_path)


@pytest.mark.parametrize("name", SITES)
def test_fuse(name, x, row):
    row("ultralytics", f"{name}: `fuse()`", SITES[name])
    net = opened(ultralytics.YOLO(f"{name}.yaml").model, x, count=SITES[name])
    expected, plain = outputs(net, x), outputs(senet.remove(net), x)
    assert_same(outputs(net.fuse(verbose=False), x), expected, plain, 1e-3)


def test_training_and_validation_agree(run, data, folder, row):
    """Measured when SE was lost in the fuse: .967 in training, .876 from the file, .876 with SE removed."""
    row("ultralytics", "yolov8n: trained; mAP of `YOLO(best.pt).val()` is the training's", 6)
    lines = [line.split(",") for line in (run / "results.csv").read_text().splitlines()]
    at50, at = (lines[0].index(f"metrics/mAP50{kind}(B)") for kind in ("", "-95"))
    best = max(lines[1:], key=lambda line: 0.1 * float(line[at50]) + 0.9 * float(line[at]))
    trained = float(best[at50]), float(best[at])
    yolo = ultralytics.YOLO(run / "weights" / "best.pt")
    assert len(senet.blocks(yolo.model)) == 6
    without = ultralytics.YOLO(run / "weights" / "best.pt")
    without.model = senet.remove(without.model)
    given, removed = validate(yolo, data, folder), validate(without, data, folder)
    print(f"mAP50 and mAP in training {trained}, of YOLO(best.pt) {given}, with SE removed {removed}")
    assert trained[0] > 0.3
    assert given == pytest.approx(trained, abs=1e-3)
    assert max(abs(one - other) for one, other in zip(given, removed, strict=True)) > 3e-3


def test_onnx(run, x, row):
    import onnx
    import onnxruntime

    row("ultralytics", "yolov8n: `YOLO(best.pt).export` to ONNX and TorchScript", 6)
    yolo = ultralytics.YOLO(run / "weights" / "best.pt")
    expected = yolo.model.eval()(x)[0]
    file = yolo.export(format="onnx", imgsz=64, batch=2, simplify=False, device="cpu")
    graph = onnx.load(file).graph
    means = [node for node in graph.node if node.op_type in ("ReduceMean", "GlobalAveragePool")]
    assert len(means) == 6
    session = onnxruntime.InferenceSession(file)
    given = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    assert_same([given], [expected], [senet.remove(yolo.model)(x)[0]], 1e-2)
    file = yolo.export(format="torchscript", imgsz=64, batch=2, device="cpu")
    assert_same([torch.jit.load(file)(x)], [expected], None, 1e-2)


def test_resume(run, data, folder, row):
    from senet.integrations.ultralytics import trainer

    row("ultralytics", "yolov8n: stopped and resumed", 6)
    kind = trainer(OPEN)

    def stop(engine):
        if engine.epoch:
            raise KeyboardInterrupt

    yolo = ultralytics.YOLO("yolov8n.yaml")
    yolo.add_callback("on_fit_epoch_end", stop)
    with pytest.raises(KeyboardInterrupt):
        yolo.train(trainer=kind, data=str(data), epochs=3, project=str(folder), name="cut", **SETTINGS)
    last = folder / "cut" / "weights" / "last.pt"
    before = torch.load(last, weights_only=False)["ema"].float()
    seen = {}
    again = ultralytics.YOLO(last)
    again.add_callback("on_train_start", lambda engine: seen.update(engine.ema.ema.state_dict()))
    again.train(trainer=kind, resume=True)
    assert {k for k in seen if ".se." in k} == {k for k in before.state_dict() if ".se." in k} != set()
    assert len(senet.blocks(again.model)) == 6


def test_pretrained_weights_go_in_first(run, x, data, folder, row):
    """From a file without SE: SE starts as the identity on its weights. From one with SE: that SE goes on."""
    from senet.integrations.ultralytics import trainer

    row("ultralytics", "yolov8n: fine-tuned from weights with and without SE", 6)
    seen = []

    class Watching(trainer()):
        def get_model(self, *args, **kwargs):
            seen.append(super().get_model(*args, **kwargs))
            return seen[-1]

    plain = ultralytics.YOLO("yolov8n.yaml")
    randomise(plain.model)
    plain.save(folder / "plain.pt")
    plain = ultralytics.YOLO(folder / "plain.pt")
    with_se = ultralytics.YOLO(run / "weights" / "best.pt")
    for yolo in (plain, with_se):
        expected = outputs(yolo.model, x)[1:]
        engine = Watching(overrides={"model": "yolov8n.yaml", "data": str(data), "project": str(folder), **SETTINGS})
        model = engine.get_model(cfg=yolo.model.yaml, weights=yolo.model)
        assert len(senet.blocks(model)) == 6
        if yolo is with_se:
            assert_same(outputs(model, x), outputs(yolo.model, x), outputs(senet.remove(yolo.model), x))
        else:
            state = yolo.model.state_dict()
            assert all(torch.equal(state[k], v) for k, v in senet.remove(model).state_dict().items() if "cv3" not in k)
        assert expected


def test_a_plain_trainer_says_that_se_is_lost(run, data, folder):
    from ultralytics.models.yolo.detect import DetectionTrainer

    yolo = ultralytics.YOLO(run / "weights" / "best.pt")
    given = {"model": "yolov8n.yaml", "data": str(data), "project": str(folder), **SETTINGS}
    engine = DetectionTrainer(overrides=given)
    with pytest.warns(senet.SEWarning, match=r"model\.2\.m\.0\.cv2.*It is lost"):
        engine.get_model(cfg=yolo.model.yaml, weights=yolo.model)


def test_the_ema_and_the_checkpoint(x, tmp_path, row):
    from ultralytics.nn.tasks import load_checkpoint
    from ultralytics.utils.torch_utils import ModelEMA

    row("ultralytics", "yolov8n: EMA, half, checkpoint, `load_checkpoint(fuse=True)`", 6)
    net = opened(ultralytics.YOLO("yolov8n.yaml").model, x)
    ema = ModelEMA(net)
    for _ in range(3):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(1.01)
        ema.update(net)
    expected = outputs(ema.ema, x)
    torch.save({"model": None, "ema": copy.deepcopy(ema.ema).half(), "train_args": {}}, tmp_path / "last.pt")
    again, _ = load_checkpoint(tmp_path / "last.pt", fuse=True)
    assert_same(outputs(again, x), expected, outputs(senet.remove(ema.ema), x), 3e-2)


def test_reading_known_classes_only(x, tmp_path):
    """With ULTRALYTICS_SAFE_LOAD=1 it reads its own classes alone, and says so; nothing is read without SE."""
    from ultralytics.nn.tasks import torch_safe_load

    torch.save({"model": opened(ultralytics.YOLO("yolov8n.yaml").model, x), "train_args": {}}, tmp_path / "net.pt")
    with pytest.raises(TypeError, match="outside the supported Ultralytics checkpoint format"):
        torch_safe_load(tmp_path / "net.pt", safe_only=True)


def test_processes_get_the_trainer(tmp_path, row):
    """For several GPUs ultralytics sends the trainer's class to other processes by cloudpickle."""
    cloudpickle = pytest.importorskip("cloudpickle", reason="cloudpickle is not installed")
    from senet.integrations.ultralytics import trainer

    row("ultralytics", "yolov8n: the trainer in another process, as for several GPUs", 3)
    file = tmp_path / "trainer.pkl"
    file.write_bytes(cloudpickle.dumps(trainer(OPEN, where=lambda site: site.stage > 3)))
    code = f"""
import cloudpickle, pathlib, senet
kind = cloudpickle.loads(pathlib.Path({str(file)!r}).read_bytes())
engine = kind.__new__(kind)
engine.data, engine.args = {{"nc": 2, "channels": 3}}, None
print(len(senet.blocks(engine.get_model(cfg="yolov8n.yaml", verbose=False))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "3"


@pytest.mark.parametrize(("task", "name"), [("segment", "Segmentation"), ("pose", "Pose"), ("obb", "OBB")])
def test_other_tasks(task, name, x, row):
    from senet.integrations.ultralytics import trainer

    row("ultralytics", f"yolov8n, {task}: `{name}Trainer`", 6)
    kind = trainer(OPEN, base=getattr(getattr(ultralytics.models.yolo, task), f"{name}Trainer"))
    engine = kind.__new__(kind)  # its constructor would look for a data set of the task
    engine.data, engine.args = {"nc": 2, "channels": 3, "kpt_shape": [5, 3]}, SimpleNamespace()
    yaml = {"segment": "yolov8n-seg.yaml", "pose": "yolov8n-pose.yaml", "obb": "yolov8n-obb.yaml"}[task]
    model = engine.get_model(cfg=yaml, verbose=False)
    assert len(senet.blocks(model)) == 6
    assert_same(outputs(copy.deepcopy(model).fuse(verbose=False), x), outputs(model, x), None, 1e-3)


def test_the_classifier(x, row, tmp_path):
    from ultralytics.models.yolo.classify import ClassificationTrainer

    from senet.integrations.ultralytics import SETrainer, trainer

    row("ultralytics", "yolov8n-cls: insert, train, save", 6)
    works(ultralytics.YOLO("yolov8n-cls.yaml").model, x, 6, tmp_path)
    kind = trainer(where="model.8*", base=ClassificationTrainer)
    assert issubclass(kind, SETrainer)
    assert kind.__name__ == "SEClassificationTrainer"
    with pytest.raises(senet.errors.InputTypeError, match="base is a trainer class of ultralytics"):
        trainer(base=dict)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer()
