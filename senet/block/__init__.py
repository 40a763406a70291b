"""The paper's Squeeze-and-Excitation block, its options, and its equations."""

from senet.block.block import (
    PLACEMENTS,
    SQUEEZES,
    STARTS,
    SEBlock,
    SESpec,
    _se_gate,
    _to_linear_form,
    check_identity_start,
    has_bias,
    hidden_width,
    is_watched,
)
from senet.block.equations import GATES, se_excite, se_squeeze

__all__ = [
    "GATES",
    "PLACEMENTS",
    "SQUEEZES",
    "STARTS",
    "SEBlock",
    "SESpec",
    "_se_gate",
    "_to_linear_form",
    "check_identity_start",
    "has_bias",
    "hidden_width",
    "is_watched",
    "se_excite",
    "se_squeeze",
]
