"""Random states and other process state that a training may leave behind."""

from __future__ import annotations

import contextlib
import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from senet.running import random_kept

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["kept", "seed_all"]


def seed_all(seed: int) -> None:
    """Seed Python, NumPy, torch and its devices."""
    random.seed(seed)
    torch.manual_seed(seed)
    with contextlib.suppress(ImportError):
        import numpy as np

        np.random.seed(seed % 2**32)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """A context that afterwards restores random states and torch's settings.

    Otherwise the first arm's leftovers would affect the second.
    """
    cpu = torch.get_rng_state()
    used = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state_all() if used else None
    folder, environment, path = Path.cwd(), dict(os.environ), list(sys.path)
    settings: list[tuple[Any, Any]] = [
        (torch.set_default_dtype, torch.get_default_dtype()),
        (torch.set_num_threads, torch.get_num_threads()),
        (torch.set_grad_enabled, torch.is_grad_enabled()),
        (torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()),
    ]
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn
    flags = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32
    device = torch.get_default_device()
    try:
        with random_kept():
            yield
    finally:
        os.chdir(folder)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        sys.path[:] = path
        for set_, value in settings:
            set_(value)
        torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = flags
        if torch.get_default_device() != device:
            torch.set_default_device(device)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
