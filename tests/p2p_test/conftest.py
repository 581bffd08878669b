"""A fixture that runs flash-p2p-test with fake ranks and kills whatever a failed test leaves behind."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2p_ranks.p2p_harness import P2pTestRun


@pytest.fixture
def start_run(tmp_path: Path) -> Iterator[Callable[..., P2pTestRun]]:
    started: list[P2pTestRun] = []

    def start(behaviours: str, *options: str) -> P2pTestRun:
        started.append(P2pTestRun(tmp_path, behaviours, options))
        return started[-1]

    yield start
    for run in started:
        run.process.kill()
        run.process.communicate()
        for pid in run.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
