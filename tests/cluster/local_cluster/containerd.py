"""containerd, with an image store that outlives the cluster.

Unpacking an engine image of gigabytes takes longer than booting everything else, so images stay in the cache and are
imported once for their content.
"""

import json
import subprocess
import time
from pathlib import Path

from local_cluster.binaries import binary
from local_cluster.cache import cache_dir
from local_cluster.oci_archive import write_archive
from local_cluster.processes import ProcessGroup
from local_cluster.waiting import wait_until

PAUSE_IMAGE = "localhost/pause:1"

CONFIG = """\
version = 3
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "{socket}"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"
[plugins."io.containerd.cri.v1.runtime"]
# Without CAP_SYS_RESOURCE a container cannot lower its OOM score, and runc ends with "can't get final child's PID".
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "{cni}"
"""


class Containerd:
    """The container runtime of one cluster."""

    def __init__(self, run: Path, processes: ProcessGroup) -> None:
        self.run = run
        self.processes = processes
        self.root = cache_dir("containerd")
        self.socket = run / "containerd.sock"
        self._record = self.root / "imported.json"
        self._dirty = self.root / "in-use"

    def start(self) -> None:
        """Start it; after a crash, first drop the containers that the last cluster left in the store."""
        config = self.run / "containerd.toml"
        config.write_text(
            CONFIG.format(
                root=self.root,
                state=self.run / "containerd",
                socket=self.socket,
                pause=PAUSE_IMAGE,
                cni=self.run / "cni",
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
        """Drop every container, so that the store holds nothing but images, and end."""
        if self.processes.pids("containerd"):
            self.drop_containers()
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
        """Import an OCI archive unless this very archive is there. Returns the seconds it took."""
        known = self._imported()
        mark = f"{archive.stat().st_size}-{archive.stat().st_mtime_ns}"
        if known.get(str(archive)) == mark:
            return 0.0
        began = time.monotonic()
        self.ctr("images", "import", "--local", str(archive))
        self._record.write_text(json.dumps({**known, str(archive): mark}))
        return time.monotonic() - began

    def ctr(self, *args: str, check: bool = True) -> str:
        command = [str(binary("ctr")), "-a", str(self.socket), "-n", "k8s.io", *args]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            raise RuntimeError(f"ctr {' '.join(args)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def _launch(self, config: Path) -> None:
        shims = str(binary("containerd-shim-runc-v2").parent)
        self.processes.start("containerd", str(binary("containerd")), "-c", str(config), path=shims)
        wait_until(self._answers, "containerd", seconds=30, log=self.processes.logs / "containerd.log")

    def _answers(self) -> bool:
        return self.socket.exists() and bool(self.ctr("version", check=False))

    def _import_pause(self) -> None:
        program = binary("pause")
        archive = cache_dir("images") / f"{program.parent.name}.tar"
        if not archive.exists():
            write_archive(archive, PAUSE_IMAGE, program)
        self.import_image(archive)

    def _imported(self) -> dict[str, str]:
        return dict(json.loads(self._record.read_text())) if self._record.exists() else {}
