"""A gate belongs to a tenant, so any answer must become a verdict, and never an exception in the shared operator."""

import json
from typing import Any

import pytest

from flash_contracts.engine_record import Incident
from flash_contracts.gate_result import GateResult
from flash_contracts.node_facts import NodeFacts
from flash_contracts.p2p_claims import MOST_CLAIMS, Claim, claims_text, parse_claims
from flash_contracts.p2p_report import P2pReport
from flash_contracts.restore_result import RestoreResult
from flash_operator.core.p2p_test.node_verdict import NodeVerdict, from_incident


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


HOSTILE = {
    "a number too large for a float": {"gateMillis": 10**400},
    "an integer too large for a float": {"attempts": 10**400},
    "NaN": {"gateMillis": float("nan")},
    "infinity": {"measurement": {"decodeTokensPerSecond": float("inf")}},
    "a lone surrogate": {"message": "\ud800"},
    "a deeply nested list": {"reason": nested(900)},
    "a very long string": {"passed": "x" * 10_000_000},
}


@pytest.mark.parametrize("lie", HOSTILE.values(), ids=HOSTILE.keys())
def test_an_invalid_result_is_inconclusive_with_a_short_message(lie: dict[str, Any]) -> None:
    found = GateResult.of({"reason": "Passed", "passed": True, **lie})
    assert (found.reason, found.passed) == ("Inconclusive", False)
    assert len(found.message) < 300


@pytest.mark.parametrize("part", ["trial", "effective"])
def test_an_invalid_optional_part_loses_only_that_part(part: str) -> None:
    found = GateResult.of({"reason": "Passed", "passed": True, part: {"version": 2, "samples": "of another kind"}})
    assert (found.reason, getattr(found, part)) == ("Passed", None)


CLAIMED = NodeFacts("node-1", claims=(Claim("rival/another", "hang", None, None),))


def test_the_details_of_an_incident_do_not_reach_the_node() -> None:
    raw = {"kind": "hang", "row": "T3", "flags": ["x" * 5000], "evidence": {"deep": nested(900)}}
    verdict = from_incident(CLAIMED, Incident.parse(raw), "team/mine")
    assert isinstance(verdict, NodeVerdict)
    assert json.loads(verdict.report)["row"] == "T3"


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "1",
        '[{"deployment": "a/b", "kind": "verified"}]',
        '[{"deployment": "a/b", "kind": "hang", "driver": []}]',
        "[]",
        "{",
        '{"a/b": 1}',
        '{"a/b": {"kind": []}}',
        '{"a/b": {"kind": "verified"}}',
        "[" * 9000,
    ],
)
def test_invalid_claims_written_by_hand_are_ignored(text: str | None) -> None:
    assert parse_claims(text) == ()


def test_the_number_of_claims_is_bounded() -> None:
    many = [Claim(f"team/{number}", "hang", None, None) for number in range(100)]
    assert len(parse_claims(claims_text(many))) == MOST_CLAIMS


ENDLESS = '{"verdict": "healthy", "arms": [{"arm": "nccl", "outcome": "healthy", "micros": {"8192": 1e999}}]}'


@pytest.mark.parametrize("text", [ENDLESS, '{"verdict": "healthy", "arms": null}', "[]", ""])
def test_an_invalid_report_is_inconclusive(text: str) -> None:
    assert P2pReport.of_text(text).verdict == "inconclusive"


def test_a_result_with_an_impossible_figure_is_a_failure() -> None:
    seconds = "1" + "0" * 400
    text = f'{{"state":"Restored","figures":{{"gptq":1,"rtn":1,"seconds":{seconds}}}}}'
    assert RestoreResult.of_text(text).state == "Failed"
