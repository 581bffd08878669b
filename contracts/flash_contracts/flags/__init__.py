"""Derives the engine's flags from the facts about a node's GPU links, each flag with its source and its reason.

    facts + spec.interconnect  --classify-->  row of the table  --derive-->  FlagSet  --to_text-->  the pod

A tested peer-to-peer verdict decides; without one, the node gets the safe flags. The product name never decides: four
machines with the same card run with custom all-reduce, five others hang (docs/topology.md).
"""

from flash_contracts.flags.derivation import derive
from flash_contracts.flags.flag_set import Conflict, FlagArg, FlagEnv, FlagSet
from flash_contracts.flags.table import TABLE, Row, classify

__all__ = ["TABLE", "Conflict", "FlagArg", "FlagEnv", "FlagSet", "Row", "classify", "derive"]
