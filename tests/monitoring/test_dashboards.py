"""The dashboards: generated, about metrics that exist, and each query answered by a real Prometheus."""

import asyncio
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

import metrics_page
from dashboards.boards import DASHBOARDS
from dashboards.definition import NAME, NAMESPACE, RATE, Dashboard
from dashboards.grafana import ANY_VALUE, document
from dashboards.vllm_metrics import NAMES
from engine_stub.counters import BUCKET, SAMPLES
from flash_operator.runtime.cluster import Cluster
from monitored_site import a_monitored_site
from prometheus import PrometheusProcess
from rendered_chart import CHART, only, render
from scripted_api_stub import ScriptedApiStub, kubeconfig
from waiting import NotReadyError, eventually

FOLDER = CHART / "files/dashboards"
OURS = {name for _, ones in metrics_page.SECTIONS.values() for one in ones for name in one.names}
PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes"}
QUERIES = sorted({query.expression for board in DASHBOARDS for query in board.queries})
METRIC = re.compile(r"\b(?:flash_(?:operator|gate|activator)_\w+|vllm:\w+|process_\w+)")

boards = pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.file)


def test_the_committed_files_are_what_the_definition_makes() -> None:
    committed = {path.stem: path.read_text() for path in FOLDER.glob("*.json")}
    assert committed == {board.file: document(board) for board in DASHBOARDS}, "run `make generate`"


@boards
def test_every_metric_of_a_query_is_defined(board: Dashboard) -> None:
    named = {name for query in board.queries for name in METRIC.findall(query.expression)}
    assert named
    assert named - OURS - NAMES - PROCESS == set()


@boards
def test_panels_lie_beside_each_other_and_say_what_to_see(board: Dashboard) -> None:
    panels = json.loads(document(board))["panels"]
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in panels
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["description"] and panel["targets"] for panel in panels if panel["type"] != "row")


@boards
def test_a_chosen_deployment_is_chosen_in_every_query_about_deployments(board: Dashboard) -> None:
    """Without it, a page of one deployment would show the sum of all."""
    about = [query.expression for query in board.queries if "flash_operator_deployment_" in query.expression]
    assert bool(about) == board.by_deployment
    assert [expression for expression in about if NAMESPACE not in expression or NAME not in expression] == []


def test_the_chart_makes_a_config_map_of_each_for_grafanas_sidecar() -> None:
    documents = render("metrics.dashboards.enabled=true")
    for board in DASHBOARDS:
        made = only(documents, "ConfigMap", f"flash-dashboard-{board.file}")
        assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert made["data"] == {f"{board.file}.json": document(board)}


def test_the_engine_stub_has_the_metrics_that_stand_for_vllms() -> None:
    gauges = {"vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"}
    used = {name for query in QUERIES for name in METRIC.findall(query) if name.startswith("vllm:")}
    assert used <= {*SAMPLES.values(), BUCKET, *gauges}


async def test_a_real_prometheus_answers_every_query_with_data_of_an_engine_stub_under_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine and the API server are stubs; the operator's, gate's and activator's metrics are their own."""
    async with ScriptedApiStub().serve() as address:
        (tmp_path / "kubeconfig").write_text(kubeconfig(address))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        cluster = await Cluster.connect()
        try:
            async with a_monitored_site(tmp_path, cluster) as scrapes:
                silent = await asyncio.to_thread(queries_without_data, tmp_path, scrapes)
        finally:
            await cluster.close()
    assert silent == []


def queries_without_data(folder: Path, scrapes: list[dict[str, Any]]) -> list[str]:
    """Those that have none after half a minute."""
    with PrometheusProcess(folder, scrapes) as prometheus:
        left = list(QUERIES)

        def all_have_data() -> bool:
            left[:] = [query for query in left if not has_data(prometheus.query(filled(query)))]
            return not left

        try:
            eventually(all_have_data, "every query has data", seconds=30)
        except NotReadyError:
            return left
        return []


def filled(expression: str) -> str:
    """As Grafana fills in its variables."""
    return expression.replace(RATE, "15s").replace(NAMESPACE, ANY_VALUE).replace(NAME, ANY_VALUE)


def has_data(series: list[dict[str, Any]]) -> bool:
    return any(math.isfinite(float(one["value"][1])) for one in series)
