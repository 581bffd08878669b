"""What the operator asks of the API server about autoscalers, and what it makes of the answers."""

from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import pytest
from pydantic_core import to_json

from builders import a_flash
from flash_operator.core.observed.kube import uid_of
from flash_operator.core.observed.scalers import HPA, SCALED_OBJECT
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.plan import ObjectRef
from flash_operator.core.scaling.decision import ScalerDecision
from flash_operator.core.scaling.scaler import horizontal_pod_autoscaler
from flash_operator.runtime.cluster import ApiError, Cluster, Listing, UnreachableError
from flash_operator.runtime.keys import FlashKey
from flash_operator.runtime.scalers import FRESH_SECONDS, MOST_BYTES_OF_DEPLOYMENT, ScalerCatalogue

KEY = FlashKey("team", "flash")
FLASH = a_flash(scaling={"maxReplicas": 3})
DESIRED = horizontal_pod_autoscaler(FLASH, cast("Any", FLASH.spec.scaling))


class FakeCluster:
    """Answers lists from memory, and writes as it is told."""

    def __init__(self, *objects: RawObject) -> None:
        self.objects = list(objects)
        self.failures: dict[str, Exception] = {}
        """By kind, for lists."""
        self.refusal: Exception | None = None
        self.asked: Counter[str] = Counter()

    async def listing(
        self, kind: str, _namespace: str | None = None, *, keep: Callable[[RawObject], bool] = lambda _: True
    ) -> Listing:
        self.asked[f"list {kind}"] += 1
        if kind in self.failures:
            raise self.failures[kind]
        return Listing([raw for raw in self.objects if raw["kind"] == kind and keep(raw)], "1")

    async def create_or_update(self, desired: RawObject, known: RawObject | None) -> RawObject:
        if self.refusal:
            raise self.refusal
        place = _place_of(desired)
        if [uid_of(raw) for raw in self.objects if _place_of(raw) == place] != ([uid_of(known)] if known else []):
            raise ApiError(409, "it is not what it was")
        self.asked["apply"] += 1
        self.objects = [raw for raw in self.objects if _place_of(raw) != place] + [desired]
        return desired

    async def delete(self, ref: ObjectRef) -> None:
        self.asked["delete"] += 1
        self.objects = [raw for raw in self.objects if raw["metadata"]["name"] != ref.name]


def _place_of(raw: RawObject) -> tuple[str, str, str]:
    return raw["kind"], raw["metadata"]["namespace"], raw["metadata"]["name"]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def catalogue(
    cluster: FakeCluster, clock: Clock | None = None, knows: Callable[[FlashKey], bool] = lambda _: True
) -> ScalerCatalogue:
    return ScalerCatalogue(cast("Cluster", cluster), knows, clock=clock or Clock())


def an_hpa(namespace: str = "team", name: str = "theirs") -> RawObject:
    return {"kind": HPA, "metadata": {"name": name, "namespace": namespace, "uid": "u", "managedFields": [{}]}}


async def test_one_list_serves_all_deployments_for_a_while() -> None:
    cluster, clock = FakeCluster(an_hpa(), an_hpa("other")), Clock()
    scalers = catalogue(cluster, clock)
    for namespace in ("team", "other", "third"):
        found = await scalers.of(FlashKey(namespace, "flash"))
        assert [raw["metadata"]["namespace"] for raw in found.found] == [namespace][: namespace != "third"]
    assert cluster.asked == {f"list {HPA}": 1, f"list {SCALED_OBJECT}": 1}
    clock.now += FRESH_SECONDS
    assert (await scalers.of(KEY)).keda == "Present"
    assert cluster.asked[f"list {HPA}"] == 2


ANSWERS: dict[str, tuple[dict[str, Exception], str, str | None]] = {
    "KEDA is there": ({}, "Present", None),
    "KEDA is not": ({SCALED_OBJECT: ApiError(404, "no such page")}, "Absent", None),
    "the role is too old": ({SCALED_OBJECT: ApiError(403, "no")}, "Unknown", "HTTP 403: no"),
    "HPAs may not be listed": ({HPA: ApiError(403, "no")}, "Present", "HTTP 403: no"),
    "the API server does not answer": (
        {HPA: UnreachableError("late"), SCALED_OBJECT: UnreachableError("late")},
        "Unknown",
        "late",
    ),
}


@pytest.mark.parametrize(("failures", "keda", "unreadable"), ANSWERS.values(), ids=ANSWERS)
async def test_what_cannot_be_listed_is_an_answer(
    failures: dict[str, Exception], keda: str, unreadable: str | None
) -> None:
    cluster = FakeCluster()
    cluster.failures = failures
    found = await catalogue(cluster).of(KEY)
    assert (found.keda, found.unreadable) == (keda, unreadable)


