"""The metrics of deployments and nodes as Prometheus reads them: they end with what they are about."""

from collections import Counter
from typing import Any, cast

from prometheus_client import CollectorRegistry

from builders import SETTINGS, a_flash_object, a_node, an_observed
from flash_contracts.names import KIND
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.plan import Plan
from flash_operator.core.scaling.demand import DemandBasis
from flash_operator.core.status.events import status_events
from flash_operator.runtime.cluster import Cluster
from flash_operator.runtime.demand_board import MOST_DEPLOYMENTS, DemandBoard, DemandCollector
from flash_operator.runtime.deployment_collector import DeploymentCollector, NodeCollector
from flash_operator.runtime.gates import Gates
from flash_operator.runtime.keys import FlashKey
from flash_operator.runtime.observer import Observer
from flash_operator.runtime.reconciler import Reconciler
from flash_operator.runtime.store import Store

KEY = FlashKey("team", "flash")
STATUS = {"pods": [{"reason": "DraftDead"}], "summary": {"decodeTokensPerSecond": 61}, "update": {"state": "Waiting"}}


class Site:
    """An operator's memory, and its registry."""

    def __init__(self) -> None:
        self.store, self.board, self.rollbacks = Store(), DemandBoard(lambda _: {}), Counter[FlashKey]()
        self.silent: dict[FlashKey, int] = {}
        self.leads = True
        self.registry = CollectorRegistry()
        collector = DeploymentCollector(self.board, self.store, self.rollbacks, lambda key: self.silent.get(key, 0))
        self.registry.register(collector)
        self.registry.register(DemandCollector(self.board))
        self.registry.register(NodeCollector(self.store, lambda: self.leads))

    def reconciled(self, name: str = "flash", status: dict[str, Any] | None = None) -> None:
        raw = a_flash_object(name)
        raw["metadata"]["resourceVersion"] = "1"
        self.store.put({**raw, "status": status or STATUS})
        self.board.put(FlashKey("team", name), DemandBasis("team", name, 1, 0, (), 4, 75))

    def loads(self, _: FlashKey) -> dict[str, Any]:
        return {}

    def forget(self, _: FlashKey) -> None:
        """As gates do."""

    def value(self, name: str, **labels: str) -> float | None:
        ours = {"deployment_namespace": "team", "deployment_name": "flash"}
        return self.registry.get_sample_value(f"flash_operator_deployment_{name}", {**ours, **labels})

    @property
    def series(self) -> list[str]:
        return [sample.name for family in self.registry.collect() for sample in family.samples]


def test_a_deployment_has_its_figures() -> None:
    site = Site()
    site.reconciled()
    site.silent[KEY] = 1
    assert site.value("verdict_replicas", reason="DraftDead") == 1
    assert site.value("decode_tokens_per_second") == 61
    assert site.value("update", state="Waiting") == 1
    assert site.value("silent_gates") == 1


def test_rollbacks_are_0_before_the_first_so_that_an_increase_is_seen() -> None:
    site = Site()
    site.reconciled()
    assert site.value("rollbacks_total") == 0
    site.rollbacks[KEY] += 1
    assert site.value("rollbacks_total") == 1


class WritableCluster:
    """Takes every write, and keeps none."""

    async def apply_status(self, *_: Any) -> RawObject:
        """Whatever it says."""
        return {}

    async def record_event(self, _: Any) -> None:
        """Likewise."""


async def test_a_rollback_is_counted_when_its_status_is_written() -> None:
    cluster = cast("Cluster", WritableCluster())
    observer = Observer(Store(), cluster, cast("Gates", Site()), SETTINGS)
    reconciler = Reconciler(cluster, observer, "test")
    rolled_back = status_events(
        {},
        {
            "pods": [],
            "conditions": [{"type": "Ready", "status": "False"}],
            "rollout": {"state": "RolledBack", "rejected": "r", "message": "m"},
        },
    )
    await reconciler._report(an_observed(), Plan(status={}, events=rolled_back))  # noqa: SLF001 - planning one is long
    await reconciler._report(an_observed(), Plan(status={}))  # noqa: SLF001
    assert reconciler.rollbacks == {KEY: 1}
    await reconciler.reconcile(KEY)
    assert reconciler.rollbacks == {}, "it does not exist any more"


def test_a_deployment_that_is_gone_has_no_series() -> None:
    site = Site()
    site.reconciled()
    site.board.forget(KEY)
    site.store.discard(KIND, "flash", "team")
    assert not [name for name in site.series if name.startswith("flash_operator_deployment_")]


def test_one_that_was_deleted_but_not_reconciled_since_shows_no_stale_figure() -> None:
    site = Site()
    site.reconciled()
    site.store.discard(KIND, "flash", "team")
    assert site.value("decode_tokens_per_second") is None
    assert site.value("verdict_replicas", reason="DraftDead") is None


def test_those_of_another_class_have_none() -> None:
    """The store has them; this operator never reconciles them."""
    site = Site()
    site.store.put(a_flash_object("other"))
    assert not [name for name in site.series if name.startswith("flash_operator_deployment_")]


def test_a_standby_has_no_series_of_deployments_and_nodes() -> None:
    site = Site()
    site.leads = False
    assert site.series == ["flash_operator_deployments_without_metrics"]


def test_the_leader_tells_that_no_node_has_two_gpus() -> None:
    site = Site()
    assert site.registry.get_sample_value("flash_operator_nodes_with_two_gpus") == 0
    site.store.put(a_node(gpu_link="phb", gpu_p2p="hang"))
    links = {"node": "node-1", "link": "phb", "p2p": "hang"}
    assert site.registry.get_sample_value("flash_operator_node_links_info", links) == 1
    site.store.discard("Node", "node-1")
    assert site.registry.get_sample_value("flash_operator_node_links_info", links) is None


def test_the_series_are_bounded() -> None:
    site = Site()
    hostile = {"pods": [{"reason": f"R{number}"} for number in range(128)], "update": {"state": "UpToDate"}}
    for number in range(MOST_DEPLOYMENTS + 3):
        site.reconciled(f"f{number}", hostile)
    assert Counter(site.series)["flash_operator_deployment_verdict_replicas"] == MOST_DEPLOYMENTS
    assert len(site.series) < MOST_DEPLOYMENTS * 15
