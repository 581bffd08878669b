"""Every event is one sentence of at most 200 characters, whatever words of others are in it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import a_waiting_pod
from flash_contracts.event_note import NOTE_LIMIT, note
from flash_node.labeller.cluster import node_event as labellers_event
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.p2p_test.node_verdict import REMEDY, NodeClaim, NodeVerdict
from flash_operator.core.p2p_test.planner import verdict_event
from flash_operator.core.status.events import EventSpec, pod_ended_event, status_events

BEFORE: RawObject = {
    "pods": [{"uid": "b", "name": "b", "reason": "Passed", "quarantine": "Granted", "flagsOutdated": "Current"}],
    "update": {"state": "Updating", "revision": "r1"},
    "scaling": {"kind": "HorizontalPodAutoscaler", "name": "flash", "uid": "u"},
    "conditions": [{"type": "Ready", "status": "True", "reason": "Passed", "message": "2 of 2"}],
}

REASONS = {
    "MtpRestoreFailed", "TooSlow", "FlagsTaken", "ModelDelivered", "RevisionNotPinned", "Quarantined", "Released",
    "EngineRecovered", "FlagsOutdated", "RolledBack", "UpdateComplete", "UpdateAvailable", "ScalerRecreated",
    "ScalerRefused", "SpecInvalid", "NotReady", "ImagePullBackOff", "PeerToPeerBroken", "PeerToPeerVerified",
    "PeerToPeerSuspected",
}  # fmt: skip


def a_status(text: str, update: RawObject) -> RawObject:
    """A status with this text wherever somebody's words may be."""
    conditions = {"Ready": "NotReady", "ScalingActive": "ScalerRefused", "SpecValid": "SpecInvalid"}
    delivery = {"phase": "Complete", "commit": text, "totalBytes": 1 << 40, "warning": text}
    news = {"uid": "a", "name": "flash-a", "node": text, "reason": "TooSlow", "message": text, "flags": [text] * 9}
    return {
        "pods": [
            {**news, "flagsOrigin": "recovery", "row": "T8", "delivery": delivery, "incident": text}
            | {"quarantine": "Granted"},
            {"uid": "b", "name": "flash-b", "reason": "Passed", "message": text, "flagsOutdated": "Outdated"},
        ],
        "model": {"mtp": "Failed", "path": text, "message": text},
        "rollout": {"state": "RolledBack", "rejected": "x", "message": text},
        "update": update,
        "scaling": {"kind": "HorizontalPodAutoscaler", "name": "flash"},
        "conditions": [{"type": t, "status": "False", "reason": r, "message": text} for t, r in conditions.items()],
    }


def all_events(text: str) -> list[EventSpec]:
    offered = {"state": "Available", "revision": "r2", "message": text, "changes": [text, text]}
    about_links = [
        NodeVerdict("node-1", p2p, None, None, "p2p-test", text, f"gpu-p2p={p2p}: {text}")
        for p2p in ("hang", "corrupt", "verified")
    ]
    return [
        *status_events(BEFORE, a_status(text, offered)),
        *status_events(BEFORE, a_status(text, {"state": "UpToDate"})),
        *(verdict_event(verdict) for verdict in about_links),
        verdict_event(NodeClaim("node-1", "[]", text)),
        pod_ended_event(a_waiting_pod("ImagePullBackOff", text)),
    ]


@given(st.text(min_size=1, max_size=1500))
def test_every_event_is_one_short_printable_sentence(text: str) -> None:
    events = all_events(text)
    assert {event.reason for event in events} == REASONS
    for event in events:
        assert len(event.note) <= NOTE_LIMIT
        assert event.note.endswith(".")
        assert event.note.isprintable()


@pytest.mark.parametrize(
    "text", ["", "\n", "\x1b[31m", "x" * 5000, "word " * 300, "; " * 200, "\u202e" * 300, "é" * 300]
)
def test_hostile_words_are_only_words(text: str) -> None:
    assert all(len(e.note) <= NOTE_LIMIT and e.note.isprintable() and e.note.endswith(".") for e in all_events(text))


CUT: dict[str, tuple[dict[str, Any], str]] = {
    "short": ({"message": "flash-a: 41 tok/s, wanted 60"}, "flash-a: 41 tok/s, wanted 60."),
    "ended already": ({"message": "Node was low on memory.\n"}, "Node was low on memory."),
    "after a clause": (
        {"message": f"{'a' * 120}; {'b' * 30}; {'c' * 90}"},
        f"{'a' * 120}; {'b' * 30} ... (more in status).",
    ),
    "after a word": (
        {"message": "word " * 60, "details": "the operator's log"},
        f"{('word ' * 33).strip()} ... (more in the operator's log).",
    ),
    "with a remedy": ({"message": "it hung", "remedy": "boot again"}, "it hung; boot again."),
    "cut, with a remedy": ({"message": "x" * 300, "remedy": "boot again"}, f"{'x' * 183} ...; boot again."),
}


@pytest.mark.parametrize(("arguments", "expected"), CUT.values(), ids=CUT.keys())
def test_what_is_cut_and_where(arguments: dict[str, Any], expected: str) -> None:
    assert note(**arguments) == expected


def test_the_labellers_events_say_where_the_rest_is() -> None:
    event = labellers_event("node-1", "Warning", "GpuLinks", "GPU 1 is lost, " * 30)
    assert len(event["note"]) <= NOTE_LIMIT
    assert event["note"].endswith("... (more in flash-topology).")


def test_the_remedy_of_broken_links_is_never_cut() -> None:
    verdict = NodeVerdict("node-1", "hang", None, None, "p2p-test", json.dumps({}), "gpu-p2p=hang: " + "x" * 700)
    assert verdict_event(verdict).note.endswith(f"...; {REMEDY}.")
    assert len(REMEDY) <= 120
