"""The gate's `/result`, as far as the operator reads it.

The gate is the judge: it latches its verdict without the operator. The operator only repeats the verdict in
status, so everything here tolerates a gate that is newer, older, or not there.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel


class _Document(BaseModel):
    # A newer gate may say more than this operator knows.
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")


class Measurement(_Document):
    """What the gate measured: rates in tokens per second, times in milliseconds, shares in percent."""

    decode_tokens_per_second: float
    acceptance_percent: float | None = None
    first_token_millis: float | None = None


class EffectiveFlags(_Document):
    """What the launcher started the engine with, from `/run/flash/effective.json`."""

    origin: str
    detail: str = ""
    flags: dict[str, Any] = {}


class Incident(_Document):
    """What the launcher recovered from by itself: a hang, or wrong data, with peer-to-peer on."""

    kind: Literal["hang", "corrupt"]
    signature: str = ""
    """S1 to S4 of docs/topology.md."""
    detail: str = ""
    at: str = ""
    row: str = ""

    def __str__(self) -> str:
        return f"{self.kind} under row {self.row} at {self.at} ({self.signature}): {self.detail}"


class Wanted(_Document):
    """What the gate held the engine to."""

    decode_tokens_per_second: float | None = None
    floor_origin: Literal["Fixed", "Learned"] | None = None


class Degraded(_Document):
    """A replica that passed, and fails while it serves."""

    message: str = ""
    since: str
    """Names its wish to be taken out of service."""
    measured: bool = False


class Serving(_Document):
    """What became of a replica that passed."""

    degraded: Degraded | None = None
    quarantined: bool = False
    hung: bool = False
    draining: bool = False


class EngineSeen(_Document):
    """What the gate knows of the engine's process."""

    incident: Incident | None = None
    starts: int = 0


class Delivery(_Document):
    """How far flash-fetch has come with the model."""

    phase: str
    commit: str | None = None
    bytes: int = 0
    total_bytes: int = 0
    bytes_per_second: float | None = None
    eta_seconds: int | None = None
    failure: str | None = None
    warning: str | None = None
    attempts: int = 0
    at: str = ""


class GateResult(_Document):
    """One verdict. `passed` is what the pod's readiness probe answers."""

    reason: str
    passed: bool
    message: str = ""
    checked_at: str | None = None
    gate_millis: float | None = None
    measurement: Measurement | None = None
    wanted: Wanted | None = None
    serving: Serving = Serving()
    effective: EffectiveFlags | None = None
    engine: EngineSeen = EngineSeen()
    delivery: Delivery | None = None
    reached: bool = True
    """False where the gate did not answer, so that the verdict is the operator's own guess."""

    @classmethod
    def parse(cls, raw: object) -> "GateResult":
        """Read a `/result` document; one that cannot be read is a verdict too, and never an exception."""
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "document"
            return cls(
                reason="Inconclusive",
                passed=False,
                message=f"the gate's result could not be read: {where}: {first['msg']}",
            )

    @classmethod
    def unreachable(cls, message: str) -> "GateResult":
        return cls(
            reason="EngineStarting",
            passed=False,
            message=f"the gate does not answer: {message}",
            reached=False,
        )
