"""Servers that throttle: how long they ask to wait, that flash-fetch waits, and what status says."""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from flash_contracts.download_record import DownloadRecord
from flash_engine.model_download.docker_config import Credentials
from flash_engine.model_download.failure import DownloadError, ThrottledError
from flash_engine.model_download.image_reference import ImageReference
from flash_engine.model_download.registry import RegistrySession, RegistrySource
from flash_engine.model_download.reporter import ProgressReporter
from flash_engine.model_download.settings import DownloadSettings
from flash_engine.model_download.workflow import throttling_remedy
from flash_engine.throttling import LONGEST_WAIT_SECONDS, is_throttled, requested_wait

NOON = "Fri, 02 Jan 2026 12:00:00 GMT"
ASKED: dict[str, tuple[dict[str, str], float | None]] = {
    "nothing": ({}, None),
    "seconds": ({"retry-after": "120"}, 120),
    "no wait": ({"Retry-After": "0"}, 0),
    "a fraction": ({"Retry-After": "1.5"}, 1.5),
    "a date by the server's clock": ({"Retry-After": "Fri, 02 Jan 2026 12:05:00 GMT", "Date": NOON}, 300),
    "a date in the past": ({"Retry-After": "Fri, 02 Jan 2026 11:00:00 GMT", "Date": NOON}, 0),
    "a date far in the future": ({"Retry-After": "Fri, 02 Jan 2099 12:00:00 GMT", "Date": NOON}, LONGEST_WAIT_SECONDS),
    "too long": ({"Retry-After": "999999999"}, LONGEST_WAIT_SECONDS),
    "no number": ({"Retry-After": "soon"}, None),
    "less than nothing": ({"Retry-After": "-5"}, None),
    "Hugging Face": ({"RateLimit": '"api";r=0;t=55', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}, 55),
    "the window that is used up": ({"RateLimit": '"api";r=0;t=55, "pages";r=99;t=300'}, 55),
    "the longest of two": ({"RateLimit": '"api";r=0;t=55, "pages";r=0;t=300'}, 300),
    "an earlier draft": ({"RateLimit": "limit=100, remaining=0, reset=50"}, 50),
    "an earlier draft in parts": ({"RateLimit-Limit": "100;w=60", "RateLimit-Reset": "40"}, 40),
    "Retry-After before the others": ({"Retry-After": "7", "RateLimit": '"api";r=0;t=55'}, 7),
    "Docker Hub's limits, without a time": (
        {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "0;w=21600"}, None),
}  # fmt: skip


@pytest.mark.parametrize(("headers", "seconds"), ASKED.values(), ids=ASKED.keys())
def test_each_way_to_ask_for_a_wait_is_understood(headers: dict[str, str], seconds: float | None) -> None:
    assert requested_wait(CaseInsensitiveDict(headers)) == seconds


@pytest.mark.parametrize("name", ["Retry-After", "X-Retry-After", "X-RateLimit-Reset"])
def test_a_time_since_1970_is_no_wait_of_decades(name: str) -> None:
    wait = requested_wait({name: str(int(time.time()) + 100)})
    assert wait == pytest.approx(100, abs=5)


@given(
    st.dictionaries(st.sampled_from(["Retry-After", "Date", "RateLimit", "X-RateLimit-Reset"]), st.text(max_size=40))
)
@settings(max_examples=50)
def test_no_header_leads_to_anything_but_a_bounded_wait(headers: dict[str, str]) -> None:
    wait = requested_wait(headers)
    assert wait is None or 0 <= wait <= LONGEST_WAIT_SECONDS


@pytest.mark.parametrize(
    ("status", "headers", "throttled"),
    [(429, {}, True), (503, {"Retry-After": "1"}, True), (403, {"Retry-After": "1"}, True), (503, {}, False),
     (403, {}, False), (200, {"Retry-After": "1"}, False), (500, {"Retry-After": "1"}, False)],
)  # fmt: skip
def test_throttling_is_told_from_failing(status: int, headers: dict[str, str], *, throttled: bool) -> None:
    assert is_throttled(status, headers) is throttled


def settings_of(source: str, cache: str) -> DownloadSettings:
    names = {"FLASH_MODEL_SOURCE": source, "FLASH_MODEL_CACHE": "/models", "FLASH_RUN_DIR": "/run/flash"}
    return DownloadSettings.from_environment({**names, "FLASH_MODEL_CACHE_KIND": cache})


