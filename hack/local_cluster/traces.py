"""Files that the kubelet, containerd and CNI write outside the run folder, at fixed paths."""

from collections.abc import Iterable
from pathlib import Path

from local_cluster.network import CNI_NAME

SHIM_SOCKETS = Path("/run/flash-local-cluster")  # a socket needs a short path, which a run folder does not have
CNI_RESULTS = Path("/var/lib/cni/results")
LOG_LINKS = Path("/var/log/containers")
DEVICE_PLUGINS = Path("/var/lib/kubelet/device-plugins")
FOLDERS = (
    SHIM_SOCKETS,
    CNI_RESULTS,
    CNI_RESULTS.parent,
    LOG_LINKS,
    DEVICE_PLUGINS,
    DEVICE_PLUGINS.parent,
    Path("/run/containerd/s"),
    Path("/run/containerd/runc"),
    Path("/run/containerd"),
)


def absent_folders() -> list[str]:
    """Before a boot: folders that do not exist on this machine, and that `remove_traces` may remove later."""
    return [str(folder) for folder in FOLDERS if not folder.exists()]


def traces(run: Path) -> list[str]:
    """Files outside the run folder that belong to the cluster of this run folder."""
    logs = str(run / "pod-logs")
    links = [link for link in _inside(LOG_LINKS) if link.is_symlink() and str(link.readlink()).startswith(logs)]
    sockets = [DEVICE_PLUGINS / "kubelet.sock"] if (DEVICE_PLUGINS / "kubelet.sock").exists() else []
    return [str(path) for path in (*links, *_cni_results(run), *_inside(SHIM_SOCKETS), *sockets)]


def remove_traces(run: Path, folders: Iterable[str]) -> None:
    """Remove them, and those folders that did not exist before the boot and are empty now."""
    for path in traces(run):
        Path(path).unlink(missing_ok=True)
    for name in sorted(folders, key=len, reverse=True):
        folder = Path(name)
        if folder.is_dir() and not _inside(folder):
            folder.rmdir()


def _cni_results(run: Path) -> list[Path]:
    """Ours are recognised by the network's name; those of the loopback, whose name is always the same, by pod id."""
    ours = [path for path in _inside(CNI_RESULTS) if path.name.startswith(f"{CNI_NAME}-")]
    ids = {path.name.removeprefix(f"{CNI_NAME}-").rsplit("-", 1)[0] for path in ours}
    ids |= {path.name for path in _inside(run / "containerd" / "io.containerd.grpc.v1.cri" / "sandboxes")}
    loopbacks = [path for path in _inside(CNI_RESULTS) if path.name in {f"cni-loopback-{name}-lo" for name in ids}]
    return [*ours, *loopbacks]


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
