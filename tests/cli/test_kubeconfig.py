"""What a person reads when the kubeconfig, the network or the server is not what it should be."""

import json
import socket
import ssl
import subprocess
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from flash_contracts.names import API_VERSION
from flashctl.exits import MEANINGS, Exit
from flashctl_runs import ScriptedServer, flashctl, kubeconfig

LIST = f"/apis/{API_VERSION}/namespaces/team/deepseekflashdeployments"
ONE = f"{LIST}/flash"
FLASH = {"metadata": {"name": "flash", "namespace": "team"}, "spec": {}, "status": {"novel": [1]}}


def said(stderr: str) -> str:
    """The message, which is one line."""
    lines = stderr.strip().splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def test_no_kubeconfig() -> None:
    done = flashctl("status")
    assert done.exit_code == Exit.UNREACHABLE
    assert "no kubeconfig at /nonexistent: name one with --kubeconfig" in said(done.stderr)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is empty"),
        ("{a: [", "cannot be read"),
        ("just text", "cannot be read"),
        ("- a\n- b", "cannot be read"),
        ('{"apiVersion": "v1", "kind": "Config"}', "no current context"),
        ('{"current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "gone"}}]}', "gone"),
        ("\x00\x01", "cannot be read"),
    ],
)
def test_a_broken_kubeconfig(text: str, part: str, tmp_path: Path) -> None:
    file = tmp_path / "broken"
    file.write_text(text)
    done = flashctl("status", "--kubeconfig", file)
    assert done.exit_code == Exit.UNREACHABLE, done.exception
    assert part in said(done.stderr)
    assert str(file) in said(done.stderr)


def test_an_unknown_context_gets_the_nearest(tmp_path: Path) -> None:
    done = flashctl("status", "--kubeconfig", kubeconfig(tmp_path, "http://127.0.0.1:1"), "--context", "hero")
    assert done.exit_code == Exit.UNREACHABLE
    assert "no context hero; did you mean here?" in said(done.stderr)


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = flashctl("status", "--kubeconfig", kubeconfig(tmp_path, f"http://127.0.0.1:{port}"))
    assert done.exit_code == Exit.UNREACHABLE
    assert "takes no connection: " in said(done.stderr)
    assert "Connection refused" in said(done.stderr)
    assert "here" in said(done.stderr)


def test_a_host_without_an_address(tmp_path: Path) -> None:
    done = flashctl("status", "--kubeconfig", kubeconfig(tmp_path, "http://no-such-host.invalid:6443"))
    assert done.exit_code == Exit.UNREACHABLE
    assert "has no address: check the server in your kubeconfig, DNS and your VPN" in said(done.stderr)


