"""From the labeller's readings of the links to an engine's flags, and back when an engine hangs."""

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from cluster_fixtures import LocalCluster
from e2e_env import OPERATOR_NAMESPACE, Flash, apply, clear_node, get_json, install_operator, the_operator, wait_until
from engine_stubs import engine_stub_program, stub_spec
from fake_node.readings import read_machine
from flash_contracts.names import P2P_CLAIMS_ANNOTATION
from flash_contracts.p2p_claims import parse_claims
from image_builder.build import ensure_image
from image_builder.layout import cache_root, image_named
from local_cluster.binaries import binary
from local_cluster.oci_archive import write_archive

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.alone,
    pytest.mark.usefixtures("own_node"),
    pytest.mark.timeout(900),
]

MakeFlash = Callable[..., Flash]
P2pTests = Callable[[str], None]

PREFIX = "deepseekflash.dev/"
ENFORCED = "pod-security.kubernetes.io/enforce"
MACHINE = "max-q-pair-node"
START_SECONDS = 400
HANG_SECONDS = 20
START_TO_SILENCE_SECONDS = 30
"""Until the stub's container has got its flags, started Python and printed its last line."""


@pytest.fixture(scope="module")
def p2p_tests(e2e_env: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[P2pTests]:
    """The chart with a labeller that publishes a saved dump, and with p2p tests whose verdict the test chooses."""
    folder = tmp_path_factory.mktemp("p2p-test-stubs")
    node, operator = (ensure_image(image_named(name), cache_root()) for name in ("node", "operator"))
    e2e_env.import_image(node)
    dump = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dump", "namespace": OPERATOR_NAMESPACE}}
    apply(e2e_env, {**dump, "data": {"dump.json": read_machine(MACHINE, folder).to_text()}})

    def install(verdict: str) -> None:
        image = f"localhost/flash/p2p-test-stub:{verdict}"
        archive = folder / f"{verdict}.tar"
        write_archive(
            archive, image, binary("p2p-test-stub"), called="flash-p2p-test", environment={"P2P_TEST_STUB": verdict}
        )
        e2e_env.import_image(archive)
        install_operator(
            e2e_env,
            operator,
            p2pTest__enabled="true",
            p2pTest__image=image,
            labeller__enabled="true",
            labeller__image__repository="localhost/flash/node",
            labeller__image__tag="dev",
            labeller__image__pullPolicy="Never",
            labeller__intervalSeconds="2",
            labeller__dumpConfigMap="dump",
        )
        # The previous operator may have tested the links in the meantime, with its own stub.
        the_operator(e2e_env)
        e2e_env.kubectl("delete", "jobs", "--all", "-n", OPERATOR_NAMESPACE)
        e2e_env.kubectl("label", "node", e2e_env.node_name, f"{PREFIX}gpu-p2p-", f"{PREFIX}gpu-p2p-driver-")
        e2e_env.kubectl("annotate", "node", e2e_env.node_name, f"{PREFIX}gpu-p2p-attempt-")

    yield install
    install_operator(e2e_env, operator)
    # Until now, the labeller has labelled the node again after each test.
    wait_until(lambda: not labeller_pods(e2e_env), "the labeller is gone", seconds=60)
    clear_node(e2e_env)


def labeller_pods(cluster: LocalCluster) -> list[dict[str, Any]]:
    pods = get_json(cluster, "pods", "-n", OPERATOR_NAMESPACE)["items"]
    return [pod for pod in pods if any(o["kind"] == "DaemonSet" for o in pod["metadata"].get("ownerReferences", []))]


def labels(cluster: LocalCluster) -> dict[str, str]:
    """Ours, without their prefix."""
    return {k.removeprefix(PREFIX): v for k, v in cluster.node_labels().items() if k.startswith(PREFIX)}


def claims(cluster: LocalCluster) -> dict[str, str]:
    """Claims of engines about the node's links, by deployment."""
    annotations = get_json(cluster, "node", cluster.node_name)["metadata"].get("annotations", {})
    return {claim.deployment: claim.kind for claim in parse_claims(annotations.get(P2P_CLAIMS_ANNOTATION))}


def jobs(cluster: LocalCluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = get_json(cluster, "jobs", "-n", OPERATOR_NAMESPACE)["items"]
    return found


def node_events(cluster: LocalCluster) -> list[tuple[str, str]]:
    events = get_json(cluster, "events.events.k8s.io", "-n", "default")["items"]
    ours = [event for event in events if event["regarding"].get("name") == cluster.node_name]
    return [(event["reason"], event.get("note", "")) for event in ours]


def message(cluster: LocalCluster, reason: str) -> list[str]:
    """Messages of the node's events with this reason. They are written shortly after the label."""

    def look() -> list[str]:
        return [note for seen, note in node_events(cluster) if seen == reason]

    return wait_until(look, f"an event {reason}", seconds=30)


def engine_processes(flash: Flash) -> list[int]:
    """All processes in the engine's container except the launcher."""
    (engine,) = flash.pod()["status"]["containerStatuses"]
    mark = engine["containerID"].rpartition("/")[2]
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            inside = mark in (process / "cgroup").read_text()
            launcher = b"flash-launch" in (process / "cmdline").read_bytes()
        except OSError:
            continue  # it ended in the meantime
        if inside and not launcher:
            pids.append(int(process.name))
    return pids


def prove_links(cluster: LocalCluster, p2p_tests: P2pTests) -> None:
    p2p_tests("healthy")
    wait_until(lambda: labels(cluster).get("gpu-p2p") == "verified", "the links are verified", seconds=120)
    wait_until(lambda: not jobs(cluster), "the test's Job is gone", seconds=60)


def serve_with_fast_flags(cluster: LocalCluster, tiny: MakeFlash, namespace: str) -> Flash:
    """A stub that serves on a node whose links are verified."""
    apply(cluster, engine_stub_program(namespace))
    flash = tiny(**stub_spec())
    flash.wait_for("Ready", "True", "Passed", seconds=START_SECONDS)
    assert [pod["row"] for pod in flash.status()["pods"]] == ["T3"]
    return flash


def test_from_a_reading_and_a_test_to_flags_that_each_say_why(
    e2e_env: LocalCluster, p2p_tests: P2pTests, tiny: MakeFlash, namespace: str
) -> None:
    p2p_tests("healthy")

    wait_until(lambda: labels(e2e_env).get("gpu-p2p") == "verified", "the links are verified", seconds=120)
    found = labels(e2e_env)
    assert (found["gpu-link"], found["gpu-p2p-tested-by"]) == ("node", "v1-stub")
    assert (found["gpu-p2p-driver"], found["gpu-p2p-cards"]) == (found["gpu-driver"], found["gpu-cards"])
    message(e2e_env, "PeerToPeerVerified")
    wait_until(lambda: not jobs(e2e_env), "the test's Job is gone", seconds=60)

    flash = serve_with_fast_flags(e2e_env, tiny, namespace)
    (pod,) = flash.status()["pods"]
    assert (pod["link"], pod["p2p"]) == ("node", "verified")
    assert any("NCCL_P2P_LEVEL=PHB (p2pTest: T3: gpu-link=node, gpu-p2p=verified" in flag for flag in pod["flags"])
    described = e2e_env.kubectl("describe", "dsf", flash.name, "-n", flash.namespace).stdout
    assert "NCCL_P2P_LEVEL=PHB (p2pTest:" in described
    assert "FlagsTaken" in described


@pytest.mark.long
def test_an_engine_is_bound_to_the_numa_node_of_its_cards_where_that_is_asked_for(
    e2e_env: LocalCluster, p2p_tests: P2pTests, tiny: MakeFlash
) -> None:
    """With a real numactl under the runtime's seccomp profile, as a user who is not root."""
    p2p_tests("healthy")
    wait_until(lambda: labels(e2e_env).get("gpu-numa-nodes") == "0-0", "the node's label", seconds=60)

    flash = tiny(interconnect={"numaBinding": "CpusAndMemory"})
    assert "SYS_NICE" in flash.wait_for("Ready", "False", "FailedCreate")["message"], "the namespace is restricted"
    e2e_env.kubectl("label", "namespace", flash.namespace, f"{ENFORCED}=privileged", "--overwrite")
    flash.wait_for("Ready", "True", "Passed", seconds=START_SECONDS)
    (pod,) = flash.status()["pods"]
    assert any(flag.startswith("--numa-bind-nodes 0 0 (label: ") for flag in pod["flags"])
    assert any(is_bound_to(pid, 0) for pid in engine_processes(flash))


def is_bound_to(pid: int, node: int) -> bool:
    """The kernel reports this policy for all memory of the process (proc_pid_numa_maps(5))."""
    try:
        return f" bind:{node} " in Path(f"/proc/{pid}/numa_maps").read_text()
    except OSError:
        return False  # it ended in the meantime


@pytest.mark.long
def test_a_p2p_test_is_preempted_by_an_engine_at_once(
    e2e_env: LocalCluster, p2p_tests: P2pTests, tiny: MakeFlash
) -> None:
    p2p_tests("forever")
    wait_until(lambda: any(job["status"].get("ready") for job in jobs(e2e_env)), "the test runs", seconds=120)

    flash = tiny()

    wait_until(lambda: flash.pods() and flash.pod()["spec"].get("nodeName"), "the engine is bound", seconds=60)
    wait_until(lambda: not jobs(e2e_env), "the test is gone", seconds=60)
    assert labels(e2e_env)["gpu-p2p"] == "granted", "a test that was given up says nothing"


@pytest.mark.long
def test_a_hang_verdict_gives_the_next_engine_safe_flags(
    e2e_env: LocalCluster, p2p_tests: P2pTests, tiny: MakeFlash
) -> None:
    p2p_tests("hang")
    wait_until(lambda: labels(e2e_env).get("gpu-p2p") == "hang", "the links are known to hang", seconds=120)
    assert all("iommu=pt" in note for note in message(e2e_env, "PeerToPeerBroken"))

    flash = tiny()

    flash.wait_for("TopologyResolved", "True", seconds=120)
    annotation = wait_until(
        lambda: flash.pod()["metadata"]["annotations"].get(f"{PREFIX}engine-flags"), "flags", seconds=60
    )
    assert json.loads(annotation)["row"] == "T7"
    assert "--disable-custom-all-reduce" in annotation


@pytest.mark.long
def test_an_engine_that_hangs_with_fast_flags_recovers_with_safe_flags_and_its_node_is_reported(
    e2e_env: LocalCluster, p2p_tests: P2pTests, tiny: MakeFlash
) -> None:
    prove_links(e2e_env, p2p_tests)
    flash = tiny(interconnect={"hangSeconds": HANG_SECONDS})
    wait_until(lambda: _engine_loads(flash), "the engine is loading", seconds=120, pause=0.1)

    for pid in engine_processes(flash):
        os.kill(pid, signal.SIGSTOP)

    flash.wait_for("Ready", "True", "Passed", seconds=START_SECONDS)
    (pod,) = flash.status()["pods"]
    assert pod["flagsOrigin"] == "recovery"
    assert pod["incident"].startswith("hang under row T3")
    (engine,) = flash.pod()["status"]["containerStatuses"]
    assert engine["restartCount"] == 0, "in place"
    wait_until(
        lambda: claims(e2e_env) == {f"{flash.namespace}/{flash.name}": "hang"}, "the claim is written", seconds=60
    )
    assert labels(e2e_env)["gpu-p2p"] == "verified", "one deployment decides nothing for the others"
    assert any("recovered with the safe flags" in note for note in message(e2e_env, "PeerToPeerSuspected"))
    flash.wait_for("TopologyResolved", "True", "FlagsDerived", seconds=60)


def test_a_stub_that_hangs_after_loading_recovers_in_time_and_its_node_is_reported(
    e2e_env: LocalCluster, p2p_tests: P2pTests, tiny: MakeFlash, namespace: str
) -> None:
    prove_links(e2e_env, p2p_tests)
    apply(e2e_env, engine_stub_program(namespace))
    spec = stub_spec(interconnect={"hangSeconds": HANG_SECONDS})
    spec["engine"]["extraArgs"].append("--hangs-with-peer-to-peer")
    flash = tiny(**spec)

    flash.wait_for("Ready", "True", "Passed", seconds=START_SECONDS)

    (pod,) = flash.status()["pods"]
    (engine,) = flash.pod()["status"]["containerStatuses"]
    assert (pod["flagsOrigin"], engine["restartCount"]) == ("recovery", 0)
    found = re.match(r"hang under row T3 at (\S+) \(S2\): after the weights were loaded", pod["incident"])
    assert found, pod["incident"]
    began = datetime.fromisoformat(engine["state"]["running"]["startedAt"])
    assert (datetime.fromisoformat(found[1]) - began).total_seconds() < HANG_SECONDS + START_TO_SILENCE_SECONDS
    wait_until(
        lambda: claims(e2e_env) == {f"{flash.namespace}/{flash.name}": "hang"}, "the claim is written", seconds=60
    )


@pytest.mark.long
def test_a_changed_verdict_restarts_nothing_and_gives_the_next_pod_safe_flags(
    e2e_env: LocalCluster, p2p_tests: P2pTests, tiny: MakeFlash, namespace: str
) -> None:
    prove_links(e2e_env, p2p_tests)
    flash = serve_with_fast_flags(e2e_env, tiny, namespace)
    before = flash.pod()["metadata"]

    e2e_env.kubectl("label", "node", e2e_env.node_name, f"{PREFIX}gpu-p2p=hang", "--overwrite")

    found = flash.wait_for("TopologyResolved", "False", "FlagsOutdated", seconds=60)
    assert before["name"] in found["message"]
    assert flash.condition("Ready")["status"] == "True"
    assert flash.pod()["metadata"]["uid"] == before["uid"]
    e2e_env.kubectl("delete", "pod", before["name"], "-n", flash.namespace)
    wait_until(lambda: _row_of_another_than(flash, before["uid"]) == "T7", "the next pod is safe", seconds=120)
    flash.wait_for("TopologyResolved", "True", "FlagsDerived", seconds=120)
    wait_until(lambda: "--disable-custom-all-reduce" in json.dumps(flash.status()["pods"]), "it runs so", seconds=60)


@pytest.mark.long
def test_flags_that_are_taken_start_the_successor_first(
    e2e_env: LocalCluster, p2p_tests: P2pTests, tiny: MakeFlash, namespace: str
) -> None:
    prove_links(e2e_env, p2p_tests)
    flash = serve_with_fast_flags(e2e_env, tiny, namespace)
    before, least = flash.pod()["metadata"], 1
    e2e_env.kubectl("label", "node", e2e_env.node_name, f"{PREFIX}gpu-p2p=hang", "--overwrite")
    flash.wait_for("UpdateAvailable", "True", "UpdateAvailable", seconds=60)

    e2e_env.set_gpus(4)
    tiny(**stub_spec(rollout={"acceptUpdate": flash.status()["update"]["revision"]}))

    def replaced() -> bool:
        nonlocal least
        least = min(least, len(flash.endpoints()))
        pods = [pod["metadata"]["uid"] for pod in flash.pods()]
        return len(pods) == 1 and before["uid"] not in pods and flash.status()["update"]["state"] == "UpToDate"

    wait_until(replaced, "the successor alone is left", seconds=180)
    assert least == 1, "there was an endpoint all the time"
    flash.wait_for("TopologyResolved", "True", "FlagsDerived", seconds=60)
    assert [pod["row"] for pod in flash.status()["pods"]] == ["T7"]


@pytest.mark.long
def test_a_mistyped_label_is_reported_with_its_node_and_value(
    e2e_env: LocalCluster, tiny: MakeFlash, namespace: str
) -> None:
    mistyped = (f"{PREFIX}labels-managed=false", f"{PREFIX}gpu-link=pbh", f"{PREFIX}gpu-p2p=verified")
    e2e_env.kubectl("label", "node", e2e_env.node_name, *mistyped, "--overwrite")
    apply(e2e_env, engine_stub_program(namespace))
    flash = tiny(**stub_spec())

    found = flash.wait_for("TopologyResolved", "False", "LabelNotUnderstood", seconds=120)

    assert f"node {e2e_env.node_name}: {PREFIX}gpu-link='pbh' is not one of nvlink" in found["message"]
    flash.wait_for("Ready", "True", "Passed", seconds=120)
    assert flash.status()["pods"][0]["row"] == "T8"


def _row_of_another_than(flash: Flash, uid: str) -> str | None:
    """The flags that the next pod got."""
    texts = [
        pod["metadata"].get("annotations", {}).get(f"{PREFIX}engine-flags")
        for pod in flash.pods()
        if pod["metadata"]["uid"] != uid
    ]
    return json.loads(texts[0])["row"] if texts and texts[0] else None


def _engine_loads(flash: Flash) -> bool:
    """Its processes run, and it is not healthy yet: this is when real engines hang."""
    pods = flash.pods()
    running = bool(pods) and any("running" in c["state"] for c in pods[0]["status"].get("containerStatuses", []))
    return running and len(engine_processes(flash)) > 1