HUB, IMAGE = "hf://owner/model", "oci://registry.example/team/model:1"
REMEDIES: dict[str, tuple[str, str, bool, list[str], list[str]]] = {
    "an anonymous pod with a cache of its own": (
        HUB, "Pod", False,
        ["model.credentialsSecret", "a token", "anonymous", "model.cache.type to Node or Claim", "model.hubEndpoint"],
        []),
    "a token and a shared cache": (
        HUB, "Node", True, ["higher limit", "model.hubEndpoint"], ["anonymous", "model.cache.type"]),
    "an image": (
        IMAGE, "Pod", False, ["model.credentialsSecret", "pull credentials", "model.cache.type"], ["hubEndpoint"]),
}  # fmt: skip


@pytest.mark.parametrize(("source", "cache", "known", "said", "unsaid"), REMEDIES.values(), ids=REMEDIES.keys())
def test_advice_is_possible_and_not_done_already(
    source: str, cache: str, said: list[str], unsaid: list[str], *, known: bool
) -> None:
    remedy = throttling_remedy(settings_of(source, cache), has_credentials=known)
    assert [word for word in said if word not in remedy] == []
    assert [word for word in unsaid if word in remedy] == []


def test_the_next_attempt_waits_for_the_rest_and_shows_the_failure_meanwhile(tmp_path: Path) -> None:
    ProgressReporter(tmp_path, HUB).publish_failure("the hub throttles", 600)

    again = ProgressReporter(tmp_path, HUB)
    assert 590 < again.seconds_to_wait <= 600
    assert again.record.failure == "the hub throttles"
    assert ProgressReporter(tmp_path, "hf://owner/other").seconds_to_wait == 0


@pytest.mark.parametrize(
    ("retry_at", "seconds"),
    [(None, 0), ("2020-01-01T00:00:00Z", 0), ("2999-01-01T00:00:00Z", LONGEST_WAIT_SECONDS),
     ("2999-01-01T00:00:00", 0), ("soon", 0)],
)  # fmt: skip
def test_an_implausible_wait_is_ignored(tmp_path: Path, retry_at: str | None, seconds: float) -> None:
    DownloadRecord(source=HUB, retry_at=retry_at).write(tmp_path / DownloadRecord.FILE)
    assert ProgressReporter(tmp_path, HUB).seconds_to_wait == seconds


Reply = tuple[int, dict[str, str], bytes]


@dataclass
class Registry(BaseAdapter):
    """Answers by URL."""

    replies: dict[str, Reply | Callable[[requests.PreparedRequest], Reply]]
    asked: list[tuple[str, str]] = field(default_factory=list)

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        url = str(request.url)
        self.asked.append((url, str(request.headers.get("Authorization") or "")))
        reply = self.replies[url.partition("?")[0]]
        status, headers, content = reply(request) if callable(reply) else reply
        made = requests.Response()
        made.status_code, made.headers, made.url, made.request = status, CaseInsensitiveDict(headers), url, request
        made.raw = io.BytesIO(content)
        return made

    def close(self) -> None: ...


MANIFEST = "https://registry.example/v2/team/model/manifests/1"
TOKENS = "https://tokens.example/token"
CHALLENGE = (401, {"WWW-Authenticate": f'Bearer realm="{TOKENS}",service="s",scope="repository:team/model:pull"'}, b"")
LAYER = (
    b'{"mediaType": "a/b", "digest": "sha256:%s", "size": 1, "annotations": {"org.opencontainers.image.title": "a"}}'
)
LISTED = b'{"layers": [%s]}' % (LAYER % (b"0" * 64))


def listed(
    replies: dict[str, Reply | Callable[[requests.PreparedRequest], Reply]], *, known: bool = True
) -> tuple[Registry, RegistrySource]:
    reference = ImageReference.parse("registry.example/team/model:1")
    registry, session = Registry(replies), RegistrySession()
    for scheme in ("https://", "http://"):
        session.mount(scheme, registry)
    credentials = Credentials("me", "secret") if known else None
    return registry, RegistrySource(reference, credentials, plain=False, session=session)


