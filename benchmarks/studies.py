"""Train what docs/results.md plans, cell by cell, and keep each finished run in docs/results/.

    make studies                               # the next runs of the plan, for an hour and a half
    python benchmarks/studies.py --minutes 30 --study sight
    python benchmarks/studies.py --list        # which cells are done

A cell is one training: a network, an arm (plain, SE, SE without squeeze) and a seed. Cells run in the
plan's order, in one process of one thread; several processes may work at once, each on a cell that no
other is at. A cell whose folder lies in docs/results/ is done; commit it. One that was interrupted goes
on from its checkpoint under runs/studies, bit for bit.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gzip
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from studies_data import opened
from studies_plan import STUDIES, Cell, cells

from senet.console.memory import keep_freed_memory
from senet.console.stopping import Stopped
from senet.errors import StudyError
from senet.files.lock import locked

if TYPE_CHECKING:
    from senet.data.source import DataSource
    from senet.study import RunResult

RUNS = Path("runs/studies")
PRECISION = "32"
"""Of every run, whatever the machine has."""


def main() -> None:
    """Run the next cells until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=90, help="no cell begins later than this (90)")
    parser.add_argument("--study", choices=STUDIES, help="this study alone")
    parser.add_argument("--data", type=Path, default=RUNS / "data", help="where the pictures lie or are unpacked to")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where runs and their checkpoints lie")
    parser.add_argument("--list", action="store_true", help="show which cells are done, and train nothing")
    asked = parser.parse_args()
    chosen = cells(asked.study)
    if asked.list:
        print("\n".join(f"{'done' if cell.folder.is_dir() else 'open':5} {cell.folder}" for cell in chosen))
        return
    keep_freed_memory()
    end = time.monotonic() + 60 * asked.minutes
    sources: dict[str, DataSource] = {}
    for cell in chosen:
        if time.monotonic() > end:
            return
        with claimed(cell, asked.runs) as free:
            if not free:
                continue
            data = cell.plan.data
            sources[data] = sources.get(data) or opened(data, asked.data)
            try:
                run = train(cell, sources[data], asked.runs)
            except Stopped as stop:
                print(stop)
                return
            keep(cell, run)
            print(f"done {cell.folder}", flush=True)


@contextlib.contextmanager
def claimed(cell: Cell, runs: Path) -> Iterator[bool]:
    """Whether a cell is still to be trained, and no other process is at it. None begins it within."""
    folder = runs / cell.study / "claims" / cell.name
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
        except StudyError:
            yield False
        else:
            yield not cell.folder.is_dir()


def train(cell: Cell, source: DataSource, runs: Path) -> RunResult:
    """Train one cell, or go on with it."""
    import torch

    import senet.study

    torch.set_num_threads(1)
    return senet.study.train(
        cell.network,
        source,
        out=runs / cell.study / cell.name,
        weights=cell.plan.weights,
        spec=cell.spec,
        where=cell.plan.where.get(cell.arm),
        seed=cell.seed,
        recipe=cell.plan.recipe,
        size=cell.plan.size,
        precision=PRECISION,
        devices="cpu",
        workers=0,
        progress=False,
    )


def keep(cell: Cell, run: RunResult) -> None:
    """Write what a finished run found where it is committed: settings, metrics of every epoch, predictions."""
    result = json.loads((run.folder / "result.json").read_text())
    kept = {key: result[key] for key in ("accuracy", "split", "images", "loss", "epochs", "seconds", "parameters")}
    kept |= {"cell": cell.to_json(), "sites": [site["name"] for site in result["sites"]]}
    kept |= {"cost": cost_of(run, result["settings"]["preprocessing"]["size"])}
    kept |= {"settings": result["settings"], "machine": result["machine"], "commit": commit()}
    making = cell.folder.with_name(cell.folder.name + ".part")
    making.mkdir(parents=True, exist_ok=True)
    (making / "run.json").write_text(json.dumps(kept, indent=1) + "\n")
    (making / "metrics.csv").write_text((run.folder / "metrics.csv").read_text())
    (making / "predictions.csv.gz").write_bytes(_predictions(run.folder / "predictions.csv"))
    making.replace(cell.folder)  # whole or not at all


def cost_of(run: RunResult, side: int) -> dict[str, int]:
    """Parameters and multiply-adds of one picture."""
    import torch

    import senet

    cost = senet.cost(senet.load(run.folder / "model.safetensors"), torch.zeros(1, 3, side, side))
    return {"parameters": cost.parameters, "multiply_adds": cost.multiply_adds}


def commit() -> str:
    """The commit that the code is of."""
    found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    return found.stdout.strip() or "unknown"


def _predictions(path: Path) -> bytes:
    """Class and predicted class of every picture, in the order of the pictures, gzipped without the time."""
    text = io.StringIO()
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["class", "predicted"])
        writer.writerows((row["class"], row["predicted"]) for row in rows)
    return gzip.compress(text.getvalue().encode(), mtime=0)


if __name__ == "__main__":
    sys.exit(main())
