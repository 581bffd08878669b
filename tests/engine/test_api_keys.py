"""Keys of clients: what the engine's middleware lets through, what the gate sends, and what the launcher requires."""

import importlib
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from flash_contracts.engine_pod import API_KEYS_ARGUMENT, API_KEYS_DIR, API_KEYS_SECRET
from flash_contracts.gate_config import GateConfig
from flash_engine.api_keys import RequireApiKey, read_keys
from flash_engine.gate.__main__ import GateSettings
from flash_engine.gate.engine_client import EngineClient
from flash_engine.gate.engine_errors import EngineRequestError
from flash_engine.launcher.api_key_check import why_no_key
from gate_harness import CONFIG

KEY = "key-of-team-a"
Message = MutableMapping[str, Any]

pytestmark = pytest.mark.usefixtures("secret")


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Secret as the kubelet mounts it: entries are links into a hidden folder."""
    folder = tmp_path / "api-keys"
    (folder / "..data").mkdir(parents=True)
    put(folder, "team-a", KEY)
    monkeypatch.setenv(API_KEYS_DIR, str(folder))
    return folder


def put(folder: Path, name: str, text: str) -> None:
    (folder / "..data" / name).write_text(text)
    link = folder / name
    if not link.is_symlink():
        link.symlink_to(f"..data/{name}")


class Engine:
    """The middleware in front of an application."""

    def __init__(self) -> None:
        self._middleware = RequireApiKey(self._app)
        self.reached = 0

    async def _app(self, _scope: Message, _receive: Any, send: Any) -> None:
        self.reached += 1
        await send({"type": "http.response.start", "status": 200})

    async def ask(self, path: str = "/v1/completions", *values: str, **scope: Any) -> Message:
        """The answer's first message."""
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": "websocket.connect"}

        headers = [(b"authorization", value.encode()) for value in values]
        await self._middleware({"type": "http", "path": path, "headers": headers, **scope}, receive, send)
        return sent[0]

    async def status(self, path: str = "/v1/completions", *values: str, **scope: Any) -> int:
        return int((await self.ask(path, *values, **scope))["status"])


GUARDED = (
    "/v1/completions", "/v1/chat/completions", "/v1/models", "/tokenize", "/invocations", "/", "//health", "/metric",
    "/health/../v1/models", "/metrics/v1", "/docs",
)  # fmt: skip


@pytest.mark.parametrize("path", GUARDED)
async def test_a_request_without_a_key_is_rejected(path: str) -> None:
    engine = Engine()
    assert await engine.status(path) == 401
    assert engine.reached == 0
    assert await engine.status(path, f"Bearer {KEY}") == 200


@pytest.mark.parametrize("path", ["/health", "/metrics", "/metrics/", "/ping", "/version", "/load"])
async def test_probes_and_metrics_need_no_key(path: str) -> None:
    assert await Engine().status(path) == 200
    assert await Engine().status(f"/base{path}", root_path="/base") == 200


WRONG: dict[str, tuple[str, ...]] = {
    "another key": ("Bearer other",),
    "a prefix of the key": (f"Bearer {KEY[:-1]}",),
    "no key": ("Bearer ",),
    "another scheme": (f"Basic {KEY}",),
    "no scheme": (KEY,),
    "the name of an entry": ("Bearer team-a",),
    "two headers, of which one is right": ("Bearer other", f"Bearer {KEY}"),
}


@pytest.mark.parametrize("values", WRONG.values(), ids=WRONG.keys())
async def test_a_wrong_key_is_rejected(values: tuple[str, ...]) -> None:
    answer = await Engine().ask("/v1/completions", *values)
    assert answer["status"] == 401
    assert KEY not in str(answer)


async def test_the_scheme_may_be_in_small_letters() -> None:
    assert await Engine().status("/v1/models", f"bearer {KEY}") == 200


async def test_a_websocket_without_a_key_is_closed() -> None:
    engine = Engine()
    assert (await engine.ask("/v1/realtime", type="websocket"))["type"] == "websocket.close"
    assert engine.reached == 0


async def test_cors_preflight_and_lifespan_need_no_key() -> None:
    engine = Engine()
    await engine.ask(method="OPTIONS")
    await engine.ask("", type="lifespan")
    assert engine.reached == 2


