"""The walker: one process for all walks of a run."""

from collections.abc import Iterator

import pytest

from vllm_walk.environment import Environment, ensure, ensure_older
from vllm_walk.walk import Walker


@pytest.fixture(scope="session")
def environment() -> Environment:
    return ensure()


@pytest.fixture(scope="session")
def walker(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walker]:
    made = Walker(environment, tmp_path_factory.mktemp("walker"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def cpu_walker(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walker]:
    """With the vLLM of the CPU engine image."""
    made = Walker(environment, tmp_path_factory.mktemp("walker"), cuda=False)
    yield made
    made.close()


@pytest.fixture(scope="session")
def older_walker(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walker]:
    """With the oldest vLLM that the plugin supports."""
    made = Walker(environment, tmp_path_factory.mktemp("walker"), older=ensure_older())
    yield made
    made.close()
