"""`kubectl dsf dump`: all that helps, no secret, and never half of a file."""

import json
import os
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from builders import a_flash_object, a_node, a_pod
from flash_contracts.names import API_VERSION
from flashctl.dump_contents import CHILDREN
from flashctl.dump_files import DumpFile, default_name
from flashctl.errors import CommandError, UsageError
from flashctl.exits import Exit
from flashctl.kinds import RESOURCES
from flashctl.redaction import known_secrets, redacted
from flashctl_runs import ScriptedServer, flashctl, kubeconfig

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
CANARY = "c4nary-v4lue-91x"
TOKEN = "hf_abcdefghijklmnopqrst"  # noqa: S105 - a made-up one, to be found nowhere
CORE, TEAM = "/api/v1/namespaces/team", "/apis/{}/namespaces/team/{}"

SECRETS = {
    "a variable of a container": {"env": [{"name": "HF_TOKEN", "value": CANARY}]},
    "an argument and its value": {"args": ["--port", "1", "--api-key", CANARY]},
    "an argument with =": {"extraArgs": [f"--api-key={CANARY}"]},
    "a second value of an argument": {"args": ["--api-key", "ONE", CANARY]},
    "a shell command": {"command": ["sh", "-c", f"export HF_TOKEN={CANARY}; run"]},
    "the copy of kubectl apply": {
        "metadata": {
            "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": json.dumps({"env": [{"value": CANARY}]})
            }
        }
    },
    "JSON in a string": {"data": {"template": json.dumps({"env": [{"name": "MY_PASSWORD", "value": CANARY}]})}},
    "JSON in JSON in a string": {"d": json.dumps({"e": json.dumps([{"name": "HF_TOKEN", "value": CANARY}])})},
    "a text": {"message": f"login with Authorization: Bearer {CANARY}"},
    "an address": {"url": f"https://user:{CANARY}@hub.example/x"},
    "a field with such a name": {"password": CANARY},
}


@pytest.mark.parametrize("place", SECRETS)
def test_a_secret_is_removed_wherever_it_is(place: str) -> None:
    assert CANARY not in json.dumps(redacted(SECRETS[place]))


def test_the_rest_is_left_as_it_is() -> None:
    kept = {
        "env": [
            {"name": "NCCL_P2P_DISABLE", "value": "1"},
            {"name": "K", "valueFrom": {"secretKeyRef": {"name": "h"}}},
        ],
        "args": ["--max-num-seqs", "4"],
        "tokens": 5,
        "none": None,
        "nested": [[1, "[not json"], "{"],
    }
    assert redacted(kept) == kept


def test_a_known_value_is_a_secret_in_every_other_text() -> None:
    secrets = known_secrets([{"spec": {"containers": [SECRETS["a variable of a container"]]}}])
    assert secrets == (CANARY,)
    assert CANARY not in redacted(f"connecting as {CANARY}", secrets)


def test_secret_objects_are_no_kind_that_this_plugin_can_ask_for() -> None:
    assert "Secret" not in {*RESOURCES, *CHILDREN}
    assert not any(resource.plural == "secrets" for resource in RESOURCES.values())


def a_site() -> dict[str, tuple[int, Any]]:
    """A deployment with secrets in every place. Some kinds are forbidden."""
    pod = a_pod("flash-a", annotations={})
    pod["spec"]["containers"] = [{"name": "engine", **SECRETS["a variable of a container"]}]
    node = a_node(gpu_link="phb")
    node["metadata"]["labels"]["internal.example/owner"] = "someone"
    node["status"]["addresses"] = [{"type": "InternalIP", "address": "10.9.8.7"}]
    flash = a_flash_object(engine={"extraArgs": ["--api-key", CANARY]})
    config = {"metadata": {"name": "flash-gate"}, **SECRETS["JSON in a string"]}
    forbidden = {"kind": "Status", "message": 'cannot list resource "services"'}
    result = {"reason": "Passed", "engine": {"args": ["--api-key", CANARY]}}
    return {
        TEAM.format(API_VERSION, "deepseekflashdeployments/flash"): (200, flash),
        f"{CORE}/pods": (200, {"items": [pod]}),
        f"{CORE}/pods/flash-a/log": (200, f"2026-11-24T12:00:00Z said {CANARY} and {TOKEN}\n"),
        f"{CORE}/pods/flash-a:9400/proxy/result": (200, result),
        f"{CORE}/configmaps": (200, {"items": [config]}),
        f"{CORE}/services": (403, forbidden),
        "/api/v1/nodes/node-1": (200, node),
        "/version": (200, {"gitVersion": "v1.35.0"}),
        "/apis/coordination.k8s.io/v1/leases": (200, {"items": []}),
        TEAM.format("events.k8s.io/v1", "events"): (200, {"items": []}),
    }


