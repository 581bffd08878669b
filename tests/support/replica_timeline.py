"""Every change of a deployment's replicas, seen by a watch, so that no short overshoot is missed."""

import subprocess
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from e2e_env import RESOURCE, Flash

FIELDS = (
    "{.spec.replicas}",
    "{.status.demand.loadingReplicas}",
    "{.status.readyReplicas}",
    "{.status.demand.demandPercent}",
)


@dataclass(frozen=True)
class Moment:
    """Figures of status are as old as the last look at the deployment."""

    at: float
    wanted: int
    loading: int
    ready: int
    demand_percent: int | None


@dataclass
class ReplicaTimeline:
    """A context that records."""

    flash: Flash
    moments: list[Moment] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    def __enter__(self) -> Self:
        cluster = self.flash.cluster
        columns = "jsonpath=" + ",".join(FIELDS) + '{"\\n"}'
        place = [RESOURCE, self.flash.name, "-n", self.flash.namespace]
        command = [str(cluster.kubectl_path), f"--kubeconfig={cluster.kubeconfig}", "get", "--watch", "-o", columns]
        self._watch = subprocess.Popen([*command, *place], stdout=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._record, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._watch.terminate()
        self._thread.join()
        self._watch.communicate()
        print(self.story())

    @property
    def wanted(self) -> int | None:
        """`spec.replicas` now; None before the first answer."""
        return self.moments[-1].wanted if self.moments else None

    @property
    def most(self) -> int:
        return max((moment.wanted for moment in self.moments), default=0)

    @property
    def numbers(self) -> list[int]:
        """`spec.replicas` as it changed."""
        wanted = [moment.wanted for moment in self.moments]
        return [number for number, before in zip(wanted, [None, *wanted], strict=False) if number != before]

    def story(self) -> str:
        rows = [
            f"{m.at:7.1f} s  wanted {m.wanted}, loading {m.loading}, ready {m.ready}, demand {m.demand_percent} %"
            for m in self.moments
        ]
        return "\n".join([f"{self.flash.name}:", *rows])

    def _record(self) -> None:
        assert self._watch.stdout is not None
        for line in self._watch.stdout:
            wanted, loading, ready, demand = line.strip().split(",")
            figures = int(wanted or 0), int(loading or 0), int(ready or 0), int(demand) if demand else None
            last = self.moments[-1] if self.moments else None
            if last is None or figures != (last.wanted, last.loading, last.ready, last.demand_percent):
                self.moments.append(Moment(time.monotonic() - self._began, *figures))
