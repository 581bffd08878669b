"""The judge: an ordered chain of checks over the evidence, the first that objects decides.

    ModelUnavailable            the model could not be fetched; nothing is started before it is there
    ModelRejected               the launcher has looked at the checkpoint, and started nothing
    StartupHang                 this run of the engine has not become healthy within its time, or is and gives no token
    EngineExited, OutOfMemory   the process ended, and has not been healthy since
    EngineStarting              not healthy yet, or not tried yet
    PluginAbsent                healthy, and nothing has checked what was loaded
    Inconclusive                something was measured, but not what it should be
    WrongOutput                 the golden answer is wrong: nothing else matters then
    SpeculationAbsent           drafts are expected, and the engine makes none
    DraftDead                   drafts are made, and none is accepted: the MTP head is broken, silently
    AcceptanceTooLow, TooSlow, FirstTokenTooSlow
    Passed

Each reason is one cause for one remedy, and the message carries the figures and the remedy. `Degraded` is for an
engine that passed and fails while it serves: `serving_health` finds that out.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from flash_contracts.engine_record import Exit
from flash_contracts.gate_config import GateConfig
from flash_contracts.verdict_reason import Reason
from flash_engine.gate.evidence import Evidence, GoldenAnswers, Trial
from flash_engine.gate.exit_reason import met_expandable_segments, ran_out_of_memory, telling_line

DEAD_DRAFT_PERCENT = 2.0
"""A head of random weights had 6 of 382 drafts accepted, 1.6 %: below this it is chance."""

DEGENERATE_RUN = 8
"""One piece so many times over is no answer: wrong data over a link reads like that."""

KILLED_BY_HOST = 137
"""128 + SIGKILL, as a shell in between would pass it on."""


@dataclass(frozen=True)
class Verdict:
    """A reason of the contract, and a sentence."""

    reason: Reason
    message: str

    @property
    def passed(self) -> bool:
        return self.reason == Reason.PASSED


Check = Callable[[Evidence, GateConfig], Verdict | None]


def judge(evidence: Evidence, config: GateConfig) -> Verdict:
    """The verdict; pure, so the same evidence under new floors can be judged again."""
    for check in CHAIN:
        verdict = check(evidence, config)
        if verdict:
            return verdict
    return _passed(evidence, config)


def startup_hang(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """Before the last exit: that a run came after it and got stuck is the newer news."""
    patience = config.startup_seconds(evidence.checkpoint_bytes)
    if evidence.was_healthy or evidence.starting_seconds <= patience:
        return None
    incident = evidence.engine.incident
    remedy = (
        f"the safe set did not help either, after {incident.kind} ({incident.signature}), so look beyond peer-to-peer"
        if incident
        else "a hang after NCCL's start or while graphs are captured points to the GPUs' link, so try "
        "interconnect.mode Safe"
    )
    return Verdict(
        Reason.STARTUP_HANG,
        f"the engine has not become healthy within {patience:.0f} s, it was started "
        f"{evidence.starting_seconds:.0f} s ago: its log tells where it stands; {remedy}",
    )


def model_unavailable(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """A failure stays until another attempt has come further, so that it is seen between two attempts."""
    delivery = evidence.delivery
    if delivery is None or not evidence.is_being_delivered or delivery.failure is None:
        return None
    return Verdict(Reason.MODEL_UNAVAILABLE, delivery.failure)


def being_delivered(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """Time that counts against nothing: the fetch itself ends where no byte comes."""
    delivery = evidence.delivery
    return Verdict(Reason.ENGINE_STARTING, delivery.told) if delivery and evidence.is_being_delivered else None


def model_rejected(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """The launcher looked at the checkpoint and started nothing; its sentences name tensors and remedy."""
    rejection = evidence.engine.rejection
    return Verdict(Reason.MODEL_REJECTED, rejection) if rejection else None


def plugin_absent(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """vLLM goes on without a plugin that it cannot import, and then nothing checked what was loaded."""
    if not config.plugin_required or not evidence.healthy or evidence.engine.plugin:
        return None
    return Verdict(
        Reason.PLUGIN_ABSENT,
        "the engine serves, and its vLLM plugin never said that it is active, so nothing has checked what was loaded: "
        "use an engine image with the plugin, and look for its name in the engine's log",
    )


def engine_ended(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """Its last exit stands until the engine is healthy again: a restart that loads is no news."""
    ended = evidence.ended
    if ended is None:
        return None
    starts = evidence.engine.starts
    told = (
        f"the engine ended with {_how(ended)} ({starts} {'start' if starts == 1 else 'starts'} so far): "
        f"{telling_line(ended.last_lines) or 'it said nothing'}"
    )
    if ran_out_of_memory(ended.last_lines) or ended.signal == "SIGKILL" or ended.code == KILLED_BY_HOST:
        remedy = "lower engine.memoryPercent, contextTokens or maxSequences, or raise the container's memory limit"
        return Verdict(Reason.OUT_OF_MEMORY, f"{told}; {remedy}")
    if met_expandable_segments(ended.last_lines):
        remedy = (
            "custom all-reduce cannot share such memory, so take expandable_segments out of PYTORCH_CUDA_ALLOC_CONF"
        )
        return Verdict(Reason.ENGINE_EXITED, f"{told}; {remedy}")
    return Verdict(
        Reason.ENGINE_EXITED, f"{told}; the log of the container engine has the rest (kubectl logs --previous)"
    )


def still_starting(evidence: Evidence, config: GateConfig) -> Verdict | None:
    if evidence.healthy:
        return None
    if evidence.was_healthy:
        return Verdict(Reason.ENGINE_STARTING, "the engine was healthy and is so no more: it either recovers or ends")
    if evidence.engine.starts == 0:
        return Verdict(Reason.ENGINE_STARTING, "the engine's launcher has not started yet")
    incident = evidence.engine.incident
    if incident:
        told = f"{incident.kind} ({incident.signature}): {incident.detail}"
        return Verdict(Reason.ENGINE_STARTING, f"the engine is starting again with the safe set, after {told}")
    phases = {"WaitingForFlags": "waiting for its node's flags", "Starting": "loading"}
    return Verdict(Reason.ENGINE_STARTING, f"the engine is {phases.get(evidence.engine.phase, 'about to start')}")


def stalled(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """Healthy by its own word, and not one token: the same hang as before /health answered, seen by a request."""
    trial = evidence.trial
    if trial is None or not trial.stalled:
        return None
    return Verdict(Reason.STARTUP_HANG, f"{trial.doubt}; try interconnect.mode Safe, or delete the pod")


def in_doubt(evidence: Evidence, config: GateConfig) -> Verdict | None:
    doubt = evidence.trial.doubt if evidence.trial else None
    return _inconclusive(doubt, config) if doubt else None


def wrong_output(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """Before speed: an engine that is fast and wrong is the worst of all."""
    trial = evidence.trial
    if trial is None or trial.golden is None:
        return None
    fault = golden_fault(trial.golden, config) or crowd_fault(trial, config)
    if fault is None:
        return None
    remedy = "wrong data over the GPUs' link or a broken checkpoint; try interconnect.mode Safe"
    return Verdict(Reason.WRONG_OUTPUT, f"{fault}: {remedy}")


def golden_fault(golden: GoldenAnswers, config: GateConfig) -> str | None:
    """What is wrong with the answers, in words; None for right ones.

    Two greedy answers may differ: a prefix that is cached is computed in another order, and a near-tie can flip. Where
    the answer is known, both being right is enough; where it is not, sameness is the only check there is.
    """
    for text in golden.texts:
        fault = _fault(text, config)
        if fault:
            return f"the golden answer {_quoted(text)} {fault}"
    if config.golden.expect is None and len(set(golden.texts)) > 1:
        both = " and ".join(_quoted(text) for text in golden.texts)
        return f"the same greedy question was answered in different ways, {both}"
    return None


def crowd_fault(trial: Trial, config: GateConfig) -> str | None:
    """Answers among many requests may differ from each other: what is computed beside others rounds otherwise."""
    for text in trial.concurrent_round.texts if trial.concurrent_round else ():
        fault = _fault(text, config)
        if fault:
            return f"the golden answer {_quoted(text)} among {config.decode.streams} requests at once {fault}"
    return None


def not_measured(evidence: Evidence, config: GateConfig) -> Verdict | None:
    return None if evidence.measurement else Verdict(Reason.ENGINE_STARTING, "the engine is healthy and being measured")


def foreign_traffic(evidence: Evidence, config: GateConfig) -> Verdict | None:
    figures = evidence.measurement
    if figures is None or not (figures.foreign_tokens or figures.foreign_requests):
        return None
    told = f"{figures.foreign_tokens} tokens" if figures.foreign_tokens else f"{figures.foreign_requests} requests"
    return _inconclusive(f"the engine decoded {told} for others while {figures.tokens} were timed", config)


def counters_astray(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """Counters that stand still or fall: what they say of drafts is worth nothing."""
    figures = evidence.measurement
    if figures is None:
        return None
    if figures.counted_tokens < figures.tokens:
        told = f"vllm:generation_tokens_total moved by {figures.counted_tokens} while {figures.tokens} tokens came"
        return _inconclusive(told, config)
    drafted, accepted = figures.drafted or 0, figures.accepted or 0
    if not 0 <= accepted <= drafted:
        told = f"vllm:spec_decode counters say that {accepted} of {drafted} drafted tokens were accepted"
        return _inconclusive(told, config)
    return None


def speculation_absent(evidence: Evidence, config: GateConfig) -> Verdict | None:
    figures = evidence.measurement
    if figures is None or not config.speculation.expected or figures.drafted:
        return None
    told = "exports no draft counters" if figures.drafted is None else "drafted no token"
    return Verdict(
        Reason.SPECULATION_ABSENT,
        f"the engine {told} over {figures.tokens} tokens: speculation is off; "
        "the checkpoint has no MTP head, or an extra argument switches it off",
    )


def draft_dead(evidence: Evidence, config: GateConfig) -> Verdict | None:
    figures = evidence.measurement
    if figures is None or figures.acceptance_percent is None or not config.speculation.expected:
        return None
    if figures.acceptance_percent >= DEAD_DRAFT_PERCENT:
        return None
    return Verdict(
        Reason.DRAFT_DEAD,
        f"{figures.accepted} of {figures.drafted} drafted tokens accepted while answers are right: the MTP head's "
        "weights are missing, misnamed or zero, so serve a checkpoint that has them, or set speculation.method "
        f"Disabled; decode {figures.decode_tokens_per_second:.1f} tok/s",
    )


def acceptance_too_low(evidence: Evidence, config: GateConfig) -> Verdict | None:
    figures = evidence.measurement
    if figures is None or figures.acceptance_percent is None or not config.speculation.expected:
        return None
    if figures.acceptance_percent >= config.min_acceptance_percent:
        return None
    return Verdict(
        Reason.ACCEPTANCE_TOO_LOW,
        f"{figures.acceptance_percent:.1f} % of {figures.drafted} drafted tokens accepted, wanted at least "
        f"{config.min_acceptance_percent:g} %: the head drafts badly, or readiness.minAcceptancePercent is too high",
    )


def too_slow(evidence: Evidence, config: GateConfig) -> Verdict | None:
    figures = evidence.measurement
    if figures is None or figures.decode_tokens_per_second >= config.floor:
        return None
    return Verdict(
        Reason.TOO_SLOW,
        f"decode {figures.decode_tokens_per_second:.1f} tok/s, wanted at least {_floor(config)}: look at the node's "
        "link, clocks and flags, or lower readiness.minDecodeTokensPerSecond",
    )


def first_token_too_slow(evidence: Evidence, config: GateConfig) -> Verdict | None:
    figures, ceiling = evidence.measurement, config.max_first_token_millis
    if figures is None or ceiling is None or figures.first_token_millis <= ceiling:
        return None
    return Verdict(
        Reason.FIRST_TOKEN_TOO_SLOW,
        f"first token after {figures.first_token_millis:.0f} ms, wanted at most {ceiling:g} ms: "
        "lower engine.batchedTokens, or raise readiness.maxFirstTokenMillis",
    )


CHAIN: tuple[Check, ...] = (
    model_unavailable,
    being_delivered,
    model_rejected,
    startup_hang,
    engine_ended,
    still_starting,
    plugin_absent,
    stalled,
    in_doubt,
    wrong_output,
    not_measured,
    foreign_traffic,
    counters_astray,
    speculation_absent,
    draft_dead,
    acceptance_too_low,
    too_slow,
    first_token_too_slow,
)


def _passed(evidence: Evidence, config: GateConfig) -> Verdict:
    figures = evidence.measurement
    if figures is None:
        raise ValueError("nothing was measured, so nothing can have passed")
    drafts = (
        f", {figures.acceptance_percent:.0f} % of drafts accepted" if figures.acceptance_percent is not None else ""
    )
    return Verdict(
        Reason.PASSED,
        f"decode {figures.decode_tokens_per_second:.1f} tok/s, wanted at least {_floor(config)}{drafts}, "
        f"first token after {figures.first_token_millis:.0f} ms",
    )


def _floor(config: GateConfig) -> str:
    is_learned = config.learned is not None and config.floor_origin == "Learned"
    return f"{config.floor:g} ({config.learned.told})" if config.learned and is_learned else f"{config.floor:g}"


def _fault(text: str, config: GateConfig) -> str | None:
    if not text.strip():
        return "is empty"
    if config.golden.expect is not None and not re.search(config.golden.expect, text):
        return f"does not contain {config.golden.expect!r}"
    if config.golden.expect is None and _is_degenerate(text):
        return "repeats itself"
    return None


def _is_degenerate(text: str) -> bool:
    """Like "!!!!" or one word over and over, as reported for all-reduce over broken peer-to-peer."""
    spoken = " ".join(text.split())
    longest = (len(spoken) + 1) // DEGENERATE_RUN
    return any(_repeats(f"{spoken} ", length) or _repeats(spoken, length) for length in range(1, longest + 1))


def _repeats(text: str, length: int) -> bool:
    """The text is its first `length` characters over and over, enough times to be nonsense."""
    times = len(text) // length
    return times >= DEGENERATE_RUN and text == (text[:length] * (times + 1))[: len(text)]


def _inconclusive(told: str, config: GateConfig) -> Verdict:
    return Verdict(Reason.INCONCLUSIVE, f"{told}; measuring again in {config.retry_seconds:g} s")


def _how(ended: Exit) -> str:
    return f"signal {ended.signal}" if ended.signal else f"exit code {ended.code}"


def _quoted(text: str, limit: int = 80) -> str:
    return repr(text if len(text) <= limit else f"{text[:limit]}…")
