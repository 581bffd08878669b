"""Finds and removes everything that a cluster leaves behind, however it ended."""

from pathlib import Path

from local_cluster import cgroups, sysctls
from local_cluster.machine import Holder
from local_cluster.mounts import mounts_under, remove_folder
from local_cluster.network import Network
from local_cluster.packet_filter import kubernetes_rules, remove_kubernetes_rules
from local_cluster.processes import ProcessGroup
from local_cluster.traces import remove_traces, traces


def list_leftovers(run: Path, network: Network) -> dict[str, list[str]]:
    """What remains, by kind; empty lists after `down`."""
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
    """Leftovers recognised by the run folder alone: its processes, mounts and files."""
    processes.stop(patience=1)
    remove_folder(processes.run)


def remove_from_machine(holder: Holder) -> None:
    """Resources that exist once on the machine. Needs the record, because they may belong to another Kubernetes."""
    cgroups.remove_cgroup()
    remove_traces(Path(holder.run), holder.absent_folders)
    remove_kubernetes_rules()
    holder.network.remove()
    sysctls.restore(holder.sysctls)
