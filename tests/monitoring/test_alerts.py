"""The alerts, by promtool: that they fire and when they do not, and that each has its runbook."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from prometheus import program
from rendered_chart import CHART

ROOT = Path(__file__).resolve().parents[2]
TESTS = sorted(Path(__file__).parent.glob("alert_tests*.yaml"))
RUNBOOKS = ROOT / "docs/runbooks"
GROUPS: list[dict[str, Any]] = yaml.safe_load((CHART / "files/rules.yaml").read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}
HEADINGS = ["What it means", "What to look at", "What to do", "How to silence"]


def test_promtool_takes_the_rules_and_its_unit_tests_pass() -> None:
    """It parses the rules to test them."""
    done = subprocess.run(
        [str(program("promtool")), "test", "rules", *map(str, TESTS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("fires", [True, False], ids=["firing", "not firing"])
def test_every_alert_is_tested(fires: bool) -> None:  # noqa: FBT001 - a parameter of the test
    tests = [test for path in TESTS for test in yaml.safe_load(path.read_text())["tests"]]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if bool(case["exp_alerts"]) == fires} == set(ALERTS)


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert {page.stem for page in RUNBOOKS.glob("*.md")} == set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_a_runbook_says_what_it_means_and_what_to_do(name: str) -> None:
    lines = (RUNBOOKS / f"{name}.md").read_text().splitlines()
    assert lines[0] == f"# {name}"
    assert [line.removeprefix("## ") for line in lines if line.startswith("## ")] == HEADINGS
    assert f"alertname={name}" in "\n".join(lines)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_is_wrong_and_where_to_read_on(name: str) -> None:
    rule = ALERTS[name]
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{name}.md"
    assert rule["labels"]["severity"] in ("info", "warning", "critical")
    assert rule["for"] != "0s"
