"""Checks the engine's start and exit: whether there is a healthy engine that produces tokens. Pure."""

from flash_contracts.gate_config import GateConfig
from flash_contracts.verdict_reason import Reason
from flash_engine.gate.evidence import Evidence
from flash_engine.gate.exit_reason import earlier_end, explain_exit
from flash_engine.gate.verdict import Verdict, inconclusive

LOOK_SECONDS = 10.0
"""How long the launcher may take to see whether an engine without a token computes."""


def model_unavailable(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """A failure is shown until a later attempt gets further, so that it is visible between attempts."""
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


def engine_exited(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """The last exit is reported until the engine is healthy again, even while the next run loads.

    A stop or a restarted node says nothing about the engine, so it is not reported once the next run has begun.
    """
    ended = evidence.ended
    if ended is None or (earlier_end(ended) and evidence.engine.phase != "Exited"):
        return None
    reason, message = explain_exit(ended, evidence.engine.starts)
    if evidence.engine.incident and "interconnect.mode" in message:
        message += "; the safe flags are already in use, so look for causes other than the GPUs' link"
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


def plugin_absent(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """vLLM starts even if it cannot import the plugin, and then nothing has checked what was loaded."""
    if not config.plugin_required or not evidence.healthy or evidence.engine.plugin:
        return None
    return Verdict(
        Reason.PLUGIN_ABSENT,
        "the engine serves without the vLLM plugin, so nothing has checked what was loaded: use an engine image with "
        "the plugin, and check the engine's log for its name",
    )


def stalled(evidence: Evidence, config: GateConfig) -> Verdict | None:
    """Healthy, but without a single token: the same hang as one before the first answer to /health.

    Only the launcher sees whether the engine computes instead, and it needs a moment to look.
    """
    trial = evidence.trial
    if trial is None or not trial.stalled:
        return None
    if evidence.unanswered_seconds < LOOK_SECONDS:
        return inconclusive(f"{trial.doubt}: it hangs, unless it computes", config)
    return Verdict(
        Reason.STARTUP_HANG, f"{trial.doubt}: the engine hangs; try interconnect.mode Safe, or delete the pod"
    )


def trial_in_doubt(evidence: Evidence, config: GateConfig) -> Verdict | None:
    doubt = evidence.trial.doubt if evidence.trial else None
    return inconclusive(doubt, config) if doubt else None
