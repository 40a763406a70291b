"""Batch normalisation whose statistics go over all processes, on any device, with SE kept where it was inserted.

PyTorch's own refuses CPU tensors, and its conversion (Lightning's `sync_batchnorm=True` as well)
builds new modules, from which inserted SE is gone. This one changes the class of the modules that
are there.
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
    """Batch normalisation over the batches of all processes: in training, one batch cut into as many pieces.

    Shapes: (N, C, *space) or (N, C); a process may have another N, or another space, than the rest.
    In eval mode, and where no processes are joined, it is `nn.BatchNorm`. Gradients are those of
    the one batch where each process's loss is its share of the sum, as DistributedDataParallel's
    average makes it; they cannot be differentiated twice.

    Raises:
        ValueError: where there is one value per channel in all processes together.
        TypeError: on a tensor that is not floating-point.
    """

    process_group: dist.ProcessGroup | None = None

    def group(self) -> dist.ProcessGroup | None:
        """The processes that take part now; None where there is only this one."""
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
    """Let every batch normalisation of `model` take its statistics over all processes, in place.

    Parameters, buffers, hooks and state dict keys stay, and so does every SE block that is joined
    to one. Classes that inherit from batch normalisation, such as timm's with an activation inside,
    are left as they are. So is torch's own SyncBatchNorm.

    Args:
        model: any network, before it is wrapped for distributed training.
        process_group: the processes; None for all.

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
    """A compiled network leaves its graph here: the processes must meet."""
    result = normalise_and_excite(norm, SynchronisedBatchNorm, None, v)
    if result is None:
        raise RuntimeError(f"statistics cannot go over processes on {v.device.type}: use CPU or CUDA")
    return result


_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
