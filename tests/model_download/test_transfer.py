"""Transfers of a file that break, trickle or get an unexpected answer, in virtual time and without a network."""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import close_session, constants, set_client_factory
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils._http import default_client_factory

from flash_engine.model_cache import PARTIAL_SUFFIX, ModelSnapshot
from flash_engine.model_download import transfer as transfer_module
from flash_engine.model_download.failure import DownloadError, ThrottledError
from flash_engine.model_download.source import FileListing, FileRequest, RemoteFile
from flash_engine.model_download.transfer import Transfer

COMMIT = "c" * 40
URL = "https://hub.example/model"
CONTENT = random.Random(0).randbytes(1 << 20)
STALL_SECONDS = 60.0
LEAST = 1000.0
"""Bytes per second: in STALL_SECONDS, 60,000 must arrive."""


@dataclass
class Clock:
    """Virtual time, which passes only in `sleep`."""

    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Source:
    server = "the hub"
    where_to_look = "model.hubEndpoint"
    repository = "owner/model"
    has_credentials = True

    def list(self) -> FileListing:
        raise NotImplementedError

    def request(self, file: RemoteFile, _listing: FileListing, /) -> FileRequest:
        return FileRequest(URL, {"Authorization": "Bearer secret"}, file.size)

    def describe_error(self, error: HfHubHTTPError, file: RemoteFile) -> DownloadError | None:
        return DownloadError(f"{file.name}: denied ({error.response.status_code})", "set a token")

    def unpinned_warning(self, _listing: FileListing, /) -> str | None:
        return None


Answer = Callable[[httpx2.Request], httpx2.Response]


@dataclass
class Server:
    """Answers each request with the next of `answers`, and from then on as it should."""

    clock: Clock
    answers: list[Answer] = field(default_factory=list)
    forever: bool = False
    """Whether the last of `answers` is repeated."""
    asked: list[httpx2.Request] = field(default_factory=list)
    asked_at: list[float] = field(default_factory=list)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        self.asked_at.append(self.clock.now)
        if not self.answers:
            return rest(request)
        return (self.answers[0] if self.forever and len(self.answers) == 1 else self.answers.pop(0))(request)

    @property
    def starts(self) -> list[int]:
        return [offset(request) for request in self.asked]


def offset(request: httpx2.Request) -> int:
    return int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))


def part(request: httpx2.Request, body: Iterator[bytes] | bytes, end: int = len(CONTENT)) -> httpx2.Response:
    start = offset(request)
    headers = {"Content-Length": str(end - start)}
    if "Range" in request.headers:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(CONTENT)}"
    status = 206 if "Range" in request.headers else 200
    return httpx2.Response(status, headers=headers, content=body)


def rest(request: httpx2.Request) -> httpx2.Response:
    return part(request, CONTENT[offset(request) :])


def cut_after(count: int) -> Answer:
    def answer(request: httpx2.Request) -> httpx2.Response:
        def body() -> Iterator[bytes]:
            start = offset(request)
            yield CONTENT[start : start + count]
            raise httpx2.RemoteProtocolError("the connection was closed")

        return part(request, body())

    return answer


def plain(status: int, content: bytes = b"", **headers: str) -> Answer:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: httpx2.Response(status, headers=sent, content=content)


@dataclass
class Fetched:
    folder: Path
    clock: Clock
    server: Server
    shards: int = 1

    def run(self, content: bytes = CONTENT) -> None:
        model = ModelSnapshot(self.folder, "owner/model", COMMIT)
        model.folder.mkdir(parents=True, exist_ok=True)
        files = (RemoteFile("shard", len(content), hashlib.sha256(content).hexdigest()),)
        Transfer(
            model, FileListing(COMMIT, files), files, Source(),
            streams=1, stall_seconds=STALL_SECONDS, least_bytes_per_second=LEAST,
        ).run()  # fmt: skip

    @property
    def file(self) -> Path:
        return ModelSnapshot(self.folder, "owner/model", COMMIT).folder / "shard"

    @property
    def partial(self) -> bytes:
        path = self.file.with_name(f"shard{PARTIAL_SUFFIX}")
        return path.read_bytes() if path.exists() else b""


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fetched]:
    clock = Clock()
    server = Server(clock)
    monkeypatch.setattr(transfer_module, "time", clock)
    monkeypatch.setattr(Transfer, "_sleep", lambda _, seconds: clock.sleep(seconds))
    set_client_factory(lambda: httpx2.Client(transport=httpx2.MockTransport(server), follow_redirects=True))
    yield Fetched(tmp_path, clock, server)
    set_client_factory(default_client_factory)
    close_session()


