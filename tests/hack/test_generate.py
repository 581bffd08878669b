"""scripts/generate writes whole files or none."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHART = Path("charts/deepseek-flash-operator")
CRD = Path("crds/deepseekflashdeployments.yaml")
GENERATED = {
    CRD: "flash_operator.api.schema",
    CHART / "files" / CRD.name: "flash_operator.api.schema",
    Path("docs/reference.md"): "flash_operator.api.reference",
    Path("docs/metrics.md"): "hack/metrics_page.py",
    Path("docs/explain.md"): "tests/support/explained_failures.py",
    CHART / "README.md": "hack/chart_readme.py",
}
"""Each file, and the generator whose output it is."""

STUB_PYTHON = """#!/bin/sh
# Writes half a file, and fails if it is told to.
name="${2:-$1}"
echo "of $name"
[ "$name" != "$FAILING" ]
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The script with a stub of Python, beside files of an earlier run."""
    for file in GENERATED:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("former\n")
    for folder in ("scripts", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "scripts/generate", tmp_path / "scripts/generate")
    python = tmp_path / ".venv/bin/python"
    python.write_text(STUB_PYTHON)
    python.chmod(0o755)
    return tmp_path


def generate(checkout: Path, failing: str = "") -> int:
    environment = {**os.environ, "FAILING": failing}
    return subprocess.run([str(checkout / "scripts/generate")], env=environment, check=False, timeout=60).returncode


def test_each_file_is_what_its_generator_writes(checkout: Path) -> None:
    assert generate(checkout) == 0
    assert {file: (checkout / file).read_text() for file in GENERATED} == {
        file: f"of {generator}\n" for file, generator in GENERATED.items()
    }


@pytest.mark.parametrize("failing", sorted(set(GENERATED.values())))
def test_a_generator_that_fails_leaves_its_file_as_it_was(checkout: Path, failing: str) -> None:
    assert generate(checkout, failing) != 0
    for file, generator in GENERATED.items():
        if generator == failing:
            assert (checkout / file).read_text() == "former\n"
    found = {path.relative_to(checkout) for path in checkout.rglob("*") if path.is_file()}
    assert found == {*GENERATED, Path("scripts/generate"), Path(".venv/bin/python")}, "nothing unfinished is left"
