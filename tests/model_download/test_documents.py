"""Checks docs/model-delivery.md: its commands work, and it has the same remedy as status."""

import asyncio
import os
import re
import sys
from pathlib import Path

from download_harness import DownloadHarness
from flash_engine.launcher.jit_cache import VARIABLES
from flash_operator.api.model_spec import DEFAULT_NODE_PATH

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "model-delivery.md").read_text()


async def test_the_pages_commands_download_a_model(harness: DownloadHarness, tmp_path: Path) -> None:
    (commands,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    commands = commands.replace("OWNER/NAME", "owner/model").replace("/tmp/", f"{tmp_path}/")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        "bash", "-euc", commands,
        env={**kept, "PATH": path, "HF_ENDPOINT": harness.endpoint}, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert (tmp_path / "run" / "model" / "config.json").exists()


async def test_the_page_and_status_have_the_same_command_for_the_nodes_folder(harness: DownloadHarness) -> None:
    """`hub` is a file here, so the cache cannot be written."""
    harness.cache.mkdir()
    (harness.cache / "hub").write_text("")
    code, fetch = await harness.fetch(FLASH_MODEL_CACHE_KIND="Node", FLASH_MODEL_CACHE_NAME=DEFAULT_NODE_PATH)
    assert code == 1
    (line,) = re.findall(r"^    (install -d .*)$", PAGE, re.MULTILINE)
    assert fetch.record["failure"].endswith(line)


def test_every_variable_that_the_launcher_sets_is_documented() -> None:
    assert [name for name in VARIABLES if f"`{name}`" not in PAGE] == []
