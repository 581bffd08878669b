"""The reasons of a verdict on one replica: the gate gives them, and the operator acts on them."""

from enum import StrEnum


class Reason(StrEnum):
    """One cause each, for one remedy."""

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
    DEGRADED = "Degraded"
    INCONCLUSIVE = "Inconclusive"

    @property
    def is_pending(self) -> bool:
        """Nothing was found out yet: the gate looks again by itself."""
        return self in _PENDING

    @property
    def is_failure(self) -> bool:
        """The replica does not do what it should."""
        return self is not Reason.PASSED and not self.is_pending

    @property
    def is_lasting(self) -> bool:
        """Another look at the same engine does not change it."""
        return self in _LASTING

    @property
    def is_of_a_start(self) -> bool:
        """The next start may change it: an engine may do better, and a hub that was away may be back."""
        return self in _OF_A_START


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
    }
)
_OF_A_START = frozenset({Reason.ENGINE_EXITED, Reason.MODEL_UNAVAILABLE, Reason.MODEL_REJECTED})


def verdict_reason(text: str) -> Reason | None:
    """None for the scheduler's and the kubelet's own reasons, which status repeats beside these."""
    return Reason(text) if text in Reason.__members__.values() else None


def is_failure(text: str) -> bool:
    """Of any reason that status may have. Those of the scheduler and the kubelet are failures."""
    known = verdict_reason(text)
    return known is None or known.is_failure


MEANINGS: dict[str, str] = {
    Reason.PASSED: "The replica decodes as fast as it must, and answers right.",
    Reason.ENGINE_STARTING: "The model is being fetched, or the engine waits for its flags, "
    "loads, or is being measured.",
    Reason.MODEL_UNAVAILABLE: "The model could not be fetched: the message says what refused it, and what to do.",
    Reason.MODEL_REJECTED: "The checkpoint cannot be served as asked, by its headers: the "
    "message names tensors and remedy.",
    Reason.PLUGIN_ABSENT: "The engine serves without the vLLM plugin that checks what is "
    "loaded: use an image that has it.",
    Reason.ENGINE_EXITED: "The engine ended; the message has its own last words.",
    Reason.OUT_OF_MEMORY: "The engine ended for want of memory: lower engine.memoryPercent, "
    "contextTokens or maxSequences.",
    Reason.STARTUP_HANG: "The engine did not become healthy within readiness.startupTimeoutSeconds, or calls itself "
    "healthy and gives no token; often the GPUs' link.",
    Reason.WRONG_OUTPUT: "The golden answer is wrong: wrong data over the GPUs' link, or a broken checkpoint.",
    Reason.SPECULATION_ABSENT: "Drafts are wanted and the engine makes none: the checkpoint has no MTP head.",
    Reason.DRAFT_DEAD: "Drafts are made and none is accepted: the MTP head's weights are missing, misnamed or zero.",
    Reason.ACCEPTANCE_TOO_LOW: "Fewer drafts are accepted than readiness.minAcceptancePercent.",
    Reason.TOO_SLOW: "It decodes slower than readiness.minDecodeTokensPerSecond.",
    Reason.FIRST_TOKEN_TOO_SLOW: "The first token comes later than readiness.maxFirstTokenMillis.",
    Reason.DEGRADED: "It passed, and is slow, has a dead draft or hangs while it serves (readiness.serving).",
    Reason.INCONCLUSIVE: "Something disturbed the measurement; it is repeated.",
}
"""Each reason with what it means, for the reference."""