async def test_keys_change_while_the_engine_runs(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("flash_engine.api_keys.time.monotonic", lambda: clock[0])
    engine = Engine()
    assert await engine.status("/v1/models", f"Bearer {KEY}") == 200
    put(secret, "team-b", "second")
    clock[0] += 0.2
    assert await engine.status("/v1/models", "Bearer second") == 200
    (secret / "team-a").unlink()
    clock[0] += 1.1
    assert await engine.status("/v1/models", f"Bearer {KEY}") == 401
    assert await engine.status("/v1/models", "Bearer second") == 200


async def test_without_a_key_file_every_request_is_rejected(secret: Path) -> None:
    (secret / "team-a").unlink()
    assert await Engine().status("/v1/models", "Bearer ") == 401
    assert await Engine().status("/health") == 200


async def test_without_the_variable_every_request_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument alone means that keys are required."""
    monkeypatch.delenv(API_KEYS_DIR)
    assert await Engine().status("/v1/models", f"Bearer {KEY}") == 401


def test_the_operators_argument_names_the_middleware() -> None:
    module, _, name = API_KEYS_ARGUMENT.removeprefix("--middleware=").rpartition(".")
    assert getattr(importlib.import_module(module), name) is RequireApiKey


def test_keys_are_read_as_people_write_them(secret: Path) -> None:
    put(secret, "b-line-end", "second\n")
    put(secret, ".hidden", "third")
    put(secret, "c-empty", "\n")
    put(secret, "d-blank", "two words")
    (secret / "..data" / "e-binary").write_bytes(b"\xff\xfe")
    (secret / "e-binary").symlink_to("..data/e-binary")
    put(secret, "f-header", "a\r\nX-Other: b")
    put(secret, "g-long", "x" * 10_000)
    assert read_keys(secret) == ("third", "second", KEY)


def test_the_launcher_says_what_is_missing_and_how_to_create_it(secret: Path, tmp_path: Path) -> None:
    asked = {API_KEYS_DIR: str(secret), API_KEYS_SECRET: "clients"}
    assert why_no_key({}) is None
    assert why_no_key(asked) is None
    (secret / "team-a").unlink()
    message = why_no_key(asked)
    assert message is not None
    assert "Secret clients of engine.apiKeysSecret" in message
    assert "kubectl create secret generic clients --from-literal" in message
    assert why_no_key({**asked, API_KEYS_DIR: str(tmp_path / "none")}) == message


async def asked_with(keys: Path | None, answers: Any) -> str:
    """Asks the gate's golden question of a server with this answer."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", answers)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        client = EngineClient(session, str(server.make_url("")), keys=keys)
        return (await client.answer(GateConfig.model_validate(CONFIG))).text


async def test_the_gate_sends_a_key_as_it_is_at_that_time(secret: Path) -> None:
    async def answers(request: web.Request) -> web.Response:
        return web.json_response({"choices": [{"text": request.headers.get("Authorization", "none")}]})

    assert await asked_with(None, answers) == "none"
    assert await asked_with(secret, answers) == f"Bearer {KEY}"
    put(secret, "team-a", "changed")
    assert await asked_with(secret, answers) == "Bearer changed"


HINTS = {
    401: "name the Secret with the keys in engine.apiKeysSecret",
    429: "accepts no more requests for now",
    503: "accepts no more requests for now",
    500: "HTTP 500: no",
}


@pytest.mark.parametrize(("status", "hint"), HINTS.items())
async def test_an_error_says_what_to_do_and_shows_no_key(secret: Path, status: int, hint: str) -> None:
    async def answers(_request: web.Request) -> web.Response:
        return web.Response(status=status, text=f"no: Authorization: Bearer {KEY}")

    with pytest.raises(EngineRequestError, match=hint) as error:
        await asked_with(secret, answers)
    assert KEY not in str(error.value)


def test_the_gate_finds_the_keys_by_its_environment(tmp_path: Path) -> None:
    needed = {"FLASH_GATE_CONFIG": "/c", "FLASH_RUN_DIR": "/r"}
    assert GateSettings.from_environment(needed).api_keys_dir is None
    assert GateSettings.from_environment({**needed, API_KEYS_DIR: str(tmp_path)}).api_keys_dir == tmp_path
