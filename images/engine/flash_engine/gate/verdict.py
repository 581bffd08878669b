"""Judges the evidence by an ordered chain of checks. The first check that objects decides the verdict.

    ModelUnavailable            the model could not be downloaded; the engine starts only after that
    ModelRejected               the launcher checked the checkpoint, and did not start the engine
    StartupHang                 this run of the engine did not become healthy in time, or is healthy but gives no token
    EngineExited, OutOfMemory   the process exited, and the engine has not been healthy since
    EngineStarting              not healthy yet, or not tried yet
    PluginAbsent                healthy, but nothing has checked what was loaded
    Inconclusive                the measurement was disturbed
    WrongOutput                 the golden answer is wrong: nothing else matters then
    SpeculationAbsent           drafts are expected, but the engine makes none
    DraftDead                   drafts are made, but none is accepted: the MTP head is broken, which causes no error
    AcceptanceTooLow, TooSlow, FirstTokenTooSlow, PrefillTooSlow, TooSlowAtDepth
    ToolCallsBroken, ReasoningBroken, JsonSchemaBroken    where the user requires them
    Passed

Each reason has one cause and one remedy; the message has the figures and the remedy. An engine that passed and fails
while serving is `Degraded`: `serving_health` detects that.
"""

from collections.abc import Callable
from dataclasses import dataclass

from flash_contracts.gate_config import GateConfig
from flash_contracts.verdict_reason import Reason
from flash_engine.gate.answer_checks import (
    concurrent_round_fault,
    depth_fault,
    golden_fault,
    long_answer_fault,
    timed_fault,
)
from flash_engine.gate.evidence import Evidence
from flash_engine.gate.exit_reason import earlier_end, explain_exit
from flash_engine.gate.measurement import Measurement
from flash_engine.gate.sprt import interval

DEAD_DRAFT_PERCENT = 2.0
"""Below this, acceptance is chance: a head with random weights had 6 of 382 drafts accepted, 1.6 %."""

LOOK_SECONDS = 10.0
"""How long the launcher may take to see what an engine does that gave no token."""


@dataclass(frozen=True)
class Verdict:
    """One of the contract's reasons, and a message."""

    reason: Reason
    message: str

    @property
    def passed(self) -> bool:
        return self.reason == Reason.PASSED


Check = Callable[[Evidence, GateConfig], Verdict | None]


def judge(evidence: Evidence, config: GateConfig) -> Verdict:
    """The verdict. Pure: the same evidence can be judged again by other floors."""
    for check in CHAIN:
        verdict = check(evidence, config)
        if verdict:
            return verdict
    return _passed(evidence, config)


