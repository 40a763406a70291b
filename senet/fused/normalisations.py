"""The values that share a mean and a variance in each kind of normalisation, and their running statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from senet.errors import InputError
from senet.fused.passes.protocol import positions

__all__ = ["Statistics", "as_normalised", "dimensions_of", "normalises", "statistics_of"]

_INSTANCE = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# The dimensions of an input with a batch and space. Other inputs are left to PyTorch, which may refuse them.
_DIMENSIONS: Mapping[type[nn.Module], int] = {
    kind: dims for kinds in (_INSTANCE, _BATCH) for dims, kind in enumerate(kinds, 3)
}


def dimensions_of(kind: type[nn.Module]) -> int | None:
    """The dimensions of the maps that a normalisation of exactly this class takes, batch included; None for any."""
    return _DIMENSIONS.get(kind)


class Statistics(Protocol):
    """The sharing of statistics. Values of maps are (N, C); shared ones have PyTorch's own shape."""

    def of(self, mean: Tensor, m2: Tensor, space: int) -> tuple[Tensor, Tensor]:
        """The shared mean and biased variance, from each map's mean and sum of squared deviations."""

    def spread(self, shared: Tensor) -> Tensor:
        """Expand shared values to maps: (N, C), or (1, C)."""

    def averages(self, first: Tensor, second: Tensor, space: int) -> tuple[Tensor, Tensor]:
        """The means over all values that share statistics, from two sums per map, expanded to maps."""

    def normalised(self, v: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """The normalisation of v in PyTorch's operations, differentiable twice, without updating statistics."""


class GroupStatistics:
    """Group and instance normalisation: the channels of a group, within a sample."""

    def __init__(self, channels: int, groups: int, eps: float) -> None:
        self.channels = channels
        self.groups = groups
        self.eps = eps

    def of(self, mean: Tensor, m2: Tensor, space: int) -> tuple[Tensor, Tensor]:
        """As `Statistics` says."""
        center = self._mean(mean)
        return center, self._mean(m2 / space + (mean - self.spread(center)).square())

    def spread(self, shared: Tensor) -> Tensor:
        """As `Statistics` says."""
        return shared.repeat_interleave(self.channels // self.groups, 1)

    def averages(self, first: Tensor, second: Tensor, space: int) -> tuple[Tensor, Tensor]:
        """As `Statistics` says."""
        return self.spread(self._mean(first / space)), self.spread(self._mean(second / space))

    def normalised(self, v: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """As `Statistics` says."""
        return F.group_norm(v, self.groups, weight, bias, self.eps)

    def _mean(self, x: Tensor) -> Tensor:
        return x.view(len(x), self.groups, -1).mean(2)


class BatchStatistics:
    """Batch normalisation: a channel over the samples of the batch, and of all processes in a group."""

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d, group: dist.ProcessGroup | None) -> None:
        self.norm = norm
        self.group = group
        self.count = 0.0  # values that share statistics

    def of(self, mean: Tensor, m2: Tensor, space: int) -> tuple[Tensor, Tensor]:
        """As `Statistics` says; the running statistics are updated."""
        center = mean.sum(0, keepdim=True) / max(len(mean), 1)  # a process may have no samples
        off = mean - center
        m2 = torch.addcmul(m2, off, off, value=space).sum(0, keepdim=True)
        count: float = len(mean) * space
        if self.group is not None:
            center, m2, count = _together(center, m2, len(mean), space, self.group)
        if count <= 1:
            raise InputError(f"a batch normalisation needs more than 1 value per channel in training, not {count:g}")
        self.count = count
        self._remember(center[0], m2[0] / (count - 1))
        return center, m2 / count

    def spread(self, shared: Tensor) -> Tensor:
        """As `Statistics` says."""
        return shared

    def averages(self, first: Tensor, second: Tensor, space: int) -> tuple[Tensor, Tensor]:
        """As `Statistics` says."""
        del space  # counted over all processes
        both = torch.cat([first.sum(0, keepdim=True), second.sum(0, keepdim=True)], 1)
        if self.group is not None:
            dist.all_reduce(both, group=self.group)
        one, two = (both / self.count).chunk(2, 1)
        return one, two

    def normalised(self, v: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """As `Statistics` says.

        Raises:
            NotImplementedError: the statistics cover several processes.
        """
        if self.group is not None:
            raise NotImplementedError("statistics that go over processes cannot be differentiated twice")
        return F.batch_norm(v, None, None, weight, bias, training=True, eps=self.norm.eps)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        norm = self.norm
        if not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
            return
        share = norm.momentum
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
            if share is None:  # the average of all batches so far
                share = 1.0 / float(norm.num_batches_tracked)
        share = 0.0 if share is None else share
        for running, new in ((norm.running_mean, mean), (norm.running_var, variance)):
            running.lerp_(new.to(running.dtype), share)


def _together(
    mean: Tensor, m2: Tensor, samples: int, space: int, group: dist.ProcessGroup
) -> tuple[Tensor, Tensor, float]:
    """The statistics over all processes, which may differ in their number of samples or map sizes."""
    count = mean.new_full((1, 1), samples * space)
    ours = torch.cat([mean, m2, count], 1)
    all_of = [torch.empty_like(ours) for _ in range(dist.get_world_size(group))]
    dist.all_gather(all_of, ours, group=group)
    means, m2s, counts = torch.split(torch.cat(all_of), [mean.shape[1], mean.shape[1], 1], 1)  # type: ignore[no-untyped-call]
    total = counts.sum()
    center = (means * counts).sum(0, keepdim=True) / total
    m2 = m2s.sum(0, keepdim=True) + ((means - center).square() * counts).sum(0, keepdim=True)
    return center, m2, float(total)


def normalises(kind: type[nn.Module]) -> bool:
    """Whether modules of exactly this class can be fused with SE."""
    return kind in _BATCH or kind in _INSTANCE or kind is nn.GroupNorm or OverProcesses in kind.__bases__


class OverProcesses:
    """The base of a batch normalisation with statistics over several processes."""

    def group(self) -> dist.ProcessGroup | None:
        """The processes that take part; None if this is the only one."""
        raise NotImplementedError


def as_normalised(kind: type[nn.Module], v: Tensor) -> Tensor:
    """V in the dtype in which PyTorch normalises it: on CUDA, autocast casts for group normalisation."""
    casts = kind is nn.GroupNorm and v.is_cuda and v.dtype != torch.float64 and torch.is_autocast_enabled("cuda")
    return v.float() if casts else v


def statistics_of(norm: nn.Module, kind: type[nn.Module], v: Tensor) -> Statistics | None:
    """The statistics that v gets from a normalisation of exactly the class `kind` in training.

    None for any other class, and for an input that PyTorch handles otherwise or refuses.
    """
    if v.dim() != _DIMENSIONS.get(kind, v.dim()) or (kind in _INSTANCE and positions(v) == 1):
        return None
    if kind in _BATCH:
        return BatchStatistics(norm, None)  # type: ignore[arg-type]
    if isinstance(norm, OverProcesses):
        return BatchStatistics(norm, norm.group())  # type: ignore[arg-type]
    if kind is nn.GroupNorm:
        return GroupStatistics(norm.num_channels, norm.num_groups, norm.eps)  # type: ignore[arg-type]
    if kind in _INSTANCE and not norm.track_running_stats:
        return GroupStatistics(norm.num_features, norm.num_features, norm.eps)  # type: ignore[arg-type]
    return None
