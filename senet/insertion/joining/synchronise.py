"""Batch normalisation with statistics over all processes, on any device, that keeps inserted SE.

PyTorch's SyncBatchNorm refuses CPU tensors. Its conversion, like Lightning's `sync_batchnorm=True`,
builds new modules. This one changes the class of the existing modules.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from senet.errors import InputError, InputTypeError
from senet.fused.norm import normalise_and_excite
from senet.fused.normalisations import OverProcesses
from senet.fused.passes.pointers import layout

__all__ = ["SynchronisedBatchNorm", "synchronise"]


class SynchronisedBatchNorm(OverProcesses, nn.modules.batchnorm._BatchNorm):
    """Batch normalisation that treats the batches of all processes as one batch in training.

    Shapes: (N, C, *space) or (N, C); N and the space may differ between processes. In eval mode,
    and without a process group, it is `nn.BatchNorm`. Gradients are those of the whole batch if
    each process's loss is its share of the sum, as DistributedDataParallel's average makes it. They
    cannot be differentiated twice.

    Raises:
        ValueError: there is one value per channel over all processes.
        TypeError: the tensor is not floating-point.
    """

    process_group: dist.ProcessGroup | None = None

    def group(self) -> dist.ProcessGroup | None:
        """The processes that take part; None if this is the only one."""
        if not (dist.is_available() and dist.is_initialized()):
            return None
        group = self.process_group or dist.group.WORLD
        return group if dist.get_world_size(group) > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """The normalisation of `x`."""
        self._check_input_dim(x)
        if not self.training or self.group() is None:
            plain: Tensor = super().forward(x)
            return plain
        v = x if x.dim() > 2 else x[..., None]
        result: Tensor = _over_processes(self, v if layout(v) else v.contiguous())
        return result if x.dim() > 2 else result[..., 0]

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise InputError(
                f"a batch normalisation of {self.num_features} channels takes (N, {self.num_features}, ...), "
                f"not {tuple(x.shape)}"
            )
        if not x.is_floating_point():
            raise InputTypeError(f"a batch normalisation takes floating-point tensors, not {x.dtype}")


def synchronise(model: nn.Module, process_group: dist.ProcessGroup | None = None) -> nn.Module:
    """Make every batch normalisation of `model` take its statistics over all processes, in place.

    Parameters, buffers, hooks, state dict keys and joined SE blocks stay. Subclasses of batch
    normalisation, such as timm's with an activation, are left as they are. So is torch's
    SyncBatchNorm.

    Args:
        model: any network, before it is wrapped for distributed training.
        process_group: the processes; None means all.

    Returns:
        `model`.
    """
    from senet.insertion.joining.attach import exchange_base

    for module in model.modules():
        if exchange_base(module, _KINDS, SynchronisedBatchNorm):
            module.process_group = process_group  # type: ignore[assignment]
    return model


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _over_processes(norm: SynchronisedBatchNorm, v: Tensor) -> Tensor:
    """The normalisation over all processes. A compiled network breaks its graph here, since processes must meet."""
    result = normalise_and_excite(norm, SynchronisedBatchNorm, None, v)
    if result is None:
        raise RuntimeError(f"statistics cannot go over processes on {v.device.type}: use CPU or CUDA")
    return result


_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
