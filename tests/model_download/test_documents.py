"""docs/model-delivery.md says what is so: its commands run, and its remedy is the one that status gives."""

import asyncio
import os
import re
import sys
from pathlib import Path

from download_harness import Bench
from flash_engine.launcher.jit_cache import VARIABLES
from flash_operator.api.model_spec import DEFAULT_NODE_PATH

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "model-delivery.md").read_text()


async def test_what_is_to_be_typed_fetches_a_model(bench: Bench, tmp_path: Path) -> None:
    (typed,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    typed = typed.replace("OWNER/NAME", "owner/model").replace("/tmp/", f"{tmp_path}/")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        "bash", "-euc", typed,
        env={**kept, "PATH": path, "HF_ENDPOINT": bench.endpoint}, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert (tmp_path / "run" / "model" / "config.json").exists()


async def test_the_folder_of_a_node_is_made_as_status_says(bench: Bench) -> None:
    """The cache is a file here, so that it cannot be written."""
    bench.cache.mkdir()
    (bench.cache / "hub").write_text("")
    code, fetch = await bench.fetch(FLASH_MODEL_CACHE_KIND="Node", FLASH_MODEL_CACHE_NAME=DEFAULT_NODE_PATH)
    assert code == 1
    (line,) = re.findall(r"^    (install -d .*)$", PAGE, re.MULTILINE)
    assert fetch.record["failure"].endswith(line)


def test_every_variable_that_the_launcher_sets_is_named() -> None:
    assert [name for name in VARIABLES if f"`{name}`" not in PAGE] == []
