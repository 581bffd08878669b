"""The store's state when events, lists and answers arrive in any order."""

import json
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from builders import a_flash_object, a_node, a_pod
from flash_contracts.names import DEPLOYMENT_LABEL, KIND
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.runtime.cluster import Listing
from flash_operator.runtime.keys import FlashKey
from flash_operator.runtime.store import MOST_BYTES_OF_DEPLOYMENT, OURS, Store

KEY = FlashKey("team", "flash")


def a_child(version: int, name: str = "flash", *, labels: dict[str, str] | None = None, **more: Any) -> RawObject:
    own_labels = {**OURS, DEPLOYMENT_LABEL: "flash"} if labels is None else labels
    metadata = {"name": name, "namespace": "team", "resourceVersion": str(version), "labels": own_labels}
    return {"kind": "Service", "metadata": metadata, **more}


def a_store() -> Store:
    """It knows two deployments, because nothing is kept of others."""
    store = Store()
    for name in ("flash", "other"):
        assert store.put(a_flash_object(name))
    return store


def versions(store: Store) -> dict[str, str]:
    return {raw["metadata"]["name"]: raw["metadata"]["resourceVersion"] for raw in store.of(KEY, "Service")}


def test_the_newer_version_wins_in_any_order() -> None:
    store = a_store()
    assert [store.put(a_child(number)) for number in (9, 10, 9, 10)] == [True, True, False, False]
    assert versions(store) == {"flash": "10"}


def test_an_older_version_does_not_restore_a_deleted_object() -> None:
    store = a_store()
    store.put(a_child(5))
    store.remove(a_child(7))
    assert not store.put(a_child(6)), "the answer to a write that was overtaken"
    store.replace("Service", Listing([a_child(5)], "6"))
    assert versions(store) == {}
    assert store.put(a_child(8)), "made anew"


def test_an_answer_that_arrives_after_a_list_without_its_object_does_not_bring_it_back() -> None:
    store = a_store()
    store.put(a_child(5))
    store.remove(a_child(7))
    store.replace("Service", Listing([], "10"))
    assert not store.put(a_child(6))
    assert versions(store) == {}


def test_a_restored_backup_replaces_the_store() -> None:
    """Its resource versions continue from those of the backup."""
    store = a_store()
    store.replace("Service", Listing([a_child(50), a_child(60, "made-after-the-backup")], "70"))
    store.replace("Service", Listing([a_child(20)], "30"))
    assert versions(store) == {"flash": "20"}
    assert store.put(a_child(31))


def test_a_late_deletion_does_not_remove_its_successor() -> None:
    store = a_store()
    store.put(a_child(9))
    store.remove(a_child(7))
    assert versions(store) == {"flash": "9"}


def test_a_list_removes_what_it_lacks_and_keeps_what_is_newer_than_itself() -> None:
    store = a_store()
    store.put(a_child(5, "vanished"))
    store.put(a_child(12, "made-since"))
    vanished = store.replace("Service", Listing([a_child(7, "listed")], "10"))
    assert [raw["metadata"]["name"] for raw in vanished] == ["vanished"]
    assert versions(store) == {"listed": "7", "made-since": "12"}


def test_a_list_shows_children_that_an_earlier_list_was_not_kept_of() -> None:
    """Their deployment was not known then: another operator had made it just before this one began to lead."""
    store = Store()
    store.replace("Service", Listing([a_child(5)], "10"))
    store.put(a_flash_object("flash"))
    store.replace("Service", Listing([a_child(5)], "20"))
    assert versions(store) == {"flash": "5"}


def test_a_look_at_one_deployment_shows_children_that_the_whole_list_was_not_kept_of() -> None:
    store = Store()
    store.replace("Service", Listing([a_child(5)], "10"))
    store.put(a_flash_object("flash"))
    store.replace_selected(KEY, "Service", {DEPLOYMENT_LABEL: "flash"}, Listing([a_child(5)], "20"))
    assert versions(store) == {"flash": "5"}


def test_a_late_look_at_one_deployment_does_not_bring_back_what_a_later_list_lacked() -> None:
    store = a_store()
    store.replace("Service", Listing([], "20"))
    store.replace_selected(KEY, "Service", {DEPLOYMENT_LABEL: "flash"}, Listing([a_child(5)], "10"))
    assert versions(store) == {}


