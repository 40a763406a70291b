"""Several runs at a time, each device in a process of its own that trains one run after another."""

from __future__ import annotations

import dataclasses
import multiprocessing
import queue
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from senet.evaluation.networks import NetworkSpec
from senet.files.run_folder import RESULT

if TYPE_CHECKING:
    from senet.console.progress import Progress
    from senet.data.sources import DataSource
    from senet.recipe.options import Options
    from senet.training.processes.processes import Placement

__all__ = ["apart", "train_beside"]


def apart(placement: Placement) -> tuple[Placement, list[str]]:
    """The first of the devices that are asked for alone, and the names of all, where nobody started a process for each.

    Processes that torchrun or SLURM started train one run after another together, as in `compare`.
    """
    kind = placement.device.type
    names = [f"{kind}:{index}" if kind == "cuda" else kind for index in placement.devices]
    if not placement.to_start:
        return placement, names[:1]
    return dataclasses.replace(placement, devices=placement.devices[:1]), names


def train_beside(
    arms: Mapping[str, NetworkSpec],
    data: str | Path | DataSource,
    folder: Path,
    seeds: int,
    devices: list[str],
    options: Options,
    progress: Progress,
) -> None:
    """Train every run that is not finished, as many at a time as there are devices; the folders hold the results.

    Raises:
        Exception: what the first run to fail raised, when those that were under way have ended.
    """
    names = [(key, seed) for seed in range(seeds) for key in arms]
    waiting = [(key, seed) for key, seed in names if not (folder / f"{key}-{seed}" / RESULT).is_file()]
    if not waiting:
        return
    context = multiprocessing.get_context("spawn")  # a process that was forked cannot use a GPU
    free: Any = context.Queue()
    for device in devices:
        free.put(device)
    threads = max(1, torch.get_num_threads() // len(devices))
    with ProcessPoolExecutor(len(devices), mp_context=context, initializer=_take, initargs=(free, threads)) as pool:
        futures = {
            pool.submit(_train, arms[key], data, folder / f"{key}-{seed}", seed, options): f"{key}-{seed}"
            for key, seed in waiting
        }
        try:
            for future in as_completed(futures):
                future.result()
                progress.note(f"{futures[future]} is trained")
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


_device = "cpu"


def _take(free: Any, threads: int) -> None:
    """In a process of the pool: take one of the devices, and its share of the cores, for all that it trains."""
    global _device
    torch.set_num_threads(threads)
    try:
        _device = free.get(timeout=60)
    except queue.Empty:
        raise RuntimeError("there are more processes than devices") from None


def _train(arm: NetworkSpec, data: str | Path | DataSource, out: Path, seed: int, options: Options) -> None:
    from senet.training.train import train

    own = options.copy()
    own["devices"] = _device
    train(
        arm.model,
        data,
        out=out,
        weights=arm.weights,
        spec=arm.spec,
        where=arm.where,
        seed=seed,
        progress=False,
        **own,
    )
