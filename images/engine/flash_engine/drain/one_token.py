"""Asks a draining engine for one token, to find out whether it works."""

import json
import os
import urllib.request
from typing import Any

from flash_engine.api_keys import keys_folder, read_keys

WITHOUT_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""HTTP_PROXY in the pod is for the internet. A proxy cannot reach this pod's loopback, and its answer would be mistaken
for the engine's."""

ANSWER_SECONDS = 10.0


def gives_a_token(engine: str, seconds: float) -> bool:
    """Whether the engine produces a token in time. False on errors: it may not know our key, or accept no requests."""
    timeout = min(ANSWER_SECONDS, seconds)
    try:
        served = _json(f"{engine}/v1/models", None, timeout)
        body = {"model": served["data"][0]["id"], "prompt": "1 2 3", "max_tokens": 1, "temperature": 0}
        return bool(_json(f"{engine}/v1/completions", body, timeout)["choices"])
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _json(url: str, body: dict[str, Any] | None, timeout: float) -> Any:
    """Raises OSError, ValueError."""
    folder = keys_folder(os.environ)
    keys = read_keys(folder) if folder else ()
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {keys[0]}"} if keys else {})}
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, content, headers)  # noqa: S310 - the engine's own address
    with WITHOUT_PROXY.open(request, timeout=timeout) as answer:
        return json.loads(answer.read())
