"""The processes of a training: one per device, started by torchrun, by SLURM, or by us."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import warnings
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from senet.errors import StudyError
from senet.evaluation.logits import device_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from senet.evaluation.logits import Predictions

__all__ = [
    "DeviceLayout",
    "Processes",
    "asked_here",
    "device_layout",
    "is_first_process",
    "joined",
    "joined_predictions",
]

STRATEGIES = ("ddp", "fsdp")

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class DeviceLayout:
    """The devices and processes of a training.

    Attributes:
        device: the device of this process.
        devices: the indices of this machine's devices in the training; (0,) for a CPU or a single device.
        nodes: the number of machines.
        strategy: "ddp" or "fsdp".
        launched: what started the processes: "torchrun", "slurm", or "" for a single one or before
            they are started.
    """

    device: torch.device
    devices: tuple[int, ...] = (0,)
    nodes: int = 1
    strategy: str = "ddp"
    launched: str = ""

    @property
    def count(self) -> int:
        """The number of processes."""
        return len(self.devices) * self.nodes

    @property
    def names(self) -> list[str]:
        """The names of this machine's devices, each a value for `devices`: "cuda:1", "cpu"."""
        kind = self.device.type
        return [f"{kind}:{index}" if kind == "cuda" else kind for index in self.devices]

    @property
    def to_start(self) -> bool:
        """Whether several processes are needed and none has been started."""
        return self.count > 1 and not self.launched


@dataclasses.dataclass(frozen=True)
class Processes:
    """This process's view of the training's processes."""

    rank: int = 0
    count: int = 1

    def first(self, work: Callable[[], T]) -> T:
        """Run `work` in the first process; its result, or its error, reaches all of them."""
        if self.count == 1:
            return work()
        said: list[Any] = [None, None]
        if self.rank == 0:
            try:
                said[0] = work()
            except Exception as error:  # raised below, in every process
                said[1] = error
        dist.broadcast_object_list(said, src=0)
        if said[1] is not None:
            raise said[1]
        result: T = said[0]
        return result

    def gathered(self, own: T) -> list[T]:
        """The values of all processes, by rank."""
        if self.count == 1:
            return [own]
        every: list[Any] = [None] * self.count
        dist.all_gather_object(every, own)
        return every

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(values)
        return values


def device_layout(
    devices: str | int | None = None, nodes: int | None = None, strategy: str | None = None, *, here: bool = True
) -> DeviceLayout:
    """Where a training runs, from the request and from what started this process.

    Args:
        devices: None or "auto": a GPU if there is one, else the CPU; under torchrun or SLURM one
            per started process. A number: so many GPUs, or processes on a machine without GPUs. Or
            "cpu", "cpu*2", "cuda", "cuda:1", "cuda:0,2", "mps".
        nodes: the number of machines.
        strategy: "ddp" or "fsdp".
        here: whether this machine trains; another need not have the devices.

    Raises:
        StudyError: a device does not exist, or a number differs from what torchrun or SLURM started.
    """
    if strategy is not None and strategy not in STRATEGIES:
        raise StudyError(f"strategy is one of {', '.join(STRATEGIES)}, not {strategy!r}")
    if nodes is not None and (type(nodes) is not int or nodes < 1):
        raise StudyError(f"nodes is a whole number of at least 1, not {nodes!r}")
    asked = str("auto" if devices is None else devices).strip().lower().replace("gpu", "cuda")
    launcher = _launched()
    if launcher is not None:
        found = _within(asked, nodes, launcher)
    else:
        if nodes is not None and nodes > 1:
            raise StudyError(
                f"nodes={nodes}: start the command on each machine with torchrun, or all of it with SLURM's srun"
            )
        found = asked_here(asked, needed=here)
    found = dataclasses.replace(found, strategy=strategy or "ddp")
    if here and strategy == "fsdp" and found.device.type != "cuda":
        raise StudyError("strategy='fsdp' shards a network over GPUs, and there are none here: 'ddp' runs anywhere")
    return found


def asked_here(asked: str, *, needed: bool = True) -> DeviceLayout:
    """The requested devices of this machine, as `device_layout` takes them.

    If they are not `needed`, the CPU stands in for those that are not here.
    """
    if re.fullmatch(r"(cpu\*)?0+", asked):
        raise StudyError(f"devices={asked!r} asks for no device")
    try:
        return _here(asked)
    except StudyError:
        if needed or not _SPELT.fullmatch(asked):
            raise
        return DeviceLayout(torch.device("cpu"))


def _here(asked: str) -> DeviceLayout:
    if found := re.fullmatch(r"cpu\*(\d+)", asked):
        return DeviceLayout(torch.device("cpu"), tuple(range(int(found[1]))))
    if asked.isdecimal() and asked != "1":
        here = torch.cuda.device_count()
        if here and int(asked) > here:
            raise StudyError(f"devices={asked} is more than this machine has: {here}")
        return DeviceLayout(torch.device("cuda", 0) if here else torch.device("cpu"), tuple(range(int(asked))))
    if found := _INDICES.fullmatch(asked):
        indices = _sorted(found[1])
        there = [device_of(f"cuda:{index}") for index in indices]
        return DeviceLayout(there[0], indices)
    device = device_of(asked)
    return DeviceLayout(device, (device.index or 0,))


_INDICES = re.compile(r"cuda:(\d+(?:,\d+)*)")
_SPELT = re.compile(r"(cuda|mps)(:\d+(,\d+)*)?|\d+")


def _sorted(indices: str) -> tuple[int, ...]:
    return tuple(sorted({int(index) for index in indices.split(",")}))


