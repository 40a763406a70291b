"""Put SE into a network, and take it out again."""

from senet.insertion.attach import attach
from senet.insertion.errors import InsertionError
from senet.insertion.fold import fold_start, parameter_groups
from senet.insertion.foreign import blocks, channels_of, gate, is_se
from senet.insertion.gates import Hold, holding, recording
from senet.insertion.insert import insert, inserted, largest_difference, remove, sites
from senet.insertion.site import Site, Where
from senet.insertion.untouched import as_call, describe, run, untouched

__all__ = [
    "Hold",
    "InsertionError",
    "Site",
    "Where",
    "as_call",
    "attach",
    "blocks",
    "channels_of",
    "describe",
    "fold_start",
    "gate",
    "holding",
    "insert",
    "inserted",
    "is_se",
    "largest_difference",
    "parameter_groups",
    "recording",
    "remove",
    "run",
    "sites",
    "untouched",
]
