"""Keeps the objects that reconciles read in memory, so that a look at a deployment costs no request.

Three sources feed it: watch events, whole lists (`runtime.resync`), and the answers to our own writes. They arrive in
any order, so the newer resourceVersion wins. Deletions are remembered until the next list, and a list's version after
that, because an older list or answer must not bring a deleted object back.

    source            | object is newer or unknown | object is older | object is missing
    ----------------- | -------------------------- | --------------- | ----------------------------------
    event, answer     | kept                       | ignored         | -
    deletion event    | removed                    | ignored         | -
    list              | kept                       | ignored         | removed, unless newer than the list

Anyone who may create a ConfigMap can label it as ours, so memory is bounded: of children and pods, only those are kept
whose labels name an existing deployment, up to a number of bytes for each deployment and each namespace.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import structlog
from pydantic_core import from_json, to_json

from flash_contracts.names import FIELD_MANAGER, KIND, MANAGED_BY_LABEL
from flash_operator.core.observed.kube import has_ended
from flash_operator.core.observed.raw import RawObject, without_managed_fields
from flash_operator.runtime.cluster import Listing
from flash_operator.runtime.keys import FlashKey, parent_key

log = structlog.get_logger("flash.store")

CHILD_KINDS = ("Deployment", "ControllerRevision", "Service", "ConfigMap", "PodDisruptionBudget", "Job")
KINDS = (KIND, "Node", "Pod", *CHILD_KINDS)

OURS = {MANAGED_BY_LABEL: FIELD_MANAGER}
"""Labels of the objects that are kept, of all kinds but deployments and nodes."""

NODE_STATUS = ("capacity", "allocatable", "conditions")
"""What is read of a node's status. Its list of images is the largest part of a node."""


MOST_BYTES_OF_DEPLOYMENT = 2 << 20
"""Children of one deployment, as JSON, and as much of its pods. 64 replicas take less than half of it."""
MOST_BYTES_OF_NAMESPACE = 64 << 20
"""All deployments of a namespace with what belongs to them: about 2,500 of one replica each."""


class _Place(NamedTuple):
    kind: str
    namespace: str
    name: str


class _Kept(NamedTuple):
    """An object as JSON, which takes a fifth of the memory that its dicts and strings take."""

    version: str
    owner: FlashKey | None
    text: bytes


