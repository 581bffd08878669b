"""Kernel settings that the kubelet and kube-proxy change, and never restore.

kubelet: setupKernelTunables in pkg/kubelet/cm/container_manager_linux.go. kube-proxy: NewProxier in
pkg/proxy/iptables/proxier.go. IP forwarding is ours.
"""

from collections.abc import Mapping
from pathlib import Path

ROOT = Path("/proc/sys")
CHANGED = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/route_localnet",
)


def current() -> dict[str, str]:
    return {name: (ROOT / name).read_text().strip() for name in CHANGED if (ROOT / name).exists()}


def restore(values: Mapping[str, str]) -> None:
    for name, value in values.items():
        (ROOT / name).write_text(value)
