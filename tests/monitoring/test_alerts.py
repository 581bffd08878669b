"""The alerts, by promtool: that they fire and when they do not, and that each has its runbook."""

import re
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

import metrics_page
from flash_contracts.node_facts import P2P_VERDICTS
from flash_operator.api.status import RolloutStatus, UpdateStatus
from flash_operator.core.status.deployment_metrics import REASONS
from prometheus import program
from rendered_chart import CHART

ROOT = Path(__file__).resolve().parents[2]
TESTS = sorted(Path(__file__).parent.glob("alert_tests*.yaml"))
RUNBOOKS = ROOT / "docs/runbooks"
GROUPS: list[dict[str, Any]] = yaml.safe_load((CHART / "files/rules.yaml").read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}
SELECTOR = re.compile(r'(\w+)=~?"([^"]+)"')
VALUES: dict[str, set[str]] = {
    "reason": set(REASONS),
    "state": {
        *get_args(RolloutStatus.model_fields["state"].annotation),
        *get_args(UpdateStatus.model_fields["state"].annotation),
    },
    "p2p": set(P2P_VERDICTS),
}
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


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_asks_for_metrics_and_values_that_exist(name: str) -> None:
    """A misspelt one never fires, and no unit test of its own spelling would tell."""
    expression = ALERTS[name]["expr"]
    defined = {name for _, ones in metrics_page.SECTIONS.values() for one in ones for name in one.names}
    assert set(re.findall(r"flash_\w+", expression)) <= defined
    for label, values in SELECTOR.findall(expression):
        assert set(values.split("|")) <= VALUES[label]
