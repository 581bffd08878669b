"""Engine stubs in real engine pods, for behaviour that a real engine does not show on demand.

Everything else in the pod is the product: launcher, gate, flash-drain, probes. A ConfigMap mounts the stub in place of
the command `vllm`.
"""

import json
import urllib.request
from pathlib import Path
from typing import Any

from direct_http import WITHOUT_PROXY
from e2e_env import Flash

SOURCE = Path(__file__).with_name("engine_stub")
FOLDER = "/opt/stub"
NAME = "engine-stub"

PROGRAM = f"""#!/opt/venv/bin/python
import runpy, sys
sys.path.insert(0, "{FOLDER}")
runpy.run_module("engine_stub", run_name="__main__")
"""

TOKENS_PER_SECOND = 400
"""Fast enough for thousands of requests in minutes. Chunks are large, which keeps the CPU load low."""

FLOOR = 60
"""Far below that, because the machine may be busy."""


def engine_stub_program(namespace: str) -> dict[str, Any]:
    """The ConfigMap with the stub's program."""
    files = {path.name: path.read_text() for path in sorted(SOURCE.glob("*.py"))}
    data = {"vllm": PROGRAM, **files}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": namespace},
        "data": data,
    }


def stub_spec(*scripts: str, version: str = "1", **more: Any) -> dict[str, Any]:
    """Spec fields for engines that are stubs with these scripts. Another `version` gives another pod template."""
    files = [{"key": path.name, "path": f"engine_stub/{path.name}"} for path in sorted(SOURCE.glob("*.py"))]
    items = [{"key": "vllm", "path": "vllm", "mode": 0o555}, *files]
    mount = {"name": "stub", "mountPath": FOLDER, "readOnly": True}
    base = f"paced:tokens_per_second={TOKENS_PER_SECOND},first_token=0.05"
    return {
        "engine": {
            "extraArgs": [f"--script={script}" for script in (base, "chunky:tokens=16", *scripts)],
            "extraEnv": [
                # The launcher finds `vllm` here first.
                {"name": "PATH", "value": f"{FOLDER}:/opt/venv/bin:/usr/local/bin:/usr/bin:/bin"},
                {"name": "ENGINE_VERSION", "value": version},
            ],
        },
        "podTemplate": {
            "spec": {
                "containers": [{"name": "engine", "volumeMounts": [mount]}],
                "volumes": [{"name": "stub", "configMap": {"name": NAME, "items": items}}],
            }
        },
        "readiness": {
            "minDecodeTokensPerSecond": FLOOR,
            "minAcceptancePercent": 40,
            "retrySeconds": 5,
            "golden": {"kind": "Chat", "prompt": "What is 17 + 25?", "expect": "42"},
            "serving": {"watchSeconds": 1, "stallSeconds": 10},
        },
        **more,
    }


def too_slow(users: int) -> str:
    """A script that halves the floor's speed for this many users on one replica.

    The gate judges all streams together, and users gather on the slow replica: the others answer at once and are asked
    again, until the next request of each user happens to reach the slow one.
    """
    return f"slow:factor={TOKENS_PER_SECOND * users / (FLOOR / 2):g}"


def play(flash: Flash, pod: str, *scripts: str) -> None:
    """Apply scripts to the stub in this pod."""
    (address,) = [p["status"]["podIP"] for p in flash.pods() if p["metadata"]["name"] == pod]
    request = urllib.request.Request(f"http://{address}:8000/stub/play", data=json.dumps(scripts).encode())
    with WITHOUT_PROXY.open(request, timeout=10) as answer:
        assert answer.status == 200
