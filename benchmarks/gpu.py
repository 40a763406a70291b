"""Everything that only a GPU can tell, in one command and under nine minutes: the checks, then the benchmark's rows.

    make gpu
    python benchmarks/gpu.py --out runs/gpu --minutes 9

Needs PyTorch with CUDA and Triton; timm stands beside ours where it is installed. Called again with the same folder,
the benchmark goes on where it was. gpu.json holds the machine, every check with what went wrong, and every row.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

NETWORKS = {"resnet50_v1_5": 224, "mobilenet_v1": 224, "resnet20": 32}
_LEFT_FOR_A_NETWORK = 150  # seconds; compiling takes most of them


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--out", type=Path, default=Path("runs/gpu"), help="the folder for gpu.json and the benchmark")
    words.add_argument("--minutes", type=float, default=9, help="after which no other network is begun")
    words.add_argument("--models", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="which to measure")
    asked = words.parse_args()
    end = time.monotonic() + 60 * asked.minutes
    asked.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, object] = {"torch": torch.__version__, "checks": {}, "rows": {}, "not_measured": asked.models}
    path = asked.out / "gpu.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py: PyTorch finds no CUDA GPU here: nothing was measured", file=sys.stderr)
        return 1
    found["gpu"] = torch.cuda.get_device_name()
    found["capability"] = list(torch.cuda.get_device_capability())
    found["checks"] = checks = checked()
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    rows, left = found["rows"], list(asked.models)
    for name in asked.models:
        if time.monotonic() > end - _LEFT_FOR_A_NETWORK:
            print(f"no time is left for {', '.join(left)}: call it again with the same --out", file=sys.stderr)
            break
        rows[name] = measured(name, asked.out / name)
        left.remove(name)
        found["not_measured"] = left
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    return int(any(said != "as it should be" for said in checks.values()))


def checked() -> dict[str, str]:
    """Each check: "as it should be", or its traceback."""
    from tests.gpu.checks import CHECKS

    said = {}
    for name, check in {**CHECKS, "the_kernels": kernels}.items():
        try:
            check("cuda")
            said[name] = "as it should be"
        except Exception:  # the others are to be heard too
            said[name] = traceback.format_exc()
        print(f"{name}: {said[name].splitlines()[-1]}", file=sys.stderr, flush=True)
    return said


def kernels(device: str) -> None:
    """Every Triton kernel on every case of the fused passes' tests, against the equations."""
    from senet.fused.passes.triton import TritonPasses
    from tests.fused.passes import CASES, Moved, check_passes

    for case in CASES:
        check_passes(case, Moved(TritonPasses(), device))


def measured(name: str, out: Path) -> object:
    """The rows of a network in CUDA's engines."""
    import senet
    from senet.bench import bench

    torch.manual_seed(0)
    size = NETWORKS[name]
    example = torch.randn(1, 3, size, size)
    return bench(senet.create(name), example, out, name=name, engines=["cuda", "cuda-compile"]).to_json()


if __name__ == "__main__":
    sys.exit(main())