PIECE = 200_000


def test_what_arrives_before_a_connection_breaks_is_kept(fetched: Fetched) -> None:
    """However little it is: a download must finish through a proxy that closes every connection early."""
    fetched.server.answers = [cut_after(PIECE)]
    fetched.server.forever = True
    fetched.run()

    assert fetched.file.read_bytes() == CONTENT
    assert fetched.server.starts == [number * PIECE for number in range(6)]


def test_every_piece_is_on_disk_before_the_next_is_read(fetched: Fetched) -> None:
    """So a killed process loses nothing that it received."""
    seen = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        def body() -> Iterator[bytes]:
            for at in range(0, len(CONTENT), PIECE):
                seen.append(len(fetched.partial))
                yield CONTENT[at : at + PIECE]

        return part(request, body())

    fetched.server.answers = [answer]
    fetched.run()
    assert seen == [number * PIECE for number in range(6)]


def whole_in_place_of_the_rest(_: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, headers={"Content-Length": str(len(CONTENT))}, content=CONTENT)


def chunked(_: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, content=iter([CONTENT[:PIECE], CONTENT[PIECE:], b""]))


def chunked_and_longer(_: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, content=iter([CONTENT, b"more", b"and more"]))


def another_range(request: httpx2.Request) -> httpx2.Response:
    start = max(offset(request) - 7, 0)
    described = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
    return httpx2.Response(206, headers={"Content-Range": described}, content=CONTENT[start:])


def part_of_the_whole(request: httpx2.Request) -> httpx2.Response:
    assert "Range" not in request.headers
    described = f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"
    return httpx2.Response(206, headers={"Content-Range": described}, content=CONTENT)


def smaller_ranges(request: httpx2.Request) -> httpx2.Response:
    end = min(offset(request) + PIECE, len(CONTENT))
    return part(request, CONTENT[offset(request) : end], end)


def without_content_range(request: httpx2.Request) -> httpx2.Response:
    content = CONTENT[offset(request) :]
    return httpx2.Response(206, headers={"Content-Length": str(len(content))}, content=content)


def of_another_file(request: httpx2.Request) -> httpx2.Response:
    """As after a change of the file behind the address, with another ETag."""
    described = f"bytes {offset(request)}-{len(CONTENT) + 8}/{len(CONTENT) + 9}"
    return httpx2.Response(206, headers={"Content-Range": described, "ETag": "new"}, content=b"other bytes")


PAGE = b"<html>Please sign in to the network</html>"
REST: dict[str, tuple[list[Answer], int]] = {
    "the whole file in place of the rest": ([whole_in_place_of_the_rest], 2),
    "the whole file in place of the rest, in pieces without a length": ([chunked], 2),
    "more than the file": ([chunked_and_longer], 2),
    "another range": ([another_range], 3),
    "another range, and a part when asked for the whole": ([another_range, part_of_the_whole], 3),
    "smaller ranges than asked for": ([smaller_ranges] * 6, 6),
    "a range without Content-Range": ([without_content_range], 2),
    "416 although something is missing": ([plain(416, content_range=f"bytes */{len(CONTENT)}")], 3),
    "a part of a file of another size": ([of_another_file], 3),
    "a page of a proxy": ([plain(200, PAGE, content_length=str(len(PAGE)))], 3),
    "nothing": ([plain(204)], 3),
    "an error of the server": ([plain(500), plain(502), plain(503), plain(504), plain(408)], 7),
    "a redirect without an address": ([plain(302)], 3),
    "a redirect to something that is no address": ([plain(302, location="http://[")], 3),
    "a redirect to another protocol": ([plain(302, location="ftp://hub.example/")], 3),
    "a part that is compressed": (
        [plain(206, b"", content_encoding="gzip", content_range=f"bytes {PIECE}-9/{len(CONTENT)}")],
        3,
    ),
}


