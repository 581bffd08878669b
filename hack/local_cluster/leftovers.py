"""Everything that a cluster leaves behind when it ends, however it ended: how to see it and how to remove it."""

from pathlib import Path

from local_cluster import cgroups, sysctls
from local_cluster.machine import Holder
from local_cluster.mounts import mounts_under, remove_folder
from local_cluster.network import Network
from local_cluster.packet_filter import kubernetes_rules, remove_kubernetes_rules
from local_cluster.processes import ProcessGroup
from local_cluster.traces import remove_traces, traces


def list_leftovers(run: Path, network: Network) -> dict[str, list[str]]:
    """What is still there, by kind; empty lists after `down`."""
    return {
        "processes": [str(pid) for pid in ProcessGroup(run).pids()],
        "pod processes": [str(pid) for pid in cgroups.members()],
        "cgroups": [str(folder) for folder in cgroups.folders()],
        "mounts": mounts_under(run),
        "links": network.links(),
        "packet filter": kubernetes_rules(),
        "traces": traces(run),
        "files": [str(run)] if run.exists() else [],
    }


def remove_own(processes: ProcessGroup) -> None:
    """What can be told by the run folder alone: its processes, its mounts, its files."""
    processes.stop(patience=1)
    remove_folder(processes.run)


def remove_from_machine(holder: Holder) -> None:
    """What the machine has only once. Called with its record: without one, it may be another Kubernetes' own."""
    cgroups.remove_cgroup()
    remove_traces(Path(holder.run), holder.absent_folders)
    remove_kubernetes_rules()
    holder.network.remove()
    sysctls.restore(holder.sysctls)
