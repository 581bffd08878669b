"""A run of flash-probe with fake ranks; whatever a failed test leaves is ended, by pid."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2p_ranks.p2p_harness import ProbeBench


@pytest.fixture
def probe(tmp_path: Path) -> Iterator[Callable[..., ProbeBench]]:
    started: list[ProbeBench] = []

    def start(ways: str, *options: str) -> ProbeBench:
        started.append(ProbeBench(tmp_path, ways, options))
        return started[-1]

    yield start
    for bench in started:
        bench.process.kill()
        bench.process.communicate()
        for pid in bench.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
