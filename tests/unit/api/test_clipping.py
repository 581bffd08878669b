"""No observation can make a status invalid."""

from typing import Any

import pytest

from builders import a_flash, a_gate, a_node, a_pod, an_observed
from flash_contracts.gate_result import GateResult
from flash_operator.api.clipping import GREATEST_INTEGER
from flash_operator.api.status import FlashStatus, PodStatus
from flash_operator.core.plan import plan

LONG = "x" * 10_000


def test_strings_lists_their_items_and_integers_are_cut() -> None:
    pod = PodStatus(name=LONG, uid="u", reason=LONG, message=LONG, flags=[LONG] * 100, first_token_millis=10**30)
    assert (len(pod.name), len(pod.reason), len(pod.message)) == (253, 128, 4096)
    assert pod.message.endswith("...")
    assert pod.flags is not None
    assert (len(pod.flags), len(pod.flags[0])) == (64, 1024)
    assert pod.first_token_millis == GREATEST_INTEGER


def test_names_as_in_json_are_cut_too() -> None:
    assert (
        len(PodStatus.model_validate({"name": "n", "uid": "u", "reason": "r", "imageDigest": LONG}).image_digest or "")
        == 512
    )


CLAIMS: dict[str, dict[str, Any]] = {
    "a long message": {"message": LONG},
    "a long reason": {"reason": LONG},
    "an impossible speed": {"measurement": {"decodeTokensPerSecond": 1e300, "acceptancePercent": 1e300}},
    "a long time": {"checkedAt": LONG},
    "a long download": {
        "delivery": {"phase": LONG, "commit": LONG, "warning": LONG, "totalBytes": 10**40, "attempts": 10**40}
    },
    "a long incident": {"engine": {"incident": {"kind": "hang", "at": LONG, "message": LONG}}},
}


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS.keys())
def test_any_gate_result_gives_a_valid_status(claim: dict[str, Any]) -> None:
    gate: GateResult = a_gate(**claim) if "reason" not in claim else a_gate(claim["reason"])
    wanted = plan(an_observed(a_flash(), pods=(a_pod(),), nodes=(a_node(),), gates={"flash-a": gate}))
    assert wanted.status is not None
    assert FlashStatus.model_validate(wanted.status).pods[0].name == "flash-a"


def test_a_variable_of_maximum_length_is_shown_shortened() -> None:
    """Its reason contains the value, and both are shown in one line."""
    env = [{"name": f"NCCL_{n}", "value": "v" * 1024} for n in range(16)]
    flash = a_flash(interconnect={"env": env})
    pods = (a_pod(),)
    first = plan(an_observed(flash, pods=pods, nodes=(a_node(),)))
    (annotation,) = first.annotate
    pods[0]["metadata"]["annotations"] |= annotation.annotations
    status = plan(an_observed(flash, pods=pods, nodes=(a_node(),))).status
    assert status is not None
    assert max(map(len, status["pods"][0]["flags"])) <= 1024
