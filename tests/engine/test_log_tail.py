"""What is kept of an engine's output, however it is split into chunks."""

import pytest

from flash_contracts.engine_record import EngineExit
from flash_engine.gate.exit_reason import explain_exit
from flash_engine.launcher.log_tail import LINE_LIMIT, LogTail


def kept_of(*chunks: bytes) -> tuple[str, ...]:
    lines = LogTail()
    for chunk in chunks:
        lines.feed(1, chunk)
    return lines.kept()


def test_lines_are_joined_from_chunks_split_anywhere() -> None:
    assert kept_of(b"one\ntw", b"o\nthr", b"ee") == ("one", "two", "three")


def test_two_streams_do_not_mix_within_a_line() -> None:
    lines = LogTail()
    lines.feed(1, b"to stan")
    lines.feed(2, b"to standard error\n")
    lines.feed(1, b"dard output\n")
    assert lines.kept() == ("to standard error", "to standard output")


def test_of_a_progress_bar_its_last_state_is_kept() -> None:
    bar = b"".join(b"\rloading %d%%" % percent for percent in range(101))
    assert kept_of(bar, b"\ndone\r\n") == ("loading 100%", "done")


def test_a_line_without_an_end_does_not_grow_for_ever() -> None:
    assert [len(line) for line in kept_of(*[b"x" * 1000] * 50)] == [LINE_LIMIT]


def test_the_last_lines_are_kept_and_the_errors_before_them_in_their_order() -> None:
    output = [b"ValueError: the cause\n", *[b"line %d\n" % number for number in range(100)], b"OSError: the end\n"]
    kept = kept_of(*output)
    assert kept[0] == "ValueError: the cause"
    assert kept[-2:] == ("line 99", "OSError: the end")
    assert len(kept) < 40


def test_invalid_utf8_is_kept_as_far_as_possible() -> None:
    assert kept_of(b"caf\xe9\n") == ("caf\N{REPLACEMENT CHARACTER}",)


SAID = "xyzzy-my-own-words"

OF_REQUESTS = {
    "--enable-log-requests": (
        f"INFO 11-27 10:00:00 [logger.py:43] Received request cmpl-1: prompt: '{SAID} CUDA out of memory', n=1",
    ),
    "a prompt of several lines": (
        "INFO 11-27 10:00:00 [logger.py:43] Received request cmpl-1: prompt: 'first",
        f"torch.OutOfMemoryError: CUDA out of memory {SAID}",
        f"{SAID} KeyError: 'last', params: None",
    ),
    "the same as debug log, and its answer": (
        f"(APIServer pid=1) DEBUG 11-27 10:00:00 [logger.py:50] Request chatcmpl-1 details: prompt: '{SAID}'",
        f"(APIServer pid=1) INFO 11-27 10:00:00 [logger.py:80] Generated response chatcmpl-1: output: '{SAID}'",
    ),
    "a request that is refused": (
        f"(APIServer pid=1) ERROR 11-27 10:00:00 [serving_chat.py:230] ValueError: bad message {SAID}",
        f"(APIServer pid=1) ERROR 11-27 10:00:00 [serving_chat.py:230] {SAID} MemoryError: CUDA out of memory",
    ),
    "a tool call that cannot be read": (
        f"ERROR 11-27 10:00:00 [deepseekv4_tool_parser.py:120] json.decoder.JSONDecodeError: MemoryError: {SAID}",
    ),
    "an error in the server, whose traceback has no prefix": (
        "(APIServer pid=1) ERROR:    Exception in ASGI application",
        "(APIServer pid=1) Traceback (most recent call last):",
        f"(APIServer pid=1) jinja2.exceptions.TemplateError: {SAID}",
        f"(APIServer pid=1) torch.OutOfMemoryError: CUDA out of memory {SAID}",
        f"(APIServer pid=1) (EngineCore pid=2) ERROR 11-27 10:00:00 [core.py:1] MemoryError: {SAID}",
    ),
    "what an engine core dumps of its work": (
        f"(EngineCore pid=2) ERROR 11-27 10:00:00 [dump_input.py:79] SchedulerOutput(prompt='{SAID}')",
        f"(EngineCore pid=2) ERROR 11-27 10:00:00 [core.py:79] NewRequestData(prompt_token_ids=[1], prompt='{SAID}')",
    ),
    "a question in an address": (f'INFO:     10.0.0.9:41822 - "GET /v1/models?q={SAID} HTTP/1.1" 200 OK',),
}


