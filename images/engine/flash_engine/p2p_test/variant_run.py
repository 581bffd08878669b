"""One arm: two ranks are started, listened to, and killed when they are not waited for any longer."""

import select
import time
from collections.abc import Callable, Mapping, Sequence

from flash_engine.p2p_test.judgement import Cut, Patience, Rank, cut, judge
from flash_engine.p2p_test.outcome import VariantResult
from flash_engine.p2p_test.rank_process import RankProcess

TICK_SECONDS = 0.1
KILL_SECONDS = 10.0
"""A process that SIGKILL does not end by then is stuck in the GPU's driver."""
HURRIED_KILL_SECONDS = 1.0
"""The same where the probe was asked to stop: it is killed itself a moment later."""


class VariantRun:
    """`until` is the end of its time, of the clock time.monotonic."""

    def __init__(self, variant: str, patience: Patience, until: float, asked_to_stop: Callable[[], bool]) -> None:
        self._arm = variant
        self._patience = patience
        self._until = until
        self._asked_to_stop = asked_to_stop
        self._ranks: list[RankProcess] = []

    def run(self, commands: Sequence[Sequence[str]], environment: Mapping[str, str]) -> VariantResult:
        """Nothing that it has started is left, or else it is named in the result."""
        try:
            for command in commands:
                self._ranks.append(RankProcess(command, environment))
            ranks, why = self._watch(time.monotonic())
        except OSError as error:
            detail = f"a rank could not be started: {error}"
            return VariantResult(self._arm, "inconclusive", detail, stuck=self._end())
        except BaseException:
            self._end()
            raise
        return judge(self._arm, ranks, why, self._end())

    def _watch(self, began: float) -> tuple[list[Rank], Cut]:
        while True:
            self._wait_for_words()
            ranks = [rank.listen() for rank in self._ranks]
            why = cut(ranks, self._patience, began=began, until=self._until, now=time.monotonic())
            if self._asked_to_stop():
                why = Cut.STOPPED
            if why:
                return ranks, why

    def _wait_for_words(self) -> None:
        pipes = [pipe for rank in self._ranks for pipe in rank.pipes]
        select.select(pipes, [], [], TICK_SECONDS)

    def _end(self) -> tuple[int, ...]:
        """Returns what could not be ended. A process may start another while it is killed, so all are killed again."""
        began = time.monotonic()
        while True:
            for rank in self._ranks:
                rank.kill()
            time.sleep(TICK_SECONDS / 10)
            left = tuple(pid for rank in self._ranks for pid in rank.left())
            patience = HURRIED_KILL_SECONDS if self._asked_to_stop() else KILL_SECONDS
            if not left or time.monotonic() - began >= patience:
                break
        for rank in self._ranks:
            rank.close()
        return left
