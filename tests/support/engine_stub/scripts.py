"""The engine stub's misbehaviours by name. Each makes a script. Scripts compose: `EngineStub(paced(), slow())`.

On the command line they read `--script paced --script slow_later:after=3,factor=4`.
"""

import re
from collections.abc import Callable

from engine_stub.engine import Script
from engine_stub.traits import Traits

SEED_TOKENS_PER_SECOND = 85.0
"""The decode speed of two RTX PRO 6000 with the MTP head."""

SEED_ACCEPTANCE = 0.92
SEED_FIRST_TOKEN_SECONDS = 0.16
SEED_PREFILL_TOKENS_PER_SECOND = 3500.0
"""4,300 on two 600 W cards with prompts of 1,024 tokens, less 20 % for Max-Q."""


class UnknownScriptError(ValueError):
    """Unknown script or parameter. The message lists the known ones."""


def having(**traits: object) -> Script:
    """A script that sets traits."""

    def play(played: Traits) -> None:
        for name, value in traits.items():
            if not hasattr(played, name):
                raise UnknownScriptError(f"an engine stub has no trait {name!r}")
            setattr(played, name, value)

    return play


def paced(
    tokens_per_second: float = SEED_TOKENS_PER_SECOND,
    acceptance: float = SEED_ACCEPTANCE,
    first_token: float = SEED_FIRST_TOKEN_SECONDS,
    jitter: float = 0.05,
) -> Script:
    """A healthy engine with this speed. The steps have the duration that yields it with this acceptance."""
    return having(
        step_seconds=(1 + acceptance) / tokens_per_second,
        acceptance=acceptance,
        first_token_seconds=first_token,
        prefill_tokens_per_second=SEED_PREFILL_TOKENS_PER_SECOND,
        jitter=jitter,
        tokens_per_chunk=1,
    )


def drafting(*shares: float, tokens_per_second: float = 200.0) -> Script:
    """Several drafted tokens for each step, with the share of drafts of which each position is accepted."""
    return having(acceptance_by_position=shares, step_seconds=(1 + sum(shares)) / tokens_per_second)


def noisy(share: float = 0.01, stall: float = 0.12, jitter: float = 0.3) -> Script:
    """A machine with busy cores: uneven steps, and occasional stalls."""
    return having(stall_share=share, stall_seconds=stall, jitter=jitter)


def slow(factor: float = 2.0) -> Script:
    return having(slow_down=factor, slow_down_after=0.0)


def slow_later(after: float = 5.0, factor: float = 4.0) -> Script:
    return having(slow_down=factor, slow_down_after=after)


def well_again() -> Script:
    """Healthy again: no longer slow or stuck."""
    return having(slow_down=1.0, stuck=False, hang_after_tokens=None)


def slow_first_token(seconds: float = 3.0) -> Script:
    return having(first_token_seconds=seconds)


def reads_prompts(tokens_per_second: float = 4000.0) -> Script:
    """Prompts take time, and the others' steps with them."""
    return having(prompt_tokens_per_second=tokens_per_second)


def slow_when_concurrent(cost: float = 4.0) -> Script:
    """Each further stream lengthens a step by so many times a step's time."""
    return having(concurrency_cost=cost)


def compiles_at_first_request(seconds: float = 30.0) -> Script:
    return having(compile_seconds=seconds)


def abandoned_gauges(requests: float = 121) -> Script:
    """Its gauges keep their values after all requests were aborted."""
    return having(abandoned=int(requests))


def slow_prefill(tokens_per_second: float = 200.0) -> Script:
    return having(prefill_tokens_per_second=tokens_per_second)


def slow_at_depth(factor: float = 3.0) -> Script:
    """Fast after a short prompt: attention over a long one is slow."""
    return having(depth_slow_down=factor)


def chunky(tokens: float = 8) -> Script:
    """Several tokens per chunk, as from a buffering proxy."""
    return having(tokens_per_chunk=int(tokens))


def loading(seconds: float = 1.0) -> Script:
    return having(load_seconds=seconds)


def hangs_at_load() -> Script:
    return having(hangs_at_load=True)


def hangs_after(tokens: float = 40) -> Script:
    return having(hang_after_tokens=int(tokens))


def wrong_text(text: str = "the answer is 41") -> Script:
    return having(answers=[text])


def garbage(text: str = "!") -> Script:
    """The golden answer is right, and decoding is not."""
    return having(text=text)


def garbage_at_depth(text: str = "!") -> Script:
    return having(text_at_depth=text)


def garbage_when_concurrent(text: str = "!") -> Script:
    return having(text_when_concurrent=text)


def wrong_when_concurrent(text: str = "the answer is 41") -> Script:
    """A wrong word that the text alone does not show."""
    return having(answer_when_concurrent=text)