@pytest.mark.parametrize("lines", OF_REQUESTS.values(), ids=OF_REQUESTS.keys())
def test_no_text_of_a_user_is_kept_or_used_as_evidence(lines: tuple[str, ...]) -> None:
    tail = LogTail()
    shown = tail.feed(1, "\n".join((*lines, "INFO:     Shutting down", "")).encode())

    kept = tail.kept()
    assert SAID not in "\n".join((*shown, *kept))
    reason, message = explain_exit(EngineExit(0, None, "2026-11-28T00:00:00.000Z", kept), 1)
    assert (reason, SAID in message, "memory" in message.replace("memoryPercent", "")) == ("EngineExited", False, False)


def test_no_secret_is_kept() -> None:
    tail = LogTail(secrets=("plugh-plugh",))
    shown = tail.feed(1, b"ValueError: --hf-token=abcdefgh is refused by plugh-plugh\n\r50 % of plugh-plugh")
    assert (shown, tail.kept()) == (
        ["ValueError: --hf-token=[redacted] is refused by [redacted]", "50 % of [redacted]"],
        ("ValueError: --hf-token=[redacted] is refused by [redacted]", "50 % of [redacted]"),
    )


def a_flood(count: int) -> bytes:
    return b"".join(
        b"(APIServer pid=1) ERROR [async_llm.py:1] RuntimeError: request %d failed\n" % n for n in range(count)
    )


FLOODS = {
    "of errors before it": a_flood(120) + b"%s\n",
    "of errors after it": b"%s\n" + a_flood(120),
    "of reports of deaths": b"%s\n" + b"EngineDeadError: See stack trace (above) for the root cause.\n" * 120,
    "of frames": b"%s\n" + b"".join(b"frame #%d: c10d::run() + 0x0 (0x7f)\n" % n for n in range(120)),
    "of talk": b"%s\n" + b"".join(b"noise %d\n" % n for n in range(120)),
}
ROOTS = (
    b"(Worker_TP0 pid=3) torch.OutOfMemoryError: CUDA out of memory.",
    b"[rank1]:[E802 22:07:03.84 ProcessGroupNCCL.cpp:2119] [PG ID 2 Rank 1] CUDA error: unspecified launch failure",
    b"!!!!!!! Segfault encountered !!!!!!!",
)


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
@pytest.mark.parametrize("root", ROOTS)
def test_nothing_displaces_a_root_cause(flood: bytes, root: bytes) -> None:
    kept = kept_of(flood.replace(b"%s", root))
    assert root.decode() in kept
    assert len(kept) < 100


def test_old_lines_are_stale() -> None:
    clock = [0.0]
    tail = LogTail(clock=lambda: clock[0])
    tail.feed(1, b"ValueError: a configuration that nobody uses\nINFO ready\n")
    clock[0] = 3 * 86400.0
    tail.feed(1, b"!!!!!!! Segfault encountered !!!!!!!\n")
    assert (len(tail.kept()), tail.stale()) == (3, 2)


def test_an_old_error_does_not_displace_the_next_first_one() -> None:
    clock = [0.0]
    tail = LogTail(clock=lambda: clock[0])
    for day in range(30):
        clock[0] = day * 86400.0
        tail.feed(1, b"ValueError: of day %d\n" % day)
    tail.feed(1, b"".join(b"ValueError: follows %d\n" % n for n in range(50)))
    assert "ValueError: of day 29" in tail.kept()
