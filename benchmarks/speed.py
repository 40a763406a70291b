"""What SE costs in the networks of the paper, plain, a peer's and ours in turn: docs/speed.md, with figures and JSON.

    make bench                      # hours on 2 cores, on a machine that does nothing else; goes on where it was
    python benchmarks/speed.py --models resnet50_v1_5 resnet20
    python benchmarks/speed.py --placements onnxruntime openvino   # SE by stage and placement in these engines alone
    .venv-devices/bin/python benchmarks/speed.py --models resnet18-on-devices mobilenet_v2-on-devices  # `make devices`
    python benchmarks/speed.py --page   # only writes the page of what was measured

Each network is measured by `senet.bench` into runs/speed/NAME, row by row. What another version of the code measured is
measured anew.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch

import senet
from senet.bench import Bench, advise, bench, cases
from senet.bench.advice import ADVICE
from senet.bench.cases import ENGINES
from senet.bench.measurement import RESULT
from senet.bench.rows import Ratio
from senet.bench.show import figure, machine_line, markdown, meaning
from senet.files.atomic import atomic_write
from senet.report import Column, Table
from senet.report.figures import save_figure

RESULTS = Path("runs/speed")
PAGE = Path("docs/speed.md")
FILES = Path("docs/speed")

WHOLE = None  # all engines
STEPS = ("eager", "channels-last", "bf16")
FILES_TOO = (*STEPS, "onnxruntime", "openvino", "openvino-bf16")
NETWORKS: dict[str, tuple[int, tuple[str, ...] | None]] = {
    "resnet50_v1_5": (224, WHOLE),
    "resnet20": (32, WHOLE),
    "resnet18": (224, STEPS),
    "resnet34": (224, STEPS),
    "resnet101": (224, STEPS),
    "resnext50_32x4d": (224, STEPS),
    "mobilenet_v1": (224, FILES_TOO),
    "resnet56": (32, STEPS),
}
"""Pixels a side, and the engines that are measured."""

ON_DEVICES = {"resnet18-on-devices": "resnet18", "mobilenet_v2-on-devices": "torchvision:mobilenet_v2"}
"""Networks that are also measured one picture at a time in the engines of devices, which need their own environment."""
NETWORKS |= dict.fromkeys(ON_DEVICES, (224, ("executorch", "litert", "ncnn")))

PLACED = {"resnet50_v1_5": 224, "mobilenet_v1": 224}
"""Networks whose SE is measured by stage and placement, and pixels a side."""
BATCHES = (1, 16)

FORMS = """*Ours* is the inference form here too. `senet advise` also measures the network as it was inserted, whose SE
is the straightforward block, and takes the faster one."""

ANCHORS = """## Published elsewhere, for comparison

Not measured here. NVIDIA's training of ResNeXt101-32x4d on one A100: with SE 855 images/s where plain has
1,211 in mixed precision (1.416 times the time), 395 where plain has 456 in TF32 (1.154). timm's tables: on an
RTX 4090, compiled, 12,270 where plain has 15,725 (1.282); training on a 3090 972 where plain has 1,218
(1.253). PP-LCNet (table 6, an Intel CPU), 13 units: SE in the first two 2.06 ms and 61.73 % top-1, in two of
the middle 2.03 ms and 62.17 %, in the last two 2.05 ms and 63.14 %, in all 3.80 ms and 64.27 %. lc0 computes
SE inside its Winograd transform."""

HEAD = """# What SE costs, measured

