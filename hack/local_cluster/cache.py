"""The folder in which expensive builds are kept between runs and clones."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from file_lock import held


def cache_dir(*parts: str) -> Path:
    """A folder of the cache, created if it is missing. `FLASH_CACHE` moves the whole cache."""
    home = os.environ.get("FLASH_CACHE")
    if home is None:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        home = str(base / "deepseek-flash-operator")
    folder = Path(home, *parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def exclusive(lock: Path, holder: str) -> Iterator[None]:
    """Hold a lock file. A second process reports which `holder` it waits for, instead of building the same again."""
    with held(lock, lambda: print(f"    waiting for {holder} (it holds {lock})", file=sys.stderr, flush=True)):
        yield
