"""The cluster removes everything that it created, however it ends, and nothing that belongs to others."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_cluster import machine, sysctls
from local_cluster.cluster import COMPONENTS, LocalCluster
from local_cluster.machine import OccupiedError
from local_cluster.processes import MARK
from local_cluster.traces import FOLDERS
from waiting import eventually
from web_pods import a_web_pod, run_pod

pytestmark = [pytest.mark.cluster, pytest.mark.alone, pytest.mark.timeout(240)]

COMMAND = [sys.executable, "-m", "local_cluster"]
ENVIRONMENT = dict(os.environ)


@pytest.fixture
def alone() -> Iterator[LocalCluster]:
    """A cluster that is not started yet, on a machine that no other cluster uses. It is stopped afterwards in any case.

    It must never stop a cluster that somebody else uses.
    """
    local = LocalCluster()
    local.free()
    yield local
    local.down()


def machine_state() -> dict[str, list[str]]:
    """Everything that a cluster may change on the machine, observed independently of the cluster's own record."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    cgroups = [path for path, _, _ in os.walk("/sys/fs/cgroup") if "kubepods" in path or "flash-local-cluster" in path]
    rules = [
        line
        for command in ("iptables-save", "ip6tables-save")
        for line in subprocess.run([f"/usr/sbin/{command}"], capture_output=True, text=True, check=True).stdout.split(
            "\n"
        )
        if "KUBE" in line or "CNI" in line or line.startswith("-A")
    ]
    return {
        "mounts": sorted(mounts),
        "links": sorted(link.name for link in Path("/sys/class/net").iterdir()),
        "cgroups": cgroups,
        "packet filter": rules,
        "folders": [str(folder) for folder in FOLDERS if folder.exists()],
        "sysctls": [f"{name}={value}" for name, value in sysctls.current().items()],
    }


def differences(before: dict[str, list[str]]) -> dict[str, list[str]]:
    """What was added or removed."""
    now = machine_state()
    counted = {kind: (Counter(now[kind]), Counter(before[kind])) for kind in before}
    found = {kind: sorted([*(new - old).elements(), *(old - new).elements()]) for kind, (new, old) in counted.items()}
    return {kind: items for kind, items in found.items() if items}


def nothing_left(cluster: LocalCluster) -> bool:
    assert {kind: items for kind, items in cluster.leftovers().items() if items} == {}
    return True


def test_down_removes_pods_services_and_volumes(alone: LocalCluster, web_archive: Path) -> None:
    before = machine_state()
    alone.up()
    alone.import_image(web_archive)
    run_pod(alone, a_web_pod("web", gpus=2))
    alone.kubectl("expose", "pod", "web", "--port=80", "--target-port=8080")
    during = machine_state()
    assert [kind for kind in before if during[kind] == before[kind]] in ([], ["sysctls"])

    alone.down()

    assert nothing_left(alone)
    assert differences(before) == {}


@pytest.mark.long
def test_a_starter_killed_in_the_middle_of_the_boot_leaves_nothing_after_down(alone: LocalCluster) -> None:
    before = machine_state()
    starter = subprocess.Popen([*COMMAND, "up"], env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    eventually(lambda: alone.plane.processes.pids("kubelet"), "the boot reaches the kubelet", seconds=60)
    starter.kill()
    starter.wait()
    for program in ("containerd", "kube-apiserver"):
        for pid in alone.plane.processes.pids(program):
            os.kill(pid, signal.SIGKILL)

    alone.down()

    assert nothing_left(alone)
    assert differences(before) == {}


@pytest.mark.long
def test_the_next_up_replaces_a_cluster_whose_components_were_all_killed(
    alone: LocalCluster, web_archive: Path
) -> None:
    before = machine_state()
    alone.up()
    alone.import_image(web_archive)
    run_pod(alone, a_web_pod("web", gpus=2))
    killed = {program: alone.plane.processes.pids(program) for program in (*COMPONENTS, "containerd-shim-runc-v2")}
    assert all(killed.values())
    for pids in killed.values():
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    assert alone.leftovers()["pod processes"], "the pod itself outlives its shim, or this test shows little"

    LocalCluster().up()

    assert alone.running()
    assert alone.kubectl("get", "pods", "-A", "-o", "name").stdout == ""
    assert alone.containerd.ctr("containers", "ls", "-q") == "", "containers of the dead cluster stay in the store"
    assert alone.containerd.import_image(web_archive) == 0.0, "images do stay"
    alone.down()
    assert nothing_left(alone)
    assert differences(before) == {}


@pytest.mark.long
def test_a_cluster_left_by_a_test_run_is_replaced(alone: LocalCluster) -> None:
    script = "from local_cluster.cluster import LocalCluster; LocalCluster().up(kept=False)"
    subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, check=True)
    orphans = alone.plane.processes.pids()
    assert orphans

    alone.up(kept=False)

    assert not set(orphans) & set(alone.plane.processes.pids())


