"""The paper's networks, and names for these and other libraries' networks."""

from senet.errors import ModelError, WeightsError
from senet.zoo.names.create import create
from senet.zoo.names.naming import list_models
from senet.zoo.weights.compatibility import MismatchError, classes_in
from senet.zoo.weights.load import LoadReport, load_weights, read_weights

__all__ = [
    "LoadReport",
    "MismatchError",
    "ModelError",
    "WeightsError",
    "classes_in",
    "create",
    "list_models",
    "load_weights",
    "read_weights",
]
