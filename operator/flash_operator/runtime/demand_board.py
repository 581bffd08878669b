"""The demand of every deployment, computed on request.

A reconcile leaves behind what changes only with events; the gates and the activators have the requests. So fresh
figures wake no reconcile.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from flash_contracts.demand_report import DemandReport
from flash_contracts.metric_definition import MetricDefinition
from flash_operator.core.observed.activator import Waiting
from flash_operator.core.observed.known_load import KnownLoad
from flash_operator.core.scaling.demand import DemandBasis
from flash_operator.core.scaling.scaler import (
    DEMAND_METRIC,
    LOADING_METRIC,
    READY_METRIC,
    TARGET_METRIC,
    WANTED_METRIC,
)
from flash_operator.core.status.deployment_metrics import EACH, LABELS
from flash_operator.runtime.keys import FlashKey

MOST_DEPLOYMENTS = 2000
"""Deployments with metrics: tenants make them, and each has a few dozen series."""

SURE_SECONDS = 15.0
"""How long the demand of a deployment that may go to zero must be known until it can be nothing: three readings."""

LEFT_OUT = MetricDefinition(
    "flash_operator_deployments_without_metrics",
    "gauge",
    f"Deployments beyond the first {MOST_DEPLOYMENTS}: they have no metrics",
)


class DemandBoard:
    """Combines what the last reconcile of each deployment found with what gates and activators have reported since."""

    def __init__(
        self,
        loads: Callable[[FlashKey], Mapping[str, KnownLoad]],
        waiting: Callable[[FlashKey], Waiting | None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loads = loads
        self._waiting = waiting
        self._clock = clock
        self._unsure_at: dict[FlashKey, float] = {}
        """When the demand was last unknown, or not known here yet."""
        self._known: dict[FlashKey, DemandBasis] = {}

    def put(self, key: FlashKey, basis: DemandBasis) -> None:
        self._known[key] = basis
        self._unsure_at.setdefault(key, self._clock())

    def forget(self, key: FlashKey) -> None:
        """The deployment is gone, or another operator's."""
        self._known.pop(key, None)
        self._unsure_at.pop(key, None)

    def report(self, key: FlashKey) -> DemandReport | None:
        """None if the deployment has not been reconciled yet."""
        basis = self._known.get(key)
        return self._sure(key, basis, basis.demand(self._loads(key), self._waiting(key))) if basis else None

    def _sure(self, key: FlashKey, basis: DemandBasis, report: DemandReport) -> DemandReport:
        """Keeps the last replica for a while after the demand was unknown.

        An autoscaler counts the time in which it could not read the demand as idle.
        """
        if report.target_replicas is None:
            self._unsure_at[key] = self._clock()
            return report
        is_unsure = self._clock() - self._unsure_at[key] < SURE_SECONDS
        if basis.to_zero and basis.wanted and is_unsure and report.target_replicas < 1:
            return replace(report, target_replicas=1.0)
        return report

    def __len__(self) -> int:
        return len(self._known)

    def keys(self, most: int) -> list[FlashKey]:
        """The deployments that were seen first."""
        return list(islice(self._known, most))

    def reports(self, most: int) -> Iterator[DemandReport]:
        """Of the same deployments."""
        for key in self.keys(most):
            yield self._known[key].demand(self._loads(key), self._waiting(key))


class DemandCollector(Collector):
    """The board as metrics. A figure that is unknown has no series."""

    def __init__(self, board: DemandBoard) -> None:
        self._board = board

    def collect(self) -> Iterator[Metric]:
        reports = list(self._board.reports(MOST_DEPLOYMENTS))
        for definition, value in FIGURES.items():
            family = GaugeMetricFamily(definition.name, definition.text, labels=definition.labels)
            for report in reports:
                figure = value(report)
                if figure is not None:
                    family.add_metric([report.namespace, report.name], figure)
            yield family
        left_out = len(self._board) - len(reports)
        yield GaugeMetricFamily(LEFT_OUT.name, LEFT_OUT.text, value=left_out)


def _whole_demand(report: DemandReport) -> float | None:
    """A part of the demand would be read as all of it."""
    return None if report.unknown else report.demand_replicas


def _defined(name: str, text: str) -> MetricDefinition:
    return MetricDefinition(name, "gauge", text, LABELS, EACH)


FIGURES: dict[MetricDefinition, Callable[[DemandReport], float | None]] = {
    _defined(WANTED_METRIC, "Replicas that the spec asks for"): lambda report: report.wanted,
    _defined(LOADING_METRIC, "Replicas that will serve without help, and do not yet"): lambda report: report.loading,
    _defined(READY_METRIC, "Replicas that serve"): lambda report: report.ready,
    _defined(DEMAND_METRIC, "Replicas that users' requests call for"): _whole_demand,
    _defined(TARGET_METRIC, "The same as autoscalers are to follow it"): lambda report: report.target_replicas,
}
DEFINITIONS = (*FIGURES, LEFT_OUT)
