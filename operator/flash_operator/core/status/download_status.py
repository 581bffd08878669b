"""The model's way into a pod, as status tells it."""

from dataclasses import replace
from datetime import datetime

from flash_contracts.download_record import DownloadRecord
from flash_contracts.gate_result import GateResult
from flash_contracts.verdict_reason import Reason
from flash_operator.api.status import DeliveryStatus
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.replicas.replica import Replica

STEADY_SECONDS = 10.0
"""Figures change with every look; written every time, 40 minutes of them would be a thousand writes of status."""


def delivery_status(delivery: DownloadRecord | None) -> DeliveryStatus | None:
    if delivery is None:
        return None
    return DeliveryStatus(
        phase=delivery.phase[:32],
        commit=delivery.commit,
        fetched_bytes=delivery.bytes,
        total_bytes=delivery.total_bytes,
        bytes_per_second=None if delivery.bytes_per_second is None else int(delivery.bytes_per_second),
        eta_seconds=delivery.eta_seconds,
        warning=delivery.warning,
        attempts=delivery.attempts,
        reported_time=delivery.at,
    )


def steadied(replica: Replica, live_status: RawObject) -> Replica:
    """With the figures that status has already, where those are of a moment ago and nothing but figures changed."""
    gate = replica.gate
    if gate is None or gate.delivery is None or gate.reason != Reason.ENGINE_STARTING:
        return replica
    for pod in live_status.get("pods", []):
        known = pod.get("delivery") or {}
        if pod.get("uid") == replica.uid and pod.get("reason") == gate.reason and _is_recent(known, gate.delivery):
            return replace(replica, gate=_as_known(gate, gate.delivery, pod))
    return replica


def _is_recent(known: RawObject, delivery: DownloadRecord) -> bool:
    same = (known.get("phase"), known.get("commit")) == (delivery.phase, delivery.commit)
    if not same or delivery.phase == "Complete":
        return False
    try:
        passed = datetime.fromisoformat(delivery.at) - datetime.fromisoformat(known.get("reportedTime", ""))
    except (TypeError, ValueError):
        return False
    return abs(passed.total_seconds()) < STEADY_SECONDS


def _as_known(gate: GateResult, delivery: DownloadRecord, pod: RawObject) -> GateResult:
    known = DeliveryStatus.model_validate(pod["delivery"])
    steady = replace(
        delivery,
        bytes=known.fetched_bytes,
        total_bytes=known.total_bytes,
        bytes_per_second=known.bytes_per_second,
        at=known.reported_time,
    )
    return replace(gate, message=pod.get("message", ""), delivery=steady)
