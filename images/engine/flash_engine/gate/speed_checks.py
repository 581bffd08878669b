"""Checks the figures: whether they can be trusted, then drafts and speed. Pure."""

from flash_contracts.gate_config import GateConfig
from flash_contracts.verdict_reason import Reason
from flash_engine.gate.evidence import Evidence
from flash_engine.gate.measurement import Measurement
from flash_engine.gate.sprt import interval
from flash_engine.gate.verdict import Verdict, floor_text, inconclusive, prefill_text

DEAD_DRAFT_PERCENT = 2.0
"""Below this, acceptance is chance: a head with random weights had 6 of 382 drafts accepted, 1.6 %."""


def not_measured(evidence: Evidence, config: GateConfig) -> Verdict | None:
    return None if evidence.measurement else Verdict(Reason.ENGINE_STARTING, "the engine is healthy and being measured")


def foreign_traffic(evidence: Evidence, config: GateConfig) -> Verdict | None:
    figures = evidence.measurement
    if figures is None or not (figures.foreign_tokens or figures.foreign_requests):
        return None
    foreign = f"{figures.foreign_tokens} tokens" if figures.foreign_tokens else f"{figures.foreign_requests} requests"
    return inconclusive(f"the engine decoded {foreign} for other clients while {figures.tokens} were timed", config)


def implausible_counters(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """Counters that stand still or decrease are no basis for a verdict on drafts."""
    figures = evidence.measurement
    if figures is None:
        return None
    if figures.counted_tokens < figures.tokens:
        doubt = f"vllm:generation_tokens_total rose by {figures.counted_tokens} while {figures.tokens} tokens arrived"
        return inconclusive(doubt, config)
    drafted, accepted = figures.drafted or 0, figures.accepted or 0
    if not 0 <= accepted <= drafted:
        doubt = f"by the vllm:spec_decode counters, {accepted} of {drafted} drafted tokens were accepted"
        return inconclusive(doubt, config)
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
    """Whether first drafted tokens were accepted more often than by chance. Few drafts need a wider margin."""
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
        f"{share}, {length:.2f} tokens per step, {wanted}", "readiness.minAcceptanceLengthPercent", figures
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
        f"decode {figures.decode_tokens_per_second:.1f} tok/s, wanted at least {floor_text(config)}: check the node's "
        "link, clocks and flags, or lower readiness.minDecodeTokensPerSecond",
    )


def concurrent_requests_too_slow(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """Concurrent requests together must reach the floor of one: more users must not get fewer tokens in total."""
    found = evidence.trial.concurrent_round if evidence.trial else None
    if found is None or found.disturbed or found.tokens_per_second >= config.floor:
        return None
    return Verdict(
        Reason.TOO_SLOW,
        f"{found.streams} requests at once decode {found.tokens_per_second:.1f} tok/s together, wanted at least "
        f"{floor_text(config)}, the floor of one alone: lower engine.maxSequences, or check the node's link, clocks "
        "and flags",
    )


def slower_than_before(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """Slow in one measurement so far: the rollout is rolled back only if a second one confirms it."""
    figures, limit, earlier = evidence.measurement, config.measure_again_below, evidence.earlier_speed
    if figures is None or limit is None or figures.decode_tokens_per_second >= limit:
        return None
    if earlier is not None and earlier < limit:
        return None
    return Verdict(
        Reason.ENGINE_STARTING,
        f"decode {figures.decode_tokens_per_second:.1f} tok/s, and below {limit:.1f} the rollout is rolled back: "
        f"measuring again in {config.retry_seconds:g} s",
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
        f"{prefill_text(figures)}, wanted at least {floor:g}: check the node's link and clocks, raise "
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
        f"wanted at least {config.depth_floor:.1f} ({percent:g} % of {floor_text(config)}), and "
        f"{figures.decode_tokens_per_second:.1f} tok/s after a short one: attention over the KV cache is slow, so "
        "check its kernel in the engine's log, or lower readiness.minDepthDecodePercent",
    )
