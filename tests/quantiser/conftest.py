"""Kernels run in Triton's interpreter, nothing is downloaded, and each process computes in one thread, because two
processes share two cores. These settings must be made before the imports that read them."""

import os

os.environ["TRITON_INTERPRET"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path

import pytest
import torch

import interpreted_bf16
import tiny_checkpoints

interpreted_bf16.mend()
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoints.write_official(tmp_path_factory.mktemp("official") / "source")


@pytest.fixture(scope="session")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoints.write_capture(tmp_path_factory.mktemp("capture") / "capture")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoints.write_base(tmp_path_factory.mktemp("base") / "base")
