"""docs/metrics.md, the definitions in the code, and what the programs expose are the same."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

import metrics_page
from flash_contracts.metric_definition import MetricDefinition
from flash_engine.gate.gate_metrics import GateMetrics
from flash_operator.__main__ import Operator
from flash_operator.activator.admission import Admission, Limits
from flash_operator.activator.deployments import Deployments
from flash_operator.activator.metrics import ActivatorMetrics
from flash_operator.runtime.api_connection import ApiConnection
from flash_operator.runtime.cluster import Cluster
from flash_operator.runtime.settings import OperatorSettings

PAGE = Path(__file__).resolve().parents[2] / "docs/metrics.md"


def defined(*titles: str) -> set[tuple[str, str, str]]:
    definitions = [one for title in titles for one in metrics_page.SECTIONS[title][1]]
    return {(one.family, one.kind, one.text) for one in definitions}


def exposed(registry: CollectorRegistry) -> set[tuple[str, str, str]]:
    return {(one.name, one.type, one.documentation) for one in registry.collect() if not one.name.startswith("process")}


def test_the_committed_page_is_what_the_definitions_make() -> None:
    assert PAGE.read_text() == metrics_page.page(), "run `make generate`"


async def test_the_operator_exposes_what_is_defined() -> None:
    unused = cast("ApiConnection", SimpleNamespace())
    async with aiohttp.ClientSession() as session:
        settings = OperatorSettings.parse(["--identity=one", "--lease-namespace=system"])
        operator = Operator(settings, Cluster(unused), session)
        found = exposed(operator.metrics.registry)
    assert found == defined("Deployments", "Nodes", "The operator")


def test_the_gate_exposes_what_is_defined() -> None:
    assert exposed(GateMetrics().registry) == defined("A gate")


def test_the_activator_exposes_what_is_defined() -> None:
    registry = ActivatorMetrics(Deployments(), Admission(Limits(1, 1, 1024, 1024))).registry
    assert exposed(registry) == defined("An activator")


ALL = [one for _, definitions in metrics_page.SECTIONS.values() for one in definitions]


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_a_name_follows_prometheus_conventions(one: MetricDefinition) -> None:
    assert one.name.endswith("_total") == (one.kind == "counter")
    assert one.kind != "histogram" or one.name.endswith("_seconds")
    assert not {"milliseconds", "millis", "percent", "minutes"} & set(one.name.split("_")), "base units only"
    assert one.most
    assert not one.text.endswith(".")


def test_no_name_is_defined_twice() -> None:
    assert len({one.name for one in ALL}) == len(ALL)