@dataclasses.dataclass(frozen=True)
class _Launcher:
    """The number of processes and machines according to torchrun or SLURM."""

    by: str
    rank: int
    world: int
    local_rank: int
    nodes: int
    address: str = ""
    port: int = 0

    @property
    def per_node(self) -> int:
        return self.world // self.nodes


def _launched() -> _Launcher | None:
    """What started this process as one of several, from the environment."""
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" in environment:
        world, local = int(environment["WORLD_SIZE"]), int(environment["LOCAL_WORLD_SIZE"])
        return _Launcher(
            "torchrun", int(environment["RANK"]), world, int(environment["LOCAL_RANK"]), max(1, world // local)
        )
    if "SLURM_NTASKS" not in environment:  # Lightning would warn whenever srun exists but is not used
        return None
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # srun alone proves nothing: a login node has it too
        under_slurm = SLURMEnvironment.detect()
    if under_slurm:
        try:
            slurm = SLURMEnvironment(auto_requeue=False)
        except RuntimeError as error:  # --ntasks instead of --ntasks-per-node
            raise StudyError(f"SLURM's job cannot be taken part in: {error}") from error
        return _Launcher(
            "slurm",
            slurm.global_rank(),
            slurm.world_size(),
            slurm.local_rank(),
            int(environment.get("SLURM_NNODES", "1")),
            slurm.main_address,
            slurm.main_port,
        )
    return None


def is_first_process() -> bool:
    """Whether this is the first of the processes that torchrun or SLURM started, or the only one."""
    launcher = _launched()
    return launcher is None or launcher.rank == 0


def _within(asked: str, nodes: int | None, launcher: _Launcher) -> DeviceLayout:
    """The layout of a process that torchrun or SLURM started; the request must agree with it."""
    count = re.fullmatch(r"(?:cpu\*)?(\d+)", asked)
    listed = _INDICES.fullmatch(asked)
    if not (count or listed or asked in ("auto", "cpu", "cuda")):
        raise StudyError(
            f"devices={asked!r} is nothing that the processes of {launcher.by} can share: give auto, cpu, cuda, their "
            "number on a machine, or a list such as cuda:0,1"
        )
    indices = _sorted(listed[1]) if listed else tuple(range(launcher.per_node))
    wrong = count is not None and int(count[1]) != launcher.per_node
    if wrong or len(indices) != launcher.per_node or (nodes is not None and nodes != launcher.nodes):
        raise StudyError(
            f"devices={asked} and nodes={nodes or 'as started'} do not go with the {launcher.per_node} processes on "
            f"each of {launcher.nodes} machines that {launcher.by} started"
        )
    if asked.startswith("cpu") or not (asked.startswith("cuda") or torch.cuda.is_available()):
        device = torch.device("cpu")
    else:
        device = device_of(f"cuda:{indices[launcher.local_rank]}")
    return DeviceLayout(device, indices, launcher.nodes, launched=launcher.by)


def _store(launcher: _Launcher) -> Store | None:
    """The rendezvous store of one machine's processes under torchrun; None means PyTorch's default.

    After a restart torchrun reuses the previous attempt's store, with addresses of dead processes.
    Machines may count restarts differently, so with several machines the count cannot distinguish
    attempts.
    """
    environment = os.environ
    if launcher.by != "torchrun" or launcher.nodes > 1 or environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    shared = dist.TCPStore(  # type: ignore[attr-defined]
        environment["MASTER_ADDR"], int(environment["MASTER_PORT"]), is_master=False
    )
    return PrefixStore(f"senet-{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}", shared)


@contextlib.contextmanager
def joined(layout: DeviceLayout) -> Iterator[Processes]:
    """A context in which this process belongs to the layout's process group."""
    if layout.count == 1:
        yield Processes()
        return
    launcher = _launched()
    if launcher is None:
        raise StudyError(f"{layout.count} processes must be started with torchrun or SLURM's srun")
    kind = layout.device.type
    if kind == "cuda":
        torch.cuda.set_device(layout.device)
    if launcher.by == "slurm":  # torchrun sets these
        os.environ.update(MASTER_ADDR=launcher.address, MASTER_PORT=str(launcher.port))
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    dist.init_process_group(backend, rank=launcher.rank, world_size=launcher.world, store=_store(launcher))
    threads = torch.get_num_threads()
    if kind == "cpu":  # the processes share the machine's cores
        torch.set_num_threads(max(1, threads // len(layout.devices)))
    try:
        yield Processes(launcher.rank, launcher.world)
    finally:
        torch.set_num_threads(threads)
        dist.destroy_process_group()


def joined_predictions(parts: list[Predictions]) -> Predictions:
    """Merge the processes' predictions in image order: image i belongs to process i % count."""
    if len(parts) == 1:
        return parts[0]
    lengths = [len(part.labels) for part in parts]
    images = [range(rank, rank + len(parts) * count, len(parts)) for rank, count in enumerate(lengths)]
    order = torch.tensor([index for share in images for index in share]).argsort()
    values: dict[str, Any] = {}
    parts = [part for part in parts if len(part.labels)]  # with fewer images than processes, some have none
    lengths = [len(part.labels) for part in parts]
    for field in dataclasses.fields(parts[0]):
        each = [getattr(part, field.name) for part in parts]
        if isinstance(each[0], torch.Tensor):
            values[field.name] = torch.cat(each)[order]
        elif field.name == "loss":
            values[field.name] = sum(loss * n for loss, n in zip(each, lengths, strict=True)) / sum(lengths)
        else:
            values[field.name] = each[0]
    return dataclasses.replace(parts[0], **values)