`make bench` made this page and the files beside it in docs/speed. Every figure is a ratio to the same network without
SE, in the same engine and the same run. *Inference* of ours is what `senet.optimize` and `senet.export` give; the
others are treated the same way but for that, normalisations folded. *As inserted* is the network that `senet.insert`
gives, not optimized, over the plain network as it is. A *training step* is forward, cross entropy,
backward and SGD with momentum. In *bf16* training is under autocast, and inference has its weights converted. *Kept for
backward* is what autograd holds between the passes, in bytes, parameters left out. Nothing was measured on a GPU. Where
the squeeze stays in place (networks of basic blocks), ONNX Runtime and OpenVINO run the same operations for ours as for
the straightforward block: what differs there is noise.
An interval is that of the rounds of one process. From process to process a ratio moves by another 0.01 or 0.02 (for
ResNet-50, *ours* and *timm's SE, optimized* are the same operations), in OpenVINO bf16 by as much as 0.09, and for one
image in a network of milliseconds by as much: ResNet-20's 1.100 (NCHW) was 1.082 and 1.163 in other processes.
The order of a round is drawn anew, but for ResNet-50's compiled and exported rows and its trainings: they are older, of
one cyclic order, where a network always ran behind the same other and found the caches as that one left them. ResNet-20
and MobileNet have squeeze, gates and rescaling in one compiled call; the others were measured when they were two.

[From a trained network to milliseconds](export.md) says how ours is computed and why some engines gain nothing.
[SE within a latency budget](advise.md) measures the same by stage on your machine."""


def measure(name: str) -> None:
    size, engines = NETWORKS[name]
    torch.manual_seed(0)
    print(f"# {name}", flush=True)
    example, known = torch.randn(1, 3, size, size), ON_DEVICES.get(name, name)
    batch_size = 1 if name in ON_DEVICES else None
    bench(senet.create(known), example, RESULTS / name, name=known, engines=engines, batch_size=batch_size)


def measure_placements(engines: list[str]) -> None:
    for batch in BATCHES:
        for name, size in PLACED.items():
            for engine in engines:
                out = RESULTS / "placements" / f"{name}-{engine}-{batch}"
                if (out / ADVICE).is_file():
                    continue
                print(f"# {name}, {engine}, batch {batch}", flush=True)
                example = torch.randn(1, 3, size, size)
                advise(senet.create(name), example, engine=engine, batch_size=batch, name=name, out=out)


def within(proposal: dict[str, Any]) -> str:
    """A proposal's ratio, and its sites in words where they are stages."""
    ratio = str(Ratio(**proposal["ratio"]))
    return ratio if "." in proposal["what"] else f"{proposal['what']}, {ratio}"


def placements(name: str) -> str:
    """SE at all sites of a network and at one stage's, by engine and placement: a section of the page."""
    kept = FILES / "placements"
    kept.mkdir(parents=True, exist_ok=True)
    for path in (RESULTS / "placements").glob(f"{name}-*/{ADVICE}"):
        shutil.copyfile(path, kept / f"{path.parent.name}.json")
    paths = sorted(kept.glob(f"{name}-*.json"))
    if not paths:
        return ""
    rows: list[list[str]] = []
    where: list[str] = []
    for path in paths:
        values = json.loads(path.read_text(encoding="utf-8"))
        by_placement: dict[str, dict[str, str]] = {}
        for each in values["measured"]:
            if len(each["sites"]) > 1 or each["what"].startswith(("all", "stage")):
                form = "" if each["form"] == "optimized" else ", as inserted"
                by_placement.setdefault(each["placement"], {})[each["what"]] = f"{Ratio(**each['ratio'])}{form}"
        where = where or list(next(iter(by_placement.values())))
        proposal = values["proposal"]
        best = "none" if proposal is None else f"{proposal['placement']}, {len(proposal['sites'])}: {within(proposal)}"
        for placement, ratios in by_placement.items():
            engine = f"{ENGINES[values['engine']].words}, {values['example'][0]}"
            plain = f"{1000 * values['plain']:.1f} ms"
            rows.append([engine, plain, placement, *(ratios.get(each, "–") for each in where), best])
    titles = ["engine, batch", "plain", "placement", *where, f"sites within {values['budget']:g}"]
    table = Table("placements", "", [Column(each, number=False) for each in titles], rows)
    return (
        f"### {name} by stage and placement\n\n{table.markdown()}\n\nTime with SE at these sites alone over the time "
        "without [95 % interval], by `senet advise`; in the inference form unless said. "
        f"{machine_line(values['machine'])}"
    )


def measured() -> dict[str, Bench]:
    found = {}
    for name in NETWORKS:
        # What was measured here, else what the page shows, which was measured on another machine.
        path = next(filter(Path.is_file, (RESULTS / name / RESULT, FILES / f"{name}.json")), None)
        if path is not None:
            values = json.loads(path.read_text(encoding="utf-8"))
            values.pop("code")
            found[name] = Bench.from_json(values)
    return found


def page(results: dict[str, Bench]) -> str:
    sections = [HEAD]
    for name, result in results.items():
        size = " × ".join(map(str, result.example[1:]))
        done = {row.key for row in result.rows}
        wanted = cases(*NETWORKS[name], 1 if name in ON_DEVICES else None)
        wanted = [case for case in wanted if ENGINES[case.engine].device == "cpu"]
        missing = "; ".join(case.words for case in wanted if case.key not in done)
        sections += [
            f"## {result.model}{' in the engines of devices' * (name in ON_DEVICES)}, inputs of {size}",
            markdown(result),
            f"{meaning(result)} {machine_line(result.machine)} [JSON](speed/{name}.json)"
            f"{f' Not measured here: {missing}.' * bool(missing)}",
            f"![Time of {name} with SE, relative to without, by engine](speed/{name}.svg)",
            *filter(None, [placements(name), FORMS * (name in ON_DEVICES)]),
        ]
    sections += [*(filter(None, (placements(name) for name in PLACED if name not in results))), ANCHORS]
    return "\n\n".join(sections) + "\n"


def write_page() -> None:
    results = measured()
    if not results:
        raise SystemExit("nothing is measured yet: call it without --page first")
    FILES.mkdir(parents=True, exist_ok=True)
    for name in results:
        if (path := RESULTS / name / RESULT).is_file():
            shutil.copyfile(path, FILES / f"{name}.json")
        save_figure(figure(results[name]), FILES / f"{name}.svg")  # of what is measured so far
    with atomic_write(PAGE) as temporary:
        temporary.write_text(page(results), encoding="utf-8")
    print(f"{PAGE}: {', '.join(results)}")


def main() -> None:
    usual = [name for name in NETWORKS if name not in ON_DEVICES]
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--models", nargs="+", choices=list(NETWORKS), default=usual, help="which to measure")
    words.add_argument("--placements", nargs="+", metavar="ENGINE", help="measure SE by stage and placement in these")
    words.add_argument("--page", action="store_true", help="write the page of what was measured, and measure nothing")
    asked = words.parse_args()
    if asked.placements:
        measure_placements(asked.placements)
    for name in () if asked.page or asked.placements else asked.models:
        measure(name)
    write_page()


if __name__ == "__main__":
    main()
