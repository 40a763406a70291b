"""What insertion costs: seconds and memory for ResNet-50, and seconds for networks of 100 to 800 blocks.

    python benchmarks/insertion.py

Memory is what Python's and PyTorch's allocations grow by, counted over tensors that live after `insert`; time is
processor time, so that a busy machine shows the same.
"""

from __future__ import annotations

import gc
import platform
import time

import torch
from torch import Tensor, nn

import senet


class Block(nn.Module):
    """A basic residual block of 4 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


def tensor_bytes() -> int:
    """Bytes of all tensors that are alive, each storage once."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if isinstance(thing, Tensor)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def main() -> None:
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {torch.get_num_threads()} threads")
    from torchvision.models import resnet50

    model, x = resnet50(), torch.randn(1, 3, 224, 224)
    own = tensor_bytes()
    start, processor = time.perf_counter(), time.process_time()
    se = senet.insert(model, x)
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    of_se = sum(p.numel() * p.element_size() for b in senet.blocks(se).values() for p in b.parameters())
    grown = tensor_bytes() - own
    print(f"ResNet-50 at 224: {seconds:.2f} s ({processor:.2f} s of processor), memory +{grown / 2**20:.1f} MiB: ")
    copy = own - x.numel() * x.element_size()
    print(f"  one copy of the model ({copy / 2**20:.1f} MiB) and the SE ({of_se / 2**20:.1f} MiB)")
    senet.insert(nn.Sequential(*(Block() for _ in range(10))), torch.randn(1, 4, 8, 8))  # warm
    print("blocks  processor seconds  per block")
    for n in (100, 200, 400, 800):
        model = nn.Sequential(*(Block() for _ in range(n)))
        processor = time.process_time()
        se = senet.insert(model, torch.randn(1, 4, 8, 8))
        processor = time.process_time() - processor
        assert len(senet.blocks(se)) == n
        print(f"{n:6}  {processor:17.2f}  {1e3 * processor / n:6.2f} ms")


if __name__ == "__main__":
    main()