def test_a_list_of_one_deployment_leaves_others_alone() -> None:
    store = a_store()
    other = {**OURS, DEPLOYMENT_LABEL: "other"}
    store.put(a_child(5, "vanished"))
    store.put(a_child(5, "others", labels=other))
    store.replace_selected(KEY, "Service", {DEPLOYMENT_LABEL: "flash"}, Listing([], "10"))
    assert (versions(store), len(store.of(FlashKey("team", "other"), "Service"))) == ({}, 1)


@pytest.mark.parametrize("labels", [OURS, {**OURS, DEPLOYMENT_LABEL: "nobody"}])
def test_a_pod_whose_label_somebody_takes_away_is_no_replica_any_more(labels: dict[str, str]) -> None:
    """As people do to look into one: its ReplicaSet has made another one."""
    store = a_store()
    store.put(a_child(5))
    assert store.put(a_child(7, labels=labels)), "its deployment must be told"
    assert versions(store) == {}
    assert not store.put(a_child(6)), "the answer to a write of before"
    assert store.put(a_child(8)), "the label is back"


def test_a_child_that_changed_while_its_deployment_was_gone_is_not_remembered_as_it_was() -> None:
    """Deleted with --cascade=orphan, and made anew."""
    store = a_store()
    store.put(a_child(5))
    store.remove(a_flash_object("flash"))
    store.put(a_child(6))
    store.put(a_flash_object("flash"))
    assert versions(store) == {}, "unknown, so the API server is asked"


def test_a_child_that_is_relabelled_changes_its_deployment() -> None:
    store = a_store()
    store.put(a_child(5))
    store.put(a_child(6, labels={**OURS, DEPLOYMENT_LABEL: "other"}))
    assert (store.of(KEY, "Service"), len(store.of(FlashKey("team", "other"), "Service"))) == ([], 1)


OF_NOBODY = a_child(1, labels={**OURS, DEPLOYMENT_LABEL: "nobody"})
OF_NO_DEPLOYMENT = a_child(1, labels=OURS)


@pytest.mark.parametrize(
    "raw", [a_child(1, labels={}), OF_NOBODY, OF_NO_DEPLOYMENT, {"kind": "Event", "metadata": {"name": "x"}}]
)
def test_objects_of_others_are_not_kept(raw: RawObject) -> None:
    store = a_store()
    assert not store.put(raw)
    assert len(store) == 2, "the two deployments"


def test_versions_that_are_not_numbers_are_accepted_in_order_of_arrival() -> None:
    store = a_store()
    for version in ("b", "a"):
        assert store.put({**a_flash_object(), "metadata": {**a_flash_object()["metadata"], "resourceVersion": version}})
    assert (store.get(KIND, "flash", "team") or {})["metadata"]["resourceVersion"] == "a"


def test_only_fields_that_are_read_are_kept() -> None:
    store = a_store()
    node = a_node()
    node["metadata"]["managedFields"] = [{"manager": "kubelet"}]
    node["status"]["images"] = [{"names": ["large"]}]
    store.put(node)
    kept = store.get("Node", "node-1") or {}
    assert ("managedFields" in kept["metadata"], list(kept["status"])) == (False, ["allocatable"])
    assert "images" in node["status"], "the caller's object is left alone"


def bulky(number: int, size: int, namespace: str = "team", deployment: str = "flash") -> RawObject:
    raw = a_child(number, f"bulky-{number}", labels={**OURS, DEPLOYMENT_LABEL: deployment}, data={"a": "x" * size})
    raw["metadata"]["namespace"] = namespace
    return raw


def kept_bytes(store: Store, kind: str = "Service") -> int:
    return sum(len(json.dumps(raw)) for raw in store.all(kind))


def test_objects_with_our_labels_fill_no_more_memory_than_a_deployment_may_take() -> None:
    """Anybody who may make a Service or ConfigMap can label it as ours, and put a MiB into it."""
    store = a_store()
    with capture_logs() as logged:
        kept = [store.put(bulky(number, 1 << 18)) for number in range(1, 100)]
    assert sum(kept) == 7
    assert kept_bytes(store) <= MOST_BYTES_OF_DEPLOYMENT
    assert [(line["deployment"], line["log_level"]) for line in logged] == [("team/flash", "warning")], "once"
    assert store.put(bulky(100, 1 << 18, deployment="other")), "another deployment has room"
    assert [store.lacks_children(FlashKey("team", name)) for name in ("flash", "other")] == [True, False]

    for number in range(1, 100):
        store.remove(bulky(200 + number, 0) | {"metadata": {**bulky(number, 0)["metadata"], "resourceVersion": "999"}})
    assert not store.lacks_children(KEY)
    assert store.put(bulky(1000, 1 << 18)), "what was deleted makes room"


