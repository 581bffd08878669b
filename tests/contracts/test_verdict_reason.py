"""Every reason is explained, and is one of passed, pending and failure."""

import pytest

from flash_contracts.verdict_reason import MEANINGS, Reason, is_failure, verdict_reason


def test_every_reason_is_explained() -> None:
    assert set(MEANINGS) == set(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_passed_or_pending_or_a_failure(reason: Reason) -> None:
    assert [reason is Reason.PASSED, reason.is_pending, reason.is_failure].count(True) == 1
    assert not (reason.is_lasting and reason.may_clear_on_restart)
    assert reason.is_failure or not (reason.is_lasting or reason.may_clear_on_restart)


def test_reasons_of_the_scheduler_and_the_kubelet_are_failures_of_their_own() -> None:
    assert verdict_reason("Unschedulable") is None
    assert is_failure("Unschedulable")
    assert not is_failure("EngineStarting")
