"""Checks the engine's output: that texts are right and features work. Pure."""

from flash_contracts.gate_config import GateConfig
from flash_contracts.verdict_reason import Reason
from flash_engine.gate.answer_checks import Flaw, TextKind, WrongText, wrong_text
from flash_engine.gate.evidence import Evidence
from flash_engine.gate.full_depth import depth_warnings
from flash_engine.gate.verdict import Verdict


def wrong_output(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """Checked before speed, because wrong answers are worse than slow ones."""
    wrong = wrong_text(evidence.trial, config) if evidence.trial else None
    if wrong is None:
        return None
    return Verdict(Reason.WRONG_OUTPUT, f"{wrong.fault.detail}: {_wrong_output_remedy(wrong, evidence, config)}")


OTHER_CAUSES = {
    TextKind.GOLDEN: "the checkpoint is broken",
    TextKind.LONG_ANSWER: "the checkpoint is broken",
    TextKind.TIMED: "the checkpoint is broken",
    TextKind.DEPTH: "attention over long contexts is wrong, so check its kernel in the engine's log",
    TextKind.CONCURRENT: "a kernel is wrong when it batches requests, so lower engine.maxSequences",
}
"""Other possible causes of wrong data."""


def _wrong_output_remedy(wrong: WrongText, evidence: Evidence, config: GateConfig) -> str:
    if wrong.fault.flaw is Flaw.LEAK:
        return _leak_remedy(config)
    if wrong.fault.flaw is Flaw.DIFFERENCE and not config.deterministic:
        return "equally good answers may be worded differently, so put the right one into readiness.golden.expect"
    other, incident = OTHER_CAUSES[wrong.kind], evidence.engine.incident
    if incident is None or incident.kind != "corrupt":
        return f"the link between the GPUs corrupts data, or {other}; try interconnect.mode Safe"
    has_expectation = wrong.kind is TextKind.GOLDEN and config.golden.expect is not None
    remedy = "correct readiness.golden.expect, or the checkpoint" if has_expectation else other
    return f"it is wrong without peer-to-peer too, so the links are not the cause: {remedy}"


def _leak_remedy(config: GateConfig) -> str:
    if config.speculation.expected and config.speculation.tokens > 1:
        return "vLLM leaks special tokens when it drafts several per step, so set speculation.tokens to 1"
    return "the checkpoint's tokenizer does not mark it as special, or the engine image is faulty"


def feature_broken(evidence: Evidence, config: GateConfig) -> Verdict | None:
    if config.features is None or not config.features.required:
        return None
    return next(iter(_broken_features(evidence)), None)


def warnings(evidence: Evidence, config: GateConfig) -> tuple[Verdict, ...]:
    """Broken features that the user does not require, and slowness at full depth."""
    are_warnings = config.features is not None and not config.features.required
    depth = tuple(depth_warnings(evidence.full_depth, config))
    return (_broken_features(evidence) if are_warnings else ()) + depth


FEATURE_REMEDIES = {
    Reason.TOOL_CALLS_BROKEN: "tool calls: {}: check --tool-call-parser, and the chat template",
    Reason.REASONING_BROKEN: "reasoning: {}: check --reasoning-parser, and the chat template",
    Reason.JSON_SCHEMA_BROKEN: "JSON schema: {}: check the structured outputs' backend, and the reasoning parser",
}

REASONS_OF_WARNINGS = (*FEATURE_REMEDIES, Reason.PREFILL_TOO_SLOW, Reason.TOO_SLOW_AT_DEPTH, Reason.WRONG_OUTPUT)


def _broken_features(evidence: Evidence) -> tuple[Verdict, ...]:
    faults = evidence.trial.broken_features if evidence.trial else ()
    return tuple(Verdict(fault.reason, FEATURE_REMEDIES[fault.reason].format(fault.detail)) for fault in faults)
