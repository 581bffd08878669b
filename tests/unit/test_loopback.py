"""Clients of this pod, this machine or another pod ignore HTTP_PROXY, HTTPS_PROXY and ALL_PROXY."""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests.utils
from httpx2._utils import get_environment_proxies

from flash_engine.loopback import NAMES, direct_to_loopback, is_loopback

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("operator", "images", "contracts", "benchmarks", "examples", "hack", "tests")

TO_THE_INTERNET = {
    "images/engine/flash_engine/checkpoint/hub.py": "a hub; flash-checkpoint and flash-fetch set NO_PROXY for loopback",
    "images/engine/flash_engine/checkpoint/source.py": "the same hub",
    "images/engine/flash_engine/model_download/hub.py": "the same hub",
    "images/engine/flash_engine/model_download/http_stream.py": "a hub or a registry; flash-fetch sets NO_PROXY",
    "images/engine/flash_engine/model_download/registry.py": "a registry; flash-fetch sets NO_PROXY",
    "images/quantiser/mtp_quantiser/sources.py": "a hub",
    "images/node/flash_node/labeller/cluster.py": "the API server, as every client of Kubernetes",
    "operator/flash_operator/runtime/api_connection.py": "the API server, as every client of Kubernetes",
    "tests/model_download/test_registry.py": "pushes with the real ORAS client, with NO_PROXY",
    "tests/model_download/test_throttling.py": "a session without a network",
}
"""Files with a client that may use the environment's proxy, and the reason."""

REQUESTS = {
    "get",
    "post",
    "put",
    "delete",
    "head",
    "patch",
    "options",
    "request",
    "stream",
    "Client",
    "AsyncClient",
    "Session",
}
LIBRARIES = {"httpx", "httpx2", "requests"}
CLIENTS = {"OrasClient", "HfApi", "get_session", "snapshot_download", "hf_hub_download", "ApiClient", "RegistrySession"}


WORDS = re.compile("|".join((*LIBRARIES, *CLIENTS, "urlopen", "build_opener", "ClientSession")))


def calls(root: Path) -> Iterator[tuple[str, ast.Call]]:
    """The calls in each file that has a client's name in it. Parsing all files would take seconds."""
    for folder in SOURCES:
        for file in sorted((root / folder).rglob("*.py")):
            if WORDS.search(text := file.read_text()):
                yield from ((file.relative_to(root).as_posix(), node) for node in calls_in(text))


def calls_in(text: str) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]


def obeys_a_proxy(call: ast.Call) -> bool:
    """Whether this call creates a client, or a request, that reads proxy variables."""
    *owner, name = ast.unparse(call.func).split(".")
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name == "urlopen":
        return True
    if name == "build_opener":
        return "ProxyHandler({})" not in ast.unparse(call)
    if name == "ClientSession":  # aiohttp ignores them unless trust_env is set
        return given.get("trust_env", "False") != "False"
    if owner and owner[0] in LIBRARIES and name in REQUESTS:
        return given.get("trust_env") != "False" and "transport" not in given
    return name in CLIENTS


def test_every_client_that_obeys_a_proxy_asks_the_internet() -> None:
    found = {name: call.lineno for name, call in calls(ROOT) if obeys_a_proxy(call)}
    assert {name: line for name, line in found.items() if name not in TO_THE_INTERNET} == {}
    assert set(TO_THE_INTERNET) - set(found) == set(), "no exceptions any more"


SEEN: dict[str, bool] = {
    "urllib.request.urlopen(url)": True,
    "urllib.request.build_opener()": True,
    "urllib.request.build_opener(urllib.request.ProxyHandler({}))": False,
    "aiohttp.ClientSession(trust_env=True)": True,
    "aiohttp.ClientSession()": False,
    "httpx.get(url, timeout=5)": True,
    "httpx.get(url, trust_env=False)": False,
    "httpx2.Client(transport=of_a_test)": False,
    "requests.Session()": True,
    "requests.post(url)": True,
}


@pytest.mark.parametrize(("text", "obeys"), SEEN.items(), ids=SEEN.keys())
def test_the_walk_sees_each_kind_of_client(text: str, *, obeys: bool) -> None:
    assert obeys_a_proxy(calls_in(text)[0]) is obeys
    assert WORDS.search(text)


LOOPBACK = ("localhost", "127.0.0.1", "127.0.0.2", "[::1]")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


@pytest.mark.parametrize("host", LOOPBACK)
@pytest.mark.parametrize("given", [{}, {"NO_PROXY": ".cluster.local"}, {"no_proxy": "10.0.0.0/8"}, {"no_proxy": ""}])
def test_a_mirror_on_this_machine_is_asked_directly_and_the_internet_by_the_proxy(
    monkeypatch: pytest.MonkeyPatch, host: str, given: dict[str, str]
) -> None:
    for name in PROXIES:
        monkeypatch.setenv(name, "http://proxy.example:3128")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**given, **direct_to_loopback(given, [f"http://{host}:8080"])}.items():
        monkeypatch.setenv(name, value)

    unproxied = [name for name, proxy in get_environment_proxies().items() if proxy is None]
    assert f"all://{host}" in unproxied
    assert requests.utils.get_environ_proxies(f"http://{host}:8080/v2/") == {}
    assert requests.utils.get_environ_proxies("https://hub.example/")
    kept = next(iter(given.values()), "")
    assert kept in os.environ["NO_PROXY"]


@pytest.mark.parametrize(
    ("host", "expected"),
    [*((name, True) for name in NAMES), ("LOCALHOST.", True), ("mirror.localhost", True), ("127.9.9.9", True),
     ("[::1]", True), ("::ffff:127.0.0.1", False), ("10.0.0.1", False), ("localhost.example", False), ("", False)],
)  # fmt: skip
def test_this_machine_is_known_by_its_names(host: str, *, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_invalid_addresses_are_ignored() -> None:
    assert direct_to_loopback({}, ["", "//registry.example", "http://[bad", "nonsense"])["NO_PROXY"] == ",".join(NAMES)
