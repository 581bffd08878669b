"""What goes wrong in a run, and when: drawn from a seed, so that a failing run can be played again."""

from dataclasses import dataclass
from enum import StrEnum
from random import Random


class Fault(StrEnum):
    """Each ends by itself, or when the run ends."""

    OPERATOR_KILLED = "the operator is killed"
    OPERATOR_FROZEN = "the operator is stopped for a while, and goes on"
    API_SERVER_KILLED = "the API server is killed and started again"
    ETCD_KILLED = "etcd is killed and started again"
    EVENTS_DROPPED = "half of all watch events are lost"
    EVENTS_REPEATED = "every watch event comes twice"
    THROTTLED = "two of three requests are answered with 429"
    FAILING = "two of three requests are answered with 500"
    WATCHES_GONE = "every new watch is answered with 410"
    LEASE_STOLEN = "somebody else writes its name into the Lease"
    NODE_GONE = "a node is deleted with its pods"
    GATES_SILENT = "no gate answers"
    DEPLOYMENT_DELETED = "a DeepSeekFlashDeployment is deleted, and made anew"
    NAMESPACE_DELETED = "a namespace is deleted with a DeepSeekFlashDeployment in it"


SLOW = frozenset({Fault.API_SERVER_KILLED, Fault.ETCD_KILLED})
"""They cost seconds, so that a run has at most one."""


@dataclass(frozen=True)
class Event:
    """A fault that begins so many seconds after the run began, and how long it lasts."""

    at: float
    fault: Fault
    seconds: float

    def __str__(self) -> str:
        return f"{self.at:4.1f} s: {self.fault} ({self.seconds:.1f} s)"


def schedule(seed: int, faults: int = 4, seconds: float = 6.0) -> list[Event]:
    """A few different faults within so many seconds."""
    random = Random(seed)
    chosen: list[Fault] = []
    for fault in random.sample(list(Fault), len(Fault)):
        if len(chosen) < faults and not (fault in SLOW and SLOW.intersection(chosen)):
            chosen.append(fault)
    events = [Event(random.uniform(0, seconds), fault, random.uniform(0.5, 3.0)) for fault in chosen]
    return sorted(events, key=lambda event: event.at)
