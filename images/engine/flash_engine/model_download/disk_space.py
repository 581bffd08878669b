"""Whether a model fits into the cache, and what has to go for it. The decision is pure.

A decision and what follows from it are made by one at a time (space.lock), and what another one is still fetching
counts as taken: two models that fit one by one need not fit together.
"""

import fcntl
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from flash_contracts.download_record import DownloadRecord, size_told
from flash_engine.model_cache import PROGRESS, StoredModel, locked, models_in
from flash_engine.model_download.failure import DownloadError
from flash_engine.model_download.settings import Settings
from flash_engine.model_download.source import Listing

SPARE_BYTES = 16 << 20
"""A volume that is filled to its last byte has no room for a manifest."""


@dataclass(frozen=True)
class Room:
    """What the cache has, in bytes."""

    free: int
    """On the volume."""
    stored: int
    """By models, this one included."""
    promised: int
    """To others who are fetching, and not yet stored."""
    bound: int | None

    def lacks(self, wanted: int) -> int:
        """Bytes that have to go before `wanted` more fit; 0 where they do."""
        by_volume = wanted + self.promised + SPARE_BYTES - self.free
        by_bound = wanted + self.promised + self.stored - self.bound if self.bound is not None else 0
        return max(by_volume, by_bound, 0)


def eviction_candidates(lacking: int, candidates: Sequence[StoredModel]) -> list[StoredModel]:
    """What to remove: the least recently used first, and none where all of them together are not enough."""
    chosen: list[StoredModel] = []
    for model in sorted(candidates, key=lambda model: model.used_at):
        if lacking <= 0:
            break
        chosen.append(model)
        lacking -= model.stored_bytes
    return chosen if lacking <= 0 else []


def make_room(model: StoredModel, listing: Listing, settings: Settings) -> list[StoredModel]:
    """Make room for what is missing of `model`, before its first byte is asked for. Returns what was removed.

    Raises DownloadError.
    """
    if settings.bound is not None and listing.peak > settings.bound:
        unpacked = " while it is unpacked" if listing.layers else ""
        told = f"{model.repository} takes {size_told(listing.peak)}{unpacked}, and model.cache.maxGibibytes allows all "
        raise DownloadError(f"{told}models {size_told(settings.bound)}", "raise it")
    wanted = max(listing.peak - model.stored_bytes, 0)
    with locked(model.root / "space.lock", fcntl.LOCK_EX):
        others = _others(model)
        lacking = _room(model, others, settings).lacks(wanted)
        chosen = eviction_candidates(lacking, [other for other in others if other.is_removable()])
        removed = [victim for victim in chosen if victim.remove_unused()]
        room = _room(model, others, settings)
        if room.lacks(wanted):
            raise _refusal(model, wanted, room, settings)
        return removed


def room_left(model: StoredModel, settings: Settings) -> int:
    """Bytes that may be written yet."""
    room = _room(model, _others(model), settings)
    by_volume = room.free - SPARE_BYTES
    return (by_volume if room.bound is None else min(by_volume, room.bound - room.stored)) - room.promised


def _others(model: StoredModel) -> list[StoredModel]:
    return [other for other in models_in(model.root) if other.folder != model.folder]


def _room(model: StoredModel, others: Sequence[StoredModel], settings: Settings) -> Room:
    return Room(
        free=shutil.disk_usage(model.root).free,
        stored=model.stored_bytes + sum(other.stored_bytes for other in others),
        promised=sum(_promised(other) for other in others if other.is_being_fetched()),
        bound=settings.bound,
    )


def _promised(other: StoredModel) -> int:
    record = DownloadRecord.read(other.beside(PROGRESS))
    return max((record.needed_bytes or record.total_bytes) - other.stored_bytes, 0) if record else 0


def _refusal(model: StoredModel, wanted: int, room: Room, settings: Settings) -> DownloadError:
    told = f"{model.repository} needs {size_told(wanted)} more in {settings.place}, and {size_told(room.free)} "
    told += "are free there"
    if room.bound is not None:
        told += f", and its models take {size_told(room.stored)} of {size_told(room.bound)} (model.cache.maxGibibytes)"
    if room.promised:
        told += f", and {size_told(room.promised)} are promised to another model that is being fetched"
    remedy = "free space there, raise the bound, or choose another model.cache; models in use are never removed"
    return DownloadError(f"{told}; nothing was fetched", remedy)
