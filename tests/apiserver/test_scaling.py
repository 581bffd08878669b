"""`spec.scaling` and `spec.podMetadata` on a real API server: what is refused by name, and what autoscalers may do."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from builders import a_flash
from cluster_fixtures import ControlPlane
from flash_operator.core.scaling.scaler import horizontal_pod_autoscaler

pytestmark = pytest.mark.apiserver

PROMETHEUS = {"address": "http://prometheus.monitoring.svc:9090"}
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no most": ({"scaling": {}}, "spec.scaling.maxReplicas", "Required"),
    "a least above the most": (
        {"scaling": {"minReplicas": 4, "maxReplicas": 3}},
        "spec.scaling.minReplicas",
        "greater than maxReplicas",
    ),
    "none at all by an HPA": (
        {"scaling": {"minReplicas": 0, "maxReplicas": 3, "by": "Hpa"}},
        "spec.scaling.minReplicas",
        "set by to Keda",
    ),
    "none at all by Prometheus": (
        {"scaling": {"minReplicas": 0, "maxReplicas": 3, "source": "Prometheus", "prometheus": PROMETHEUS}},
        "spec.scaling.minReplicas",
        "needs source Operator",
    ),
    "a most of none": ({"scaling": {"minReplicas": 0, "maxReplicas": 0}}, "spec.scaling.maxReplicas", "equal to 1"),
    "idle for an instant": (
        {"scaling": {"minReplicas": 0, "maxReplicas": 3, "idle": {"afterSeconds": 5}}},
        "spec.scaling.idle.afterSeconds",
        "equal to 60",
    ),
    "held for hours": (
        {"scaling": {"minReplicas": 0, "maxReplicas": 3, "idle": {"holdSeconds": 3601}}},
        "spec.scaling.idle.holdSeconds",
        "equal to 3600",
    ),
    "less than none": ({"scaling": {"minReplicas": -1, "maxReplicas": 3}}, "spec.scaling.minReplicas", "equal to 0"),
    "most of nothing": ({"scaling": {"maxReplicas": 0}}, "spec.scaling.maxReplicas", "equal to 1"),
    "too many": ({"scaling": {"maxReplicas": 65}}, "spec.scaling.maxReplicas", "equal to 64"),
    "a target of nothing": (
        {"scaling": {"maxReplicas": 3, "targetPercent": 0}},
        "spec.scaling.targetPercent",
        "equal to 1",
    ),
    "a target above all": (
        {"scaling": {"maxReplicas": 3, "targetPercent": 101}},
        "spec.scaling.targetPercent",
        "equal to 100",
    ),
    "an unknown autoscaler": ({"scaling": {"maxReplicas": 3, "by": "Vpa"}}, "spec.scaling.by", "supported values"),
    "what cannot sleep": (
        {"scaling": {"maxReplicas": 3, "idle": {"afterSeconds": 60}}},
        "spec.scaling.idle",
        "idle has no effect",
    ),
    "Prometheus without an address": (
        {"scaling": {"maxReplicas": 3, "source": "Prometheus"}},
        "spec.scaling.prometheus",
        "needs prometheus.address",
    ),
    "an address that is not used": (
        {"scaling": {"maxReplicas": 3, "prometheus": PROMETHEUS}},
        "spec.scaling.prometheus",
        "no effect with source Operator",
    ),
    "an HPA that reads Prometheus": (
        {"scaling": {"maxReplicas": 3, "by": "Hpa", "source": "Prometheus", "prometheus": PROMETHEUS}},
        "spec.scaling.source",
        "by Hpa reads metrics from",
    ),
    "a password in an address": (
        {"scaling": {"maxReplicas": 3, "source": "Prometheus", "prometheus": {"address": "http://me:x@p:9090"}}},
        "spec.scaling.prometheus.address",
        "should match",
    ),
    "a query in an address": (
        {"scaling": {"maxReplicas": 3, "source": "Prometheus", "prometheus": {"address": "http://p:9090?a=b"}}},
        "spec.scaling.prometheus.address",
        "should match",
    ),
    "credentials that nobody says how to send": (
        {
            "scaling": {
                "maxReplicas": 3,
                "source": "Prometheus",
                "prometheus": {**PROMETHEUS, "triggerAuthentication": "p"},
            }
        },
        "spec.scaling.prometheus.triggerAuthentication",
        "belong together",
    ),
    "a window of hours": (
        {"scaling": {"maxReplicas": 3, "scaleDownStabilizationSeconds": 3601}},
        "spec.scaling.scaleDownStabilizationSeconds",
        "equal to 3600",
    ),
    "up at the first reading": (
        {"scaling": {"maxReplicas": 3, "scaleUpStabilizationSeconds": 14}},
        "spec.scaling.scaleUpStabilizationSeconds",
        "it may count a user twice: set 15 or more",
    ),
    "users who wait for longer than a start": (
        {"scaling": {"maxReplicas": 3, "scaleUpStabilizationSeconds": 601}},
        "spec.scaling.scaleUpStabilizationSeconds",
        "set 600 or less",
    ),
    "up in the past": (
        {"scaling": {"maxReplicas": 3, "scaleUpStabilizationSeconds": -1}},
        "spec.scaling.scaleUpStabilizationSeconds",
        "equal to 0",
    ),
    "down at every look": (
        {"scaling": {"maxReplicas": 3, "scaleDownPeriodSeconds": 0}},
        "spec.scaling.scaleDownPeriodSeconds",
        "it would slow nothing down: set 15 or more",
    ),
    "a longer period than Kubernetes allows": (
        {"scaling": {"maxReplicas": 3, "scaleDownPeriodSeconds": 1801}},
        "spec.scaling.scaleDownPeriodSeconds",
        "equal to 1800",
    ),
    "more fixed replicas than the most": (
        {"replicas": 9, "scaling": {"maxReplicas": 3}},
        "spec.replicas",
        "remove replicas",
    ),
    "fewer than the least": (
        {"replicas": 2, "scaling": {"minReplicas": 3, "maxReplicas": 4}},
        "spec.replicas",
        "remove replicas",
    ),
    "a label of the operator's": (
        {"podMetadata": {"labels": {"deepseekflash.dev/deployment": "x"}}},
        "spec.podMetadata.labels",
        "are the operator's",
    ),
    "a label by which tools find ours": (
        {"podMetadata": {"labels": {"app.kubernetes.io/managed-by": "me"}}},
        "spec.podMetadata.labels",
        "are the operator's",
    ),
    "a label that cannot be": ({"podMetadata": {"labels": {"a b": "x"}}}, "spec.podMetadata.labels", "valid name"),
    "a label's value that cannot be": (
        {"podMetadata": {"labels": {"a": "no spaces"}}},
        "spec.podMetadata.labels",
        "should match",
    ),
    "an annotation of the operator's": (
        {"podMetadata": {"annotations": {"deepseekflash.dev/engine-flags": "{}"}}},
        "spec.podMetadata.annotations",
        "are the operator's",
    ),
    "one cost for all": (
        {"podMetadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "1"}}},
        "spec.podMetadata.annotations",
        "for each",
    ),
}


@pytest.mark.parametrize(("spec", "where", "message"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused_by_name(apply_spec: Any, spec: dict[str, Any], where: str, message: str) -> None:
    done = apply_spec(**spec)
    assert done.returncode != 0
    assert where in done.stderr
    assert message in done.stderr


TAKEN: dict[str, dict[str, Any]] = {
    "the least that can be said": {"scaling": {"maxReplicas": 3}},
    "everything": {
        "scaling": {
            "minReplicas": 2,
            "maxReplicas": 8,
            "targetPercent": 60,
            "by": "Keda",
            "source": "Prometheus",
            "prometheus": {**PROMETHEUS, "triggerAuthentication": "p", "authMode": "Bearer"},
            "scaleDownStabilizationSeconds": 0,
        }
    },
    "a fixed number within": {"replicas": 2, "scaling": {"maxReplicas": 3}},
    "the default number below the least": {"scaling": {"minReplicas": 2, "maxReplicas": 3}},
    "the fastest that is possible": {
        "scaling": {
            "maxReplicas": 3,
            "scaleUpStabilizationSeconds": 15,
            "scaleDownStabilizationSeconds": 0,
            "scaleDownPeriodSeconds": 15,
        }
    },
    "the slowest that is possible": {
        "scaling": {
            "maxReplicas": 3,
            "scaleUpStabilizationSeconds": 600,
            "scaleDownStabilizationSeconds": 3600,
            "scaleDownPeriodSeconds": 1800,
        }
    },
    "no replicas for now": {"replicas": 0, "scaling": {"maxReplicas": 3}},
    "labels and annotations": {
        "podMetadata": {
            "labels": {"team": "search", "app.kubernetes.io/part-of": "search"},
            "annotations": {"sidecar.istio.io/inject": "false", "karpenter.sh/do-not-disrupt": "true"},
        }
    },
}


@pytest.mark.parametrize("spec", TAKEN.values(), ids=TAKEN)
def test_it_is_taken(apply_spec: Any, spec: dict[str, Any]) -> None:
    done = apply_spec(**spec)
    assert done.returncode == 0, done.stderr


def scale(server: ControlPlane, replicas: int) -> str:
    done = server.kubectl("scale", "dsf", "flash", f"--replicas={replicas}", check=False)
    return "" if done.returncode == 0 else done.stderr


def test_an_autoscaler_sets_replicas_and_the_range_may_change_below_it(
    apply_spec: Any, crd_server: ControlPlane
) -> None:
    assert apply_spec(scaling={"maxReplicas": 5}).returncode == 0
    assert scale(crd_server, 5) == ""
    assert "remove replicas" in scale(crd_server, 6)
    assert apply_spec(scaling={"maxReplicas": 3}).returncode == 0, "the autoscaler brings replicas into the new range"
    live = json.loads(crd_server.kubectl("get", "dsf", "flash", "-o", "json").stdout)
    assert live["spec"]["replicas"] == 5, "an apply without replicas does not touch the autoscaler's"
    assert scale(crd_server, 3) == ""
    assert scale(crd_server, 0) == "", "somebody stops it"


def test_scaling_that_contradicts_the_replicas_there_are_is_refused(apply_spec: Any) -> None:
    assert apply_spec(replicas=8).returncode == 0
    done = apply_spec(replicas=8, scaling={"maxReplicas": 3})
    assert "spec.replicas" in done.stderr
    assert apply_spec(replicas=3, scaling={"maxReplicas": 3}).returncode == 0


@pytest.mark.parametrize("windows", ["the fastest that is possible", "the slowest that is possible"])
def test_the_api_server_takes_our_hpa(crd_server: ControlPlane, windows: str) -> None:
    flash = a_flash(scaling={**TAKEN[windows]["scaling"], "by": "Hpa"})
    made = horizontal_pod_autoscaler(flash, flash.spec.scaling)  # type: ignore[arg-type]
    made["metadata"]["namespace"] = "default"
    done = crd_server.kubectl(
        "apply",
        "--server-side",
        "--dry-run=server",
        "--validate=strict",
        "-f",
        "-",
        stdin=json.dumps(made),
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_command_of_the_page_removes_the_startup_taint_of_nodes_with_a_verdict(api_server: ControlPlane) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/scaling.md").read_text()
    (typed,) = re.findall(r"^kubectl (taint nodes .+)$", page, re.MULTILINE)
    *_, removal = shlex.split(typed)
    taint = {"key": removal.removesuffix("-"), "effect": "NoSchedule"}
    verdicts = {"verified": "verified", "refused": "ns", "untested": "granted", "unread": None}
    for name, verdict in verdicts.items():
        labels = {"deepseekflash.dev/gpu-p2p": verdict} if verdict else {}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"taint-{name}", "labels": labels}}
        api_server.kubectl("create", "-f", "-", stdin=json.dumps({**node, "spec": {"taints": [taint]}}))
    try:
        api_server.kubectl(*shlex.split(typed))
        nodes = json.loads(api_server.kubectl("get", "nodes", "-o", "json").stdout)["items"]
        tainted = {node["metadata"]["name"] for node in nodes if taint["key"] in json.dumps(node["spec"])}
        assert tainted == {"taint-untested", "taint-unread"}
    finally:
        api_server.kubectl("delete", "node", *(f"taint-{name}" for name in verdicts))
