"""What a rule says of one place in a network."""

from __future__ import annotations

import dataclasses

from senet.insertion.reading.walk import Unit

__all__ = ["Finding", "counted"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One place looked at.

    Attributes:
        value: the value looked at, which gives the order of the sites.
        reason: in words, why SE belongs there or why not.
        unit: the unit, where it is one that SE could rescale.
        squeezed: whether it holds SE already.
    """

    value: int
    reason: str
    unit: Unit | None = None
    squeezed: bool = False

    @property
    def is_site(self) -> bool:
        """Whether SE belongs there."""
        return self.unit is not None and not self.squeezed


def counted(n: int, noun: str) -> str:
    """A number and its noun: "1 convolution", "2 convolutions"."""
    return f"{n} {noun}{'s' * (n != 1)}"