def test_a_server_that_never_answers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = kubeconfig(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
        done = flashctl("status", "--kubeconfig", config, "--request-timeout", "1")
    assert done.exit_code == Exit.UNREACHABLE
    assert "did not answer within 1 s" in said(done.stderr)


def test_a_server_with_another_certificate(tmp_path: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=other",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = Thread(target=_shake_hands_once, args=(context, listening))
        thread.start()
        config = kubeconfig(tmp_path, f"https://127.0.0.1:{listening.getsockname()[1]}")
        done = flashctl("status", "--kubeconfig", config)
        thread.join()
    assert done.exit_code == Exit.UNREACHABLE
    assert "is not trusted (self-signed certificate): fetch the kubeconfig again" in said(done.stderr)


def _shake_hands_once(context: ssl.SSLContext, listening: socket.socket) -> None:
    connection, _ = listening.accept()
    with connection, pytest.raises((ssl.SSLError, OSError)):
        context.wrap_socket(connection, server_side=True).recv(1)


def test_a_proxy_that_is_not_there(tmp_path: Path) -> None:
    config = kubeconfig(tmp_path, "http://api.example:6443", **{"proxy-url": "http://127.0.0.1:1"})
    done = flashctl("status", "--kubeconfig", config)
    assert done.exit_code == Exit.UNREACHABLE
    assert "through your proxy" in said(done.stderr)


def test_a_login_page_is_not_kubernetes(tmp_path: Path) -> None:
    with ScriptedServer({LIST: (200, "<html>Please log in</html>")}) as server:
        done = flashctl("status", "--kubeconfig", kubeconfig(tmp_path, server.url))
    assert done.exit_code == Exit.UNREACHABLE
    assert "not Kubernetes' ('<html>Please log in</html>')" in said(done.stderr)


@pytest.mark.parametrize("status", [302, 403, 500, 502])
def test_a_page_of_a_proxy_with_any_status(status: int, tmp_path: Path) -> None:
    with ScriptedServer({LIST: (status, "<h1>no</h1>")}) as server:
        done = flashctl("status", "--kubeconfig", kubeconfig(tmp_path, server.url))
    assert done.exit_code == Exit.UNREACHABLE
    assert f"answered {status}" in said(done.stderr)


def a_status(code: int, message: str, **details: Any) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": message,
        "code": code,
        "details": details,
    }


def test_a_server_that_is_starting(tmp_path: Path) -> None:
    with ScriptedServer({LIST: (429, a_status(429, "storage is (re)initializing"))}) as server:
        done = flashctl("status", "--kubeconfig", kubeconfig(tmp_path, server.url))
    assert done.exit_code == Exit.UNREACHABLE
    assert "cannot answer now (429): storage is (re)initializing; try again" in said(done.stderr)


def test_a_newer_api_version(tmp_path: Path) -> None:
    group = {"kind": "APIGroup", "versions": [{"version": "v1"}, {"version": "v1beta1"}]}
    with ScriptedServer({"/apis/inference.deepseekflash.dev": (200, group)}) as server:
        done = flashctl("explain", "flash", "--kubeconfig", kubeconfig(tmp_path, server.url))
    assert done.exit_code == Exit.NOT_FOUND
    assert "serves DeepSeekFlashDeployment as v1, v1beta1, and this plugin knows v1alpha1" in said(done.stderr)


def test_an_object_with_unknown_fields_is_shown(tmp_path: Path) -> None:
    with ScriptedServer({LIST: (200, {"items": [FLASH], "metadata": {}})}) as server:
        done = flashctl("status", "--kubeconfig", kubeconfig(tmp_path, server.url), "-o", "json")
    assert done.exit_code == Exit.NOT_READY
    assert json.loads(done.stdout)["deployments"][0]["reason"] == "NotSeen"


def test_long_lists_are_read_in_pages(tmp_path: Path) -> None:
    class Paged(dict[str, tuple[int, Any]]):
        def get(self, *_: Any) -> Any:
            more = not any("continue=next" in asked for _, asked, _ in server.requests)
            return 200, {"items": [FLASH], "metadata": {"continue": "next" if more else ""}}

    with ScriptedServer(Paged()) as server:
        done = flashctl("status", "--kubeconfig", kubeconfig(tmp_path, server.url), "-o", "json")
    assert len(json.loads(done.stdout)["deployments"]) == 2


def plugin(folder: Path, script: str) -> dict[str, Any]:
    path = folder / "plugin"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(path), "interactiveMode": "Never"}}


def test_the_token_of_a_credentials_plugin_is_sent(tmp_path: Path) -> None:
    credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "t0k"}}
    user = plugin(tmp_path, f"echo '{json.dumps(credential)}'")
    with ScriptedServer({LIST: (200, {"items": []})}) as server:
        done = flashctl("status", "--kubeconfig", kubeconfig(tmp_path, server.url, user), "--as", "jane")
    assert done.exit_code == Exit.DONE
    assert server.requests[0][2]["Authorization"] == "Bearer t0k"
    assert server.requests[0][2]["Impersonate-User"] == "jane"


def test_a_credentials_plugin_that_fails(tmp_path: Path) -> None:
    user = plugin(tmp_path, "echo 'session expired, run: cloud login' >&2; exit 3")
    done = flashctl("status", "--kubeconfig", kubeconfig(tmp_path, "http://127.0.0.1:1", user))
    assert done.exit_code == Exit.UNREACHABLE
    assert "the credentials plugin of context here failed" in said(done.stderr)
    assert "run: cloud login" in said(done.stderr)


def test_a_credentials_plugin_that_is_not_installed(tmp_path: Path) -> None:
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-plugin"}}
    done = flashctl("status", "--kubeconfig", kubeconfig(tmp_path, "http://127.0.0.1:1", user))
    assert done.exit_code == Exit.UNREACHABLE
    assert "no-such-plugin" in said(done.stderr)


@pytest.mark.parametrize(
    "args",
    [
        ("status", "flash", "-A"), ("status", "--watch", "-o", "json"), ("logs", "flash", "--since", "yesterday"),
        ("explain",), ("status", "-o", "yaml"), ("nonsense",), ("status", "--request-timeout", "0"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_ends_with_2(args: tuple[str, ...], tmp_path: Path) -> None:
    config = () if args == ("nonsense",) else ("--kubeconfig", kubeconfig(tmp_path, "http://127.0.0.1:1"))
    assert flashctl(*args, *config).exit_code == Exit.USAGE


def test_exit_codes_are_in_the_help_and_the_documentation() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/kubectl-dsf.md").read_text()
    helped = " ".join(flashctl("status", "--help").stdout.split())
    for code, meaning in MEANINGS.items():
        assert f"{code.value}: {meaning}"[:60] in helped
        assert f"| {code.value} | {meaning} |" in page