FAILED: dict[str, tuple[dict[str, Any], type[DownloadError], float | None, str]] = {
    "a manifest": (
        {MANIFEST: (429, {"Retry-After": "90"}, b"")}, ThrottledError, 90,
        "the registry registry.example throttles this address or account and asks to wait 2 min (429)"),
    "a manifest, without a word": ({MANIFEST: (429, {}, b"")}, ThrottledError, None, "throttles"),
    "a registry that is overloaded": (
        {MANIFEST: (503, {"Retry-After": "10"}, b"")}, ThrottledError, 10, "is overloaded and asks to wait 10 s (503)"),
    "a registry that fails": ({MANIFEST: (500, {}, b"")}, DownloadError, None, "registry.example answered 500"),
    "a token": (
        {MANIFEST: CHALLENGE, TOKENS: (429, {"Retry-After": "30"}, b"")}, ThrottledError, 30,
        "tokens.example, to which the registry registry.example sends its clients, throttles"),
    "a token server that fails": (
        {MANIFEST: CHALLENGE, TOKENS: (502, {}, b"")}, DownloadError, None,
        "tokens.example, to which the registry registry.example sends its clients, answered 502"),
}  # fmt: skip


@pytest.mark.parametrize("known", [False, True], ids=["anonymous", "with credentials"])
@pytest.mark.parametrize(("replies", "kind", "wait", "message"), FAILED.values(), ids=FAILED.keys())
def test_a_registry_that_throttles_does_not_deny_access(
    replies: dict[str, Any], kind: type[DownloadError], wait: float | None, message: str, *, known: bool
) -> None:
    _, source = listed(replies, known=known)
    with pytest.raises(kind) as failed:
        source.list()
    assert message in str(failed.value)
    assert failed.value.wait_seconds == wait
    assert failed.value.retryable


ELSEWHERE = "https://mirror.example/v2/team/model/manifests/1"
TOKEN: Reply = (200, {}, b'{"token": "t"}')


def manifest_for_a_token(request: requests.PreparedRequest) -> Reply:
    return (307, {"Location": ELSEWHERE}, b"") if request.headers.get("Authorization") == "Bearer t" else CHALLENGE


def test_a_token_does_not_follow_a_redirect_to_another_host() -> None:
    registry, source = listed({MANIFEST: manifest_for_a_token, TOKENS: TOKEN, ELSEWHERE: (200, {}, LISTED)})
    assert [file.name for file in source.list().files] == ["a"]
    assert registry.asked[-2:] == [(MANIFEST, "Bearer t"), (ELSEWHERE, "")]


PLAIN = "http://registry.example/v2/team/model/manifests/1"
PLAIN_TOKENS = {"WWW-Authenticate": 'Bearer realm="http://tokens.example/token",service="s"'}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a manifest without TLS": (
        {MANIFEST: (302, {"Location": PLAIN}, b"")}, "redirects to registry.example without TLS"),
    "a password without TLS": ({MANIFEST: (401, PLAIN_TOKENS, b"")}, "send the password to tokens.example without TLS"),
    "a circle": ({MANIFEST: (301, {"Location": MANIFEST}, b"")}, "redirects in a loop"),
    "a token that is none": ({MANIFEST: CHALLENGE, TOKENS: (200, {}, b"[]")}, "its challenge or token cannot be read"),
    "a challenge without an address": (
        {MANIFEST: (401, {"WWW-Authenticate": "Bearer"}, b"")}, "its challenge or token cannot be read"),
    "a manifest that is none": ({MANIFEST: (200, {}, b"[1]")}, "something other than a manifest"),
    "a page": ({MANIFEST: (200, {}, b"<html>")}, "something other than a manifest"),
    "an index without a digest": ({MANIFEST: (200, {}, b'{"manifests": [{}]}')}, "'None', which is not a digest"),
    "an index that leads elsewhere": (
        {MANIFEST: (200, {}, b'{"manifests": [{"digest": "../../other/manifests/1"}]}')}, "which is not a digest"),
}  # fmt: skip


@pytest.mark.parametrize(("replies", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_an_answer_that_no_honest_registry_gives_is_refused(replies: dict[str, Any], message: str) -> None:
    registry, source = listed(replies)
    with pytest.raises(DownloadError) as refused:
        source.list()
    assert message in str(refused.value)
    assert [url for url, authorization in registry.asked if authorization and url.startswith("http://")] == []
