"""What it costs to look for lost SE before each forward pass: SE-ResNet-18, one image, with and without, in turn.

    python benchmarks/watching.py [ROUNDS]

Prints the median of the paired ratios of time, with the range of its middle half, and how long the look alone takes.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch
from torchvision.models import resnet18

import senet
from senet.insertion.staying import record


def seconds(call: object, *args: object) -> float:
    start = time.perf_counter()
    call(*args)  # type: ignore[operator]
    return time.perf_counter() - start


@torch.inference_mode()
def main(rounds: int) -> None:
    x = torch.randn(1, 3, 224, 224)
    network = senet.insert(resnet18().eval(), x)
    hooks = dict(network._forward_pre_hooks)
    ratios = []
    for n in range(rounds + 10):
        took = {}
        for watched in (False, True) if n % 2 else (True, False):
            network._forward_pre_hooks.clear()
            network._forward_pre_hooks.update(hooks if watched else {})
            took[watched] = seconds(network, x)
        if n >= 10:  # after warm-up
            ratios.append(took[True] / took[False])
    low, median, high = statistics.quantiles(ratios, n=4)
    look = min(seconds(record._look, network, ()) for _ in range(1000))
    print(f"{median:.4f} × ({low:.4f} to {high:.4f}) over {rounds} pairs; one look takes {look * 1e6:.1f} µs")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
