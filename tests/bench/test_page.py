"""The report of a measurement: what the table says, on a page that asks for nothing."""

from __future__ import annotations

import csv

from senet.bench import Bench, Ratio, Row
from senet.bench.cases import INFERENCE, KEPT
from senet.bench.contestants import OURS, PEER
from senet.bench.page import bench_page
from senet.report import write_page
from tests.browser import complaints, opened, requests

EVIL = "<script>alert(1)</script>"
ROWS = (
    Row(INFERENCE, "eager", 1, 0.05, {OURS: Ratio(1.01, 1.0, 1.02), PEER: Ratio(1.09, 1.07, 1.12)}, 40),
    Row(INFERENCE, "openvino", 16, None, note="not installed"),
    Row(KEPT, "eager", 16, 1e8, {OURS: Ratio(1.0), PEER: Ratio(1.21)}),
)


def test_the_report_of_a_measurement(chromium, tmp_path):
    result = Bench(EVIL, (1, 3, 224, 224), "timm's", False, {"processor": "Some", "command": "senet bench"}, ROWS)
    path = write_page(bench_page(result), tmp_path)
    opened(chromium, path)
    assert complaints(chromium) == []
    assert requests(chromium) == [path.as_uri()]
    assert chromium.find_element("tag name", "h1").text == f"What SE costs in {EVIL}"
    assert chromium.find_element("class name", "command").text == "senet bench"
    text = chromium.find_element("tag name", "main").text
    assert "1.010 [1.000, 1.020]" in text
    assert "without SE (1: SE costs nothing)" in text
    with (tmp_path / "bench.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["ours / plain"] for row in rows] == ["1.01", "", "1.0"]
    assert rows[1]["note"] == "not installed"
    with (tmp_path / "ratios.csv").open() as file:
        assert [(row["whose"], row["high"]) for row in csv.DictReader(file)] == [
            (OURS, "1.02"),
            (PEER, "1.12"),
            (OURS, ""),
            (PEER, ""),
        ]


def test_without_a_figure(tmp_path):
    result = Bench("net", (1, 3, 8, 8), "timm's", True, {}, ROWS[1:2])
    write_page(bench_page(result), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "bench.csv"}