def miscounts(text: str = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 14, 15, 16") -> Script:
    """A short answer is right, and decoding goes wrong after some tokens."""
    return having(count=text)


def miscounts_when_concurrent(text: str = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 12, 12, 12, 13") -> Script:
    return having(count_when_concurrent=text)


def thinking(tokens: float = 120, *, anyway: bool = False) -> Script:
    """Thinks by default, or even if it is asked not to."""
    return having(thinks=True, thinks_anyway=anyway, thought_tokens=int(tokens))


def broken_parsers(*features: str) -> Script:
    """Of tools, reasoning and schema."""
    return having(broken_features=frozenset(features))


def leaks_special_tokens(text: str = "<\uff5cbegin\u2581of\u2581sentence\uff5c>") -> Script:
    """Seen with two drafted tokens: the beginning of a sentence comes back as text."""
    return having(leaked_token=text)


def hangs_when_left(requests: float = 3) -> Script:
    """Like a graph of a padded batch: it hangs once this many of more requests are left."""
    return having(hangs_when_left=int(requests))


def dead_draft() -> Script:
    """The head's weights are zero: it drafts but nothing is accepted, so each step yields one token."""
    return having(acceptance=0.0)


def absent_draft() -> Script:
    return having(speculation=False)


def idle_draft() -> Script:
    """Counters for drafts, but no drafts."""
    return having(drafting=False)


def poor_draft(acceptance: float = 0.2) -> Script:
    return having(acceptance=acceptance)


def dies_at_load() -> Script:
    return having(dies_at_load=True, last_lines=("ValueError: MTP speculative decoding layer 43 weights missing",))


def dies_after(tokens: float = 40) -> Script:
    return having(dies_after_tokens=int(tokens))


def dies_of_streams(streams: float = 2) -> Script:
    """Like Marlin's kernel on sm_120: one stream works, several cause an illegal memory access."""
    return having(dies_of_streams=int(streams))


def runs_out_of_gpu_memory() -> Script:
    return having(dies_at_load=True, last_lines=("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate",))


def leaks(megabytes_per_token: float = 20) -> Script:
    """Leaks memory until the kernel kills it."""
    per_token = int(megabytes_per_token * (1 << 20))
    return having(leaked_bytes_per_token=per_token, exit_code=None, exit_signal="SIGKILL", oom_kills=1, last_lines=())


def server_errors(share: float = 1.0) -> Script:
    return having(error_share=share)


def connection_resets(share: float = 0.1) -> Script:
    return having(reset_share=share)


def without_metrics() -> Script:
    return having(metrics=False)


def renamed_metric(old: str = "vllm:generation_tokens_total", new: str = "vllm:output_tokens_total") -> Script:
    return having(renamed_metric=(old, new))


def counters_freeze() -> Script:
    return having(counters_freeze=True)


def counters_reset(after: float = 60, *, every: bool = False) -> Script:
    return having(reset_after_tokens=int(after), resets_every_time=every)


def foreign_traffic(pause: float = 0.2, seconds: float = 1.0, until: float | None = None) -> Script:
    return having(foreign_pause=pause, foreign_seconds=seconds, foreign_until=until)


SCRIPTS: dict[str, Callable[..., Script]] = {
    make.__name__: make
    for make in (
        paced, noisy, slow, slow_later, well_again, slow_first_token, reads_prompts, slow_when_concurrent,
        compiles_at_first_request, abandoned_gauges, wrong_when_concurrent, miscounts, miscounts_when_concurrent,
        thinking, leaks_special_tokens, hangs_when_left, slow_prefill, slow_at_depth,
        chunky, loading, hangs_at_load, hangs_after,
        wrong_text, garbage, garbage_at_depth, garbage_when_concurrent, dead_draft,
        absent_draft, idle_draft, poor_draft, dies_at_load,
        dies_after, dies_of_streams,
        runs_out_of_gpu_memory, leaks, server_errors, connection_resets, without_metrics, renamed_metric,
        counters_freeze, counters_reset, foreign_traffic,
    )
}  # fmt: skip


def read_script(text: str) -> Script:
    """`name` or `name:parameter=value,...`. Raises UnknownScriptError."""
    name, _, rest = text.partition(":")
    if name not in SCRIPTS:
        raise UnknownScriptError(f"no script {name!r}; there are {', '.join(SCRIPTS)}")
    parameters = dict(part.split("=", 1) for part in rest.split(",") if "=" in part)
    try:
        return SCRIPTS[name](**{key: _value(value) for key, value in parameters.items()})
    except TypeError as error:
        raise UnknownScriptError(f"script {text!r}: {error}") from error


def _value(text: str) -> float | str:
    return float(text) if re.fullmatch(r"-?\d+(\.\d+)?", text) else text
