"""What SE costs in the networks of the paper, plain, a peer's and ours in turn: docs/speed.md, with figures and JSON.

    make bench                      # hours on 2 cores, on a machine that does nothing else; goes on where it was
    python benchmarks/speed.py --models resnet50_v1_5 resnet20
    python benchmarks/speed.py --page   # only writes the page of what was measured

Each network is measured by `senet.bench` into runs/speed/NAME, row by row. What another version of the code measured is
measured anew.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch

import senet
from senet.bench import Bench, bench, cases
from senet.bench.cases import ENGINES
from senet.bench.measurement import RESULT
from senet.bench.show import figure, machine_line, markdown, meaning
from senet.files.atomic import atomic_write
from senet.report.figures import save_figure

RESULTS = Path("runs/speed")
PAGE = Path("docs/speed.md")
FILES = Path("docs/speed")

WHOLE = None  # all engines
STEPS = ("eager", "channels-last")
NETWORKS: dict[str, tuple[int, tuple[str, ...] | None]] = {
    "resnet50_v1_5": (224, WHOLE),
    "resnet20": (32, WHOLE),
    "resnet18": (224, STEPS),
    "resnet34": (224, STEPS),
    "resnet101": (224, STEPS),
    "resnext50_32x4d": (224, STEPS),
    "mobilenet_v1": (224, STEPS),
    "resnet56": (32, STEPS),
}
"""Pixels a side, and the engines that are measured."""

HEAD = """# What SE costs, measured

`make bench` made this page and the files beside it in docs/speed. Every figure is a ratio to the same network without
SE, in the same engine and the same run. *Inference* of ours is what `senet.optimize` and `senet.export` give; the
others are treated the same way but for that, normalisations folded. A *training step* is forward, cross entropy,
backward and SGD with momentum. *Kept for backward* is what autograd holds between the passes, in bytes, parameters
left out. Nothing was measured on a GPU. Where the squeeze stays in place (networks of basic blocks), ONNX Runtime
and OpenVINO run the same operations for ours as for the straightforward block: what differs there is noise."""


def measure(name: str) -> None:
    size, engines = NETWORKS[name]
    torch.manual_seed(0)
    print(f"# {name}", flush=True)
    bench(senet.create(name), torch.randn(1, 3, size, size), RESULTS / name, name=name, engines=engines)


def measured() -> dict[str, Bench]:
    found = {}
    for name in NETWORKS:
        path = RESULTS / name / RESULT
        if path.is_file():
            values = json.loads(path.read_text(encoding="utf-8"))
            values.pop("code")
            found[name] = Bench.from_json(values)
    return found


def page(results: dict[str, Bench]) -> str:
    sections = [HEAD]
    for name, result in results.items():
        size = " × ".join(map(str, result.example[1:]))
        done = {row.key for row in result.rows}
        wanted = [case for case in cases(*NETWORKS[name]) if ENGINES[case.engine].device == "cpu"]
        missing = "; ".join(case.words for case in wanted if case.key not in done)
        sections += [
            f"## {name}, inputs of {size}",
            markdown(result),
            f"{meaning(result)} {machine_line(result)} [JSON](speed/{name}.json)"
            f"{f' Not measured here: {missing}.' * bool(missing)}",
            f"![Time of {name} with SE over without, by engine](speed/{name}.svg)",
        ]
    return "\n\n".join(sections) + "\n"


def write_page() -> None:
    results = measured()
    if not results:
        raise SystemExit("nothing is measured yet: call it without --page first")
    FILES.mkdir(parents=True, exist_ok=True)
    for name in results:
        shutil.copyfile(RESULTS / name / RESULT, FILES / f"{name}.json")
        save_figure(figure(results[name]), FILES / f"{name}.svg")  # of what is measured so far
    with atomic_write(PAGE) as temporary:
        temporary.write_text(page(results), encoding="utf-8")
    print(f"{PAGE}: {', '.join(results)}")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--models", nargs="+", choices=list(NETWORKS), default=list(NETWORKS), help="which to measure")
    words.add_argument("--page", action="store_true", help="write the page of what was measured, and measure nothing")
    asked = words.parse_args()
    for name in () if asked.page else asked.models:
        measure(name)
    write_page()


if __name__ == "__main__":
    main()
