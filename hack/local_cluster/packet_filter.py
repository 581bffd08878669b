"""The packet filter rules of kube-proxy and the kubelet, which neither of them removes when it is killed.

All their chains have names with KUBE-, which distinguishes them from the machine's own.
"""

import os
import shlex
import subprocess

COMMANDS = ("iptables", "ip6tables")
TABLES = ("nat", "filter", "mangle")


def kubernetes_rules() -> list[str]:
    """Every rule and chain that names a KUBE- chain, as `COMMAND -t TABLE ...` would print it."""
    return [
        f"{command} -t {table} {line}" for command in COMMANDS for table in TABLES for line in _lines(command, table)
    ]


def remove_kubernetes_rules() -> None:
    """First removes the jumps from the machine's chains, then flushes and deletes the chains."""
    for command in COMMANDS:
        for table in TABLES:
            lines = _lines(command, table)
            for rule in (line for line in lines if line.startswith("-A ") and not line.startswith("-A KUBE-")):
                _run(command, table, "-D", *shlex.split(rule)[1:])
            chains = [line.split()[1] for line in lines if line.startswith("-N ")]
            for action in ("-F", "-X"):
                for chain in chains:
                    _run(command, table, action, chain)


def _lines(command: str, table: str) -> list[str]:
    done = _run(command, table, "-S", check=False)
    return [line for line in done.stdout.splitlines() if "KUBE-" in line]


def _run(command: str, table: str, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    return subprocess.run(
        [command, "-w", "5", "-t", table, *args], check=check, capture_output=True, text=True, env=environment
    )
