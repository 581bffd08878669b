"""containerd, with an image store that outlives the cluster.

Unpacking an engine image of gigabytes takes longer than booting everything else, so images stay in the cache and are
imported once per content.
"""

import subprocess
import time
from pathlib import Path

from local_cluster.binaries import binary
from local_cluster.cache import cache_dir
from local_cluster.oci_archive import images_in, write_archive
from local_cluster.processes import ProcessGroup
from local_cluster.traces import SHIM_SOCKETS
from waiting import eventually

PAUSE_IMAGE = "localhost/pause:1"

CONFIG = """\
version = 3
root = "{root}"
state = "{run}/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{run}/opt"
[plugins."io.containerd.shim.v1.manager"]
socket_dir = "{sockets}"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"
[plugins."io.containerd.cri.v1.runtime"]
# Without CAP_SYS_RESOURCE a container cannot lower its OOM score, and runc ends with "can't get final child's PID".
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
Root = "{run}/runc"
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "{run}/cni"
"""


class Containerd:
    """The container runtime of one cluster."""

    def __init__(self, run: Path, processes: ProcessGroup) -> None:
        self.run = run
        self.processes = processes
        self.root = cache_dir("containerd")
        self.socket = run / "containerd.sock"
        self._dirty = self.root / "in-use"

    def start(self) -> None:
        """Start it. After a crash, first delete the containers that the last cluster left in the store."""
        config = self.run / "containerd.toml"
        config.write_text(
            CONFIG.format(
                root=self.root,
                run=self.run,
                socket=self.socket,
                sockets=SHIM_SOCKETS,
                pause=PAUSE_IMAGE,
            )
        )
        crashed = self._dirty.exists()
        self._dirty.touch()
        self._launch(config)
        if crashed:
            self.drop_containers()
            self.processes.stop("containerd")
            self._launch(config)
        self._import_pause()

    def stop(self) -> None:
        """Delete every container, so that the store contains only images, and stop."""
        if not self.processes.pids("containerd"):
            return
        try:
            self.drop_containers()
        except (RuntimeError, subprocess.TimeoutExpired):
            # It does not answer. The next start finds the store in use, and cleans it up.
            self.processes.stop("containerd")
        else:
            self.processes.stop("containerd")
            self._dirty.unlink(missing_ok=True)

    def drop_containers(self) -> None:
        for container in self.ctr("containers", "ls", "-q").split():
            self.ctr("tasks", "kill", "--signal=SIGKILL", container, check=False)
            self.ctr("tasks", "rm", "--force", container, check=False)
            self.ctr("containers", "rm", container, check=False)
        for sandbox in self.ctr("sandboxes", "ls").splitlines()[1:]:
            self.ctr("sandboxes", "rm", "--force", sandbox.split()[0], check=False)

    def import_image(self, archive: Path) -> float:
        """Import an OCI archive, unless the store has the same content under this name. Returns the seconds it took."""
        wanted = images_in(archive)
        if wanted and self._has(wanted):
            return 0.0
        began = time.monotonic()
        self.ctr("images", "import", "--local", str(archive), seconds=900)
        if not self._has(wanted):
            raise RuntimeError(f"{archive} was imported, but containerd does not list {', '.join(wanted)}")
        return time.monotonic() - began

    def _has(self, wanted: dict[str, str]) -> bool:
        rows = [line.split() for line in self.ctr("images", "ls").splitlines()[1:]]
        return wanted.items() <= {row[0]: row[2] for row in rows}.items()

    def ctr(self, *args: str, check: bool = True, seconds: float = 30) -> str:
        command = [str(binary("ctr")), "-a", str(self.socket), "-n", "k8s.io", *args]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
        if check and done.returncode != 0:
            raise RuntimeError(f"ctr {' '.join(args)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def _launch(self, config: Path) -> None:
        shims = str(binary("containerd-shim-runc-v2").parent)
        self.processes.start("containerd", str(binary("containerd")), "-c", str(config), path=shims)
        eventually(self._answers, "containerd", seconds=30, log=self.processes.logs / "containerd.log")

    def _answers(self) -> bool:
        return self.socket.exists() and bool(self.ctr("version", check=False))

    def _import_pause(self) -> None:
        program = binary("pause")
        archive = cache_dir("images") / f"{program.parent.name}.tar"
        if not archive.exists():
            write_archive(archive, PAUSE_IMAGE, program)
        self.import_image(archive)
