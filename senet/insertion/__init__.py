"""Put SE into a network, and take it out again."""

from senet.insertion.attach import attach
from senet.insertion.constant import ConstantGate, PrunedSE, pruned
from senet.insertion.errors import InsertionError
from senet.insertion.fold import fold_start, parameter_groups
from senet.insertion.foldgates import fold_gates
from senet.insertion.foreign import adds_input, blocks, channel_dim_of, channels_of, gate, is_se
from senet.insertion.gates import Hold, holding, recording
from senet.insertion.insert import insert, inserted, largest_difference, remove, sites
from senet.insertion.site import Site, Where
from senet.insertion.untouched import as_call, describe, run, untouched

__all__ = [
    "ConstantGate",
    "Hold",
    "InsertionError",
    "PrunedSE",
    "Site",
    "Where",
    "adds_input",
    "as_call",
    "attach",
    "blocks",
    "channel_dim_of",
    "channels_of",
    "describe",
    "fold_gates",
    "fold_start",
    "gate",
    "holding",
    "insert",
    "inserted",
    "is_se",
    "largest_difference",
    "parameter_groups",
    "pruned",
    "recording",
    "remove",
    "run",
    "sites",
    "untouched",
]