def test_free_removes_leftovers_of_a_killed_test_run_and_nothing_in_use(
    alone: LocalCluster,
) -> None:
    script = "from local_cluster.cluster import LocalCluster; LocalCluster().up(kept=False)"
    subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, check=True)

    freed = subprocess.run([*COMMAND, "free"], env=ENVIRONMENT, capture_output=True, text=True, check=False)

    assert (freed.returncode, freed.stderr) == (0, "")
    assert nothing_left(alone)
    alone.up(kept=False)
    running = alone.plane.processes.pids()
    waited = [*COMMAND, "free", "--wait", "2"]
    refused = subprocess.run(waited, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert f"pid {os.getpid()}" in refused.stderr
    assert refused.stderr.startswith("waiting for at most 2 s")
    assert alone.plane.processes.pids() == running


@pytest.mark.long
def test_a_second_starter_learns_who_holds_the_machine_and_how_to_stop_it(alone: LocalCluster, tmp_path: Path) -> None:
    alone.up(kept=False)
    running = alone.plane.processes.pids()
    elsewhere = {**ENVIRONMENT, "FLASH_CACHE": str(tmp_path)}
    # The other clone has its own cache; this test does not need binaries.
    (tmp_path / "bin").symlink_to(alone.run.parents[1] / "bin")

    for environment, command in ((ENVIRONMENT, "up"), (elsewhere, "up"), (elsewhere, "down")):
        second = subprocess.run([*COMMAND, command], env=environment, capture_output=True, text=True, check=False)

        assert second.returncode == 1
        assert f"pid {os.getpid()}" in second.stderr
        assert f"FLASH_CACHE={alone.run.parents[1]} " in second.stderr
        assert "local_cluster down" in second.stderr
    assert alone.plane.processes.pids() == running
    assert alone.running()


@pytest.mark.long
def test_the_workers_of_a_test_run_share_one_cluster_which_ends_with_the_run(alone: LocalCluster) -> None:
    script = f"from local_cluster.cluster import LocalCluster; LocalCluster().up(kept=False, starter={os.getpid()})"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, check=True)
    running = alone.plane.processes.pids()

    assert alone.up(kept=False) == 0.0, "they started it in this process's name"
    refused = subprocess.run([*COMMAND, "free"], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert f"pid {os.getpid()}" in refused.stderr
    assert alone.plane.processes.pids() == running


@pytest.mark.long
def test_a_kept_cluster_is_found_by_the_next_up_and_refused_to_a_test_run(alone: LocalCluster) -> None:
    subprocess.run([*COMMAND, "up"], env=ENVIRONMENT, check=True)
    running = alone.plane.processes.pids()

    assert alone.up() == 0.0
    with pytest.raises(OccupiedError, match=f"FLASH_KUBECONFIG={alone.kubeconfig}"):
        alone.up(kept=False)

    assert alone.plane.processes.pids() == running


@pytest.mark.long
def test_up_never_ends_unrecorded_processes(alone: LocalCluster) -> None:
    with subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: str(alone.run)}) as stranger:
        eventually(lambda: alone.plane.processes.pids("sleep"), "the process is seen")

        with pytest.raises(OccupiedError, match="no record of who started it"):
            alone.up()

        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.long
def test_down_by_hand_works_without_the_record_too(alone: LocalCluster) -> None:
    alone.up()
    machine.forget()

    alone.down()

    assert nothing_left(alone)


@pytest.mark.long
def test_a_boot_that_fails_says_why_keeps_its_logs_and_leaves_nothing(alone: LocalCluster) -> None:
    before = machine_state()
    alone.run.mkdir(parents=True)
    config = {**ENVIRONMENT, "FLASH_CLUSTER_API_PORT": "99999"}

    failed = subprocess.run([*COMMAND, "up"], env=config, capture_output=True, text=True, check=False, timeout=90)

    assert failed.returncode == 1
    assert "kube-apiserver" in failed.stderr
    assert "99999" in failed.stderr
    assert alone.run.with_name("cluster-failed-logs").joinpath("kube-apiserver.log").exists()
    assert nothing_left(alone)
    assert differences(before) == {}


@pytest.mark.long
def test_an_existing_bridge_is_refused_and_not_changed(alone: LocalCluster) -> None:
    subprocess.run(["/usr/sbin/ip", "link", "add", "flash0", "type", "bridge"], check=True)
    try:
        refused = subprocess.run([*COMMAND, "up"], env=ENVIRONMENT, capture_output=True, text=True, check=False)

        assert refused.returncode == 1
        assert "FLASH_CLUSTER_BRIDGE" in refused.stderr
        assert Path("/sys/class/net/flash0").exists()
        assert alone.dead() == list(COMPONENTS)
    finally:
        subprocess.run(["/usr/sbin/ip", "link", "delete", "flash0"], check=True)
