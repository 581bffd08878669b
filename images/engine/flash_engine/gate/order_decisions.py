"""Carries a user's order to measure through the gate's state. Pure; `ordered_measuring` has the rules."""

from dataclasses import replace

from flash_engine.gate.gate_state import GateState, Phase
from flash_engine.gate.ordered_measuring import Answer
from flash_engine.gate.serving_monitor import ServingMonitor


def with_order(state: GateState, order: str | None, at: float) -> GateState:
    """Take a new order, and refuse one that has waited too long."""
    ordered = state.ordered.after_order(order, at)
    return replace(state, ordered=ordered.after_look(at, _obstacle(state)))


def order_to_carry_out(state: GateState, at: float) -> str | None:
    """The id of the order to measure now; None if there is none, or something is in the way."""
    return state.ordered.waiting if state.ordered.is_due(at) and not _obstacle(state) else None


def order_answered(state: GateState, answer: Answer, at: float) -> GateState:
    """Restart the monitor, because its counters would show the gate's own requests as traffic."""
    return replace(state, ordered=state.ordered.after_measurement(answer, at), serving=ServingMonitor())


def _obstacle(state: GateState) -> str:
    """Why the engine cannot be measured now; empty if it can."""
    if state.phase not in (Phase.PASSED, Phase.DEGRADED):
        return f"{state.verdict.reason}: {state.verdict.message}"
    if state.serving.asking:
        return "the engine seems to hang"
    if state.depth.is_running:
        return "it is measured with a prompt that fills the context"
    if not state.serving_health.idle:
        return "it has requests of users; kubectl dsf quarantine takes a replica out of service"
    return ""
