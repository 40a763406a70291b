"""Put SE into a network, and take it out again."""

from senet.block.made import MadeBlock, MadeSpec, Make, block_spec
from senet.errors import InsertionError
from senet.insertion.checking import Check, check, rejoin
from senet.insertion.gates import Hold, holding, recording
from senet.insertion.joining.attach import attach
from senet.insertion.joining.constant import ConstantGate, PrunedSE, pruned
from senet.insertion.joining.fold import fold_start, parameter_groups
from senet.insertion.joining.foldgates import fold_gates
from senet.insertion.joining.insert import insert, inserted, largest_difference, remove, sites
from senet.insertion.recognise import InlineSE, adds_input, blocks, channel_dim_of, channels_of, gate, is_se
from senet.insertion.rules.site import Site, Where
from senet.insertion.staying.record import tell as tell_of_lost
from senet.insertion.valid import valid
from senet.running import as_call, describe, run, untouched

__all__ = [
    "Check",
    "ConstantGate",
    "Hold",
    "InlineSE",
    "InsertionError",
    "MadeBlock",
    "MadeSpec",
    "Make",
    "PrunedSE",
    "Site",
    "Where",
    "adds_input",
    "as_call",
    "attach",
    "block_spec",
    "blocks",
    "channel_dim_of",
    "channels_of",
    "check",
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
    "rejoin",
    "remove",
    "run",
    "sites",
    "tell_of_lost",
    "untouched",
    "valid",
]
