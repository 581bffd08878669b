"""The behaviour of an engine stub: every trait with its healthy value. Scripts (`scripts`) change some of them."""

from dataclasses import dataclass, field


@dataclass
class Traits:
    """May be changed while the engine runs. Times are in seconds."""

    # Speed: an engine decodes in steps. Each yields one token and the accepted drafts.
    step_seconds: float = 0.0
    """Time of a decode step of one stream; 0 streams at once, `tokens_per_chunk` in each chunk."""
    jitter: float = 0.0
    """Steps differ by a factor of e^(this x a normal deviate)."""
    stall_share: float = 0.0
    """Share of steps that take `stall_seconds` longer, as on a machine with busy cores."""
    stall_seconds: float = 0.0
    hiccup_after_tokens: int | None = None
    """Once, after this many tokens, a step takes `hiccup_seconds` longer."""
    hiccup_seconds: float = 0.0
    slow_down: float = 1.0
    """Factor by which steps take longer..."""
    slow_down_after: float = 0.0
    """...from this long after the start."""
    concurrency_cost: float = 0.6
    """By which share each further stream lengthens a step. As with a mixture of experts: each stream reads other
    weights, so several streams together are hardly faster than one."""
    first_token_seconds: float = 0.0
    prompt_tokens_per_second: float | None = None
    """How fast it reads prompts, in steps of STEP_TOKENS that other streams wait for; None for at once."""
    compile_seconds: float = 0.0
    """How long its first request computes before it is answered. It goes on if the client leaves."""
    prefill_tokens_per_second: float = 0.0
    """Speed of reading a prompt of more than SHORT_PROMPT tokens; 0 reads at once."""
    depth_slow_down: float = 1.0
    """Factor by which steps take longer after such a prompt."""
    tokenizes: bool = True
    """It has /tokenize."""
    tokens_per_chunk: int = 2
    """Minimum tokens per chunk; steps are buffered until then."""
    usage_in_chunks: bool = True
    """It honours `continuous_usage_stats`."""

    # Drafts.
    draft_tokens: int = 1
    acceptance: float = 1.0
    """Chance that a drafted token is accepted if all before it were."""
    acceptance_by_position: tuple[float, ...] = ()
    """Share of drafts of which the token at each position is accepted. It replaces `acceptance`."""
    speculation: bool = True
    """False: no speculation, and no counters for it."""
    drafting: bool = True
    """False: counters, but no drafts."""

    # Answers.
    answers: list[str] = field(default_factory=lambda: ["the answer is 42"])
    """Golden answers, in order; the last one is repeated."""
    answer_when_concurrent: str | None = None
    """Golden answer beside other requests, if it is another one then."""
    count: str = ", ".join(str(number) for number in range(1, 31))
    """Answer to the question to count."""
    count_when_concurrent: str | None = None
    thinks: bool = False
    """The model thinks before it answers unless it is asked not to."""
    thinks_anyway: bool = False
    thought_tokens: int = 120
    reasons: bool = True
    """The model thinks if it is asked to."""
    broken_features: frozenset[str] = frozenset()
    """Of tools, reasoning and schema: its parser does not know the model's format."""
    refuses: str | None = None
    """HTTP 400 for chats with this key."""
    takes_template_arguments: bool = True
    """False: HTTP 400 for `chat_template_kwargs`."""
    text: str | None = None
    """What each token of a stream is; a story where that is None."""
    text_at_depth: str | None = None
    """The same after a prompt of more than SHORT_PROMPT tokens."""
    leaked_token: str | None = None
    """A special token that each timed text has once."""
    text_when_concurrent: str | None = None
    """The same for a stream beside others."""
    status: int = 200
    error_share: float = 0.0
    """Share of requests that are answered with HTTP 500."""
    reset_share: float = 0.0
    """Share of requests whose connection is reset, before the answer or in the middle of it."""
    cut_after_chunks: int | None = None

    # Hangs and exits.
    load_seconds: float = 0.0
    hangs_at_load: bool = False
    healthy: bool = True
    stuck: bool = False
    """It accepts golden questions but never answers."""
    hang_after_tokens: int | None = None
    """All requests stop forever once it has generated this many tokens."""
    hangs_when_left: int | None = None
    """All requests stop forever once this many are left of more."""
    tokens_while_stuck: int = 0
    """Tokens generated between two reads of its metrics, for any client."""
    dies_at_load: bool = False
    dies_after_tokens: int | None = None
    dies_of_streams: int | None = None
    """It dies once this many requests run at the same time."""
    leaked_bytes_per_token: int = 0
    memory_bytes: int = 1 << 30
    """It is killed once it has leaked this much. The memory is simulated, the death of a process is real."""
    last_lines: tuple[str, ...] = ("RuntimeError: CUDA error: an illegal memory access was encountered",)
    exit_code: int | None = 1
    exit_signal: str | None = None
    oom_kills: int = 0
    """The kernel's count of kills. A stub that really exits cannot show one."""

    # Metrics.
    metrics: bool = True
    abandoned: int = 0
    """Aborted requests that its gauges still show."""
    missing_metric: str | None = None
    renamed_metric: tuple[str, str] | None = None
    counters_freeze: bool = False
    reset_after_tokens: int | None = None
    """After this many tokens its counters restart at 0, as after an unnoticed restart."""
    resets_every_time: bool = False
    """Repeatedly; only once if False."""

    # Other clients of the engine.
    running: int = 0
    """Other clients' requests on it, by its metrics."""
    foreign_tokens: int = 0
    """Tokens generated for other clients during each stream."""
    foreign_pause: float | None = None
    """Mean pause between two requests of other clients; None for no such requests."""
    foreign_seconds: float = 0.5
    """Their mean duration."""
    foreign_until: float | None = None
    """When they stop, counted from the start; None for never."""
