"""The condition SpecValid: whether the API server would take the stored spec if it were written now.

It is there where the answer was no once. A spec gets there when the CRD is upgraded to one with more rules: the API
server lets what is stored break them, and its replicas serve on.
"""

from flash_operator.api.status import Condition
from flash_operator.core.observed.kube import condition_of
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.status.conditions import ConditionState

SPEC_VALID = "SpecValid"


def spec_condition(observed: Observed) -> ConditionState | None:
    """The condition's state; None if there was never anything to say."""
    before = condition_of({"status": observed.live_status}, SPEC_VALID)
    if observed.objection:
        return ConditionState("False", "SpecRefused", _refused(observed.objection))
    if before is None:
        return None
    if observed.objection is None:
        return ConditionState(before["status"], before["reason"], before.get("message", ""))
    return ConditionState("True", "SpecAccepted", "the API server would accept this spec if it were new")


def unreadable_status(live_status: RawObject, generation: int, problem: str, since: str) -> RawObject:
    """The status of a deployment whose spec this operator cannot understand: what it was, with that condition."""
    known = live_status.get("conditions", [])
    before: RawObject = next((condition for condition in known if condition["type"] == SPEC_VALID), {})
    message = (
        f"this operator cannot read the spec, so it changes nothing and its replicas serve on; correct it, or upgrade "
        f"the operator: {problem}"
    )
    condition = Condition(
        type=SPEC_VALID,
        status="False",
        observed_generation=generation,
        last_transition_time=before["lastTransitionTime"] if before.get("status") == "False" else since,
        reason="SpecUnreadable",
        message=message,
    ).model_dump(by_alias=True, mode="json")
    return {**live_status, "conditions": [c for c in known if c["type"] != SPEC_VALID] + [condition]}


def _refused(objection: str) -> str:
    return (
        "the stored spec breaks rules that are newer than it; its replicas serve on, and a change of what breaks them "
        f"is refused until it is corrected: {objection}"
    )