@pytest.mark.parametrize(("answers", "requests"), REST.values(), ids=REST.keys())
def test_an_unexpected_answer_to_a_range_request_keeps_the_bytes_on_disk(
    fetched: Fetched, monkeypatch: pytest.MonkeyPatch, answers: list[Answer], requests: int
) -> None:
    verified: list[bytes] = []

    def checksum(path: Path, _file: RemoteFile) -> str:
        verified.append(path.read_bytes())
        return hashlib.sha256(verified[-1]).hexdigest()

    monkeypatch.setattr(transfer_module, "checksum", checksum)
    fetched.server.answers = [cut_after(PIECE), *answers]
    fetched.run()

    assert verified == [CONTENT], "no wrong byte was appended, so that nothing had to be thrown away"
    assert len(fetched.server.asked) == requests


def test_one_wrong_range_does_not_give_up_ranges_for_the_file(fetched: Fetched) -> None:
    """Else a connection that breaks early would never get past what is on disk."""
    fetched.server.answers = [cut_after(PIECE), another_range, cut_after(PIECE // 2)]
    fetched.run()
    assert fetched.file.read_bytes() == CONTENT
    assert fetched.server.starts == [0, PIECE, 0, PIECE]


def test_a_file_that_changes_between_two_connections_is_downloaded_once_more(fetched: Fetched) -> None:
    """The first part is the old file's, the second the new one's: only the checksum can tell."""
    old = bytes(PIECE)

    def old_then_broken(request: httpx2.Request) -> httpx2.Response:
        def body() -> Iterator[bytes]:
            yield old
            raise httpx2.ReadError("reset")

        return part(request, body())

    fetched.server.answers = [old_then_broken]
    fetched.run()
    assert fetched.file.read_bytes() == CONTENT
    assert fetched.server.starts == [0, PIECE, 0]


def trickle(clock: Clock, *, bytes_per_second: int) -> Answer:
    """It never pauses long enough for a timeout."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        def body() -> Iterator[bytes]:
            for at in range(offset(request), len(CONTENT), bytes_per_second):
                clock.sleep(1)
                yield CONTENT[at : at + bytes_per_second]

        return part(request, body())

    return answer


def test_a_trickle_is_ended_and_what_arrived_is_kept(fetched: Fetched) -> None:
    fetched.server.answers = [trickle(fetched.clock, bytes_per_second=400)]
    fetched.server.forever = True
    began = fetched.clock.now
    with pytest.raises(DownloadError, match=r"only .* of shard arrived in \d+ s, less than 1000 B/s") as ended:
        fetched.run()

    assert fetched.clock.now - began < 2 * STALL_SECONDS
    assert "the next attempt resumes there" in str(ended.value)
    kept = len(fetched.partial)
    assert kept > 10_000
    assert CONTENT.startswith(fetched.partial)
    fetched.server.answers = []
    fetched.run()
    assert fetched.server.starts[-1] == kept, "the message promised it"


def test_a_trickle_of_small_ranges_is_ended(fetched: Fetched) -> None:
    """Each connection is fast, and there is one for each ten bytes."""

    def ten_bytes(request: httpx2.Request) -> httpx2.Response:
        fetched.clock.sleep(1)
        start = offset(request)
        return part(request, CONTENT[start : start + 10], start + 10)

    fetched.server.answers = [cut_after(PIECE), ten_bytes]
    fetched.server.forever = True
    with pytest.raises(DownloadError, match=r"only .* of shard arrived"):
        fetched.run()


def test_a_connection_that_trickles_is_replaced(fetched: Fetched) -> None:
    """The next one may reach a better server."""
    fetched.server.answers = [trickle(fetched.clock, bytes_per_second=400)]
    fetched.run()
    assert fetched.file.read_bytes() == CONTENT
    assert fetched.server.starts[1] > 0


def test_a_slow_connection_that_is_fast_enough_is_left_alone(fetched: Fetched) -> None:
    fetched.server.answers = [trickle(fetched.clock, bytes_per_second=2 * int(LEAST))]
    fetched.run()
    assert len(fetched.server.asked) == 1


def test_a_server_that_sends_nothing_is_reported_as_silent(fetched: Fetched) -> None:
    def silent(_: httpx2.Request) -> httpx2.Response:
        fetched.clock.sleep(10)
        raise httpx2.ReadTimeout("timed out")

    fetched.server.answers = [cut_after(PIECE), silent]
    fetched.server.forever = True
    with pytest.raises(DownloadError, match="no data of shard arrived for 60 s") as ended:
        fetched.run()
    assert f"at {PIECE / 1024:.1f} KiB of 1.0 MiB (timed out)" in str(ended.value)
    assert fetched.partial == CONTENT[:PIECE]


WAITS: dict[str, tuple[Answer, float]] = {
    "429 with seconds": (plain(429, retry_after="40"), 40),
    "429 with a date": (
        plain(429, retry_after="Sun, 06 Nov 1994 08:50:07 GMT", date="Sun, 06 Nov 1994 08:49:37 GMT"), 30),
    "429 of Hugging Face": (plain(429, ratelimit='"resolvers";r=0;t=45'), 45),
    "429 without a word": (plain(429), 1),
    "503 with seconds": (plain(503, retry_after="20"), 20),
    "503 without a word": (plain(503), 1),
}  # fmt: skip


@pytest.mark.parametrize("middle", [False, True], ids=["at once", "in the middle of a file"])
@pytest.mark.parametrize(("answer", "seconds"), WAITS.values(), ids=WAITS.keys())
def test_a_server_that_throttles_is_asked_again_when_it_allows_it(
    fetched: Fetched, answer: Answer, seconds: float, *, middle: bool
) -> None:
    fetched.server.answers = [*([cut_after(PIECE)] if middle else []), answer]
    fetched.run()

    assert fetched.file.read_bytes() == CONTENT
    before, after = fetched.server.asked_at[-2:]
    assert seconds <= after - before < seconds + 3


def test_a_wait_beyond_the_limit_ends_the_attempt_at_once(fetched: Fetched) -> None:
    """The next attempt waits for the rest of it."""
    fetched.server.answers = [cut_after(PIECE), plain(429, retry_after="600")]
    with pytest.raises(ThrottledError, match="the hub throttles this address") as ended:
        fetched.run()
    assert ended.value.wait_seconds == 600
    assert len(fetched.server.asked) == 2
    assert fetched.partial == CONTENT[:PIECE]


def test_a_server_that_throttles_for_ever_ends_the_attempt(fetched: Fetched) -> None:
    fetched.server.answers = [plain(429, retry_after="10")]
    fetched.server.forever = True
    with pytest.raises(ThrottledError):
        fetched.run()
    assert 5 <= len(fetched.server.asked) <= 7


REDIRECTS: dict[str, tuple[str, str | None]] = {
    "on the same host": ("https://hub.example/elsewhere", "Bearer secret"),
    "to another host": ("https://storage.example/model", None),
    "to another port": ("https://hub.example:8443/model", None),
    "without TLS": ("http://hub.example/model", None),
    "to a name below": ("https://cdn.hub.example/model", None),
}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(("location", "authorization"), REDIRECTS.values(), ids=REDIRECTS.keys())
def test_a_redirect_is_followed_and_the_token_goes_to_no_other_server(
    fetched: Fetched, status: int, location: str, authorization: str | None
) -> None:
    fetched.server.answers = [plain(status, location=location)]
    fetched.run()

    assert fetched.file.read_bytes() == CONTENT
    assert [str(request.url) for request in fetched.server.asked] == [URL, location]
    assert [request.headers.get("Authorization") for request in fetched.server.asked] == [
        "Bearer secret",
        authorization,
    ]


def test_a_redirect_loop_is_reported_as_one(fetched: Fetched) -> None:
    fetched.server.answers = [plain(308, location=URL)]
    fetched.server.forever = True
    with pytest.raises(DownloadError, match="redirects in a loop"):
        fetched.run()


def test_a_file_above_the_hubs_limit_is_refused_before_it_is_asked_for(
    fetched: Fetched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "MAX_HTTP_DOWNLOAD_SIZE", len(CONTENT) - 1)
    with pytest.raises(DownloadError, match="smaller shards"):
        fetched.run()
    assert fetched.server.asked == []
