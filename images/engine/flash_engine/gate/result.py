"""Converts the gate's state to the document that the operator reads: `flash_contracts.gate_result`."""

import math
from dataclasses import replace

from flash_contracts.download_record import DownloadRecord
from flash_contracts.engine_pod import EffectiveFlags
from flash_contracts.engine_record import EngineRecord
from flash_contracts.gate_config import GateConfig
from flash_contracts.gate_result import (
    ConcurrentRoundReport,
    DecodeFigures,
    FullDepthFigures,
    GateResult,
    GateWarning,
    OrderedMeasurement,
    SampleReport,
    ServingReport,
    TrialReport,
    WantedFigures,
)
from flash_contracts.redaction import redact
from flash_contracts.trial_record import LongPrompt
from flash_engine.gate.evidence import Trial
from flash_engine.gate.fault_report import incident_is_proven
from flash_engine.gate.gate_state import GateState
from flash_engine.gate.measurement import Measurement, Sample
from flash_engine.gate.ordered_measuring import Answer
from flash_engine.gate.output_checks import warnings
from flash_engine.gate.verdict import Verdict


def result_of(
    state: GateState, config: GateConfig | None, effective: EffectiveFlags | None, at: float | None = None
) -> GateResult:
    """`at`: seconds on the event loop's clock; without it, the requests on the engine are omitted."""
    evidence = state.evidence
    return GateResult(
        reason=state.verdict.reason,
        passed=state.verdict.passed,
        ready=state.ready,
        message=redact(state.verdict.message),
        checked_at=state.checked_at,
        attempts=state.attempts,
        measurement=_figures(evidence.measurement) if evidence.measurement else None,
        full_depth=_full_depth(evidence.full_depth) if evidence.full_depth else None,
        trial=_trial(evidence.trial, warnings(evidence, config) if config else ()) if evidence.trial else None,
        wanted=_wanted(config) if config else None,
        serving=_serving(state),
        engine_healthy_at=state.healthy_at,
        gate_millis=state.gate_millis,
        effective=effective,
        engine=_without_secrets(evidence.engine),
        ordered=_ordered(state.ordered.answer) if state.ordered.answer else None,
        delivery=_delivery(evidence.download) if evidence.download else None,
        load=None if at is None else state.serving.load(at),
        incident_proven=config is not None
        and incident_is_proven(evidence, config, state.reported_faults, refuted=state.incident_refuted),
    )


def _without_secrets(engine: EngineRecord) -> EngineRecord:
    """Redact the rejection, which may quote a checkpoint's URL. The launcher has redacted the rest."""
    return replace(engine, rejection=redact(engine.rejection)) if engine.rejection else engine


def _delivery(download: DownloadRecord) -> DownloadRecord:
    """Redact what a hub or registry answered: it may quote the requested URL."""
    failure = redact(download.failure) if download.failure else download.failure
    return replace(download, failure=failure, message=redact(download.message))


def _figures(measured: Measurement) -> DecodeFigures:
    acceptance = measured.acceptance_percent
    return DecodeFigures(
        decode_tokens_per_second=round(measured.decode_tokens_per_second, 2),
        acceptance_percent=None if acceptance is None else round(acceptance, 2),
        first_token_millis=round(measured.first_token_millis, 1),
        tokens=measured.tokens,
        drafted=measured.drafted,
        accepted=measured.accepted,
        duration_millis=round(measured.duration_millis),
        drafts=measured.drafts,
        acceptance_length=_rounded(measured.acceptance_length, 3),
        position_percents=tuple(round(percent, 1) for percent in measured.position_percents),
        prompt_tokens=measured.prompt_tokens,
        prompt_first_token_millis=_rounded(measured.prompt_first_token_millis, 1),
        prefill_tokens_per_second=_rounded(measured.prefill_tokens_per_second, 1),
        depth_decode_tokens_per_second=_rounded(measured.depth_decode_tokens_per_second, 2),
    )


def _full_depth(found: LongPrompt) -> FullDepthFigures:
    return FullDepthFigures(
        prompt_tokens=found.tokens,
        first_token_millis=round(found.first_token_millis, 1),
        prefill_tokens_per_second=round(found.prefill_tokens_per_second, 1),
        decode_tokens_per_second=_rounded(found.decode_tokens_per_second, 2),
    )


def _trial(trial: Trial, warned: tuple[Verdict, ...]) -> TrialReport:
    concurrent_round, figures = trial.concurrent_round, trial.measurement
    return TrialReport(
        golden_answers=tuple(trial.golden.texts) if trial.golden else None,
        long_answers=trial.long_answers,
        doubt=trial.doubt,
        stalled=trial.stalled,
        samples=tuple(_sample(sample) for sample in figures.samples) if figures else (),
        concurrent_round=ConcurrentRoundReport(
            concurrent_round.streams, round(concurrent_round.tokens_per_second, 2), tuple(concurrent_round.texts)
        )
        if concurrent_round
        else None,
        warnings=tuple(GateWarning(warning.reason, warning.message) for warning in warned),
    )


def _sample(sample: Sample) -> SampleReport:
    stream = sample.stream
    return SampleReport(
        tokens=stream.tokens,
        decode_tokens_per_second=round(stream.decode_tokens_per_second, 2),
        first_token_millis=round(stream.first_token_millis, 1),
        blocks=tuple(round(rate, 1) if math.isfinite(rate) else None for rate in stream.block_rates),
        cut=stream.cut,
        counted_tokens=sample.counted_tokens,
        foreign_requests=sample.foreign_requests,
        drafted=sample.drafted,
        accepted=sample.accepted,
        drafts=sample.drafts,
        accepted_per_position=sample.accepted_per_position,
    )


def _serving(state: GateState) -> ServingReport:
    serving_health, degraded = state.serving_health, state.degraded
    rate = serving_health.decode_tokens_per_second
    return ServingReport(
        degraded=degraded,
        quarantined=state.quarantined,
        hung=state.hung,
        draining=state.draining,
        ordered_out=state.ordered_out,
        decode_tokens_per_second=None if rate is None else round(rate, 1),
        bad_windows=serving_health.bad,
        still_seconds=round(serving_health.still_seconds, 1),
        blind=state.blind,
    )


def _ordered(answer: Answer) -> OrderedMeasurement:
    figures = answer.figures
    return OrderedMeasurement(
        answer.id,
        redact(answer.problem),
        _figures(figures) if figures else None,
        tuple(_sample(sample) for sample in figures.samples) if figures else (),
    )


def _wanted(config: GateConfig) -> WantedFigures:
    return WantedFigures(
        decode_tokens_per_second=config.floor,
        floor_origin=config.floor_origin,
        acceptance_percent=config.min_acceptance_percent if config.speculation.expected else None,
        first_draft_percent=config.min_first_draft_percent if config.speculation.expected else None,
        first_token_millis=config.max_first_token_millis,
        prefill_tokens_per_second=config.long_prompt.min_prefill_tokens_per_second if config.long_prompt else None,
        depth_decode_tokens_per_second=config.depth_floor if config.long_prompt else None,
    )


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