class Store:
    """The latest known state of every object that concerns our deployments. Not thread-safe.

    What it returns is the caller's: each read parses the object again, which takes some ten microseconds.
    """

    def __init__(self) -> None:
        self._objects: dict[str, dict[_Place, _Kept]] = {kind: {} for kind in KINDS}
        self._owned: defaultdict[tuple[FlashKey, str], set[_Place]] = defaultdict(set)
        """By deployment and kind."""
        self._deleted: dict[_Place, str] = {}
        """The version at which an object was deleted, or let go."""
        self._bytes: Counter[str | tuple[FlashKey, bool]] = Counter()
        """By namespace; of what belongs to a deployment, by deployment and whether it is a pod."""
        self._refused: defaultdict[FlashKey, set[_Place]] = defaultdict(set)
        """Children that were too large to keep, by deployment."""
        self._listed: dict[str, str] = {}
        """The version of the last whole list, by kind. What it lacked and is not newer does not exist."""

    def __len__(self) -> int:
        return sum(map(len, self._objects.values()))

    def get(self, kind: str, name: str, namespace: str = "") -> RawObject | None:
        kept = self._objects[kind].get(_Place(kind, namespace, name))
        return _parsed(kept) if kept else None

    def all(self, kind: str) -> Iterator[RawObject]:
        return map(_parsed, list(self._objects[kind].values()))

    def of(self, key: FlashKey, kind: str) -> list[RawObject]:
        """The objects of this kind whose labels name the deployment, by name."""
        return [_parsed(self._objects[kind][place]) for place in sorted(self._owned.get((key, kind), ()))]

    def listed_version(self, kind: str) -> str:
        """The version of the last whole list."""
        return self._listed.get(kind, "")

    def knows(self, key: FlashKey) -> bool:
        """Whether the deployment exists."""
        return _Place(KIND, key.namespace, key.name) in self._objects[KIND]

    def is_wanted(self, raw: RawObject) -> bool:
        """Whether an object of this kind with these labels is one that reconciles read."""
        kind = raw.get("kind", "")
        if kind in (KIND, "Node"):
            return True
        labels, parent = raw["metadata"].get("labels") or {}, parent_key(raw)
        is_ours = kind in self._objects and OURS.items() <= labels.items()
        return is_ours and parent is not None and self.knows(parent)

    def lacks_children(self, key: FlashKey) -> bool:
        """Whether a child of the deployment exists that was too large to keep."""
        return key in self._refused

    def bytes_of_children(self, key: FlashKey) -> int:
        """How large the children of a deployment are, as JSON."""
        return self._bytes[key, False]

    def put(self, raw: RawObject) -> bool:
        """Keeps an object from an event or an answer, or drops it if its labels no longer name one of our deployments.

        False if nothing changes: not ours, not new, deleted since, or too large.
        """
        if not self.is_wanted(raw):
            return self._let_go(raw)
        place, version = _place_of(raw), _version_of(raw)
        if not self._is_news(place, version, exists_at=version):
            return False
        self._deleted.pop(place, None)
        return self._keep(place, raw)

    def owner_of(self, raw: RawObject) -> FlashKey | None:
        """The deployment that the kept version of this child or pod belongs to."""
        kept = self._objects[raw["kind"]].get(_place_of(raw))
        return kept.owner if kept else None

    def _let_go(self, raw: RawObject) -> bool:
        """Somebody changed its labels, or its deployment is gone."""
        known = self._objects.get(raw.get("kind", ""), {}).get(_place_of(raw))
        if known is None or not _is_newer(_version_of(raw), known.version):
            return False
        self.remove(raw)
        return True

    def remove(self, raw: RawObject) -> None:
        """An object was deleted; its version is that of the deletion. The label that makes it ours may be gone."""
        place, version = _place_of(raw), _version_of(raw)
        known = self._objects[place.kind].get(place)
        if known is not None and _is_newer(known.version, version):
            return
        if known is None and not self.is_wanted(raw):
            return
        self._deleted[place] = version
        self._drop(place)

    def discard(self, kind: str, name: str, namespace: str = "") -> None:
        """The API server has just said that this object does not exist."""
        self._drop(_Place(kind, namespace, name))

    def replace(self, kind: str, listing: Listing) -> list[RawObject]:
        """Takes over a whole list. Returns the objects that vanished without a deletion event.

        Whole lists come one after the other. One that is older than the list before it shows a storage that was
        restored from a backup: then nothing that was kept before can be compared with it.
        """
        if kind in self._listed and _is_newer(self._listed[kind], listing.version):
            self._forget(kind)
        for place in [place for places in self._refused.values() for place in places if place.kind == kind]:
            self._forget_refusal(place)
        vanished = self._replace(self._objects[kind], listing)
        self._listed[kind] = listing.version
        self._deleted = {
            place: version
            for place, version in self._deleted.items()
            if place.kind != kind or _is_newer(version, listing.version)
        }
        return vanished

    def replace_selected(self, key: FlashKey, kind: str, selector: Mapping[str, str], listing: Listing) -> None:
        """The same for those objects of one deployment that have these labels."""
        owned = self.of(key, kind)
        selected = [_place_of(raw) for raw in owned if selector.items() <= raw["metadata"]["labels"].items()]
        self._replace(selected, listing)

    def _replace(self, known: Iterable[_Place], listing: Listing) -> list[RawObject]:
        listed = {_place_of(item) for item in listing.items}
        missing = [(place, self._objects[place.kind][place]) for place in known if place not in listed]
        vanished = {place: kept for place, kept in missing if not _is_newer(kept.version, listing.version)}
        for place in vanished:
            self._drop(place)
        for item in listing.items:
            place = _place_of(item)
            if self.is_wanted(item) and self._is_news(place, _version_of(item), exists_at=listing.version):
                self._deleted.pop(place, None)
                self._keep(place, item)
        return [_parsed(kept) for kept in vanished.values()]

    def _forget(self, kind: str) -> None:
        for place in list(self._objects[kind]):
            self._drop(place)
        self._deleted = {place: version for place, version in self._deleted.items() if place.kind != kind}
        del self._listed[kind]

    def _is_news(self, place: _Place, version: str, *, exists_at: str) -> bool:
        """`exists_at`: the version of the storage at which the object is known to have existed.

        A list shows objects that are much older than itself. They exist, even if an earlier list was not kept of them:
        their deployment was not known yet, or they were too large.
        """
        known = self._objects[place.kind].get(place)
        if known is not None:
            return _is_newer(version, known.version)
        deleted, listed = self._deleted.get(place), self._listed.get(place.kind)
        # The same version was let go, because its labels named no deployment that was known then.
        is_back = deleted is None or deleted == version or _is_newer(exists_at, deleted)
        return is_back and (listed is None or exists_at == listed or _is_newer(exists_at, listed))

    def _keep(self, place: _Place, raw: RawObject) -> bool:
        self._drop(place)
        owner = None if place.kind in (KIND, "Node") else parent_key(raw)
        kept = _Kept(_version_of(raw), owner, to_json(_trimmed(place.kind, raw)))
        if not self._has_room(place, kept):
            self._refuse(owner or FlashKey(place.namespace, place.name), place)
            return False
        self._objects[place.kind][place] = kept
        self._account(place, kept, len(kept.text))
        if owner is not None:
            self._owned[owner, place.kind].add(place)
        return True

    def _has_room(self, place: _Place, kept: _Kept) -> bool:
        """Nodes are the administrator's."""
        size = len(kept.text)
        if place.kind == "Node":
            return True
        if kept.owner is not None and self._bytes[_share(place, kept.owner)] + size > MOST_BYTES_OF_DEPLOYMENT:
            return False
        return self._bytes[place.namespace] + size <= MOST_BYTES_OF_NAMESPACE

    def _refuse(self, key: FlashKey, place: _Place) -> None:
        """Pods may be missing in memory: hundreds that have ended must not keep the others from being deleted."""
        if key not in self._refused:
            log.warning(
                "too many or too large children to keep in memory: not reconciled until some are deleted",
                deployment=str(key),
                kind=place.kind,
                name=place.name,
                most_bytes_of_a_deployment=MOST_BYTES_OF_DEPLOYMENT,
                most_bytes_of_a_namespace=MOST_BYTES_OF_NAMESPACE,
            )
        if place.kind != "Pod":
            self._refused[key].add(place)

    def _account(self, place: _Place, kept: _Kept, size: int) -> None:
        for holder in (place.namespace, kept.owner and _share(place, kept.owner)):
            if holder:
                self._bytes[holder] += size
                if not self._bytes[holder]:
                    del self._bytes[holder]

    def _drop(self, place: _Place) -> None:
        self._forget_refusal(place)
        known = self._objects[place.kind].pop(place, None)
        if known is None:
            return
        self._account(place, known, -len(known.text))
        if known.owner is None:
            return
        owned = self._owned[known.owner, place.kind]
        owned.discard(place)
        if not owned:
            del self._owned[known.owner, place.kind]

    def _forget_refusal(self, place: _Place) -> None:
        for key in [key for key, places in self._refused.items() if place in places]:
            self._refused[key].discard(place)
            if not self._refused[key]:
                del self._refused[key]


def _share(place: _Place, owner: FlashKey) -> tuple[FlashKey, bool]:
    return owner, place.kind == "Pod"


def _parsed(kept: _Kept) -> RawObject:
    raw: RawObject = from_json(kept.text)
    return raw


def _place_of(raw: RawObject) -> _Place:
    metadata = raw["metadata"]
    return _Place(raw["kind"], metadata.get("namespace", ""), metadata["name"])


def _version_of(raw: RawObject) -> str:
    return str(raw["metadata"].get("resourceVersion", ""))


def _is_newer(version: str, other: str) -> bool:
    """Versions are whole numbers that grow (KEP-5504). Where they are not, the last to arrive wins."""
    if version.isdecimal() and other.isdecimal():
        return int(version) > int(other)
    return version != other


def _trimmed(kind: str, raw: RawObject) -> RawObject:
    """Without unread fields, which are more than half of most objects."""
    kept = without_managed_fields(raw)
    if kind == "Pod" and has_ended(raw):
        kept["spec"] = {"nodeName": (raw.get("spec") or {}).get("nodeName")}
    if kind == "Node":
        kept["status"] = {key: value for key, value in (raw.get("status") or {}).items() if key in NODE_STATUS}
    return kept