def dumped(tmp_path: Path, **answers: tuple[int, Any]) -> tuple[dict[str, str], Any]:
    """Contents by path in the tarball, and the run."""
    target = tmp_path / "out.tar.gz"
    with ScriptedServer({**a_site(), **answers}) as server:
        config = kubeconfig(tmp_path, server.url)
        done = flashctl("dump", "flash", "--kubeconfig", config, "--to", target, "-o", "json")
    assert done.exit_code == Exit.DONE, done.stderr
    with tarfile.open(target) as tar:
        return {one.name.removeprefix("out/"): tar.extractfile(one).read().decode() for one in tar}, done  # type: ignore[union-attr]


def test_it_has_everything_and_no_secret(tmp_path: Path) -> None:
    files, _ = dumped(tmp_path)
    assert {
        "deployment.json", "children/ConfigMap-flash-gate.json", "pods/flash-a.json", "nodes/node-1.json",
        "events.json", "leases.json", "gates/flash-a.json", "logs/flash-a-engine.log", "explain.json", "manifest.json",
    } <= {*files}  # fmt: skip
    for path, text in files.items():
        assert CANARY not in text, path
        assert TOKEN not in text, path
    assert "said [redacted] and [redacted]" in files["logs/flash-a-engine.log"]


def test_a_node_is_described_without_its_address_and_others_labels(tmp_path: Path) -> None:
    node = dumped(tmp_path)[0]["nodes/node-1.json"]
    assert "deepseekflash.dev/gpu-link" in node
    assert "10.9.8.7" not in node
    assert "internal.example" not in node


def test_the_manifest_says_what_could_not_be_read_and_why(tmp_path: Path) -> None:
    files, done = dumped(tmp_path)
    manifest = json.loads(files["manifest.json"])
    assert manifest == json.loads(done.stdout)
    assert {*manifest["files"]} == {*files}
    assert any(line.startswith("Service: you may not list services in namespace team") for line in manifest["unread"])


def test_a_gate_that_does_not_answer_is_noted(tmp_path: Path) -> None:
    _, done = dumped(tmp_path, **{f"{CORE}/pods/flash-a:9400/proxy/result": (503, "no endpoints")})
    assert any(line.startswith("result of the gate of flash-a:") for line in json.loads(done.stdout)["unread"])


def test_an_existing_file_is_never_replaced(tmp_path: Path) -> None:
    target = tmp_path / "mine.tar.gz"
    target.write_text("precious")
    with ScriptedServer(a_site()) as server:
        done = flashctl("dump", "flash", "--kubeconfig", kubeconfig(tmp_path, server.url), "--to", target)
    assert done.exit_code == Exit.USAGE
    assert target.read_text() == "precious"


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file can be written in"):
        DumpFile(tmp_path / "no" / "x.tar.gz", NOW)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CommandError, match="No space left on device; nothing is left of it"):
        _written(tmp_path / "x.tar.gz")
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _written(tmp_path / "x.tar.gz")
    assert list(tmp_path.iterdir()) == []


def _written(target: Path) -> None:
    with DumpFile(target, NOW) as file:
        file.add_all([("a", "b")])
        file.finish()


def test_the_default_name_has_the_time() -> None:
    assert default_name("team", "flash", NOW) == "dsf-dump-team-flash-20261124-120000.tar.gz"