def test_a_namespace_fills_no_more_memory_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flash_operator.runtime.store.MOST_BYTES_OF_NAMESPACE", 1 << 20)
    store = Store()
    made = [a_flash_object(f"flash-{number}", podTemplate={"a": "x" * (1 << 18)}) for number in range(9)]
    assert [store.put(raw) for raw in made] == [True] * 3 + [False] * 6
    elsewhere = a_flash_object()
    elsewhere["metadata"]["namespace"] = "others"
    assert store.put(elsewhere), "no other namespace suffers"
    assert store.put(bulky(1, 1 << 18, "others")), "nor what belongs there"


def test_a_version_that_is_too_large_takes_the_place_of_none() -> None:
    """The former one is not true any more."""
    store = a_store()
    store.put(a_child(1))
    assert not store.put(a_child(2, data={"a": "x" * MOST_BYTES_OF_DEPLOYMENT}))
    assert (versions(store), store.lacks_children(KEY)) == ({}, True)
    assert store.put(a_child(3))
    assert not store.lacks_children(KEY)


def test_a_child_that_is_too_large_is_missed_however_often_it_is_listed() -> None:
    """If it were forgotten, the operator would make it anew, over the one that engines run from."""
    store = a_store()
    large = a_child(2, data={"a": "x" * MOST_BYTES_OF_DEPLOYMENT})
    for version in ("9", "10", "11"):
        store.replace("Service", Listing([large], version))
        assert store.lacks_children(KEY)


def test_a_whole_list_without_the_large_object_ends_its_effect() -> None:
    store = a_store()
    store.put(a_child(2, data={"a": "x" * MOST_BYTES_OF_DEPLOYMENT}))
    store.replace("Service", Listing([], "9"))
    assert not store.lacks_children(KEY)


def test_a_thousand_pods_that_have_ended_take_nothing_from_what_an_engine_depends_on() -> None:
    """A kubelet that refuses pods makes hundreds; with the Deployment out of memory, engines would be restarted."""
    store = a_store()
    for number in range(3000):
        pod = a_pod(f"ended-{number}", phase="Failed", reason="Evicted", message="x" * 400)
        pod["metadata"] |= {"labels": {**OURS, DEPLOYMENT_LABEL: "flash"}, "resourceVersion": str(number + 1)}
        pod["spec"] |= {"containers": [{"name": "engine", "env": [{"name": "A", "value": "x" * 4000}]}]}
        store.put(pod)
    assert len(store.of(KEY, "Pod")) > 1000
    assert store.put(a_child(9000))
    assert not store.lacks_children(KEY)


CHANGES = st.lists(st.sampled_from(["write", "delete"]), min_size=1, max_size=6)


@given(changes=CHANGES, order=st.randoms(use_true_random=False), lists=st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_any_order_of_arrival_ends_with_the_servers_state(changes: list[str], order: Random, lists: int) -> None:
    """Events arrive in order, and so do whole lists; answers to writes arrive at any time."""
    store = a_store()
    arrivals: list[tuple[float, Callable[[], object]]] = []
    for version, change in enumerate(changes, start=1):
        event = store.put if change == "write" else store.remove
        arrivals.append((version + order.random() * 0.1, partial(event, a_child(version))))
        if change == "write":
            arrivals.append((version + order.random() * 9, partial(store.put, a_child(version))))
    shown = sorted(order.randint(0, len(changes)) for _ in range(lists))
    for late, version in enumerate(shown):
        listed = [a_child(version)] if version and changes[version - 1] == "write" else []
        arrivals.append((len(changes) + late, partial(store.replace, "Service", Listing(listed, str(version)))))
    for _, arrive in sorted(arrivals, key=lambda arrival: arrival[0]):
        arrive()
    assert versions(store) == ({"flash": str(len(changes))} if changes[-1] == "write" else {})
