"""What a class says of the SE that `insert` put around it: written in `senet.insertion`, read by the passes here."""

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
        base: the class that they had before.
        position: "output", "input", "shortcut" or "source", or "unit" for what surrounds a module
            that holds SE.
        child: the name of the SE block in the module.
        channel_dim: the dimension that counts the channels.
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
        """Whether SE rescales the output of a normalisation that a pass can hold."""
        return self.position == "output" and self.channel_dim == 1 and normalises(self.base)

    @property
    def is_relu(self) -> bool:
        """Whether SE rescales the output of a ReLU, whose normalisation may take both into its pass."""
        return self.position == "output" and self.channel_dim == 1 and self.base is nn.ReLU


def use_of(kind: type) -> Use | None:
    """What was joined to the modules of exactly this class, if anything was."""
    return vars(kind).get(USE)
