"""Documents written by commit aa04336, before the classes existed, are read and written unchanged."""

import json
from pathlib import Path
from typing import Any

import pytest

from flash_contracts.document import Document
from flash_contracts.download_record import DownloadRecord
from flash_contracts.engine_pod import EffectiveFlags, FaultReport
from flash_contracts.engine_record import EngineRecord
from flash_contracts.flags.flag_set import FlagSet
from flash_contracts.gate_result import GateResult
from flash_contracts.p2p_report import P2pReport
from flash_contracts.restore_result import RestoreResult

FORMER: dict[str, Any] = json.loads(Path(__file__).with_name("former_documents.json").read_text())
CLASSES: dict[str, type[Document]] = {
    "delivery": DownloadRecord,
    "effective": EffectiveFlags,
    "engine": EngineRecord,
    "flags": FlagSet,
    "p2p": P2pReport,
    "result": GateResult,
    "suspicion": FaultReport,
}


def test_there_is_one_of_each() -> None:
    assert set(FORMER) == set(CLASSES)


@pytest.mark.parametrize(("name", "cls"), CLASSES.items(), ids=CLASSES.keys())
def test_a_former_document_is_read_and_written_the_same(name: str, cls: type[Document]) -> None:
    assert cls.parse(FORMER[name]).to_json() == FORMER[name]


def test_a_former_pods_annotation_is_written_in_the_same_bytes() -> None:
    """Other bytes would change the template hash of the safe flags, and restart every engine."""
    former = json.dumps(FORMER["flags"], separators=(",", ":"), sort_keys=True)
    assert FlagSet.parse_text(former).to_text() == former


def test_a_renamed_figure_is_read_under_its_former_key() -> None:
    figures = {"gptq": 744, "rtn": 24, "seconds": 32.6, "worst_error": 0.0123, "device": "cuda"}
    found = RestoreResult.of_text(json.dumps({"version": 1, "state": "Restored", "message": "m", "figures": figures}))
    assert found.figures is not None
    assert found.figures.worst_error == 0.0123
