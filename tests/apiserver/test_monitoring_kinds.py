"""The chart's monitors and rules on a real API server, with the CRDs that the Prometheus operator publishes."""

import json
from contextlib import ExitStack

import pytest

from cluster_fixtures import ControlPlane
from published_crds import MONITORING, installed
from rendered_chart import render

pytestmark = pytest.mark.apiserver

EVERYTHING = (
    *("metrics.serviceMonitor.enabled=true", "metrics.podMonitors.enabled=true", "activator.enabled=true"),
    "metrics.rules.enabled=true",
)


def test_a_real_api_server_takes_the_monitors_and_rules(api_server: ControlPlane) -> None:
    """With strict validation: a field that the kinds do not have is refused."""
    documents = [one for one in render(*EVERYTHING) if one["apiVersion"].startswith("monitoring.coreos.com/")]
    arguments = ("apply", "--server-side", "--validate=strict", "--dry-run=server", "-f", "-")
    with ExitStack() as stack:
        for crd in MONITORING:
            stack.enter_context(installed(api_server, crd))
        for document in documents:
            document["metadata"]["namespace"] = "default"
            api_server.kubectl(*arguments, stdin=json.dumps(document))
        broken = {**documents[0], "spec": {**documents[0]["spec"], "endpoint": []}}
        assert "endpoint" in api_server.kubectl(*arguments, stdin=json.dumps(broken), check=False).stderr
    assert sorted(one["kind"] for one in documents) == [*["PodMonitor"] * 3, "PrometheusRule", "ServiceMonitor"]
