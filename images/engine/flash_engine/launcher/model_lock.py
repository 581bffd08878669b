"""Locks a model in a shared cache while its engine runs, so that no other pod evicts it."""

import contextlib
import time
from pathlib import Path

from flash_engine.model_cache import ModelSnapshot

LINK = "model"
TOUCH_SECONDS = 60.0


class ModelLock:
    """A shared lock on the model that the link in the run folder points to. `touch` refreshes its last use.

    A killed container loses its lock; the recent last use protects the model until it restarts
    (model_cache.GRACE_SECONDS).
    """

    def __init__(self, run_dir: Path, cache: Path | None) -> None:
        self._model = stored_model(run_dir / LINK, cache) if cache else None
        self._stack = contextlib.ExitStack()
        self._touched_at = time.monotonic()

    def acquire(self) -> str | None:
        """Lock the model. Returns why it cannot be served; None if it is locked, or not in a shared cache."""
        model = self._model
        if model is None:
            return None
        try:
            whole = self._stack.enter_context(model.in_use())
        except OSError as error:
            return f"the cache of {model.repository} cannot be locked: {error}; check the volume of model.cache"
        if whole:
            return None
        return (
            f"{model.repository} at {model.revision_label} is no longer complete in the cache: somebody deleted files, "
            "or the volume lost them; delete this pod, and the next one downloads the model again"
        )

    def release(self) -> None:
        """Release the lock, and refresh the last use because the container may restart."""
        with contextlib.suppress(OSError):
            if self._model is not None:
                self._model.mark_used()
        self._stack.close()

    def touch(self) -> None:
        if self._model is not None and time.monotonic() - self._touched_at >= TOUCH_SECONDS:
            self._touched_at = time.monotonic()
            with contextlib.suppress(OSError):  # the lock is still held
                self._model.mark_used()


def stored_model(link: Path, cache: Path) -> ModelSnapshot | None:
    """The model that the link points to; None if it is not in the cache. An image may have it in a subfolder."""
    try:
        repository, commit, *_ = link.readlink().relative_to(cache / "hub").parts
    except (OSError, ValueError):
        return None
    return ModelSnapshot(cache, repository.replace("--", "/", 1), commit)
