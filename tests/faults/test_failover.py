"""How long nobody leads after a crash and after a stop, and that no two operators ever write: by the audit log."""

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cluster_fixtures import ControlPlane
from custom_resource import install_crd
from faults.operator_process import OperatorProcess
from faults.site import LEASE, deployments_path
from flash_contracts.names import API_VERSION, KIND
from flash_operator.runtime.api_connection import ApiConnection, ApiError
from local_cluster.control_plane import a_light_control_plane

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(300)]

NAMESPACE = "default"
AFTER_CRASH_SECONDS, AFTER_STOP_SECONDS = 16.0, 2.0
SLACK_SECONDS = 3.0
"""For a busy machine: what is measured is printed."""
POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


@pytest.fixture(scope="module")
def audit_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "audit.log"


@pytest.fixture(scope="module")
def plane(audit_log: Path) -> Iterator[ControlPlane]:
    policy = audit_log.with_name("policy.json")
    policy.write_text(json.dumps(POLICY))
    started = a_light_control_plane(f"--audit-log-path={audit_log}", f"--audit-policy-file={policy}")
    install_crd(started)
    yield started
    started.stop()


async def test_one_leader_follows_another_in_time_and_never_beside_it(
    plane: ControlPlane, api: ApiConnection, audit_log: Path, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        operators = {}
        for name in ("one", "two", "three"):
            operators[name] = operator(plane, name, tmp_path)
            await stack.enter_async_context(operators[name].running())
            if name == "one":
                await leads(api, name)
        await stand_by(operators["two"], operators["three"])
        await reconciled(api, "at-first")

        operators["one"].signal(signal.SIGKILL)
        after_crash = await reconciled(api, "after-the-crash")
        second = await holder(api)
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        operators[second].signal(signal.SIGTERM)
        third = await successor(api, second)
        await reconciled(api, "after-the-stop")
        after_stop = asyncio.get_running_loop().time() - began

    print(f"after a crash {after_crash:.1f} s, after a stop {after_stop:.1f} s")
    assert after_crash <= AFTER_CRASH_SECONDS + SLACK_SECONDS
    assert after_stop <= AFTER_STOP_SECONDS + SLACK_SECONDS
    assert writers(audit_log) == ["one", second, third]


def operator(plane: ControlPlane, name: str, folder: Path) -> OperatorProcess:
    """It has a certificate of its own, by which the audit log names it."""
    made = OperatorProcess(name, plane.identity(name, name, groups=["system:masters"]), folder / f"{name}.log")
    made.is_started_again = False
    return made


async def reconciled(api: ApiConnection, name: str) -> float:
    """Seconds until a new deployment has its Deployment."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    spec = {"model": {"source": "pvc://models/v4"}}
    raw = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}
    await api.request("POST", deployments_path(NAMESPACE), body=raw)
    async with asyncio.timeout(60):
        while not await exists(api, f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{name}"):
            await asyncio.sleep(0.05)
    return loop.time() - began


async def leads(api: ApiConnection, name: str) -> None:
    async with asyncio.timeout(30):
        while not await exists(api, LEASE) or await holder(api) != name:
            await asyncio.sleep(0.1)


async def stand_by(*standbys: OperatorProcess) -> None:
    """They have seen who leads, so that they know how old its last renewal is."""
    async with asyncio.timeout(60):
        while not all(one.log.exists() and "standing by" in one.log.read_text() for one in standbys):
            await asyncio.sleep(0.1)


async def holder(api: ApiConnection) -> str:
    return str((await api.request("GET", LEASE))["spec"]["holderIdentity"])


async def successor(api: ApiConnection, name: str) -> str:
    """Who holds the Lease after this one."""
    async with asyncio.timeout(60):
        while (found := await holder(api)) in (name, ""):
            await asyncio.sleep(0.05)
    return found


async def exists(api: ApiConnection, path: str) -> bool:
    try:
        await api.request("GET", path)
    except ApiError as error:
        if not error.not_found:
            raise
        return False
    return True


def writers(audit_log: Path) -> list[str]:
    """Who wrote anything but the Lease, one after the other; somebody who wrote beside another comes twice."""
    entries = map(json.loads, audit_log.read_text().splitlines())
    written = [
        (entry["requestReceivedTimestamp"], entry["user"]["username"])
        for entry in entries
        if entry["verb"] in ("create", "update", "patch", "delete")
        and entry["user"]["username"] in ("one", "two", "three")
        and entry.get("objectRef", {}).get("resource") != "leases"
    ]
    names = [name for _, name in sorted(written)]
    return [name for name, before in zip(names, [None, *names], strict=False) if name != before]
