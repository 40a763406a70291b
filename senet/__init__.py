"""Squeeze-and-Excitation for any PyTorch network, at the cost the paper promised (arXiv 1709.01507)."""

import senet.console.starting  # noqa: F401 before the others, which take a second to import

# isort: split
from senet._moved import redirect
from senet._version import __version__
from senet.block import SEBlock, SESpec
from senet.cost.cost import Cost, cost
from senet.errors import OptimizeError, SEWarning
from senet.export.export import export
from senet.inference.optimize import optimize
from senet.insertion import (
    InsertionError,
    MadeBlock,
    Site,
    blocks,
    check,
    fold_start,
    gate,
    insert,
    parameter_groups,
    rejoin,
    remove,
    sites,
    valid,
)
from senet.running import Batched
from senet.saving import create, load, save
from senet.zoo import list_models

redirect()

__all__ = [
    "Batched",
    "Cost",
    "InsertionError",
    "MadeBlock",
    "OptimizeError",
    "SEBlock",
    "SESpec",
    "SEWarning",
    "Site",
    "__version__",
    "blocks",
    "check",
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
    "rejoin",
    "remove",
    "save",
    "sites",
    "valid",
]
