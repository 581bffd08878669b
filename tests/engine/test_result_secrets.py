"""Text of other programs that the gate shows contains no secrets."""

import json

from flash_contracts.download_record import DownloadRecord
from flash_contracts.engine_record import EngineRecord
from flash_contracts.verdict_reason import Reason
from flash_engine.gate.evidence import Evidence
from flash_engine.gate.gate_state import GateState
from flash_engine.gate.result import result_of
from flash_engine.gate.verdict import Verdict

SAID = "https://user:xyzzy1@hub.example/m says no"


def test_the_result_shows_no_secret() -> None:
    failed = DownloadRecord(phase="Failed", failure=SAID, message=SAID)
    evidence = Evidence(EngineRecord(rejection=SAID), healthy=False, download=failed)
    state = GateState(verdict=Verdict(Reason.MODEL_UNAVAILABLE, SAID), evidence=evidence)

    shown = json.dumps(result_of(state, None, None).to_json())
    assert "xyzzy1" not in shown
    assert shown.count("hub.example/m says no") >= 3
