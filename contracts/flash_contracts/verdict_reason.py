"""Reasons of the gate's verdict on a replica. The operator acts on them and copies them into status."""

from enum import StrEnum


class Reason(StrEnum):
    """Why a replica passed or not. Each reason has one cause and one remedy."""

    PASSED = "Passed"
    ENGINE_STARTING = "EngineStarting"
    MODEL_UNAVAILABLE = "ModelUnavailable"
    MODEL_REJECTED = "ModelRejected"
    PLUGIN_ABSENT = "PluginAbsent"
    ENGINE_EXITED = "EngineExited"
    OUT_OF_MEMORY = "OutOfMemory"
    STARTUP_HANG = "StartupHang"
    WRONG_OUTPUT = "WrongOutput"
    SPECULATION_ABSENT = "SpeculationAbsent"
    DRAFT_DEAD = "DraftDead"
    ACCEPTANCE_TOO_LOW = "AcceptanceTooLow"
    TOO_SLOW = "TooSlow"
    FIRST_TOKEN_TOO_SLOW = "FirstTokenTooSlow"  # noqa: S105 - no password
    PREFILL_TOO_SLOW = "PrefillTooSlow"
    TOO_SLOW_AT_DEPTH = "TooSlowAtDepth"
    TOOL_CALLS_BROKEN = "ToolCallsBroken"
    REASONING_BROKEN = "ReasoningBroken"
    JSON_SCHEMA_BROKEN = "JsonSchemaBroken"
    DEGRADED = "Degraded"
    INCONCLUSIVE = "Inconclusive"

    @property
    def is_pending(self) -> bool:
        """Whether there is no result yet. The gate tries again on its own."""
        return self in _PENDING

    @property
    def is_failure(self) -> bool:
        """Whether the replica failed."""
        return self is not Reason.PASSED and not self.is_pending

    @property
    def is_lasting(self) -> bool:
        """Whether measuring the same run of the engine again cannot change the result."""
        return self in _LASTING

    @property
    def may_clear_on_restart(self) -> bool:
        """Whether the next start may succeed: a crash may not recur, and a hub may be reachable again."""
        return self in _MAY_CLEAR_ON_RESTART


_PENDING = frozenset({Reason.ENGINE_STARTING, Reason.INCONCLUSIVE})
_LASTING = frozenset(
    {
        Reason.PLUGIN_ABSENT,
        Reason.OUT_OF_MEMORY,
        Reason.STARTUP_HANG,
        Reason.WRONG_OUTPUT,
        Reason.SPECULATION_ABSENT,
        Reason.DRAFT_DEAD,
        Reason.ACCEPTANCE_TOO_LOW,
        Reason.TOO_SLOW,
        Reason.FIRST_TOKEN_TOO_SLOW,
        Reason.PREFILL_TOO_SLOW,
        Reason.TOO_SLOW_AT_DEPTH,
        Reason.TOOL_CALLS_BROKEN,
        Reason.REASONING_BROKEN,
        Reason.JSON_SCHEMA_BROKEN,
    }
)
_MAY_CLEAR_ON_RESTART = frozenset({Reason.ENGINE_EXITED, Reason.MODEL_UNAVAILABLE, Reason.MODEL_REJECTED})


def verdict_reason(text: str) -> Reason | None:
    """The reason as an enum. None for the scheduler's and the kubelet's reasons, which the status contains too."""
    return Reason(text) if text in Reason.__members__.values() else None


def is_failure(text: str) -> bool:
    """Whether a reason in the status is a failure. All reasons of the scheduler and the kubelet are."""
    known = verdict_reason(text)
    return known is None or known.is_failure


MEANINGS: dict[str, str] = {
    Reason.PASSED: "The replica answers correctly and decodes fast enough.",
    Reason.ENGINE_STARTING: "The model is being downloaded, or the engine waits for its flags, loads or is measured.",
    Reason.MODEL_UNAVAILABLE: "The model could not be downloaded. The message has the hub's or registry's answer and "
    "the remedy.",
    Reason.MODEL_REJECTED: "The checkpoint's headers show that it cannot be served as requested, so vLLM was not "
    "started. The message names the tensors and the remedy.",
    Reason.PLUGIN_ABSENT: "The engine runs without the vLLM plugin that checks what is loaded: use an image with it.",
    Reason.ENGINE_EXITED: "The engine exited or was killed. The message has the line of its log that shows the cause, "
    "and the remedy; or it says what stopped the engine, or that the pod does not record it.",
    Reason.OUT_OF_MEMORY: "The engine ran out of memory: of the GPUs, of its container or in /dev/shm. The message has "
    "the evidence and the remedy.",
    Reason.STARTUP_HANG: "The engine did not become healthy within readiness.startupTimeoutSeconds, or is healthy but "
    "produces no token. The GPUs' link is often the cause.",
    Reason.WRONG_OUTPUT: "The golden answer is wrong: the GPUs' link corrupts data, or the checkpoint is broken.",
    Reason.SPECULATION_ABSENT: "Speculation is enabled but the engine drafts nothing: the checkpoint has no MTP head.",
    Reason.DRAFT_DEAD: "Tokens are drafted but none is accepted: the MTP head's weights are missing, misnamed or zero.",
    Reason.ACCEPTANCE_TOO_LOW: "The first drafted token is accepted less often than readiness.minAcceptancePercent, or "
    "a step yields fewer tokens than readiness.minAcceptanceLengthPercent.",
    Reason.TOO_SLOW: "The replica decodes slower than its floor: readiness.minDecodeTokensPerSecond, or a learned one.",
    Reason.FIRST_TOKEN_TOO_SLOW: "The time to the first token exceeds readiness.maxFirstTokenMillis.",
    Reason.PREFILL_TOO_SLOW: "A prompt of readiness.promptTokens is read slower than "
    "readiness.minPrefillTokensPerSecond.",
    Reason.TOO_SLOW_AT_DEPTH: "After a prompt of readiness.promptTokens the replica decodes slower than "
    "readiness.minDepthDecodePercent of its floor.",
    Reason.TOOL_CALLS_BROKEN: "The engine's tool-call parser is on, but a question that needs a tool gets no tool "
    "call. A warning, unless readiness.features is Require.",
    Reason.REASONING_BROKEN: "The engine's reasoning parser is on, but the answer contains the reasoning. A warning, "
    "unless readiness.features is Require.",
    Reason.JSON_SCHEMA_BROKEN: "An answer does not follow the requested JSON schema. A warning, unless "
    "readiness.features is Require.",
    Reason.DEGRADED: "The replica passed, but is slow, has a dead draft or hangs while it serves (readiness.serving).",
    Reason.INCONCLUSIVE: "The measurement was disturbed and will be repeated.",
}
"""What each reason means, for the reference."""
