"""Any answer of the API server to a write is reported, and the operator continues without losing anything.

    answer                             | in status                     | the other children | the next try
    ---------------------------------- | ----------------------------- | ------------------ | ------------------------
    400, 403, 422                      | ChildRefused, in its words    | applied            | after the back-off
    500                                | ChildRefused, in its words    | applied            | after the back-off
    401, 409                           | ChildRefused, in its words    | applied            | after the back-off
    429, 502, 503, 504                 | nothing: it is overloaded     | applied            | after Retry-After
    no JSON, a closed connection       | nothing                       | applied until then | after the back-off

The answers come from a stub, because a real API server gives most of them only by chance.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from builders import SETTINGS, a_flash_object
from flash_contracts.names import PLURAL
from flash_operator.runtime.cluster import ApiError, Cluster, UnreachableError
from flash_operator.runtime.gates import Gates
from flash_operator.runtime.keys import FlashKey
from flash_operator.runtime.reconciler import Reconciler
from flash_operator.runtime.store import Store
from runtime_site import LiveObserver
from scripted_api_stub import kubeconfig

KEY = FlashKey("team", "flash")


class AnsweringApiStub:
    """Has one deployment without children, and answers the apply of a Service as the test demands."""

    def __init__(self) -> None:
        self.applied: list[str] = []
        self.statuses: list[dict[str, Any]] = []
        self.answer: web.Response | None = None
        """None closes the connection."""
        self.silent = False
        self.accepts = False
        """Every child is applied."""
        self.answer_to_status: web.Response | None = None
        """None stores it."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if request.method == "GET":
            return web.json_response(self._read(path))
        if path.endswith("/status"):
            self.statuses.append((await request.json())["status"])
            return self.answer_to_status or web.json_response({})
        # A real server reads the request to its end; answering earlier may reset the connection.
        body = await request.json()
        if "/services/" in path and not self.accepts:
            if self.silent:
                await asyncio.sleep(0.5)
            if self.answer is None:
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            return self.answer
        self.applied.append(body["kind"])
        return web.json_response(body)

    def _read(self, path: str) -> dict[str, Any]:
        if path.endswith(f"/{PLURAL}/flash"):
            return a_flash_object()
        return {"apiVersion": "v1", "kind": "List", "metadata": {}, "items": []}

    @property
    def reason(self) -> str | None:
        """Of the Ready condition in the last status."""
        if not self.statuses:
            return None
        reason: str = self.statuses[-1]["conditions"][0]["reason"]
        return reason


@pytest.fixture
async def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AnsweringApiStub]:
    made = AnsweringApiStub()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    async with TestServer(app) as server:
        file = tmp_path / "kubeconfig"
        file.write_text(kubeconfig(str(server.make_url(""))))
        monkeypatch.setenv("KUBECONFIG", str(file))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        yield made


async def reconcile() -> Exception:
    """A reconcile, and the next one after a minute if it had no error. Returns the error."""
    cluster = await Cluster.connect()
    async with aiohttp.ClientSession() as session:
        observer = LiveObserver(Store(), cluster, Gates(session), SETTINGS)
        reconciler = Reconciler(cluster, observer, "test", clock=count(step=60).__next__)
        error: Exception | None = None
        for _ in range(2):
            try:
                await reconciler.reconcile(KEY)
            except (ApiError, UnreachableError) as found:
                error = found
                break
    await cluster.close()
    assert error is not None
    return error


def refusing(status: int, **headers: str) -> web.Response:
    text = json.dumps({"kind": "Status", "message": f"the server says {status}"})
    return web.Response(status=status, text=text, headers=headers, content_type="application/json")


OTHERS = ["ConfigMap", "ControllerRevision", "Deployment"]


@pytest.mark.parametrize("status", [400, 401, 403, 409, 422, 500])
async def test_a_rejection_is_reported_and_stops_no_other_child(stub: AnsweringApiStub, status: int) -> None:
    stub.answer = refusing(status)
    error = await reconcile()
    assert str(error).startswith(f"HTTP {status}")
    assert sorted(stub.applied) == OTHERS
    assert stub.applied[-1] == "Deployment"
    assert stub.reason == "ChildRefused"
    assert f"the server says {status}" in stub.statuses[-1]["conditions"][0]["message"]


async def test_no_write_is_on_its_way_when_a_reconcile_ends(
    stub: AnsweringApiStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the deployment's next reconcile, or another leader, could write at the same time."""
    under_way: set[str] = set()

    async def apply(_cluster: Cluster, desired: dict[str, Any]) -> dict[str, Any]:
        if desired["kind"] == "Service":
            raise UnreachableError("gone")
        under_way.add(desired["kind"])
        await asyncio.sleep(0.05)
        under_way.discard(desired["kind"])
        return desired

    monkeypatch.setattr(Cluster, "apply", apply)
    error = await reconcile()
    assert isinstance(error, UnreachableError)
    assert under_way == set()
    assert stub.statuses == []


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_an_overloaded_server_gets_no_status_write_and_no_request_until_retry_after(
    stub: AnsweringApiStub, status: int
) -> None:
    stub.answer = refusing(status, **{"Retry-After": "17"})
    error = await reconcile()
    assert isinstance(error, ApiError)
    assert error.retry_after == 17.0
    assert sorted(stub.applied) == OTHERS
    assert stub.applied[-1] == "Deployment"
    assert stub.statuses == []


@pytest.mark.parametrize(("text", "seconds"), [("1" * 30, 300.0), ("-5", 0.0), ("soon", 0.0), ("", 0.0)])
async def test_an_absurd_time_to_wait_is_bounded(stub: AnsweringApiStub, text: str, seconds: float) -> None:
    stub.answer = refusing(503, **{"Retry-After": text})
    error = await reconcile()
    assert isinstance(error, ApiError)
    assert error.retry_after == seconds


@pytest.mark.parametrize(
    "answer",
    [web.Response(text="<html>Bad day"), web.Response(text="[]"), web.Response(text='{"kind": '), None],
    ids=["a page", "a list", "half an object", "a closed connection"],
)
async def test_an_answer_that_is_not_json_is_an_error(stub: AnsweringApiStub, answer: web.Response | None) -> None:
    stub.answer = answer
    error = await reconcile()
    assert isinstance(error, UnreachableError)
    assert "/services/flash" in str(error)
    assert stub.statuses == []


async def test_a_server_that_says_nothing_is_no_answer(stub: AnsweringApiStub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flash_operator.runtime.cluster.REQUEST_SECONDS", 0.1)
    stub.silent = True
    error = await reconcile()
    assert isinstance(error, UnreachableError)
    assert "/services/flash: TimeoutError" in str(error)
    assert stub.statuses == []


@pytest.mark.parametrize("status", [400, 401, 403, 409, 422, 429, 500, 502, 503, 504])
async def test_a_status_that_is_refused_is_written_again_and_costs_no_child(
    stub: AnsweringApiStub, status: int
) -> None:
    stub.accepts = True
    stub.answer_to_status = refusing(status, **{"Retry-After": "7"})
    error = await reconcile()
    assert isinstance(error, ApiError)
    assert (error.status, error.retry_after) == (status, 7.0)
    assert set(stub.applied) == {*OTHERS, "Service"}
