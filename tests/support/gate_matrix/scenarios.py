"""The scenarios of the confusion matrix: engines with one behaviour each, and the verdicts that are right for them.

Each scenario draws its timing at random: when the engine is loaded, how uneven its steps are, when it fails.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from engine_stub import scripts as s
from engine_stub.counters import PER_POSITION
from engine_stub.engine import Script
from flash_operator.api.v1alpha1 import FlashSpec
from flash_operator.core.resources.gate_config import gate_settings

Draw = Callable[[Random], tuple[Script, ...]]

REQUIRED = {"features": {"required": True}}
FULL = {"decode": {"streams": 4}}
NO_EXPECTATION = {"golden": {"expect": None}}


def by_default(method: str, tokens: int | None = None) -> dict[str, Any]:
    """What the operator asks of this drafter if the user sets no floor."""
    speculation = {"method": method, **({"tokens": tokens} if tokens else {})}
    spec = FlashSpec.model_validate(
        {"model": {"source": "pvc://a/b", "servedNames": ["m"]}, "speculation": speculation}
    )
    settings = gate_settings(spec).to_json()
    return {key: settings[key] for key in ("speculation", "minAcceptancePercent", "minFirstDraftPercent")}


DSPARK, TWO_DRAFTS = by_default("Dspark"), by_default("Mtp", 2)
GOOD_MODULE = (0.74, 0.48, 0.26, 0.13, 0.06)
"""Shares by position of a healthy DSpark module."""


@dataclass(frozen=True)
class Scenario:
    """One engine. `reasons` are the correct final verdicts."""

    name: str
    scripts: Draw
    reasons: tuple[str, ...]
    config: dict[str, Any] = field(default_factory=dict)
    streams: int = 0
    """Concurrent requests of users, once it is ready."""
    prompt_tokens: int = 1
    """Of each request of users."""
    users_stay: bool = True
    """False: they are gone before what `later` plays, and their requests were aborted."""
    clock_step: float = 0.0
    """By how many seconds the wall clock is set forward while the engine starts."""
    later: Draw | None = None
    """Scripts played while it serves."""

    @property
    def healthy(self) -> bool:
        return self.reasons == ("Passed",)

    @property
    def fails_while_serving(self) -> bool:
        return self.later is not None and not self.healthy


def sound(draw: Random) -> tuple[Script, ...]:
    """A healthy engine at about the reference speed."""
    return (
        s.loading(draw.uniform(0.0, 2.0)),
        s.paced(draw.uniform(80, 95), acceptance=draw.uniform(0.85, 0.97), jitter=draw.uniform(0.02, 0.15)),
    )


def with_(*more: Callable[[Random], Script]) -> Draw:
    """A healthy engine with additional scripts."""
    return lambda draw: (*sound(draw), *(make(draw) for make in more))


def of(script: Script) -> Callable[[Random], Script]:
    return lambda _: script


HEALTHY = (
    Scenario("at the seed's pace", sound, ("Passed",)),
    Scenario("on a machine whose cores are busy", with_(lambda d: s.noisy(d.uniform(0.005, 0.02))), ("Passed",)),
    Scenario(
        "with one long hiccup",
        with_(lambda d: s.having(hiccup_after_tokens=d.randint(1, 90), hiccup_seconds=d.uniform(0.5, 3.0))),
        ("Passed",),
    ),
    Scenario(
        "a seventh above its floor",
        lambda d: (s.paced(d.uniform(68, 72), jitter=0.15),),
        ("Passed",),
    ),
    Scenario("eight tokens a chunk", with_(lambda d: s.chunky(d.randint(4, 12))), ("Passed",)),
    Scenario("tokens told only at the end", with_(of(s.having(usage_in_chunks=False))), ("Passed",)),
    Scenario("behind a network that resets", with_(lambda d: s.connection_resets(d.uniform(0.05, 0.15))), ("Passed",)),
    Scenario(
        "others on it, and gone after a while",
        with_(lambda d: s.foreign_traffic(pause=d.uniform(0.1, 1.5), until=d.uniform(2, 8))),
        ("Passed",),
    ),
    Scenario("counters begin again once", with_(lambda d: s.counters_reset(d.randint(10, 150))), ("Passed",)),
    Scenario("no speculation, and none wanted",
             lambda d: (s.paced(d.uniform(62, 70), acceptance=0.0), s.absent_draft()),
             ("Passed",), {"speculation": {"expected": False}, "decode": {"minTokensPerSecond": 50}}),
    Scenario("DSpark with five drafted tokens", with_(of(s.drafting(*GOOD_MODULE))), ("Passed",), DSPARK),
    Scenario("DSpark with three drafted tokens", with_(of(s.drafting(*GOOD_MODULE[:3]))), ("Passed",),
             by_default("Dspark", 3)),
    Scenario("two tokens of one MTP head", with_(of(s.drafting(0.82, 0.55, tokens_per_second=137))), ("Passed",),
             TWO_DRAFTS),
    Scenario("without counters by position",
             with_(of(s.drafting(*GOOD_MODULE)), of(s.having(missing_metric=PER_POSITION))), ("Passed",), DSPARK),
    Scenario("a quarter slower at depth", lambda d: (s.paced(d.uniform(82, 90)), s.slow_at_depth(1.25)), ("Passed",)),
    Scenario("prefill like the slow stack of 2026-05", with_(lambda d: s.slow_prefill(d.uniform(1100, 1400))),
             ("Passed",)),
    Scenario("without /tokenize", with_(of(s.having(tokenizes=False))), ("Passed",)),
    Scenario("thinking by default", with_(of(s.thinking())), ("Passed",)),
    Scenario("thinking although it is asked not to", with_(lambda d: s.thinking(d.uniform(60, 400), anyway=True)),
             ("Passed",)),
    Scenario("a tokenizer that takes no template arguments", with_(of(s.having(takes_template_arguments=False))),
             ("Passed",)),
    Scenario("parsers that are broken, and not required", with_(of(s.broken_parsers("tools", "reasoning", "schema"))),
             ("Passed",)),
    Scenario("all features work, and are required", sound, ("Passed",), REQUIRED),
    Scenario("a model that does not think about small sums", with_(of(s.having(reasons=False))), ("Passed",), REQUIRED),
    Scenario("all its streams at once", sound, ("Passed",), {"decode": {"streams": 4}}),
    Scenario("serving four users", sound, ("Passed",), streams=4),
    Scenario("serving users whose prompts take half a minute", sound, ("Passed",), streams=2,
             later=lambda d: (s.slow_first_token(d.uniform(20, 40)),)),
    Scenario("serving four users with prompts of 400 tokens", with_(of(s.reads_prompts())), ("Passed",), streams=4,
             prompt_tokens=400),
    Scenario("serving four users with prompts of 4,000 tokens", with_(of(s.reads_prompts())), ("Passed",), streams=4,
             prompt_tokens=4000),
    Scenario("its clock is set two hours forward while it loads", sound, ("Passed",), clock_step=7200.0),
    Scenario("compiles at its first request", with_(lambda d: s.compiles_at_first_request(d.uniform(20, 60))),
             ("Passed",), {"requestTimeoutSeconds": 5}),
    Scenario("its gauges stay up after its users left", sound, ("Passed",), streams=2, users_stay=False,
             later=lambda d: (s.abandoned_gauges(d.randint(1, 121)),)),
    Scenario("serving, on a busy machine", with_(lambda d: s.noisy(d.uniform(0.005, 0.02))), ("Passed",), streams=2),
)  # fmt: skip

AT_START = (
    Scenario("half as fast", with_(lambda d: s.slow(d.uniform(1.8, 2.5))), ("TooSlow",)),
    Scenario("a tenth below its floor", lambda d: (s.paced(d.uniform(50, 54), jitter=0.15),), ("TooSlow",)),
    Scenario("slow and uneven", with_(lambda d: s.slow(d.uniform(1.8, 2.2)), of(s.noisy(0.02, 0.2))), ("TooSlow",)),
    Scenario("two tokens a second", lambda d: (s.paced(d.uniform(1.5, 3)),), ("TooSlow",)),
    Scenario("stops every few tokens", with_(lambda d: s.noisy(d.uniform(0.08, 0.12), d.uniform(0.3, 0.6), 0.05)),
             ("TooSlow",)),
    Scenario("half as fast, eight tokens a chunk", with_(of(s.slow(2)), lambda d: s.chunky(d.randint(4, 12))),
             ("TooSlow",)),
    Scenario("half as fast, tokens told only at the end", with_(of(s.slow(2)), of(s.having(usage_in_chunks=False))),
             ("TooSlow",)),
    Scenario("half as fast, behind a network that resets", with_(of(s.slow(2)), of(s.connection_resets(0.1))),
             ("TooSlow",)),
    Scenario("a late first token", with_(lambda d: s.slow_first_token(d.uniform(1.2, 3))), ("FirstTokenTooSlow",)),
    Scenario("slow at depth", with_(lambda d: s.slow_at_depth(d.uniform(2.5, 6))), ("TooSlowAtDepth",)),
    Scenario("slow prefill", with_(lambda d: s.slow_prefill(d.uniform(80, 400))), ("PrefillTooSlow",)),
    Scenario("prefill that takes minutes", with_(lambda d: s.slow_prefill(d.uniform(8, 25))), ("PrefillTooSlow",),
             {"requestTimeoutSeconds": 30}),
    Scenario("a dead draft", with_(of(s.dead_draft())), ("DraftDead",)),
    Scenario("a dead draft that is fast enough", lambda d: (s.paced(d.uniform(130, 150)), s.dead_draft()),
             ("DraftDead",)),
    Scenario("a draft of chance", with_(lambda d: s.poor_draft(d.uniform(0.0, 0.008))), ("DraftDead",)),
    Scenario("a poor draft", lambda d: (s.paced(150), s.poor_draft(d.uniform(0.15, 0.25))), ("AcceptanceTooLow",)),
    Scenario("a first position that is dead", with_(of(s.drafting(0.0, 0.0, 0.0, 0.0, 0.0))), ("DraftDead",), DSPARK),
    Scenario("a first position of chance", with_(of(s.drafting(0.012, 0.0, 0.0, 0.0, 0.0))), ("DraftDead",), DSPARK),
    Scenario("a poor first position", with_(of(s.drafting(0.22, 0.12, 0.05, 0.02, 0.01))), ("AcceptanceTooLow",),
             DSPARK),
    Scenario("a good first position and dead ones after it", with_(of(s.drafting(0.74, 0.01, 0.0, 0.0, 0.0))),
             ("AcceptanceTooLow",), DSPARK),
    Scenario("a second token that is never accepted", with_(of(s.drafting(0.6, 0.0, tokens_per_second=90))),
             ("AcceptanceTooLow",), TWO_DRAFTS),
    Scenario("no draft", with_(of(s.absent_draft())), ("SpeculationAbsent",)),
    Scenario("counters of drafts, and no drafts", with_(of(s.idle_draft())), ("SpeculationAbsent",)),
    Scenario("a wrong answer", with_(of(s.wrong_text())), ("WrongOutput",)),
    Scenario("nonsense", with_(of(s.wrong_text("!!!!!!!!!!!!"))), ("WrongOutput",), NO_EXPECTATION),
    Scenario("a right answer that goes on in nonsense", with_(of(s.wrong_text("42!!!!!!"))), ("WrongOutput",)),
    Scenario("a right answer inside of another", with_(of(s.wrong_text("17 + 25 = 442"))), ("WrongOutput",)),
    Scenario("a right answer, and nonsense when it is timed", with_(of(s.garbage())), ("WrongOutput",)),
    Scenario("a right answer, and one word when it is timed", with_(of(s.garbage("the"))), ("WrongOutput",)),
    Scenario("a special token in a right answer",
             with_(of(s.wrong_text("<\uff5cbegin\u2581of\u2581sentence\uff5c>42"))), ("WrongOutput",)),
    Scenario("nonsense after a long prompt alone", with_(of(s.garbage_at_depth())), ("WrongOutput",)),
    Scenario("nonsense only under concurrency", with_(of(s.garbage_when_concurrent())), ("WrongOutput",), FULL),
    Scenario("slow only under concurrency", with_(lambda d: s.slow_when_concurrent(d.uniform(3, 5))), ("TooSlow",),
             {"decode": {"streams": 4, "tokens": 64}}),
    Scenario("a short answer is right, and a long one goes wrong", with_(of(s.miscounts())), ("WrongOutput",)),
    Scenario("a count that goes on in nonsense",
             with_(of(s.miscounts(f"{', '.join(map(str, range(1, 31)))}!!!!!!!!!!"))), ("WrongOutput",)),
    Scenario("a wrong answer only under concurrency", with_(of(s.wrong_when_concurrent())), ("WrongOutput",), FULL),
    Scenario("a long answer, wrong only under concurrency", with_(of(s.miscounts_when_concurrent())), ("WrongOutput",),
             FULL),
    Scenario("two drafts leak a special token into text",
             with_(of(s.drafting(0.82, 0.55, tokens_per_second=137)), of(s.leaks_special_tokens())), ("WrongOutput",),
             TWO_DRAFTS),
    Scenario("a batch that drains unevenly hangs at three requests",
             with_(of(s.hangs_when_left(3)), of(s.having(jitter=0.0))), ("StartupHang",),
             {"decode": {"streams": 4}, "requestTimeoutSeconds": 20}),
    Scenario("tool calls left in the text", with_(of(s.broken_parsers("tools"))), ("ToolCallsBroken",), REQUIRED),
    Scenario("thoughts left in the text", with_(of(s.broken_parsers("reasoning"))), ("ReasoningBroken",), REQUIRED),
    Scenario("a schema that is not followed", with_(of(s.broken_parsers("schema"))), ("JsonSchemaBroken",), REQUIRED),
    Scenario("an empty answer", with_(of(s.wrong_text(""))), ("WrongOutput",)),
    Scenario("hangs while it loads", with_(of(s.hangs_at_load())), ("StartupHang",), {"startupTimeoutSeconds": 4}),
    Scenario("hangs at its first answers", with_(lambda d: s.hangs_after(d.randint(0, 7) + 1)), ("StartupHang",),
             {"requestTimeoutSeconds": 5}),
    Scenario("hangs while it is timed", with_(lambda d: s.hangs_after(d.randint(30, 120))), ("StartupHang",),
             {"requestTimeoutSeconds": 6}),
    Scenario("dies while it loads", with_(of(s.dies_at_load())), ("EngineExited",)),
    Scenario("dies while it is timed", with_(lambda d: s.dies_after(d.randint(10, 120))), ("EngineExited",)),
    Scenario("dies of several streams", with_(lambda d: s.dies_of_streams(d.randint(2, 4))), ("EngineExited",),
             {"decode": {"streams": 4}}),
    Scenario("runs out of GPU memory", with_(of(s.runs_out_of_gpu_memory())), ("OutOfMemory",)),
    Scenario("leaks until it is killed", with_(lambda d: s.leaks(d.uniform(10, 60))), ("OutOfMemory",)),
    Scenario("answers nothing but errors", with_(of(s.server_errors())), ("Inconclusive",)),
    Scenario("without metrics", with_(of(s.without_metrics())), ("Inconclusive",)),
    Scenario("a metric renamed", with_(of(s.renamed_metric())), ("Inconclusive",)),
    Scenario("counters that stand still", with_(of(s.counters_freeze())), ("Inconclusive",)),
    Scenario("counters that begin again and again", with_(lambda d: s.counters_reset(d.randint(30, 90), every=True)),
             ("Inconclusive",)),
    Scenario("others on it all the time", with_(lambda d: s.foreign_traffic(pause=d.uniform(0.1, 0.4))),
             ("Inconclusive",)),
)  # fmt: skip

WHILE_SERVING = (
    Scenario("gets slow while it serves one user", sound, ("Degraded",), streams=1, later=lambda _: (s.slow(3),)),
    Scenario("gets slow while it serves four users", sound, ("Degraded",), streams=4, later=lambda _: (s.slow(4),)),
    Scenario(
        "gets slow while it serves prompts of 400 tokens",
        with_(of(s.reads_prompts())),
        ("Degraded",),
        streams=2,
        prompt_tokens=400,
        later=lambda _: (s.slow(4),),
    ),
    Scenario(
        "gets slow while it serves prompts of 4,000 tokens",
        with_(of(s.reads_prompts())),
        ("Degraded",),
        streams=2,
        prompt_tokens=4000,
        later=lambda _: (s.slow(4),),
    ),
    Scenario("its draft dies while it serves", sound, ("Degraded",), streams=2, later=lambda _: (s.dead_draft(),)),
    Scenario("hangs while it serves", sound, ("Degraded",), streams=2, later=lambda _: (s.hangs_after(1),)),
    Scenario("dies while it serves", sound, ("EngineExited",), streams=2, later=lambda _: (s.dies_after(1),)),
)

SCENARIOS = (*HEALTHY, *AT_START, *WHILE_SERVING)
