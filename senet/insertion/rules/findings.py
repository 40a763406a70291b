"""A rule's finding at one place in a network."""

from __future__ import annotations

import dataclasses

from senet.insertion.reading.walk import Unit

__all__ = ["Finding"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One place that a rule examined.

    Attributes:
        value: the value examined; sites are ordered by it.
        reason: why SE belongs there, or why not, in words.
        unit: the unit, if SE could rescale it.
        squeezed: whether the place already holds SE.
    """

    value: int
    reason: str
    unit: Unit | None = None
    squeezed: bool = False

    @property
    def is_site(self) -> bool:
        """Whether SE belongs there."""
        return self.unit is not None and not self.squeezed
