"""Runs `flashctl` in this process, against any server."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self

from typer.testing import CliRunner, Result

from flashctl.__main__ import app


def flashctl(*args: str | Path, env: dict[str, str] | None = None) -> Result:
    """Its exit code, stdout and stderr. No kubeconfig of the person who runs the tests is read."""
    hidden = {"KUBECONFIG": "/nonexistent", "KUBERNETES_SERVICE_HOST": None, "HTTPS_PROXY": None, "HTTP_PROXY": None}
    return CliRunner().invoke(app, [str(arg) for arg in args], env={**hidden, **(env or {})})


def kubeconfig(folder: Path, server: str, user: dict[str, Any] | None = None, **cluster: Any) -> Path:
    """A file with one context, `here`, whose namespace is `team`."""
    path = folder / "kubeconfig"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "team"}}],
        "current-context": "here",
    }
    path.write_text(json.dumps(document))
    return path


class ScriptedServer:
    """Answers each path with a status and a document or a text; others with 404 as the API server does."""

    def __init__(self, answers: dict[str, tuple[int, Any]]) -> None:
        self.answers = answers
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                outer.requests.append((self.command, self.path, dict(self.headers)))
                status, body = outer.answers.get(path, (404, "404 page not found"))
                data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_PATCH = do_GET  # noqa: N815 - likewise

            def log_message(self, *args: Any) -> None:
                """Nothing: the test looks at `requests`."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
