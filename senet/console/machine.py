"""Describe the machine that a study ran on."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

from senet.console.command import typed

__all__ = ["has_bf16", "machine", "usual_workers", "versions_of"]


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, accelerator, threads, versions, and the typed command if any, as plain values."""
    from senet._version import __version__

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **versions_of("lightning"),
        "senet": __version__,
        **({"command": typed()} if typed() else {}),
    }


def versions_of(*packages: str) -> dict[str, str]:
    """The versions of those packages that are installed, by name, found without importing them."""
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def usual_workers() -> int:
    """The default number of processes or threads that decode images: one per usable core, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores)


def has_bf16() -> bool:
    """Whether the processor multiplies in bfloat16, according to /proc/cpuinfo; False without that file."""
    words = {word for line in _cpuinfo() if line.startswith(("flags", "Features")) for word in line.split()}
    return not words.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})  # "bf16" is Arm's


def _processor() -> str:
    """The processor's name, from /proc/cpuinfo on Linux and from `platform` elsewhere."""
    names = (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
