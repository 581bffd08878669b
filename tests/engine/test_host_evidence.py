"""What the kernel says of an engine's end: its count of kills for lack of memory, and the boot of the node."""

from dataclasses import replace
from pathlib import Path

import pytest

from flash_contracts.engine_record import EngineExit, EngineRecord
from flash_engine.launcher.container import with_lost_exit
from flash_engine.launcher.host_evidence import boot_id, oom_kills

V2 = "low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 1\n"
V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"
CGROUPS = {
    "cgroup v2 in a namespace of its own": ("0::/\n", "memory.events", V2, 3),
    "cgroup v2 of the host": ("0::/kubepods/pod1/c1\n", "kubepods/pod1/c1/memory.events", V2, 3),
    "cgroup v1": ("9:memory:/kubepods/c1\n1:name=systemd:/x\n", "memory/kubepods/c1/memory.oom_control", V1, 5),
    "cgroup v1 in a namespace of its own": ("9:memory:/kubepods/c1\n", "memory/memory.oom_control", V1, 5),
    "an older kernel that does not count": ("9:memory:/\n", "memory/memory.oom_control", "under_oom 0\n", None),
    "nonsense": ("0::\nx\n", "memory.events", "oom_kill many\na b c\n", None),
    "no cgroup": ("", "other", "", None),
}


@pytest.mark.parametrize(("own", "file", "text", "kills"), CGROUPS.values(), ids=CGROUPS.keys())
def test_the_kernels_count_of_kills(tmp_path: Path, own: str, file: str, text: str, kills: int | None) -> None:
    (tmp_path / "self").write_text(own)
    counts = tmp_path / "cgroups" / file
    counts.parent.mkdir(parents=True)
    counts.write_text(text)
    assert oom_kills(tmp_path / "cgroups", tmp_path / "self") == kills


def test_a_boot_id_that_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "boot").write_text("c0ffee\n")
    assert (boot_id(tmp_path / "boot"), boot_id(tmp_path / "none")) == ("c0ffee", None)


RUNNING = EngineRecord(phase="Starting", pid=7, starts=1, boot="one")
LOST = {
    "the same boot, nothing recorded": (RUNNING, "one", "Container", "SIGKILL"),
    "another boot": (RUNNING, "two", "Reboot", None),
    "another boot during a stop": (replace(RUNNING, ending="Stop"), "two", "Reboot", None),
    "a kill that the launcher had recorded": (replace(RUNNING, ending="StopTimeout"), "one", "StopTimeout", "SIGKILL"),
    "a boot that is unknown": (RUNNING, None, "Container", "SIGKILL"),
    "a record of an older launcher": (replace(RUNNING, boot=None), "two", "Container", "SIGKILL"),
}


@pytest.mark.parametrize(("record", "boot", "ended_by", "signal"), LOST.values(), ids=LOST.keys())
def test_an_unrecorded_exit(record: EngineRecord, boot: str | None, ended_by: str, signal: str | None) -> None:
    after = with_lost_exit(record, boot)
    assert after.exit is not None
    assert (after.phase, after.ending) == ("Exited", None)
    assert (after.exit.ended_by, after.exit.signal, after.exit.last_lines) == (ended_by, signal, ())


def test_a_recorded_exit_is_kept() -> None:
    ended = replace(RUNNING, phase="Exited", exit=EngineExit(1, None, "", ("ValueError: x",)))
    assert with_lost_exit(ended, "two") == ended
