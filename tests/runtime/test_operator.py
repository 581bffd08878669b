"""The whole operator in one process on a scripted API server: what it does before it is the leader."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from flash_contracts.names import PLURAL
from flash_operator.__main__ import OK, Operator
from flash_operator.runtime.cluster import Cluster
from flash_operator.runtime.settings import OperatorSettings
from scripted_api_stub import ScriptedApiStub, kubeconfig

ARGUMENTS = ["--identity=one", "--lease-namespace=system", "--health-port=0"]


@pytest.mark.parametrize("more", [[], ["--activator-service=flash-activator"]], ids=["plain", "with activators"])
async def test_a_standby_operator_watches_nothing_and_writes_only_its_lease_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    """The stub never grants the lease. Its CRD is new, so at first it answers 429 like a real API server."""
    stub = ScriptedApiStub()
    stub.status = 429
    async with stub.serve() as address, aiohttp.ClientSession() as session:
        (tmp_path / "kubeconfig").write_text(kubeconfig(address))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        cluster = await Cluster.connect()
        operator, stop = Operator(OperatorSettings.parse([*ARGUMENTS, *more]), cluster, session), asyncio.Event()
        running = asyncio.create_task(operator.run(stop))
        async with asyncio.timeout(20):
            while not stub.asked[f"list {PLURAL}"]:
                await asyncio.sleep(0.02)
            assert not running.done()
            stub.status = 200
            while not stub.writes:
                await asyncio.sleep(0.02)

        assert [asked for asked in stub.asked if asked.startswith("watch")] == []
        assert not operator.health.leading
        assert {write.rpartition("/")[2] for write in stub.writes} == {"leases"}
        stop.set()
        assert await running == OK
        await cluster.close()
