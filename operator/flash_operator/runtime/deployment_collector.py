"""The metrics of deployments and nodes, computed from memory for each scrape.

Nothing is kept for a deployment or a node that is gone, so its series end with it. A standby has none of these series:
its memory is empty, and two operators would count everything twice.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from flash_contracts.metric_definition import MetricDefinition
from flash_contracts.names import KIND
from flash_operator.core.status import deployment_metrics, node_metrics
from flash_operator.core.status.deployment_metrics import EACH, LABELS, deployment_samples, of_deployment
from flash_operator.core.status.node_metrics import NodeFigures, node_figures
from flash_operator.runtime.demand_board import MOST_DEPLOYMENTS, DemandBoard
from flash_operator.runtime.keys import FlashKey
from flash_operator.runtime.store import Store

MOST_NODES = 5000

ROLLBACKS = MetricDefinition(
    "flash_operator_deployment_rollbacks_total", "counter", "Rollbacks since this process leads", LABELS, EACH
)
SILENT_GATES = of_deployment("silent_gates", "Replicas whose gate did not answer the operator's last request")
DEFINITIONS = (*deployment_metrics.DEFINITIONS, ROLLBACKS, SILENT_GATES)


Families = Mapping[MetricDefinition, GaugeMetricFamily | CounterMetricFamily]


class DeploymentCollector(Collector):
    """The deployments of the demand board: those that were reconciled, and of them at most `MOST_DEPLOYMENTS`."""

    def __init__(
        self,
        board: DemandBoard,
        store: Store,
        rollbacks: Mapping[FlashKey, int],
        silent_gates: Callable[[FlashKey], int],
    ) -> None:
        self._board = board
        self._store = store
        self._rollbacks = rollbacks
        self._silent_gates = silent_gates

    def collect(self) -> Iterator[Metric]:
        families = {definition: _family(definition) for definition in DEFINITIONS}
        for key in self._board.keys(MOST_DEPLOYMENTS):
            raw = self._store.get(KIND, key.name, key.namespace)
            for sample in deployment_samples(raw) if raw else ():
                families[sample.definition].add_metric((*key, *sample.more_labels), sample.value)
            families[ROLLBACKS].add_metric(key, self._rollbacks.get(key, 0))
            families[SILENT_GATES].add_metric(key, self._silent_gates(key))
        yield from families.values()


class NodeCollector(Collector):
    """The cluster's nodes with GPUs."""

    def __init__(self, store: Store, is_leading: Callable[[], bool]) -> None:
        self._store = store
        self._is_leading = is_leading

    def collect(self) -> Iterator[Metric]:
        """No series in a standby: its 0 nodes would not be the cluster's."""
        families = {definition: _family(definition) for definition in node_metrics.DEFINITIONS}
        if self._is_leading():
            self._add(families, node_figures(self._store.all("Node")))
        yield from families.values()

    def _add(self, families: Families, found: list[NodeFigures]) -> None:
        families[node_metrics.USABLE].add_metric((), sum(one.usable for one in found))
        for one in islice(found, MOST_NODES):
            families[node_metrics.GPUS].add_metric((one.node,), one.gpus)
            families[node_metrics.LINKS].add_metric((one.node, one.link, one.p2p), 1.0)


def _family(definition: MetricDefinition) -> GaugeMetricFamily | CounterMetricFamily:
    made = CounterMetricFamily if definition.kind == "counter" else GaugeMetricFamily
    return made(definition.family, definition.text, labels=definition.labels)
