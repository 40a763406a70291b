"""How a class records the SE that `insert` joined to it: written by `senet.insertion`, read by the fused pass."""

from __future__ import annotations

import dataclasses

from torch import nn

from senet.fused.normalisations import normalises

__all__ = ["USE", "Use", "use_of"]

USE = "_senet_use"  # in the __dict__ of a joined class


@dataclasses.dataclass(frozen=True)
class Use:
    """How SE is joined to the modules of a class.

    Attributes:
        base: their class without SE.
        position: "output", "input", "shortcut" or "source", or "unit" for a module around one that
            holds SE.
        child: the SE block's name in the module.
        channel_dim: the channel dimension.
    """

    base: type[nn.Module]
    position: str
    child: str
    channel_dim: int

    @property
    def holds_block(self) -> bool:
        """Whether the module itself holds the SE block."""
        return self.position not in ("source", "unit")

    @property
    def is_normalisation(self) -> bool:
        """Whether SE rescales the output of a normalisation that can be fused."""
        return self.position == "output" and self.channel_dim == 1 and normalises(self.base)

    @property
    def is_relu(self) -> bool:
        """Whether SE rescales the output of a ReLU, which can be fused with the normalisation before it."""
        return self.position == "output" and self.channel_dim == 1 and self.base is nn.ReLU


def use_of(kind: type) -> Use | None:
    """The use of SE by exactly this class, if any."""
    return vars(kind).get(USE)
