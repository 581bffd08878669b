"""From what is known of a node's links to the engine's flags, each with its source and its reason.

    facts + the user's wishes  --classify-->  a row of the table  --derive-->  FlagSet  --to_text-->  the pod

The product's name never decides: four set-ups of the same card run with custom all-reduce, five others hang
(docs/topology.md). What decides is a peer-to-peer verdict that was tested, and where there is none, the safe set.
"""

from flash_contracts.flags.derivation import derive
from flash_contracts.flags.flag_set import Conflict, FlagArg, FlagEnv, FlagSet
from flash_contracts.flags.table import TABLE, Row, classify

__all__ = ["TABLE", "Conflict", "FlagArg", "FlagEnv", "FlagSet", "Row", "classify", "derive"]
