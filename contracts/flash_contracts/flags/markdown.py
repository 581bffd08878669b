"""Prints the flags table as docs/topology.md shows it: `python -m flash_contracts.flags.markdown`."""

import sys

from flash_contracts.flags.table import TABLE, Row

HEAD = (
    "| row | link | verdict | custom all-reduce | NCCL | evidence | why |",
    "| --- | --- | --- | --- | --- | --- | --- |",
)


def table() -> str:
    """One line for each row, in their order."""
    return "\n".join([*HEAD, *(_line(row) for row in TABLE.values())])


def _line(row: Row) -> str:
    nccl = "P2P off" if not row.p2p else f"P2P_LEVEL={row.p2p_level}" if row.p2p_level else "default"
    all_reduce = "on" if row.custom_all_reduce else "off"
    return f"| {row.name} | {row.link} | {row.verdict} | {all_reduce} | {nccl} | {row.evidence} | {row.why} |"


if __name__ == "__main__":
    sys.stdout.write(f"{table()}\n")
