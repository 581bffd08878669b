"""What an engine stub does: every trait with its healthy value. Scripts (`scripts`) change some of them."""

from dataclasses import dataclass, field


@dataclass
class Traits:
    """May be changed while the engine runs; times are in seconds."""

    # Speed: an engine decodes in steps, each of one token and of the drafts that were accepted.
    step_seconds: float = 0.0
    """Time of a decode step of one stream; 0 streams at once, `tokens_per_chunk` in each chunk."""
    jitter: float = 0.0
    """Steps differ by a factor of e^(this x a normal deviate)."""
    stall_share: float = 0.0
    """Share of steps that take `stall_seconds` more: a machine whose cores are wanted by others."""
    stall_seconds: float = 0.0
    hiccup_after_tokens: int | None = None
    """Once, after so many tokens, a step takes `hiccup_seconds` more."""
    hiccup_seconds: float = 0.0
    slow_down: float = 1.0
    """Steps take so many times longer..."""
    slow_down_after: float = 0.0
    """...from so long after the start on."""
    crowd_cost: float = 0.6
    """Each further stream makes a step longer by this share of it. As of a mixture of experts: another stream reads
    other weights, so that several together are little faster than one."""
    first_token_seconds: float = 0.0
    tokens_per_chunk: int = 2
    """Least tokens in a chunk; steps are gathered until there are so many."""
    usage_in_chunks: bool = True
    """It honours `continuous_usage_stats`."""

    # Drafts.
    draft_tokens: int = 1
    acceptance: float = 1.0
    speculation: bool = True
    """False: no speculation at all, and no counters for it."""
    drafting: bool = True
    """False: counters, and no drafts."""

    # Answers.
    answers: list[str] = field(default_factory=lambda: ["the answer is 42"])
    """Golden answers in turn; the last one repeats."""
    status: int = 200
    error_share: float = 0.0
    """Share of requests that are answered with HTTP 500."""
    reset_share: float = 0.0
    """Share of requests whose connection is reset, before the answer or in the middle of it."""
    cut_after_chunks: int | None = None

    # Life and death.
    load_seconds: float = 0.0
    hangs_at_load: bool = False
    healthy: bool = True
    stuck: bool = False
    """It takes golden questions and never answers."""
    hang_after_tokens: int | None = None
    """All requests stop for ever once it has generated so many tokens."""
    tokens_while_stuck: int = 0
    """Tokens generated between two looks at its metrics, for whomever."""
    dies_at_load: bool = False
    dies_after_tokens: int | None = None
    dies_of_streams: int | None = None
    """It dies once so many requests run at the same time."""
    leaked_bytes_per_token: int = 0
    memory_bytes: int = 1 << 30
    """The kernel kills it once it has leaked so much. The memory is imagined, the death is not."""
    last_words: tuple[str, ...] = ("RuntimeError: CUDA error: an illegal memory access was encountered",)
    exit_code: int | None = 1
    exit_signal: str | None = None

    # Metrics.
    metrics: bool = True
    missing_metric: str | None = None
    renamed_metric: tuple[str, str] | None = None
    counters_freeze: bool = False
    reset_after_tokens: int | None = None
    """Its counters begin again at 0, after so many tokens, as after a restart that nobody saw."""
    resets_every_time: bool = False
    """Again and again; once where this is False."""

    # Others on the engine.
    running: int = 0
    """Requests of others on it, by its metrics."""
    foreign_tokens: int = 0
    """Tokens generated for somebody else during each stream."""
    foreign_pause: float | None = None
    """Mean pause between two requests of others; None for none."""
    foreign_seconds: float = 0.5
    """Mean length of one."""
    foreign_until: float | None = None
    """When others leave, from the start on; None for never."""
