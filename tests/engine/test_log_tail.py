"""What is kept of an engine's output, however it is torn."""

from flash_engine.launcher.log_tail import LINE_LIMIT, LogTail


def kept_of(*chunks: bytes) -> tuple[str, ...]:
    lines = LogTail()
    for chunk in chunks:
        lines.feed(1, chunk)
    return lines.kept()


def test_lines_are_put_together_from_chunks_torn_anywhere() -> None:
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


def test_bytes_that_are_no_text_are_kept_as_far_as_they_are() -> None:
    assert kept_of(b"caf\xe9\n") == ("caf\N{REPLACEMENT CHARACTER}",)
