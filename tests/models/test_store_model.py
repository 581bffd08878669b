"""The store in memory against a server: events late, lost or repeated, lists and answers out of order."""

import logging
from collections import Counter
from typing import Any

import pytest
import structlog
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from builders import a_flash_object
from flash_contracts.names import DEPLOYMENT_LABEL, KIND
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.runtime.cluster import Listing
from flash_operator.runtime.keys import FlashKey
from flash_operator.runtime.store import OURS, Store
from state_machines import play_long, play_short
from watched_server import Change, WatchedServer

KINDS = (KIND, "Service", "Pod")
"""In the order in which a resync lists them."""
PARENTS = ("flash", "other")
NAMES = st.sampled_from(["one", "two"])
QUIET = structlog.make_filtering_bound_logger(logging.ERROR)
LARGE = 4000
"""Characters. The store is given room for less than that for each deployment."""


def a_child(kind: str, name: str, labels: dict[str, str], content: str) -> RawObject:
    metadata: dict[str, Any] = {"name": name, "namespace": "team", "labels": labels}
    return {"kind": kind, "metadata": metadata, "content": content}


class StoreModel(RuleBasedStateMachine):
    """A server that everybody writes to, what is on its way to the store, and the store."""

    def __init__(self) -> None:
        super().__init__()
        self.server = WatchedServer()
        self.store = Store()
        self.seen: Counter[str] = Counter()
        """How many events of each kind have arrived, or were lost."""
        self.answers: list[RawObject] = []
        self.lists: list[tuple[str, Listing]] = []
        """At most one is under way."""
        self.contents = 0
        self.has_lost = False
        self.resync()

    def teardown(self) -> None:
        """What was under way arrives, and everything is listed, and listed again when nothing has changed."""
        while self.answers:
            self.answer_arrives(0)
        while self.lists:
            self.list_arrives()
        for kind in KINDS:
            self.event_arrives(kind, 999)
        if not self.has_lost:
            self.nothing_that_is_kept_is_outdated()
        for _ in range(2):
            self.resync()
            self.store_is_the_server()

    @rule()
    def resync(self) -> None:
        """Its lists come one after the other, and so does everything else."""
        while self.lists:
            self.list_arrives()
        for kind in KINDS:
            self.store.replace(kind, self.server.listing(kind))
            self.seen[kind] = len(self.server.history.get(kind, []))

    # What others do on the server.

    @rule(name=st.sampled_from(PARENTS))
    def parent_is_written(self, name: str) -> None:
        raw = a_flash_object(name)
        raw["metadata"]["generation"] = self.server.version
        self.server.write(raw)

    @rule(kind=st.sampled_from(KINDS[1:]), name=NAMES, parent=st.sampled_from([*PARENTS, "nobody", None]))
    def child_is_written(self, kind: str, name: str, parent: str | None) -> None:
        """By a controller, or a person, who may change its labels too."""
        labels = {**OURS, **({DEPLOYMENT_LABEL: parent} if parent else {})}
        self.server.write(a_child(kind, name, labels, self.content()))

    @rule(name=NAMES)
    def child_becomes_too_large(self, name: str) -> None:
        self.server.write(a_child("Service", name, {**OURS, DEPLOYMENT_LABEL: "flash"}, "x" * LARGE))

    @precondition(lambda self: self.server.objects)
    @rule(which=st.integers(0, 9))
    def object_is_deleted(self, which: int) -> None:
        places = sorted(self.server.objects)
        self.server.delete(places[which % len(places)])

    # What the operator does, and what arrives.

    @rule(name=NAMES, parent=st.sampled_from(PARENTS))
    def own_write(self, name: str, parent: str) -> None:
        """Its answer arrives some time later."""
        labels = {**OURS, DEPLOYMENT_LABEL: parent}
        self.answers.append(self.server.write(a_child("Service", name, labels, self.content())))

    @precondition(lambda self: self.answers)
    @rule(which=st.integers(0, 9))
    def answer_arrives(self, which: int) -> None:
        self.store.put(self.answers.pop(which % len(self.answers)))

    @rule(kind=st.sampled_from(KINDS), most=st.integers(1, 4))
    def event_arrives(self, kind: str, most: int) -> None:
        history = self.server.history.get(kind, [])
        for change in history[self.seen[kind] : self.seen[kind] + most]:
            self.seen[kind] += 1
            self.take(change)

    @rule(kind=st.sampled_from(KINDS))
    def event_is_lost(self, kind: str) -> None:
        if self.seen[kind] < len(self.server.history.get(kind, [])):
            self.seen[kind] += 1
            self.has_lost = True

    @rule(kind=st.sampled_from(KINDS), back=st.integers(1, 4))
    def watch_goes_back(self, kind: str, back: int) -> None:
        """It goes on from an older version: events are repeated."""
        self.seen[kind] = max(0, self.seen[kind] - back)

    @rule(kind=st.sampled_from(KINDS))
    def list_is_made(self, kind: str) -> None:
        if not self.lists:
            self.lists.append((kind, self.server.listing(kind)))

    @precondition(lambda self: self.lists)
    @rule()
    def list_arrives(self) -> None:
        kind, listing = self.lists.pop()
        self.store.replace(kind, listing)

    @rule(parent=st.sampled_from(PARENTS))
    def live_look(self, parent: str) -> None:
        """As before everything that cannot be undone: afterwards memory has what the server has."""
        key, selector = FlashKey("team", parent), {DEPLOYMENT_LABEL: parent}
        found = self.server.of(KIND).get(parent)
        if found is None:
            self.store.discard(KIND, parent, "team")
        else:
            self.store.put(found)
        for kind in KINDS[1:]:
            whole = self.server.listing(kind)
            items = [raw for raw in whole.items if raw["metadata"]["labels"].get(DEPLOYMENT_LABEL) == parent]
            self.store.replace_selected(key, kind, selector, Listing(items, whole.version))
        if found is not None:
            self.children_are_the_servers(parent)

    def take(self, change: Change) -> None:
        if change.type == "DELETED":
            self.store.remove(change.raw)
        else:
            self.store.put(change.raw)

    def content(self) -> str:
        self.contents += 1
        return str(self.contents)

    # What must be true.

    @invariant()
    def memory_is_never_from_the_future(self) -> None:
        for kind in KINDS:
            assert all(version_of(raw) <= self.server.version for raw in self.store.all(kind))

    def nothing_that_is_kept_is_outdated(self) -> None:
        """Without a lost event, no list is needed for that."""
        for kind in KINDS:
            theirs = self.server.of(kind)
            assert all(raw == theirs.get(raw["metadata"]["name"]) for raw in self.store.all(kind))

    def store_is_the_server(self) -> None:
        known = {raw["metadata"]["name"]: raw for raw in self.store.all(KIND)}
        assert known == self.server.of(KIND)
        for parent in known:
            self.children_are_the_servers(parent)
            assert self.store.lacks_children(FlashKey("team", parent)) == self.has_large(parent)

    def children_are_the_servers(self, parent: str) -> None:
        """A child that is too large is known to be missing."""
        key = FlashKey("team", parent)
        for kind in KINDS[1:]:
            kept = {raw["metadata"]["name"]: raw for raw in self.store.of(key, kind)}
            theirs = self.children_of(parent, kind)
            assert kept == {name: raw for name, raw in theirs.items() if not is_large(raw)}
        assert self.store.lacks_children(key) or not self.has_large(parent)

    def children_of(self, parent: str, kind: str) -> dict[str, RawObject]:
        found = self.server.of(kind).items()
        return {name: raw for name, raw in found if raw["metadata"]["labels"].get(DEPLOYMENT_LABEL) == parent}

    def has_large(self, parent: str) -> bool:
        return any(map(is_large, self.children_of(parent, "Service").values()))


def is_large(raw: RawObject) -> bool:
    return len(raw["content"]) == LARGE


def version_of(raw: RawObject) -> int:
    return int(raw["metadata"]["resourceVersion"])


@pytest.fixture(autouse=True)
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flash_operator.runtime.store.MOST_BYTES_OF_DEPLOYMENT", LARGE)
    monkeypatch.setattr("flash_operator.runtime.store.log", structlog.get_logger(wrapper_class=QUIET))


def test_the_store_becomes_the_server() -> None:
    play_short(StoreModel, examples=100, steps=40)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_store_becomes_the_server_in_many_orders() -> None:
    play_long(StoreModel, examples=5000)
