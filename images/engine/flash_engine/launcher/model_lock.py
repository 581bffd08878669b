"""Holding a model of a shared cache for as long as its engine runs, so that nobody removes it for another one."""

import contextlib
import time
from pathlib import Path

from flash_engine.model_cache import StoredModel

LINK = "model"
TOUCH_SECONDS = 60.0


class ModelHold:
    """Of the model that the link in the run folder leads to. `keep` says now and then that it is used.

    A container that is killed loses its lock; what it said last keeps the model for a while (store.GRACE_SECONDS).
    """

    def __init__(self, run_dir: Path, cache: Path | None) -> None:
        self._model = stored_model(run_dir / LINK, cache) if cache else None
        self._stack = contextlib.ExitStack()
        self._touched_at = time.monotonic()

    def take(self) -> str | None:
        """Returns why there is nothing to serve; None where it is held, or there is nothing to hold."""
        model = self._model
        if model is None:
            return None
        try:
            whole = self._stack.enter_context(model.used())
        except OSError as error:
            return f"the cache of {model.repository} cannot be locked: {error}; look at the volume of model.cache"
        if whole:
            return None
        return (
            f"{model.repository} at {model.told} is not whole in the cache any more: somebody removed it by "
            "hand, or the volume lost it; delete this pod, and the next one fetches it anew"
        )

    def leave(self) -> None:
        """Give it up, and say once more that it was used: the container may start anew."""
        with contextlib.suppress(OSError):
            if self._model is not None:
                self._model.touch()
        self._stack.close()

    def keep(self) -> None:
        if self._model is not None and time.monotonic() - self._touched_at >= TOUCH_SECONDS:
            self._touched_at = time.monotonic()
            with contextlib.suppress(OSError):  # the lock holds all the same
                self._model.touch()


def stored_model(link: Path, cache: Path) -> StoredModel | None:
    """None where the link leads to no model of the cache: then it is not the cache's."""
    try:
        folder = link.readlink()
    except OSError:
        return None
    if folder.parent.parent != cache / "hub":
        return None
    return StoredModel(cache, folder.parent.name.replace("--", "/", 1), folder.name)
