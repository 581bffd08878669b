"""docs/failures.md leaves no failure of a replica out."""

from pathlib import Path

from flash_contracts.verdict_reason import Reason
from flash_operator.api.vocabulary import CONDITION_REASONS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "failures.md").read_text()


def test_every_reason_of_a_replica_that_is_not_ready_is_there() -> None:
    harmless = {Reason.PASSED, Reason.ENGINE_STARTING}
    assert [reason for reason in Reason if reason not in harmless and f"`{reason}`" not in PAGE] == []


def test_refusals_of_a_deployment_are_there() -> None:
    refused = [reason for reason in CONDITION_REASONS if reason in ("ChildRefused", "PodTemplateRefused", "NameTaken")]
    assert len(refused) == 3
    assert [reason for reason in refused if f"`{reason}`" not in PAGE] == []
