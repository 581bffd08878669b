"""Which cluster uses the machine. There can be only one, because it owns a bridge, packet filter rules and a cgroup.

The record is outside every cache folder, so that other clones find it, and after a crash shows what the dead cluster
changed. It is written before anything is changed.
"""

import datetime as dt
import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from local_cluster import sysctls, traces
from local_cluster.network import Network
from local_cluster.processes import command_of, folder_of, is_alive, start_of

LOCK = Path("/run/lock/flash-local-cluster")
RECORD = LOCK.with_suffix(".json")


class OccupiedError(RuntimeError):
    """Another cluster uses the machine. The message says whose it is, and how to stop it."""


@dataclass(frozen=True)
class Holder:
    """The cluster that uses the machine, its starter, and what to undo when it ends."""

    run: str
    network: Network
    pid: int
    pid_start: int
    command: str
    folder: str
    since: str
    kept: bool  # by `up`, until `down`; otherwise it belongs to a test run and ends with it
    booted: bool
    sysctls: dict[str, str]
    absent_folders: list[str]

    @classmethod
    def process(cls, pid: int, run: Path, network: Network, *, kept: bool) -> "Holder":
        """A running process: this one, or the one that started it."""
        return cls(
            run=str(run),
            network=network,
            pid=pid,
            pid_start=start_of(pid) or 0,
            command=command_of(pid),
            folder=folder_of(pid),
            since=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            kept=kept,
            booted=False,
            sysctls=sysctls.current(),
            absent_folders=traces.absent_folders(),
        )

    def is_for(self, starter: int, *, kept: bool) -> bool:
        """A kept cluster is for everybody who asks for a kept one; any other is for its starter's processes."""
        return self.kept == kept and (kept or self.pid == starter)

    def has_its_starter(self) -> bool:
        return is_alive(self.pid, self.pid_start)

    def describe(self) -> str:
        """Who uses the machine, and how to stop it."""
        starter = f"`{self.command}` (pid {self.pid}) in {self.folder} at {self.since}"
        stop = f"FLASH_CACHE={Path(self.run).parents[1]} python -m local_cluster down"
        use = f", or use it for tests: FLASH_KUBECONFIG={self.run}/admin.conf" if self.kept else ""
        wait = "" if self.kept else "wait until it ends, or "
        return f"a local cluster already holds this machine, started by {starter}: {wait}stop it: {stop}{use}"


@contextmanager
def held() -> Iterator[None]:
    """Only one process at a time starts or stops a cluster; others wait. The kernel releases it with its process."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def holder() -> Holder | None:
    try:
        record = json.loads(RECORD.read_text())
    except FileNotFoundError:
        return None
    return Holder(**{**record, "network": Network(**record["network"])})


def record(entry: Holder) -> None:
    unfinished = RECORD.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(asdict(entry), indent=1))
    unfinished.rename(RECORD)


def record_booted() -> None:
    entry = holder()
    if entry is not None:
        record(replace(entry, booted=True))


def forget() -> None:
    RECORD.unlink(missing_ok=True)
