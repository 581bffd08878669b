"""The launcher's check of the checkpoint, without a process: what it reads from the arguments and the run folder."""

from pathlib import Path

import pytest

from fake_checkpoint import FakeCheckpoint
from flash_contracts.download_record import DownloadRecord
from flash_engine.launcher.model_check import check_model


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        ("", "put config.json of the source checkpoint beside the weights (if it is an image"),
        ("hf://owner/name", "a repository cannot be changed from here: copy it to a claim"),
        ("oci://registry.example/model:1", "in a new image"),
    ],
)
def test_the_remedy_is_for_the_source_that_was_downloaded(
    tmp_path: Path, run_dir: Path, source: str, remedy: str
) -> None:
    model = FakeCheckpoint.make("seed").save(tmp_path / "model", with_data=False)
    (model / "config.json").unlink()
    if source:
        DownloadRecord(phase="Complete", source=source).write(run_dir / DownloadRecord.FILE)

    assert remedy in (check_model(("serve", str(model)), run_dir, strict=True) or "")


@pytest.mark.parametrize("argument", ["--load-format=dummy", "--load_format=tensorizer", "--hf-config-path=/x"])
def test_an_engine_that_loads_no_files_needs_none(tmp_path: Path, run_dir: Path, argument: str) -> None:
    arguments = ("serve", str(tmp_path / "none"), argument)
    assert check_model(arguments, run_dir, strict=False) is None
    assert check_model(arguments, run_dir, strict=True) is not None
    assert check_model(arguments[:2], run_dir, strict=False) is not None


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.gguf"])
def test_a_custom_engine_may_load_files_that_cannot_be_checked(tmp_path: Path, run_dir: Path, file: str) -> None:
    (tmp_path / file).write_bytes(b"weights")
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    arguments = ("serve", str(tmp_path))

    assert check_model(arguments, run_dir, strict=False) is None
    assert check_model(arguments, run_dir, strict=True) is not None
