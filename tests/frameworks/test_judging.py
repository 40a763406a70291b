"""ultralytics' own trainer, judged: yolov8n without SE and with it, its loss on other pictures the score."""

from __future__ import annotations

import pytest

from senet.files.run_folder import read_csv, read_json
from senet.study import judge
from tests.frameworks.shapes import draw
from tests.frameworks.staying import OPEN

ultralytics = pytest.importorskip("ultralytics", reason="ultralytics is not installed", exc_type=ImportError)
SIZE = {"imgsz": 64, "device": "cpu", "workers": 0, "plots": False}
HOW = {**SIZE, "batch": 16, "nbs": 16, "amp": False, "mosaic": 0, "warmup_epochs": 0, "epochs": 2}


def test_yolov8n_by_its_own_trainer(tmp_path, row):
    from senet.integrations.ultralytics import trainer

    row("ultralytics", "yolov8n: `senet.study.judge` of its own trainer", 6)
    data = draw(tmp_path / "shapes", train=32, val=16)

    def train(cell):
        yolo = ultralytics.YOLO("yolov8n.yaml")
        yolo.train(
            trainer=trainer(cell=cell), data=str(data), project=str(cell.folder), name="run", seed=cell.seed, **HOW
        )
        last = read_csv(cell.folder / "run/results.csv")[-1]  # of so few steps mAP is 0
        return float(next(value for name, value in last.items() if name.strip() == "val/box_loss"))

    found = judge(
        train,
        out=tmp_path / "out",
        spec=OPEN,
        seeds=2,
        score="val/box_loss",
        higher_is_better=False,
        version="1",
        devices="cpu",
        progress=False,
    )
    result = read_json(tmp_path / "out/result.json")
    assert (len(found.sites), result["failed"], result["missing"]) == (6, {}, [])
    assert not [note for note in found.notes if "weight" in note]  # the blocks were trained
    assert found.se.cost["parameters"] > found.plain.cost["parameters"]
    assert len(set(found.plain.scores)) == 2
    assert (tmp_path / "out/se-1/work/run/weights/best.pt").is_file()
