"""The list of a hub's files: redirects and throttling, by the real client and without a network."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import httpx2
import pytest
from huggingface_hub import close_session, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from flash_engine.checkpoint.finding import CheckpointError
from flash_engine.checkpoint.hub import HubRepository
from flash_engine.model_download.failure import DownloadError, ThrottledError
from flash_engine.model_download.hub import HubSource
from flash_engine.model_download.workflow import list_in_time
from hub_stub import COMMIT

LISTED = {"id": "owner/model", "sha": COMMIT, "siblings": [{"rfilename": "config.json", "size": 2, "blobId": "0" * 40}]}
MIRROR = "https://mirror.example/api/models/owner/model"


@dataclass
class Hub:
    """Answers by `answer`, a mirror as a hub should."""

    answer: Callable[[httpx2.Request], httpx2.Response]
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append((request.url.host, request.headers.get("Authorization")))
        if request.url.host == "mirror.example":
            return httpx2.Response(200, content=json.dumps(LISTED))
        return self.answer(request)


Answering = Callable[..., Hub]


@pytest.fixture(autouse=True)
def _known_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a day the library asks the hub for a list of programs that might use it, and keeps it in the home folder."""
    monkeypatch.setattr("huggingface_hub.utils._detect_agent._registry", {"standardEnvVars": [], "harnesses": {}})


@pytest.fixture
def answering() -> Iterator[Answering]:
    def answer(status: int, **headers: str) -> Hub:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        hub = Hub(lambda _: httpx2.Response(status, headers=sent, content=b"{}"))
        set_client_factory(lambda: httpx2.Client(transport=httpx2.MockTransport(hub), follow_redirects=True))
        return hub

    yield answer
    set_client_factory(default_client_factory)
    close_session()


def source() -> HubSource:
    return HubSource("owner/model", None, "hf_notarealtoken")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_a_mirror_is_followed_without_the_token(answering: Answering, status: int) -> None:
    hub = answering(status, location=MIRROR)
    assert [file.name for file in source().list().files] == ["config.json"]
    assert [authorization for _, authorization in hub.asked] == ["Bearer hf_notarealtoken", None]


def test_a_redirect_loop_is_reported_as_one(answering: Answering) -> None:
    answering(308, location="/api/models/owner/model")
    with pytest.raises(DownloadError, match=r"redirects in a loop.*model\.hubEndpoint"):
        source().list()


THROTTLED: dict[str, tuple[int, dict[str, str], float | None]] = {
    "seconds": (429, {"Retry-After": "90"}, 90),
    "a window": (429, {"RateLimit": '"api";r=0;t=240'}, 240),
    "no word": (429, {}, None),
    "403": (403, {"Retry-After": "30"}, 30),
    "503": (503, {"Retry-After": "30"}, 30),
}


@pytest.mark.parametrize(("status", "headers", "wait"), THROTTLED.values(), ids=THROTTLED.keys())
def test_throttling_by_a_hub_is_reported_with_its_wait(
    answering: Answering, status: int, headers: dict[str, str], wait: float | None
) -> None:
    answering(status, **headers)
    with pytest.raises(ThrottledError) as throttled:
        source().list()
    assert throttled.value.wait_seconds == wait
    assert throttled.value.retryable


def test_an_inspection_says_that_the_hub_throttles_and_what_helps(answering: Answering) -> None:
    answering(429, retry_after="600")
    with pytest.raises(CheckpointError, match="the hub throttles this address or account") as throttled:
        HubRepository("owner/model", None)
    for words in ("set a token", "HF_TOKEN", "try again in 10 min"):
        assert words in throttled.value.remedy


def test_a_listing_that_trickles_in_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(HubSource, "list", lambda _: never.wait(10))
    with pytest.raises(DownloadError, match=r"the hub did not send the list of files within 0\.01 s") as ended:
        list_in_time(source(), 0.01)
    assert ended.value.retryable
    never.set()


def test_the_result_or_error_of_a_listing_is_passed_on(answering: Answering) -> None:
    answering(302, location=MIRROR)
    assert list_in_time(source()).revision == COMMIT
    answering(429)
    with pytest.raises(ThrottledError):
        list_in_time(source())
