"""The measurement at the promised context depth: once, while the engine serves and is idle (`readiness.depth`).

It takes up to minutes and would slow users' requests. So it starts only after the engine has been idle for a while, and
is abandoned as soon as a user's request arrives. It only yields warnings, never a verdict.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from flash_contracts.gate_config import FullDepthTest, GateConfig
from flash_contracts.trial_record import LongPrompt
from flash_contracts.verdict_reason import Reason
from flash_engine.engine_metrics import EngineCounters, MissingMetricsError
from flash_engine.gate.answer_checks import text_fault
from flash_engine.gate.engine_client import EngineClient
from flash_engine.gate.engine_errors import EngineRequestError, NoAnswerError
from flash_engine.gate.sprt import stream_is_clear
from flash_engine.gate.verdict import Verdict
from flash_engine.log import Logger

log = Logger("flash.gate")

LOOK_SECONDS = 0.25
"""How often to look for users' requests during the measurement."""

SLOWEST_PREFILL = 100.0
"""Tokens per second below which the measurement times out if no floor is set."""

MOST_DOUBLINGS = 6
"""Each abandoned attempt doubles the idle time that the next one needs, up to about an hour."""


@dataclass(frozen=True)
class DepthSchedule:
    """When to measure. Times are seconds on the event loop's clock."""

    is_running: bool = False
    idle_since: float | None = None
    given_up: int = 0

    def after_look(self, at: float, *, idle: bool) -> "DepthSchedule":
        """After the counters of a serving engine were read."""
        since = self.idle_since if self.idle_since is not None else at
        return replace(self, idle_since=since if idle else None)

    def after_attempt(self, *, measured: bool) -> "DepthSchedule":
        return DepthSchedule(given_up=self.given_up + (not measured))

    def is_due(self, test: FullDepthTest, at: float) -> bool:
        quiet = test.quiet_seconds * 2 ** min(self.given_up, MOST_DOUBLINGS)
        return not self.is_running and self.idle_since is not None and at - self.idle_since >= quiet


async def measure_full_depth(client: EngineClient, config: GateConfig, test: FullDepthTest) -> LongPrompt | None:
    """None if users' requests arrived or a request failed. Never raises because of the engine."""
    measuring: asyncio.Task[LongPrompt] | None = None
    try:
        before = await client.counters()
        measuring = asyncio.create_task(_timed(client, config, test))
        while not (await asyncio.wait({measuring}, timeout=LOOK_SECONDS))[0]:
            if _has_users(before, await client.counters(), ours=1):
                return None
        measured = await measuring
        return None if _has_users(before, await client.counters(), ours=1) else measured
    except (EngineRequestError, MissingMetricsError) as error:
        log.warning("full depth not measured", tokens=test.tokens, error=str(error))
        return None
    finally:
        if measuring is not None:
            measuring.cancel()
            await asyncio.gather(measuring, return_exceptions=True)


def _has_users(before: EngineCounters, now: EngineCounters, *, ours: int) -> bool:
    """Whether other clients have requests on the engine, or have had one since."""
    finished = (now.finished or 0) - (before.finished or 0)
    return now.unfinished > ours or finished > ours


async def _timed(client: EngineClient, config: GateConfig, test: FullDepthTest) -> LongPrompt:
    """Raises EngineRequestError; NoAnswerError becomes a prompt without a token."""
    prompt = await client.long_prompt(config, test.tokens)
    seconds = test.tokens / (test.min_prefill_tokens_per_second or SLOWEST_PREFILL) + config.request_timeout_seconds
    clear = partial(stream_is_clear, config=config)
    try:
        stream = await client.stream(config, enough=clear, prompt=prompt, seconds=seconds)
    except NoAnswerError:
        return LongPrompt(len(prompt), 1000 * seconds, None)
    tokens = stream.prompt_tokens or len(prompt)
    return LongPrompt(tokens, stream.first_token_millis, stream.decode_tokens_per_second, stream.text)


def depth_warnings(found: LongPrompt | None, config: GateConfig) -> Iterator[Verdict]:
    """Warnings about what is slow or wrong at the promised depth."""
    test = config.full_depth
    if found is None or test is None:
        return
    after = f"after a prompt of {found.tokens} tokens, which fills the context"
    fault = text_fault(found.text) if test.text_is_judged else None
    if fault:
        yield Verdict(Reason.WRONG_OUTPUT, f"the text {after}, {fault}: check the attention kernel in the engine's log")
    if found.decode_tokens_per_second is None:
        seconds = found.first_token_millis / 1000
        yield Verdict(Reason.PREFILL_TOO_SLOW, f"no token {after}, within {seconds:.0f} s: lower engine.contextTokens")
        return
    floor = test.min_prefill_tokens_per_second
    if floor is not None and found.prefill_tokens_per_second < floor:
        yield Verdict(
            Reason.PREFILL_TOO_SLOW,
            f"a prompt of {found.tokens} tokens, which fills the context, is read at "
            f"{found.prefill_tokens_per_second:.0f} tok/s, wanted at least {floor:g}: lower engine.contextTokens, or "
            "raise engine.batchedTokens",
        )
    least = config.floor * test.min_decode_percent / 100
    if found.decode_tokens_per_second < least:
        yield Verdict(
            Reason.TOO_SLOW_AT_DEPTH,
            f"decode {found.decode_tokens_per_second:.1f} tok/s {after}, wanted at least {least:.1f} "
            f"({test.min_decode_percent:g} % of {config.floor:g}): lower engine.contextTokens",
        )