def hung_at_startup(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """Checked before the last exit: if a later run hangs, that is the more recent failure."""
    patience = config.startup_seconds(evidence.checkpoint_bytes)
    if evidence.was_healthy or evidence.starting_seconds <= patience:
        return None
    incident = evidence.engine.incident
    remedy = (
        f"the safe flags, set after {incident.kind} ({incident.signature}), did not help, so look for causes "
        "other than peer-to-peer"
        if incident
        else "a hang after NCCL's initialisation or during graph capture points to the link between the GPUs, so try "
        "interconnect.mode Safe"
    )
    return Verdict(
        Reason.STARTUP_HANG,
        f"the engine has not become healthy within {patience:.0f} s (started {evidence.starting_seconds:.0f} s ago): "
        f"the end of its log shows where it hangs; {remedy}",
    )


def model_unavailable(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """A failure stays until a later attempt gets further, so that it is visible between attempts."""
    download = evidence.download
    if download is None or not evidence.is_downloading or download.failure is None:
        return None
    return Verdict(Reason.MODEL_UNAVAILABLE, download.failure)


def downloading(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """The download counts against no time limit: flash-fetch itself fails if no bytes arrive."""
    download = evidence.download
    return Verdict(Reason.ENGINE_STARTING, download.summary) if download and evidence.is_downloading else None


def model_rejected(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """The launcher rejected the checkpoint; its message names the tensors and the remedy."""
    rejection = evidence.engine.rejection
    return Verdict(Reason.MODEL_REJECTED, rejection) if rejection else None


def plugin_absent(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """vLLM runs without a plugin that it cannot import, and then nothing has checked what was loaded."""
    if not config.plugin_required or not evidence.healthy or evidence.engine.plugin:
        return None
    return Verdict(
        Reason.PLUGIN_ABSENT,
        "the engine serves without the vLLM plugin, so nothing has checked what was loaded: use an engine image with "
        "the plugin, and look for its name in the engine's log",
    )


def engine_exited(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """The last exit is reported until the engine is healthy again, also while the next run loads.

    A stop or a restarted node says nothing about the engine, so it is no news once the next run has begun.
    """
    ended = evidence.ended
    if ended is None or (earlier_end(ended) and evidence.engine.phase != "Exited"):
        return None
    reason, message = explain_exit(ended, evidence.engine.starts)
    if evidence.engine.incident and "interconnect.mode" in message:
        message += "; here the safe flags are in use already, so look for causes other than the GPUs' link"
    return Verdict(reason, message)


def still_starting(evidence: Evidence, config: GateConfig) -> Verdict | None:
    if evidence.healthy:
        return None
    if evidence.was_healthy:
        return Verdict(
            Reason.ENGINE_STARTING, "the engine stopped answering /health; waiting for it to recover or exit"
        )
    if evidence.engine.starts == 0:
        return Verdict(Reason.ENGINE_STARTING, "the engine's launcher has not started yet")
    incident = evidence.engine.incident
    if incident:
        cause = f"{incident.kind} ({incident.signature}): {incident.detail}"
        return Verdict(Reason.ENGINE_STARTING, f"the engine is restarting with the safe flags after {cause}")
    phases = {"WaitingForFlags": "waiting for its node's flags", "Starting": "loading"}
    before = earlier_end(evidence.ended) if evidence.ended else ""
    phase = f"the engine is {phases.get(evidence.engine.phase, 'about to start')}"
    return Verdict(Reason.ENGINE_STARTING, f"{phase}; {before}" if before else phase)


def stalled(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """Healthy, but not one token: the same hang as one before the first answer to /health, but seen by a request.

    Only the launcher sees whether the engine computes instead, and it needs a moment to look.
    """
    trial = evidence.trial
    if trial is None or not trial.stalled:
        return None
    if evidence.unanswered_seconds < LOOK_SECONDS:
        return _inconclusive(f"{trial.doubt}: it hangs, unless it computes", config)
    return Verdict(
        Reason.STARTUP_HANG, f"{trial.doubt}: the engine hangs; try interconnect.mode Safe, or delete the pod"
    )


def trial_in_doubt(evidence: Evidence, config: GateConfig) -> Verdict | None:
    doubt = evidence.trial.doubt if evidence.trial else None
    return _inconclusive(doubt, config) if doubt else None


def wrong_output(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """Checked before speed: a fast engine with wrong answers is the worst of all."""
    trial = evidence.trial
    if trial is None or trial.golden is None:
        return None
    fault = (
        golden_fault(trial.golden, config)
        or long_answer_fault(trial.long_answers, config)
        or timed_fault(trial, config)
        or depth_fault(trial, config)
        or concurrent_round_fault(trial, config)
    )
    if fault is None:
        return None
    return Verdict(Reason.WRONG_OUTPUT, f"{fault}: {_wrong_output_remedy(evidence, config)}")


def _wrong_output_remedy(evidence: Evidence, config: GateConfig) -> str:
    incident = evidence.engine.incident
    if incident is None or incident.kind != "corrupt":
        return "the link between the GPUs corrupts data, or the checkpoint is broken; try interconnect.mode Safe"
    asked = "readiness.golden.expect, or the checkpoint" if config.golden.expect is not None else "the checkpoint"
    return f"it is wrong without peer-to-peer too, so the links are not the cause: correct {asked}"


def not_measured(evidence: Evidence, config: GateConfig) -> Verdict | None:
    return None if evidence.measurement else Verdict(Reason.ENGINE_STARTING, "the engine is healthy and being measured")


def foreign_traffic(evidence: Evidence, config: GateConfig) -> Verdict | None:
    figures = evidence.measurement
    if figures is None or not (figures.foreign_tokens or figures.foreign_requests):
        return None
    foreign = f"{figures.foreign_tokens} tokens" if figures.foreign_tokens else f"{figures.foreign_requests} requests"
    return _inconclusive(f"the engine decoded {foreign} for other clients while {figures.tokens} were timed", config)


def implausible_counters(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """Counters that do not move, or decrease, are no basis for a verdict on drafts."""
    figures = evidence.measurement
    if figures is None:
        return None
    if figures.counted_tokens < figures.tokens:
        doubt = f"vllm:generation_tokens_total rose by {figures.counted_tokens} while {figures.tokens} tokens arrived"
        return _inconclusive(doubt, config)
    drafted, accepted = figures.drafted or 0, figures.accepted or 0
    if not 0 <= accepted <= drafted:
        doubt = f"by the vllm:spec_decode counters, {accepted} of {drafted} drafted tokens were accepted"
        return _inconclusive(doubt, config)
    return None


def speculation_absent(evidence: Evidence, config: GateConfig) -> Verdict | None:
    figures = evidence.measurement
    if figures is None or not config.speculation.expected or figures.drafted:
        return None
    fault = "exports no draft counters" if figures.drafted is None else "drafted no token"
    return Verdict(
        Reason.SPECULATION_ABSENT,
        f"the engine {fault} over {figures.tokens} tokens: speculation is off; "
        "the checkpoint has no MTP head, or an extra argument disables it",
    )


def draft_dead(evidence: Evidence, config: GateConfig) -> Verdict | None:
    figures = evidence.measurement
    if figures is None or figures.acceptance_percent is None or not config.speculation.expected:
        return None
    if first_draft_lives(figures):
        return None
    return Verdict(
        Reason.DRAFT_DEAD,
        f"{figures.accepted} of {figures.drafted} drafted tokens accepted although answers are right: the weights of "
        "the MTP head or DSpark module are missing, misnamed or zero, so serve a checkpoint that has them, or set "
        f"speculation.method Disabled; decode {figures.decode_tokens_per_second:.1f} tok/s",
    )


def first_draft_lives(figures: Measurement) -> bool:
    """Whether first drafted tokens were accepted more often than by chance. Few drafts must show it by more."""
    first = figures.first_draft_percent
    if first is None or not figures.drafts:
        return figures.acceptance_percent is not None and figures.acceptance_percent >= DEAD_DRAFT_PERCENT
    low, _ = interval(first / 100 * figures.drafts, figures.drafts)
    return low >= DEAD_DRAFT_PERCENT


def acceptance_too_low(evidence: Evidence, config: GateConfig) -> Verdict | None:
    figures = evidence.measurement
    if figures is None or figures.acceptance_percent is None or not config.speculation.expected:
        return None
    first, floor = figures.first_draft_percent, config.min_first_draft_percent
    if first is not None and floor is not None and first < floor:
        return _bad_drafts(
            f"the first drafted token accepted in {first:.1f} % of {figures.drafts} steps, wanted at least {floor:g} %",
            "readiness.minAcceptancePercent",
            figures,
        )
    if figures.acceptance_percent >= config.min_acceptance_percent:
        return None
    share = f"{figures.acceptance_percent:.1f} % of {figures.drafted} drafted tokens accepted"
    if config.speculation.tokens == 1:
        wanted = f"wanted at least {config.min_acceptance_percent:g} %"
        return _bad_drafts(f"{share}, {wanted}", "readiness.minAcceptancePercent", figures)
    length = 1 + figures.acceptance_percent / 100 * config.speculation.tokens
    wanted = f"wanted at least {config.min_acceptance_length:.2f}"
    return _bad_drafts(
        f"{share}, {length:.2f} tokens for each step, {wanted}", "readiness.minAcceptanceLengthPercent", figures
    )


def _bad_drafts(seen: str, field: str, figures: Measurement) -> Verdict:
    shares = ", ".join(f"{percent:.0f}" for percent in figures.position_percents)
    positions = f" (by position: {shares} %)" if len(figures.position_percents) > 1 else ""
    cause = "the MTP head or DSpark module drafts badly: check its weights"
    return Verdict(Reason.ACCEPTANCE_TOO_LOW, f"{seen}{positions}; {cause}, or lower {field}")


def too_slow(evidence: Evidence, config: GateConfig) -> Verdict | None:
    figures = evidence.measurement
    if figures is None or figures.decode_tokens_per_second >= config.floor:
        return None
    return Verdict(
        Reason.TOO_SLOW,
        f"decode {figures.decode_tokens_per_second:.1f} tok/s, wanted at least {_floor(config)}: check the node's "
        "link, clocks and flags, or lower readiness.minDecodeTokensPerSecond",
    )


def crowd_too_slow(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """Many requests together must be as fast as one alone must be: more users must not get less between them."""
    found = evidence.trial.concurrent_round if evidence.trial else None
    if found is None or found.disturbed or found.tokens_per_second >= config.floor:
        return None
    return Verdict(
        Reason.TOO_SLOW,
        f"{found.streams} requests at once decode {found.tokens_per_second:.1f} tok/s together, wanted at least "
        f"{_floor(config)}, as of one alone: lower engine.maxSequences, or check the node's link, clocks and flags",
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


def prefill_too_slow(evidence: Evidence, config: GateConfig) -> Verdict | None:
    figures = evidence.measurement
    floor = config.long_prompt.min_prefill_tokens_per_second if config.long_prompt else None
    if figures is None or figures.prefill_tokens_per_second is None or floor is None:
        return None
    if figures.prefill_tokens_per_second >= floor:
        return None
    return Verdict(
        Reason.PREFILL_TOO_SLOW,
        f"{_prefill(figures)}, wanted at least {floor:g}: check the node's link and clocks, raise "
        "engine.batchedTokens, or lower readiness.minPrefillTokensPerSecond",
    )


def too_slow_at_depth(evidence: Evidence, config: GateConfig) -> Verdict | None:
    figures = evidence.measurement
    if figures is None or config.long_prompt is None or figures.depth_decode_tokens_per_second is None:
        return None
    if figures.depth_decode_tokens_per_second >= config.depth_floor:
        return None
    percent = config.long_prompt.min_decode_percent
    return Verdict(
        Reason.TOO_SLOW_AT_DEPTH,
        f"decode {figures.depth_decode_tokens_per_second:.1f} tok/s after a prompt of {figures.prompt_tokens} tokens, "
        f"wanted at least {config.depth_floor:.1f} ({percent:g} % of {_floor(config)}), and "
        f"{figures.decode_tokens_per_second:.1f} tok/s after a short one: attention over the KV cache is slow, so look "
        "for its kernel in the engine's log, or lower readiness.minDepthDecodePercent",
    )


def feature_broken(evidence: Evidence, config: GateConfig) -> Verdict | None:
    if config.features is None or not config.features.required:
        return None
    return next(iter(_broken_features(evidence)), None)


def warnings(evidence: Evidence, config: GateConfig) -> tuple[Verdict, ...]:
    """Broken features that the user does not require."""
    if config.features is None or config.features.required:
        return ()
    return _broken_features(evidence)


FEATURE_REMEDIES = {
    Reason.TOOL_CALLS_BROKEN: "tool calls: {}: check --tool-call-parser, and the chat template",
    Reason.REASONING_BROKEN: "reasoning: {}: check --reasoning-parser, and the chat template",
    Reason.JSON_SCHEMA_BROKEN: "JSON schema: {}: check the structured outputs' backend, and the reasoning parser",
}


def _broken_features(evidence: Evidence) -> tuple[Verdict, ...]:
    faults = evidence.trial.broken_features if evidence.trial else ()
    return tuple(Verdict(fault.reason, FEATURE_REMEDIES[fault.reason].format(fault.detail)) for fault in faults)


CHAIN: tuple[Check, ...] = (
    model_unavailable,
    downloading,
    model_rejected,
    hung_at_startup,
    engine_exited,
    still_starting,
    plugin_absent,
    stalled,
    trial_in_doubt,
    wrong_output,
    not_measured,
    foreign_traffic,
    implausible_counters,
    speculation_absent,
    draft_dead,
    acceptance_too_low,
    too_slow,
    crowd_too_slow,
    first_token_too_slow,
    prefill_too_slow,
    too_slow_at_depth,
    feature_broken,
)


def _passed(evidence: Evidence, config: GateConfig) -> Verdict:
    figures = evidence.measurement
    if figures is None:
        raise ValueError("nothing was measured, so nothing can have passed")
    drafts = (
        f", {figures.acceptance_percent:.0f} % of drafts accepted" if figures.acceptance_percent is not None else ""
    )
    if figures.acceptance_length is not None and figures.drafted != figures.drafts:
        drafts += f" ({figures.acceptance_length:.2f} tokens for each step)"
    return Verdict(
        Reason.PASSED,
        f"decode {figures.decode_tokens_per_second:.1f} tok/s, wanted at least {_floor(config)}{drafts}, "
        f"first token after {figures.first_token_millis:.0f} ms{_at_depth(figures)}"
        + "".join(f"; warning: {warning.reason}: {warning.message}" for warning in warnings(evidence, config)),
    )


def _at_depth(figures: Measurement) -> str:
    if figures.prefill_tokens_per_second is None:
        return ""
    decode = figures.depth_decode_tokens_per_second
    return f"; {_prefill(figures)}" + ("" if decode is None else f", then decode {decode:.1f} tok/s")


def _prefill(figures: Measurement) -> str:
    seconds = (figures.prompt_first_token_millis or 0) / 1000
    if figures.depth_decode_tokens_per_second is None:
        return f"a prompt of {figures.prompt_tokens} tokens had no first token within {seconds:.0f} s"
    return (
        f"a prompt of {figures.prompt_tokens} tokens read at {figures.prefill_tokens_per_second:.0f} tok/s "
        f"({seconds:.1f} s to its first token)"
    )


def _floor(config: GateConfig) -> str:
    is_learned = config.learned is not None and config.floor_origin == "Learned"
    return f"{config.floor:g} ({config.learned.explanation})" if config.learned and is_learned else f"{config.floor:g}"


def _inconclusive(doubt: str, config: GateConfig) -> Verdict:
    return Verdict(Reason.INCONCLUSIVE, f"{doubt}; measuring again in {config.retry_seconds:g} s")
