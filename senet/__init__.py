"""Squeeze-and-Excitation for any PyTorch network, at the cost the paper promised (arXiv 1709.01507)."""

from senet.block import SEBlock, SESpec
from senet.insertion import (
    InsertionError,
    Site,
    blocks,
    fold_start,
    insert,
    parameter_groups,
    remove,
    sites,
)

__all__ = [
    "InsertionError",
    "SEBlock",
    "SESpec",
    "Site",
    "blocks",
    "fold_start",
    "insert",
    "parameter_groups",
    "remove",
    "sites",
]
__version__ = "0.1.0"
