"""The zoo's record of one of its networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import nn

from senet.insertion.rules.site import Where

__all__ = ["Entry"]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One network of the zoo.

    Attributes:
        build: builds it from the keywords `num_classes`, `in_channels` and the family's options.
        input_size: height and width that it was made for, in pixels.
        se_name: what its form with SE is called; "" is `se_` before its own name, None where it has none.
        where: the sites used with SE among those that insertion finds; None means all of them.
    """

    build: Callable[..., nn.Module]
    input_size: tuple[int, int]
    se_name: str | None = ""
    where: Where = None
