"""Decides whether a model fits into the cache, and which models to remove to make room.

Only one process decides and removes at a time (space.lock). What other processes still have to download counts as
taken, because two models that each fit alone may not fit together.
"""

import fcntl
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from flash_contracts.download_record import DownloadRecord, format_size
from flash_engine.model_cache import PROGRESS_SUFFIX, ModelSnapshot, file_lock, snapshots_in
from flash_engine.model_download.failure import DownloadError
from flash_engine.model_download.settings import DownloadSettings
from flash_engine.model_download.source import FileListing

SPARE_BYTES = 16 << 20
"""Left free on the volume, for manifests and progress files."""


@dataclass(frozen=True)
class DiskSpace:
    """The disk space of the cache, in bytes."""

    free: int
    """On the volume."""
    stored: int
    """Taken by all models, including this one."""
    reserved: int
    """What other processes still have to download."""
    limit_bytes: int | None
    """Limit for all models together (maxGibibytes)."""

    def shortfall(self, wanted: int) -> int:
        """Bytes to free before `wanted` more fit; 0 if they fit."""
        on_volume = wanted + self.reserved + SPARE_BYTES - self.free
        within_limit = wanted + self.reserved + self.stored - self.limit_bytes if self.limit_bytes is not None else 0
        return max(on_volume, within_limit, 0)


def eviction_candidates(shortfall: int, removable: Sequence[ModelSnapshot]) -> list[ModelSnapshot]:
    """The models to remove, least recently used first. Empty if even removing all would not be enough."""
    chosen: list[ModelSnapshot] = []
    for model in sorted(removable, key=lambda model: model.last_used_at):
        if shortfall <= 0:
            break
        chosen.append(model)
        shortfall -= model.stored_bytes
    return chosen if shortfall <= 0 else []


def free_disk_space(model: ModelSnapshot, listing: FileListing, settings: DownloadSettings) -> list[ModelSnapshot]:
    """Free the space that the rest of `model` needs, before its download starts. Returns the removed models.

    Raises DownloadError.
    """
    if settings.limit_bytes is not None and listing.peak_bytes > settings.limit_bytes:
        while_unpacking = " while its layers are unpacked" if listing.layers else ""
        raise DownloadError(
            f"{model.repository} needs {format_size(listing.peak_bytes)}{while_unpacking}, but "
            f"model.cache.maxGibibytes allows only {format_size(settings.limit_bytes)} for all models",
            "raise model.cache.maxGibibytes",
        )
    wanted = max(listing.peak_bytes - model.stored_bytes, 0)
    with file_lock(model.root / "space.lock", fcntl.LOCK_EX):
        others = _others(model)
        shortfall = _disk_space(model, others, settings).shortfall(wanted)
        chosen = eviction_candidates(shortfall, [other for other in others if other.is_evictable()])
        removed = [victim for victim in chosen if victim.remove_if_unused()]
        space = _disk_space(model, others, settings)
        if space.shortfall(wanted):
            raise _does_not_fit(model, wanted, space, settings)
        return removed


def bytes_left(model: ModelSnapshot, settings: DownloadSettings) -> int:
    """How many more bytes may be written."""
    space = _disk_space(model, _others(model), settings)
    on_volume = space.free - SPARE_BYTES
    if space.limit_bytes is None:
        return on_volume - space.reserved
    return min(on_volume, space.limit_bytes - space.stored) - space.reserved


def _others(model: ModelSnapshot) -> list[ModelSnapshot]:
    return [other for other in snapshots_in(model.root) if other.folder != model.folder]


def _disk_space(model: ModelSnapshot, others: Sequence[ModelSnapshot], settings: DownloadSettings) -> DiskSpace:
    return DiskSpace(
        free=shutil.disk_usage(model.root).free,
        stored=model.stored_bytes + sum(other.stored_bytes for other in others),
        reserved=sum(_reserved_by(other) for other in others if other.is_downloading()),
        limit_bytes=settings.limit_bytes,
    )


def _reserved_by(other: ModelSnapshot) -> int:
    record = DownloadRecord.read(other.sidecar(PROGRESS_SUFFIX))
    return max((record.needed_bytes or record.total_bytes) - other.stored_bytes, 0) if record else 0


def _does_not_fit(model: ModelSnapshot, wanted: int, space: DiskSpace, settings: DownloadSettings) -> DownloadError:
    need = f"{model.repository} needs {format_size(wanted)} more in {settings.place}"
    facts = [f"{need}, but only {format_size(space.free)} are free"]
    if space.limit_bytes is not None:
        limit = format_size(space.limit_bytes)
        facts.append(f"the models there take {format_size(space.stored)} of {limit} (model.cache.maxGibibytes)")
    if space.reserved:
        facts.append(f"{format_size(space.reserved)} are reserved for another model that is being downloaded")
    return DownloadError(
        f"{'; '.join(facts)}; nothing was downloaded",
        "free space there, raise model.cache.maxGibibytes, or choose another model.cache (models in use are never "
        "removed)",
    )
