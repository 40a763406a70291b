"""Squeeze-and-Excitation for any PyTorch network, at the cost the paper promised (arXiv 1709.01507)."""

from senet.block import SEBlock, SESpec
from senet.cost import Cost, cost
from senet.fast.errors import OptimizeError
from senet.fast.export import export
from senet.fast.squeeze_through import optimize
from senet.insertion import (
    InsertionError,
    Site,
    blocks,
    fold_start,
    gate,
    insert,
    parameter_groups,
    remove,
    sites,
)
from senet.saving import load, save
from senet.zoo import create, list_models

__all__ = [
    "Cost",
    "InsertionError",
    "OptimizeError",
    "SEBlock",
    "SESpec",
    "Site",
    "blocks",
    "cost",
    "create",
    "export",
    "fold_start",
    "gate",
    "insert",
    "list_models",
    "load",
    "optimize",
    "parameter_groups",
    "remove",
    "save",
    "sites",
]
__version__ = "0.1.0"