async def test_what_was_applied_is_known_at_once() -> None:
    cluster = FakeCluster()
    scalers = catalogue(cluster)
    await scalers.of(KEY)
    assert await scalers.carry_out(KEY, ScalerDecision(kind=HPA, apply=DESIRED))
    listed = cluster.asked[f"list {HPA}"]
    assert [raw["metadata"]["name"] for raw in (await scalers.of(KEY)).found] == ["flash"]
    assert cluster.asked[f"list {HPA}"] == listed


async def test_an_object_that_somebody_has_just_made_is_not_taken_over() -> None:
    cluster = FakeCluster()
    scalers = catalogue(cluster)
    await scalers.of(KEY)
    cluster.objects.append(an_hpa(name="flash"))
    assert await scalers.carry_out(KEY, ScalerDecision(kind=HPA, apply=DESIRED))
    assert cluster.asked["apply"] == 0
    assert [raw["metadata"]["name"] for raw in (await scalers.of(KEY)).found] == ["flash"], "status is to tell of it"
    assert (await scalers.of(KEY)).refusal is None


async def test_an_object_that_replaced_ours_is_not_written_into() -> None:
    ours, theirs = an_hpa(name="flash"), an_hpa(name="flash")
    theirs["metadata"]["uid"] = "another"
    cluster = FakeCluster(ours)
    scalers = catalogue(cluster)
    await scalers.of(KEY)
    cluster.objects = [theirs]
    assert await scalers.carry_out(KEY, ScalerDecision(kind=HPA, live=ours, apply=DESIRED))
    assert cluster.objects == [theirs]
    assert (await scalers.of(KEY)).refusal is None


def an_hpa_of(name: str, target: str, size: int = 0) -> RawObject:
    raw = an_hpa(name=name)
    raw["metadata"]["annotations"] = {"a": "x" * size}
    return {**raw, "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target}}}


async def test_of_an_autoscaler_that_concerns_no_deployment_nothing_is_kept() -> None:
    cluster = FakeCluster(an_hpa_of("web", "web"), an_hpa_of("flash", "web"), an_hpa_of("theirs", "flash"))
    found = await catalogue(cluster, knows=lambda key: key == KEY).of(KEY)
    assert [raw["metadata"]["name"] for raw in found.found] == ["flash", "theirs"]


async def test_thousands_of_large_autoscalers_fill_no_more_memory_than_a_deployment_may_take() -> None:
    junk = [an_hpa_of(f"junk-{number}", "flash", size=100_000) for number in range(1000)]
    cluster = FakeCluster(*junk, an_hpa_of("other", "other"))
    scalers = catalogue(cluster, knows=lambda key: key.name in ("flash", "other"))
    found = (await scalers.of(KEY)).found
    kept = [raw for raw in found if raw["metadata"]["name"] != "other"]
    assert len(kept) == len(found) - 1, "another deployment loses nothing"
    assert 0 < sum(len(to_json(raw)) for raw in kept) <= MOST_BYTES_OF_DEPLOYMENT


async def test_a_refusal_is_told_once_and_stops_nothing() -> None:
    cluster = FakeCluster()
    cluster.refusal = ApiError(422, "not here")
    scalers, decision = catalogue(cluster), ScalerDecision(kind=HPA, apply=DESIRED)
    assert await scalers.carry_out(KEY, decision), "status is to tell it"
    assert (await scalers.of(KEY)).refusal == "HTTP 422: not here"
    assert not await scalers.carry_out(KEY, decision), "the next try is not due at once"
    cluster.refusal = None
    assert await scalers.carry_out(KEY, decision)
    assert (await scalers.of(KEY)).refusal is None


async def test_an_overloaded_server_has_refused_nothing() -> None:
    cluster = FakeCluster()
    cluster.refusal = ApiError(429, "later")
    scalers = catalogue(cluster)
    assert not await scalers.carry_out(KEY, ScalerDecision(kind=HPA, apply=DESIRED))
    assert (await scalers.of(KEY)).refusal is None


async def test_after_a_deletion_is_listed_anew() -> None:
    ours = an_hpa(name="flash")
    cluster = FakeCluster(ours)
    scalers = catalogue(cluster)
    await scalers.of(KEY)
    assert await scalers.carry_out(KEY, ScalerDecision(delete=(ours,)))
    assert (await scalers.of(KEY)).found == ()


async def test_nothing_to_do_asks_nobody() -> None:
    cluster = FakeCluster()
    assert not await catalogue(cluster).carry_out(KEY, ScalerDecision())
    assert cluster.asked == Counter()
