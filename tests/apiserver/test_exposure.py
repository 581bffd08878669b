"""The examples of docs/exposure.md on a real API server, with the CRDs that the projects of Gateway API publish."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster_fixtures import ControlPlane
from published_crds import FIRST_POOL, HTTP_ROUTE, RECENT_POOL, PublishedCrd, installed

pytestmark = pytest.mark.apiserver

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
POOLS = {"the first v1": FIRST_POOL, "a recent v1": RECENT_POOL}

Taken = Callable[[dict[str, Any]], str]
"""What the API server says against an object; empty if it takes it."""


@pytest.fixture
def refusal(api_server: ControlPlane) -> Taken:
    def ask(document: dict[str, Any]) -> str:
        arguments = ("apply", "--server-side", "--validate=strict", "--dry-run=server", "-f", "-")
        done = api_server.kubectl(*arguments, stdin=json.dumps(document), check=False)
        return done.stderr if done.returncode else ""

    return ask


def example(name: str, kind: str) -> dict[str, Any]:
    documents = yaml.safe_load_all((EXAMPLES / name).read_text())
    found: dict[str, Any] = next(document for document in documents if document["kind"] == kind)
    return found


@pytest.mark.parametrize("crd", POOLS.values(), ids=POOLS)
def test_a_real_api_server_takes_the_pool_and_checks_it(
    api_server: ControlPlane, refusal: Taken, crd: PublishedCrd
) -> None:
    pool = example("inference-pool.yaml", "InferencePool")
    with installed(api_server, crd):
        assert refusal(pool) == ""
        del pool["spec"]["endpointPickerRef"]["port"]
        assert "port is required when kind is 'Service'" in refusal(pool)


def test_a_real_api_server_takes_the_routes_and_checks_them(api_server: ControlPlane, refusal: Taken) -> None:
    service = example("http-route.yaml", "HTTPRoute")
    with installed(api_server, HTTP_ROUTE):
        assert refusal(service) == ""
        assert refusal(example("inference-pool.yaml", "HTTPRoute")) == ""
        del service["spec"]["rules"][0]["backendRefs"][0]["port"]
        assert "Must have port for Service reference" in refusal(service)
