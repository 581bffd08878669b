"""A test harness: a gate, an engine stub, and the files that they exchange."""

import json
from pathlib import Path
from typing import Any

from engine_stub.engine import EngineStub
from flash_contracts.engine_record import EngineRecord
from flash_engine.gate.gate import Gate
from flash_engine.gate.gate_state import GateState

CONFIG: dict[str, Any] = {
    "version": 1,
    "model": "m",
    "speculation": {"expected": True, "tokens": 1},
    "golden": {"kind": "chat", "prompt": "17 + 25?", "expect": "42", "maxTokens": 8},
    "decode": {"minTokensPerSecond": 0.001, "prompt": "tell", "tokens": 64, "samples": 2},
    "minAcceptancePercent": 40,
    "maxFirstTokenMillis": None,
    "startupTimeoutSeconds": 3600,
    "requestTimeoutSeconds": 20,
    "retrySeconds": 0,
}


class GateHarness:
    """The gate under test, the engine stub, and the files between them."""

    def __init__(self, gate: Gate, engine: EngineStub, run_dir: Path, config_file: Path) -> None:
        self.gate = gate
        self.engine = engine
        self.run_dir = run_dir
        self._config_file = config_file
        self._config = CONFIG

    def configure(self, **changes: Any) -> None:
        """Change gate.json; a dict changes the keys inside."""
        merged = dict(self._config)
        for key, value in changes.items():
            merged[key] = {**(merged.get(key) or {}), **value} if isinstance(value, dict) else value
        self._config = merged
        self._config_file.write_text(json.dumps(merged))

    def record(self, **fields: Any) -> None:
        """Write engine.json as the launcher would."""
        record = EngineRecord(**{"phase": "Starting", "pid": 7, "started_at": "2026-11-24T12:00:00.000Z", **fields})
        record.write(self.run_dir / EngineRecord.FILE)

    async def observe(self) -> GateState:
        await self.gate.observe()
        return self.gate.state
