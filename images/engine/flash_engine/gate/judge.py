"""Judges the evidence by an ordered chain of checks. The first check that objects decides the verdict.

    ModelUnavailable            the model could not be downloaded; the engine starts only after that
    ModelRejected               the launcher checked the checkpoint, and did not start the engine
    StartupHang                 this run of the engine did not become healthy in time, or is healthy but gives no token
    EngineExited, OutOfMemory   the process exited, and the engine has not been healthy since
    EngineStarting              not healthy yet, or not tried yet
    PluginAbsent                healthy, but nothing has checked what was loaded
    Inconclusive                the measurement was disturbed
    WrongOutput                 the golden answer is wrong, so nothing else matters
    SpeculationAbsent           drafts are expected, but the engine makes none
    DraftDead                   drafts are made, but none is accepted: the MTP head is broken, which causes no error
    AcceptanceTooLow, TooSlow, FirstTokenTooSlow, PrefillTooSlow, TooSlowAtDepth
    ToolCallsBroken, ReasoningBroken, JsonSchemaBroken    where the user requires them
    EngineStarting              slower than the rollout allows in the first measurement, so it is measured again
    Passed

Each reason has one cause and one remedy; the message has the figures and the remedy. An engine that passed and fails
while serving is `Degraded`: `serving_health` detects that.
"""

from collections.abc import Callable

from flash_contracts.gate_config import GateConfig
from flash_contracts.verdict_reason import Reason
from flash_engine.gate.evidence import Evidence
from flash_engine.gate.measurement import Measurement
from flash_engine.gate.output_checks import feature_broken, warnings, wrong_output
from flash_engine.gate.speed_checks import (
    acceptance_too_low,
    concurrent_requests_too_slow,
    draft_dead,
    first_token_too_slow,
    foreign_traffic,
    implausible_counters,
    not_measured,
    prefill_too_slow,
    slower_than_before,
    speculation_absent,
    too_slow,
    too_slow_at_depth,
)
from flash_engine.gate.start_checks import (
    downloading,
    engine_exited,
    hung_at_startup,
    model_rejected,
    model_unavailable,
    plugin_absent,
    stalled,
    still_starting,
    trial_in_doubt,
)
from flash_engine.gate.verdict import Verdict, floor_text, prefill_text

Check = Callable[[Evidence, GateConfig], Verdict | None]


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
    concurrent_requests_too_slow,
    first_token_too_slow,
    prefill_too_slow,
    too_slow_at_depth,
    feature_broken,
    slower_than_before,
)


def judge(evidence: Evidence, config: GateConfig) -> Verdict:
    """Pure, so the same evidence can be judged again by other floors."""
    for check in CHAIN:
        verdict = check(evidence, config)
        if verdict:
            return verdict
    return _passed(evidence, config)


def _passed(evidence: Evidence, config: GateConfig) -> Verdict:
    figures = evidence.measurement
    if figures is None:
        raise ValueError("nothing was measured, so nothing can have passed")
    drafts = (
        f", {figures.acceptance_percent:.0f} % of drafts accepted" if figures.acceptance_percent is not None else ""
    )
    if figures.acceptance_length is not None and figures.drafted != figures.drafts:
        drafts += f" ({figures.acceptance_length:.2f} tokens per step)"
    return Verdict(
        Reason.PASSED,
        f"decode {figures.decode_tokens_per_second:.1f} tok/s, wanted at least {floor_text(config)}{drafts}, "
        f"first token after {figures.first_token_millis:.0f} ms{_at_depth(figures)}"
        + "".join(f"; warning: {warning.reason}: {warning.message}" for warning in warnings(evidence, config)),
    )


def _at_depth(figures: Measurement) -> str:
    if figures.prefill_tokens_per_second is None:
        return ""
    decode = figures.depth_decode_tokens_per_second
    return f"; {prefill_text(figures)}" + ("" if decode is None else f", then decode {decode:.1f} tok/s")
