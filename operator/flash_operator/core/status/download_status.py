"""The progress of a model download in a pod's status."""

from dataclasses import replace
from datetime import datetime

from flash_contracts.download_record import DownloadRecord
from flash_contracts.gate_result import GateResult
from flash_contracts.verdict_reason import Reason
from flash_operator.api.status import DeliveryStatus
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.replicas.replica import Replica

STEADY_SECONDS = 10.0
"""Minimum age of figures before newer ones replace them. They change with every reconcile, and writing them each time
would be a thousand writes of status in a 40-minute download."""


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


def with_steady_figures(replica: Replica, live_status: RawObject) -> Replica:
    """Keeps the figures that status already has if they are recent and only figures have changed since."""
    gate = replica.gate
    if gate is None or gate.delivery is None or gate.reason != Reason.ENGINE_STARTING:
        return replica
    for pod in live_status.get("pods", []):
        known = pod.get("delivery") or {}
        if pod.get("uid") == replica.uid and pod.get("reason") == gate.reason and _is_recent(known, gate.delivery):
            return replace(replica, gate=_with_known_figures(gate, gate.delivery, pod))
    return replica


def _is_recent(known: RawObject, delivery: DownloadRecord) -> bool:
    same = (known.get("phase"), known.get("commit")) == (delivery.phase, delivery.commit)
    if not same or delivery.phase == "Complete":
        return False
    try:
        age = datetime.fromisoformat(delivery.at) - datetime.fromisoformat(known.get("reportedTime", ""))
    except (TypeError, ValueError):
        return False
    return abs(age.total_seconds()) < STEADY_SECONDS


def _with_known_figures(gate: GateResult, delivery: DownloadRecord, pod: RawObject) -> GateResult:
    known = DeliveryStatus.model_validate(pod["delivery"])
    steady = replace(
        delivery,
        bytes=known.fetched_bytes,
        total_bytes=known.total_bytes,
        bytes_per_second=known.bytes_per_second,
        at=known.reported_time,
    )
    return replace(gate, message=pod.get("message", ""), delivery=steady)
